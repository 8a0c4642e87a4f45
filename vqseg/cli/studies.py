"""What the study commands do, beyond their options."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from vqseg.cli.options import command, data_or_phantom
from vqseg.errors import InputError
from vqseg.records.run import FINAL
from vqseg.study.cells import Request, StudyFolder
from vqseg.study.runner import Settings

if TYPE_CHECKING:
    from vqseg.study.definition import Definition


class Prepared(NamedTuple):
    """A study that is known to be possible: its folder, its record, and what there is to say of it."""

    folder: StudyFolder
    record: dict[str, Any]
    said: str


def listed(values: list[str] | None) -> list[str]:
    """Flatten comma-separated, repeatable options."""
    return [piece.strip() for value in values or [] for piece in value.split(",") if piece.strip()]


def retrying(value: str | None) -> bool:
    """Read ``--retry``."""
    if value not in (None, "failed"):
        raise InputError(f"--retry {value}: expected 'failed'")
    return value == "failed"


# Options of `study run` that go with a study which trains nothing; and those that go with no other.
RESCORING = {"study", "of", "part", "store", "device", "workers", "tracking", "allow_code", "dry_run"}
ONLY_RESCORING = {"of", "part"}


def _require_meant(context: typer.Context, trains: bool) -> None:
    """Refuse an option of the command line that a study has no use for."""
    for parameter in context.command.params:
        name = parameter.name or ""
        given = getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
        if given and (name in ONLY_RESCORING if trains else name not in RESCORING):
            why = (
                "trains its own cells" if trains else "trains nothing, and takes all of that from the study --of names"
            )
            raise InputError(f"{parameter.opts[0]}: study {context.params['study']!r} {why}; leave it out")


def settings(
    workers: int,
    device: str,
    keep: str,
    storage: str | None,
    tracking: str | None,
    retry: str | None,
    budget: int | None,
) -> Settings:
    """Return how to run, MLflow's mirror unless the environment says VQSEG_NO_MIRROR."""
    mirror = not os.environ.get("VQSEG_NO_MIRROR")
    return Settings(workers, device, keep, storage, tracking, retrying(retry), mirror, budget=budget)


def on_data(asked: Request, data: Sequence[Path] | None) -> list[Request]:
    """Return a request per data set; without any it is the phantom, which is made, at preset smoke."""
    preset = asked.preset or (None if data else "smoke")
    return [replace(asked, root=root, preset=preset) for root in data or [data_or_phantom(None, asked.store)]]


def known(
    study: str, preset: str | None, allow_code: bool = False, context: typer.Context | None = None
) -> "Definition":
    """Return a study's definition; refuse an unknown study or preset before data are made.

    Raises:
        InputError: with the nearest names; or the ``context`` has an option that the study has no use for.
    """
    from vqseg.config import load_config
    from vqseg.study.definition import read_definition

    definition = read_definition(study, allow_code=allow_code)[1]
    if context is not None:
        _require_meant(context, not definition.rescore)
    if not definition.rescore:
        load_config(preset or definition.preset, allow_code=allow_code)
    return definition


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


def prepared(requests: Sequence[Request], settings: Settings) -> list[Prepared]:
    """Prepare one study per request, all of them before anything starts.

    Raises:
        InputError: what is wrong with one of them, two would be one study, or a budget for what is no search.
    """
    from vqseg.study import cells

    found: dict[str, Prepared] = {}
    for request in requests:
        check(request.store, settings)
        one = Prepared(*cells.prepare(request))
        name = one.folder.name
        if name in found:
            raise InputError(f"--data {request.root}: {_clash(request, found[name].record)}")
        if "search" in one.record:
            from vqseg.study import search  # loads Optuna

            search.require_possible(one.folder, one.record, budget=settings.budget, allow_code=request.allow_code)
        elif settings.budget is not None:
            raise InputError(f"--budget: study {one.record['study']} does not search, it trains its arms; leave it out")
        found[name] = one
    return list(found.values())


def _clash(request: Request, other: dict[str, Any]) -> str:
    """Say why two data sets of one command would be one study."""
    if other["data"]["root"] == str(request.root.resolve()):
        return "stands twice; leave one out"
    do = "leave --name out" if request.name else "they are called alike, so run them one after the other"
    return f"would be the study {other['name']!r}, as {other['data']['root']} is; {do}"


def run(requests: Sequence[Request], settings: Settings) -> list[dict[str, Any]]:
    """Run one study per request, one after the other, and say how each ended; returns their records.

    Raises:
        typer.Exit: with code 1 where cells failed or are not finished, 130 where it was stopped.
    """
    ends = [(one.record, _run(one, settings)) for one in prepared(requests, settings)]
    if not all(whole for _, whole in ends):
        raise typer.Exit(1)
    return [record for record, _ in ends]


def _run(one: Prepared, settings: Settings) -> bool:
    """Run a study; return whether every cell is finished, or was pruned."""
    from vqseg.cli.progress import study_bars
    from vqseg.study import runner

    folder, record, said = one
    if said:
        typer.echo(said)
    typer.echo(f"study {folder.name}: {_extent(record, settings.budget)}, in {folder.path}")
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
    complete_mirror(folder.store, settings.tracking)
    name, place = command(folder.store)
    typer.echo(f"next: {name} report {folder.name}{place}    {name} ui{place}")
    left = sum(count for state, count in counts.items() if state not in FINAL)
    if left:
        typer.echo(f"{left} cells are not finished; the same command goes on", err=True)
    if counts.get("failed"):
        typer.echo(
            f"{counts['failed']} cells failed: 'vqseg study status {folder.name}' says why,"
            " '--retry failed' tries them again",
            err=True,
        )
    return not (left or counts.get("failed"))


def _extent(record: dict[str, Any], budget: int | None) -> str:
    if "search" in record:
        return f"a search of {max(budget or record['search']['budget'], len(record['cells']))} trials"
    count = len({cell.get("draw", 0) for cell in record["cells"]})
    draws = f" x {count} draws of the labelled patients" if count > 1 else ""
    return f"{len(record['arms'])} arms x {len(record['seeds'])} seeds{draws}"


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


def demo(root: Path, store: Path, preset: str, workers: int, device: str) -> None:
    """epsilon-sweep on ``root``, scored on its test part if it has one, and its report."""
    from vqseg.cli.evaluation import How, evaluate
    from vqseg.cli.report import report
    from vqseg.manifest import read_manifest, read_split

    request = Request("epsilon-sweep", store, root, preset=preset)
    record = run([request], Settings(workers=workers, device=device))[0]
    part = read_split(root, read_manifest(root), record["split"]["name"]).test_part
    if part:
        evaluate(store, record["name"], part, How(None, device, None))
    report(name=record["name"], store=store)
    name, place = command(store)
    typer.echo(f"\ntables and figures: {store / 'reports' / record['name']} (index.html is the page)")
    typer.echo(f"all runs in the browser: {name} ui{place}")
