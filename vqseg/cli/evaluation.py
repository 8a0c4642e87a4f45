"""What ``vqseg study evaluate`` does beyond its options, and a study that scores another one again.

Scored again are the finished cells of a study, by the same code, under every protocol that applies. Nothing is trained.
STORE/studies/protocols-NAME/study.json then names the cells of study NAME as its own (``of``), for a report to find.
"""

from pathlib import Path
from typing import Any, NamedTuple

import typer

from vqseg.cli.studies import complete_mirror
from vqseg.errors import InputError, pick


class How(NamedTuple):
    """How cells are scored: under which protocols (None: the usual ones), where, by how many processes."""

    protocols: list[str] | None
    device: str
    tracking: str | None
    allow_code: bool = False
    workers: int = 1
    again: bool = False


def evaluate(store: Path, name: str, part: str | None, how: How, split: str | None = None) -> None:
    """Score every finished cell of a study (of the one on ``split``, where there are several) on ``part``.

    Raises:
        InputError: nothing to score, or the same is wrong with every cell.
        typer.Exit: with code 1 where some cells could not be scored; the others are.
    """
    if part is None:
        taken = f" ({split!r} was taken for a split)" if split else ""
        raise InputError(f"--part: is missing{taken}; name the part to score: test, devtest or val")
    from vqseg.records.index import find_study

    if not _score(store, find_study(store, name, split=split, one=True), part, how):
        raise typer.Exit(1)


def rescore(study: str, of: str | None, part: str | None, store: Path, how: How, *, dry_run: bool = False) -> None:
    """Score the study ``of`` again as the definition ``study`` says, and record that as a study.

    Raises:
        InputError: no such study, it has no test part, or nothing of it is finished.
        typer.Exit: with code 1 where some cells could not be scored; the others are.
    """
    from vqseg.protocols import require_scorable
    from vqseg.records.index import find_study
    from vqseg.records.run import now
    from vqseg.study.cells import StudyFolder, write
    from vqseg.study.definition import read_definition

    stem, definition = read_definition(study, allow_code=how.allow_code)
    assert definition.rescore is not None
    if of is None:
        raise InputError(f"--of: is missing; study {stem!r} trains nothing, name the study that it scores again")
    source = find_study(store, of, one=True)
    if source.get("of"):
        raise InputError(f"--of {of}: was itself scored again; name the study that was trained, {source['of']}")
    require_scorable(part or "")
    part = part or _test_part(source)
    able, _ = _applicable(source, part)
    for name in definition.rescore.protocols:
        if name != "all":
            pick(name, able, f"protocol for {part}, in study {stem}")
    folder = StudyFolder(store, f"{stem}-{source['name']}")
    old = folder.read() if (folder.path / "study.json").is_file() else {"of": source["name"]}
    if old.get("of") != source["name"]:
        raise InputError(f"study {folder.name}: is there already, and is no scoring of {source['name']}; rename it")
    if dry_run:
        count = len(_finished(store, source))
        listed = ", ".join(definition.rescore.protocols)
        typer.echo(f"{count} finished cells of {source['name']} on {part}, protocols: {listed}; nothing is trained")
        return
    whole = _score(store, source, part, how._replace(protocols=definition.rescore.protocols))
    own = {"name": folder.name, "study": stem, "question": " ".join(definition.question.split()), "of": source["name"]}
    kept = {key: value for key, value in source.items() if key not in ("search", "exhausted")}
    record = {**kept, **own, "created": old.get("created") or now()}
    if record != old:
        write(folder, record)
    typer.echo(f"study {folder.name}: {len(record['cells'])} cells of {source['name']}, in {folder.path}")
    if not whole:
        raise typer.Exit(1)


def _test_part(record: dict[str, Any]) -> str:
    """Return the test part of a study's split.

    Raises:
        InputError: it has none.
    """
    from vqseg.manifest import read_manifest, read_split

    root = Path(record["data"]["root"])
    split = read_split(root, read_manifest(root), record["split"]["name"])
    if split.test_part is None:
        raise InputError(f"study {record['name']}: split {split.name!r} has no test part; name a part with --part val")
    return split.test_part


def _finished(store: Path, record: dict[str, Any]) -> list[Any]:
    """Return the run folders of the cells that are finished.

    Raises:
        InputError: none is.
    """
    from vqseg.records.run import RunFolder

    folders = [RunFolder(store, cell["identity"]) for cell in record["cells"]]
    finished = [folder for folder in folders if folder.exists() and folder.state() == "finished"]
    if not finished:
        raise InputError(f"study {record['name']}: no cell is finished; run it first")
    return finished


def _score(store: Path, record: dict[str, Any], part: str, how: How) -> bool:
    """Score a study's finished cells and say so; return whether all of them could be scored."""
    from vqseg.parts import admit_code
    from vqseg.study.evaluation import Task

    finished = _finished(store, record)
    able, lesions = _applicable(record, part)
    protocols = how.protocols
    wanted = {
        folder.identity: able if protocols == ["all"] else protocols or _usual(folder, able) for folder in finished
    }
    todo = [folder for folder in finished if how.again or not _scored(folder, part, wanted[folder.identity], lesions)]
    for folder in todo:  # a permission that is missing is no cell's failure
        admit_code(folder.config(), str(folder.path / "config.yaml"), allowed=how.allow_code)
    failed = _score_cells(todo, record, Task(str(store), part, protocols, how.device, how.allow_code), how.workers)
    skipped = len(finished) - len(todo)
    told = f", {skipped} had been before" if skipped else ""
    typer.echo(f"{record['name']}: {len(todo) - len(failed)} cells scored on {part}{told}")
    if len(finished) < len(record["cells"]):
        typer.echo(f"{len(record['cells']) - len(finished)} cells are not finished and were left out", err=True)
    complete_mirror(store, how.tracking)
    return not failed


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
