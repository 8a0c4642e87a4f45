"""What the study commands do, beyond their options."""

import os
from pathlib import Path
from typing import Any

import typer

from vqseg.cli.options import command
from vqseg.errors import InputError
from vqseg.study.cells import Request
from vqseg.study.runner import Settings


def listed(values: list[str] | None) -> list[str]:
    """Flatten comma-separated, repeatable options."""
    return [piece.strip() for value in values or [] for piece in value.split(",") if piece.strip()]


def retrying(value: str | None) -> bool:
    """Read ``--retry``."""
    if value not in (None, "failed"):
        raise InputError(f"--retry {value}: expected 'failed'")
    return value == "failed"


def known(study: str, preset: str | None, allow_code: bool = False) -> None:
    """Refuse an unknown study or preset before data are made.

    Raises:
        InputError: with the nearest names.
    """
    from vqseg.config import load_config
    from vqseg.study.definition import read_definition

    definition = read_definition(study, allow_code=allow_code)[1]
    load_config(preset or definition.preset, allow_code=allow_code)


def check(store: Path, settings: Settings) -> None:
    """Refuse what would fail every cell alike, before anything starts.

    Raises:
        InputError: an unknown ``--keep``, device or address.
    """
    from vqseg.experiment import KEEP
    from vqseg.provenance import pick_device
    from vqseg.records.mirror import require_address

    if settings.keep not in KEEP:
        raise InputError(f"--keep {settings.keep}: expected one of {', '.join(KEEP)}")
    pick_device(settings.device)
    if settings.mirror or settings.tracking:
        require_address(store, settings.tracking)


