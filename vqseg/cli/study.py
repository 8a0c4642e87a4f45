"""``vqseg study``: run, watch and score studies; ``vqseg demo``: one of them from nothing to its report."""

import os
from typing import Annotated

import typer

from vqseg.cli.options import (
    DEFAULT_STORE,
    AllowCode,
    Context,
    Data,
    Device,
    Keep,
    PartOrSplit,
    Preset,
    Sets,
    SplitName,
    Steps,
    Store,
    Tracking,
    data_or_phantom,
    part_and_split,
    protocol_names,
)

app = typer.Typer(help="Run, watch and score studies.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A study's name (or the full name of one in the store).")]


@app.command("list")
def list_studies(store: Store = DEFAULT_STORE) -> None:
    """List the built-in studies, and those in the store."""
    from vqseg.cli.questions import questions, recorded

    for name, question in questions():
        typer.echo(f"{name}: {' '.join(question.split())}")
    for record in recorded(store):
        typer.echo(f"in {store}: {record['name']} ({len(record['cells'])} cells, {record['created']})")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A built-in study, or a path to a YAML file.")]) -> None:
    """Show a study's question, arms, seeds and reference."""
    from vqseg.study.definition import read_definition

    stem, definition = read_definition(name, allow_code=True)  # nothing is run here
    typer.echo(f"{stem}: {' '.join(definition.question.split())}")
    typer.echo(f"preset {definition.preset}, seeds {definition.seeds}, reference {definition.reference!r}")
    for arm in definition.expand():
        typer.echo(f"  {arm.label:45} {arm.overrides}")


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A built-in study ('vqseg study list'), or a path to a YAML file.")],
    data: Data = None,
    split: SplitName = None,
    preset: Preset = None,
    arms: Annotated[
        list[str] | None, typer.Option("--arms", help="Only arms of this label or family; * is a wildcard.")
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Seeds, such as 0-2 or 0,3,5.")] = None,
    add_seeds: Annotated[str | None, typer.Option("--add-seeds", help="Seeds beside those the study has.")] = None,
    set_: Sets = None,
    allow_code: AllowCode = False,
    steps: Steps = None,
    context: Context = None,
    supervised: Annotated[bool, typer.Option("--supervised", help="The fully supervised form of the study.")] = False,
    device: Device = "auto",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Runs at a time, each a process.")] = 1,
    retry: Annotated[str | None, typer.Option("--retry", help="'failed': try failed cells again.")] = None,
    keep: Keep = "all",
    name: Annotated[str | None, typer.Option("--name", help="What to call the study in the store.")] = None,
    store: Store = DEFAULT_STORE,
    storage: Annotated[str | None, typer.Option("--storage", help="Optuna storage; default: a journal.")] = None,
    tracking: Tracking = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and stop.")] = False,
    on: Annotated[
        str | None, typer.Option("--on", help="With --dry-run: its time where 'vqseg bench step --save NAME' measured.")
    ] = None,
) -> None:
    """Run a study; started again, it does what is left. Validation only: 'study evaluate' scores a test part."""
    from vqseg.cli import forecast, studies
    from vqseg.config import with_option
    from vqseg.study.cells import Request
    from vqseg.study.runner import Settings

    forecast.require_dry(on, dry_run)
    studies.known(study, preset, allow_code)
    root = data_or_phantom(data, store)
    request = Request(
        study, store, root, split, preset or (None if data else "smoke"), tuple(studies.listed(arms)), seeds, add_seeds,
        tuple(with_option(set_ or (), "--context", context)), steps, supervised, name, allow_code,
    )  # fmt: skip
    mirror = not os.environ.get("VQSEG_NO_MIRROR")
    settings = Settings(workers, device, keep, storage, tracking, studies.retrying(retry), mirror)
    if dry_run:
        forecast.show(request, settings, on)
    else:
        studies.run(request, settings)


@app.command()
def status(name: Name, store: Store = DEFAULT_STORE) -> None:
    """Show every cell of a study: state, step, validation Dice, run, error."""
    from vqseg.cli.tables import print_cells
    from vqseg.records.index import find_study
    from vqseg.study.cells import StudyFolder
    from vqseg.study.standing import progress

    record = find_study(store, name)
    print_cells(record["name"], progress(StudyFolder(store, record["name"]), record))


@app.command()
def logs(
    name: Name,
    lines: Annotated[int, typer.Option("--lines", min=1, help="Last lines of each worker's log.")] = 20,
    store: Store = DEFAULT_STORE,
) -> None:
    """Show the end of the workers' logs."""
    from vqseg.records.index import find_study

    folder = store / "studies" / find_study(store, name)["name"] / "logs"
    for path in sorted(folder.glob("*.log")):
        typer.echo(f"== {path}")
        typer.echo("\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]))


@app.command()
def evaluate(
    name: Name,
    part: Annotated[str | None, typer.Option("--part", help="Part to score: test, devtest or val.")] = None,
    split: PartOrSplit = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="As of 'vqseg evaluate'; several by comma, or all that apply.")
    ] = None,
    allow_code: AllowCode = False,
    again: Annotated[bool, typer.Option("--again", help="Also what was scored before (counted).")] = False,
    device: Device = "auto",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Cells at a time, each in a process.")] = 1,
    store: Store = DEFAULT_STORE,
    tracking: Tracking = None,
) -> None:
    """Score all finished cells of a study on one part, once; the date and the repeats are kept."""
    from vqseg.cli import studies

    part, split = part_and_split(part, split)
    protocols = protocol_names(protocol)
    studies.evaluate(
        store, name, part, protocols, again, device, tracking, split=split, allow_code=allow_code, workers=workers
    )


def demo(
    data: Data = None,
    preset: Preset = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Runs at a time, each a process.")] = 2,
    device: Device = "auto",
    store: Store = DEFAULT_STORE,
) -> None:
    """From nothing to a report: the phantom (or your data), epsilon-sweep at preset smoke, tables and figures."""
    from vqseg.cli import studies

    studies.demo(data_or_phantom(data, store), store, preset or "smoke", workers, device)
