"""What the study commands do, beyond their options."""

from pathlib import Path
from typing import Any

import typer

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


def run(request: Request, settings: Settings, *, dry_run: bool) -> dict[str, Any]:
    """Run a study (or say what it would do) and say how it ended; returns its record.

    Raises:
        typer.Exit: with code 1 where cells failed.
    """
    from vqseg.cli.progress import study_bars
    from vqseg.records.sync import sync
    from vqseg.study import cells, forecast, runner

    folder, record, said = cells.prepare(request)
    if said:
        typer.echo(said)
    if dry_run:
        typer.echo(forecast.forecast(request.store, record, settings.workers))
        return record
    typer.echo(f"study {folder.name}: {len(record['arms'])} arms x {len(record['seeds'])} seeds, in {folder.path}")
    with study_bars(folder.name) as watch:
        states = runner.run_study(folder, record, settings, watch)
    counts = {state: list(states.values()).count(state) for state in dict.fromkeys(states.values())}
    typer.echo(f"{folder.name}: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    try:
        sync(request.store, tracking=settings.tracking)
    except InputError as error:
        typer.echo(f"MLflow is not up to date: {error}", err=True)
    typer.echo(f"next: vqseg report {folder.name}    vqseg ui    (both with --store {request.store})")
    if counts.get("failed"):
        typer.echo(f"{counts['failed']} failed; see 'vqseg study status {folder.name}'", err=True)
        raise typer.Exit(1)
    return record


def evaluate(
    store: Path, name: str, part: str, protocols: list[str] | None, again: bool, device: str, tracking: str | None
) -> None:
    """Score every finished cell of a study on ``part``."""
    from rich.progress import track

    from vqseg import experiment
    from vqseg.identity import scoring_hash
    from vqseg.records.index import find_study
    from vqseg.records.run import RunFolder
    from vqseg.records.sync import sync

    record = find_study(store, name)
    folders = [RunFolder(store, cell["identity"]) for cell in record["cells"]]
    finished = [folder for folder in folders if folder.exists() and folder.state() == "finished"]
    if not finished:
        raise InputError(f"study {record['name']}: no cell is finished; run it first")
    todo = [folder for folder in finished if again or not _scored(folder, part, protocols, scoring_hash())]
    for folder in track(todo, description=f"scoring {part}"):
        experiment.evaluate(folder, part=part, protocols=protocols, device=device)
    skipped = len(finished) - len(todo)
    typer.echo(f"{record['name']}: {len(todo)} cells scored on {part}" + (f", {skipped} had been before" if skipped else ""))
    if len(finished) < len(folders):
        typer.echo(f"{len(folders) - len(finished)} cells are not finished and were left out", err=True)
    sync(store, tracking=tracking)


def _scored(folder: Any, part: str, protocols: list[str] | None, scoring: str) -> bool:
    for one in folder.status()["evaluations"]:
        if one["part"] == part and one["scoring"] == scoring and set(protocols or []) <= set(one["protocols"]):
            return True
    return False


def demo(store: Path, workers: int) -> None:
    """Phantom -> epsilon-sweep at smoke -> report."""
    from vqseg.cli.options import data_or_phantom
    from vqseg.cli.report import report

    root = data_or_phantom(None, store)
    record = run(Request("epsilon-sweep", store, root, preset="smoke"), Settings(workers=workers), dry_run=False)
    evaluate(store, record["name"], "test", None, False, "cpu", None)
    report(name=record["name"], store=store)
    typer.echo(f"tables and figures: {store / 'reports' / record['name']}")
    typer.echo(f"all runs in the browser: vqseg ui --store {store}")
