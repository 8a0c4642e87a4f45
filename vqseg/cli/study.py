"""``vqseg study``: run, watch and score studies; ``vqseg demo``: one of them from nothing to its report."""

from pathlib import Path
from typing import Annotated

import typer

from vqseg.cli.options import (
    DEFAULT_STORE,
    AllowCode,
    Context,
    Data,
    Device,
    Json,
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
    from vqseg.cli.questions import described, questions, recorded

    for name, question in questions():
        typer.echo(f"{name}: {' '.join(question.split())}")
    for line in described(recorded(store)):
        typer.echo(f"in {store}: {line}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A built-in study, or a path to a YAML file.")]) -> None:
    """Show a study's question, axes, arms, seeds and reference."""
    from vqseg.cli.questions import outline
    from vqseg.study.definition import read_definition

    stem, definition = read_definition(name, allow_code=True)  # nothing is run here
    typer.echo("\n".join(outline(stem, definition)))


@app.command()
def run(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="A built-in study ('vqseg study list'), or a path to a YAML file.")],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Prepared data folder, any number of times; default: the phantom, which is made."),
    ] = None,
    split: SplitName = None,
    preset: Preset = None,
    arms: Annotated[
        list[str] | None, typer.Option("--arms", help="Only arms of this label or family; * is a wildcard.")
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Seeds, such as 0-2 or 0,3,5.")] = None,
    add_seeds: Annotated[str | None, typer.Option("--add-seeds", help="Seeds beside those the study has.")] = None,
    draws: Annotated[
        int | None,
        typer.Option("--draws", min=1, max=1000, help="So many draws of the labelled patients; first the split's."),
    ] = None,
    set_: Sets = None,
    allow_code: AllowCode = False,
    steps: Steps = None,
    context_: Context = None,
    supervised: Annotated[bool, typer.Option("--supervised", help="The fully supervised form of the study.")] = False,
    budget: Annotated[
        int | None, typer.Option("--budget", min=1, help="Of a search: the number of its trials in all.")
    ] = None,
    of: Annotated[str | None, typer.Option("--of", help="Of 'protocols': the study that is scored again.")] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="Of 'protocols': the part to score; default: the test part.")
    ] = None,
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
    from vqseg.cli import evaluation, forecast, studies
    from vqseg.config import with_option
    from vqseg.study.cells import Request

    forecast.require_dry(on, dry_run)
    if studies.known(study, preset, allow_code, context).rescore:
        how = evaluation.How(None, device, tracking, allow_code, workers)
        evaluation.rescore(study, of, part, store, how, dry_run=dry_run)
        return
    asked = Request(
        study, store, Path(), split, preset, tuple(studies.listed(arms)), seeds, add_seeds,
        tuple(with_option(set_ or (), "--context", context_)), steps, supervised, name, allow_code, draws,
    )  # fmt: skip
    requests = studies.on_data(asked, data)
    settings = studies.settings(workers, device, keep, storage, tracking, retry, budget)
    forecast.show(requests, settings, on) if dry_run else studies.run(requests, settings)


@app.command()
def status(name: Name, store: Store = DEFAULT_STORE) -> None:
    """Show every cell of a study: state, step, validation Dice, run, error; and which arms were skipped."""
    from vqseg.cli.tables import print_cells, print_skipped
    from vqseg.records.index import find_study
    from vqseg.study.cells import StudyFolder
    from vqseg.study.standing import progress

    record = find_study(store, name)
    print_cells(record["name"], progress(StudyFolder(store, record["name"]), record))
    print_skipped(record.get("skipped", []))


@app.command()
def queue(
    name: Name,
    copy: Annotated[Path, typer.Option("--copy", help="Where the copy goes: a file that is not there yet.")],
    store: Store = DEFAULT_STORE,
) -> None:
    """Copy a study's queue, for Optuna's own tools; the queue itself is left alone."""
    from vqseg.cli import queue

    queue.copy(store, name, copy)


@app.command()
def compare(
    runs: Annotated[
        tuple[str, str], typer.Argument(help="Two runs: identities (their beginnings will do), or STUDY:'ARM, seed 0'.")
    ],
    as_json: Json = False,
    store: Store = DEFAULT_STORE,
) -> None:
    """Show what differs between two runs: their settings beside their scores."""
    import json

    from vqseg.cli.tables import print_comparison
    from vqseg.study.compare import compared, find_run

    found = compared(find_run(store, runs[0]), find_run(store, runs[1]))
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        print_comparison(found)


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
    from vqseg.cli.evaluation import How
    from vqseg.cli.evaluation import evaluate as score

    part, split = part_and_split(part, split)
    how = How(protocol_names(protocol), device, tracking, allow_code, workers, again)
    score(store, name, part, how, split)


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
