"""``vqseg data split`` and ``vqseg data mark``: what is decided about data that is already prepared."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqseg.errors import InputError

if TYPE_CHECKING:
    from vqseg.manifest import Split

Root = Annotated[Path, typer.Argument(help="Prepared folder.")]


def split(
    root: Root,
    name: Annotated[str | None, typer.Option(help="Name of the new split; folds are NAME-1, NAME-2, ...")] = None,
    labelled: Annotated[str | None, typer.Option(help="Labelled patients of the pool: N, a share (10%), all.")] = None,
    draw: Annotated[int | None, typer.Option(help="Seed of the draw; without it the first in list order.")] = None,
    val: Annotated[
        float | None,
        typer.Option(help="Take val anew: this share (0-1) of all patients. Folds: by default .1 where val is drawn."),
    ] = None,
    test: Annotated[float | None, typer.Option(help="Take test anew: this share (0-1) of all patients.")] = None,
    base: Annotated[str | None, typer.Option("--from", help="Split to start from; default: the default one.")] = None,
    stratify: Annotated[
        str | None,
        typer.Option(
            help="Keep the proportions of a column of the table the data came with, of 'class:NAME' (who shows"
            " the class) or of 'foreground' (quarters by its share)."
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Make this many splits, each holding out another fold: as test, or as val beside a test part."
        ),
    ] = None,
    pool_test: Annotated[
        bool,
        typer.Option("--pool-test", help="With --folds: let the test part join, so that everyone is held out once."),
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--from-file", help="Take this splits/NAME.json, made elsewhere for the same data.")
    ] = None,
) -> None:
    """Make a split by patient: draw one, cut K folds, or take one from a file.

    val, test and devtest stay as they are unless asked for; an existing split is never changed. A split is shared as
    its file, ROOT/splits/NAME.json: --from-file takes it into another prepared folder of the same data.
    """
    chosen: dict[str, Any] = {"labelled": labelled, "draw": draw, "val": val, "test": test, "from": base}
    chosen |= {"stratify": stratify, "folds": folds, "pool-test": pool_test or None}
    _say(root, _drawn(root, name, chosen) if file is None else _received(root, file, name, chosen))


def mark(
    root: Root,
    lesion: Annotated[
        list[str] | None,
        typer.Option(help="CLASS, or CLASS=TOLERANCE of its surface Dice in mm (by default 2); any number of times."),
    ] = None,
    no_lesion: Annotated[
        list[str] | None, typer.Option(help="CLASS that is no lesion after all; any number of times.")
    ] = None,
) -> None:
    """Mark classes as lesions, to be counted and scored one by one; splits and runs stay valid.

    Where the spacing is unknown, the tolerance is in pixels.
    """
    from vqseg.marks import mark as put

    manifest, changed = put(root, lesions=lesion or [], no_lesions=no_lesion or [])
    unit = "mm" if any(scan.spacing_mm for scan in manifest.scans) else "pixels"
    held = ", ".join(f"{name} (tolerance {tolerance:g} {unit})" for name, tolerance in manifest.lesions.items())
    typer.echo(f"{root}: lesions: {held or 'none'}" + ("" if changed else " (unchanged)"))


def _drawn(root: Path, name: str | None, chosen: dict[str, Any]) -> "Sequence[tuple[Split, bool]]":
    """Draw one split or K folds by the options that were given."""
    from vqseg import folds, splits

    if name is None or chosen["labelled"] is None:
        raise InputError(f"{'--name' if name is None else '--labelled'}: missing; a new split needs both")
    named = {"labelled": "labelled", "seed": "draw", "val": "val", "base": "from", "stratify": "stratify"}
    options = {key: chosen[option] for key, option in named.items()}
    if chosen["folds"] is None:
        _refuse(chosen, "pool-test", why="it goes with --folds")
        return [splits.add(root, name=name, test=chosen["test"], **options)]
    _refuse(chosen, "test", why="the fold is the test part, or val beside the present one (--pool-test lets that join)")
    return folds.add(root, name=name, count=chosen["folds"], pool_test=bool(chosen["pool-test"]), **options)


def _received(root: Path, file: Path, name: str | None, chosen: dict[str, Any]) -> "Sequence[tuple[Split, bool]]":
    from vqseg.splits import receive

    _refuse(chosen, *chosen, why="--from-file takes a split as it is")
    return [receive(root, file, name)]


def _refuse(chosen: dict[str, Any], *options: str, why: str) -> None:
    """Refuse options that would have no effect."""
    if unused := [option for option in options if chosen[option] is not None]:
        raise InputError(f"--{unused[0]}: {why}; leave it out")


def _say(root: Path, made: "Sequence[tuple[Split, bool]]") -> None:
    """Print one line per split."""
    for new, written in made:
        counts = ", ".join(f"{len(patients)} {part}" for part, patients in new.parts.items())
        path = root / "splits" / f"{new.name}.json"
        typer.echo(f"{'wrote' if written else 'unchanged:'} {path}: {counts} patients ({new.note})")