def run(request: Request, settings: Settings) -> dict[str, Any]:
    """Run a study and say how it ended; returns its record.

    Raises:
        typer.Exit: with code 1 where cells failed or are not finished, 130 where it was stopped.
    """
    from vqseg.cli.progress import study_bars
    from vqseg.study import cells, runner

    check(request.store, settings)
    folder, record, said = cells.prepare(request)
    if said:
        typer.echo(said)
    typer.echo(f"study {folder.name}: {len(record['arms'])} arms x {len(record['seeds'])} seeds, in {folder.path}")
    try:
        with study_bars(folder.name) as watch:
            states = runner.run_study(folder, record, settings, watch)
    except KeyboardInterrupt:
        typer.echo(
            f"{folder.name}: stopped, with a checkpoint of every running cell; the same command resumes", err=True
        )
        raise typer.Exit(130) from None
    counts = {state: list(states.values()).count(state) for state in dict.fromkeys(states.values())}
    typer.echo(f"{folder.name}: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    complete_mirror(request.store, settings.tracking)
    name, place = command(request.store)
    typer.echo(f"next: {name} report {folder.name}{place}    {name} ui{place}")
    left = len(states) - counts.get("finished", 0) - counts.get("failed", 0)
    if left:
        typer.echo(f"{left} cells are not finished; the same command goes on", err=True)
    if counts.get("failed"):
        typer.echo(
            f"{counts['failed']} cells failed: 'vqseg study status {folder.name}' says why,"
            " '--retry failed' tries them again",
            err=True,
        )
    if left or counts.get("failed"):
        raise typer.Exit(1)
    return record


def complete_mirror(store: Path, tracking: str | None) -> None:
    """Complete the MLflow mirror; the run folders are the record, so a mirror that lags is a warning."""
    from vqseg.records.sync import sync

    if os.environ.get("VQSEG_NO_MIRROR"):
        return
    try:
        problems = sync(store, tracking=tracking).problems
    except (InputError, OSError) as error:
        problems = [str(error)]
    for problem in problems:
        typer.echo(f"vqseg: warning: MLflow is not up to date: {' '.join(str(problem).split())}", err=True)


def evaluate(
    store: Path,
    name: str,
    part: str | None,
    protocols: list[str] | None,
    again: bool,
    device: str,
    tracking: str | None,
    split: str | None = None,
    allow_code: bool = False,
    workers: int = 1,
) -> None:
    """Score every finished cell of a study (of the one on ``split``, where there are several) on ``part``.

    Raises:
        InputError: nothing to score, or the same is wrong with every cell.
        typer.Exit: with code 1 where some cells could not be scored; the others are.
    """
    if part is None:
        taken = f" ({split!r} was taken for a split)" if split else ""
        raise InputError(f"--part: is missing{taken}; name the part to score: test, devtest or val")
    from vqseg.parts import admit_code
    from vqseg.records.index import find_study
    from vqseg.records.run import RunFolder
    from vqseg.study.evaluation import Task

    record = find_study(store, name, split=split, one=True)
    folders = [RunFolder(store, cell["identity"]) for cell in record["cells"]]
    finished = [folder for folder in folders if folder.exists() and folder.state() == "finished"]
    if not finished:
        raise InputError(f"study {record['name']}: no cell is finished; run it first")
    able, lesions = _applicable(record, part)
    wanted = {
        folder.identity: able if protocols == ["all"] else protocols or _usual(folder, able) for folder in finished
    }
    todo = [folder for folder in finished if again or not _scored(folder, part, wanted[folder.identity], lesions)]
    for folder in todo:  # a permission that is missing is no cell's failure
        admit_code(folder.config(), str(folder.path / "config.yaml"), allowed=allow_code)
    failed = _score_cells(todo, record, Task(str(store), part, protocols, device, allow_code), workers)
    skipped = len(finished) - len(todo)
    told = f", {skipped} had been before" if skipped else ""
    typer.echo(f"{record['name']}: {len(todo) - len(failed)} cells scored on {part}{told}")
    if len(finished) < len(folders):
        typer.echo(f"{len(folders) - len(finished)} cells are not finished and were left out", err=True)
    complete_mirror(store, tracking)
    if failed:
        raise typer.Exit(1)


def _score_cells(todo: list[Any], record: dict[str, Any], task: Any, workers: int) -> dict[str, str]:
    """Score cells under a bar, say which could not be scored and why; returns those errors by identity.

    Raises:
        InputError: the same is wrong with every cell.
    """
    from rich.progress import Progress

    from vqseg.study.evaluation import score_cells

    with Progress() as bars:
        bar = bars.add_task(f"scoring {task.part}", total=len(todo))
        failed = score_cells(
            [folder.identity for folder in todo], task, workers=workers, on_cell=lambda: bars.advance(bar)
        )
    if failed and len(failed) == len(todo) and len(set(failed.values())) == 1:
        raise InputError(next(iter(failed.values())))
    names = {cell["identity"]: cell["name"] for cell in record["cells"]}
    for identity, error in failed.items():
        typer.echo(f"{names[identity]}: not scored: {error}", err=True)
    return failed


def _applicable(record: dict[str, Any], part: str) -> tuple[list[str], dict[str, float]]:
    """Return the protocols that ``part`` of the study's data allows, and the data's lesion marks."""
    from vqseg.manifest import read_manifest, read_split, scans_of
    from vqseg.protocols import applicable_protocols

    root = Path(record["data"]["root"])
    manifest = read_manifest(root)
    split = read_split(root, manifest, record["split"]["name"])
    if part not in split.parts:
        raise InputError(f"part {part!r} is not in split {split.name!r}; it has {', '.join(split.parts)}")
    able, _ = applicable_protocols(scans_of(manifest, split, part), part, scans_of(manifest, split, "val"))
    return able, manifest.lesions


def _usual(folder: Any, able: list[str]) -> list[str]:
    """Return the protocols that a run is scored under where none is named."""
    from vqseg.scoring import Recipe, usual_protocols

    data = folder.config()["data"]
    return usual_protocols(able, Recipe(data["size_px"], data.get("geometry", "resize"), data.get("context", 1)))


def _scored(folder: Any, part: str, protocols: list[str], lesions: dict[str, float]) -> bool:
    """Whether the rows of every protocol are of this code and these lesion marks (older entries: of none)."""
    from vqseg.identity import scoring_hash
    from vqseg.records.run import latest

    def same(one: dict[str, Any]) -> bool:
        marks, library = one.get("lesions", {}), one.get("library", "own")
        whole = not one.get("unfinished")
        return whole and (one["scoring"], marks, library) == (scoring_hash(), lesions, "own")

    evaluations = folder.status()["evaluations"]
    known = {name for name, one in latest(evaluations, part).items() if same(one)}
    for one in evaluations:
        if one["part"] == part and same(one):
            known |= set(one.get("not_applicable", {}))
    return bool(protocols) and set(protocols) <= known


def demo(root: Path, store: Path, preset: str, workers: int, device: str) -> None:
    """epsilon-sweep on ``root``, scored on its test part if it has one, and its report."""
    from vqseg.cli.report import report
    from vqseg.manifest import read_manifest, read_split

    request = Request("epsilon-sweep", store, root, preset=preset)
    record = run(request, Settings(workers=workers, device=device))
    part = read_split(root, read_manifest(root), record["split"]["name"]).test_part
    if part:
        evaluate(store, record["name"], part, None, False, device, None)
    report(name=record["name"], store=store)
    name, place = command(store)
    typer.echo(f"\ntables and figures: {store / 'reports' / record['name']} (index.html is the page)")
    typer.echo(f"all runs in the browser: {name} ui{place}")
