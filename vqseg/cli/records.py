"""``vqseg records``: what a store holds, and its MLflow mirror."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqseg.cli.options import DEFAULT_STORE, Json, Store, Tracking

if TYPE_CHECKING:
    from vqseg.records.run import RunFolder
    from vqseg.records.transfer import Outcome

app = typer.Typer(help="What a store holds, and its MLflow mirror.", no_args_is_help=True)


@app.command("list")
def list_(store: Store = DEFAULT_STORE, as_json: Json = False) -> None:
    """List the runs of a store."""
    import json

    from tabulate import tabulate

    rows = _rows(store)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    elif rows:
        shown = [{**row, "studies": ", ".join(row["studies"])} for row in rows]
        typer.echo(tabulate(shown, headers="keys", floatfmt=".4f", disable_numparse=[0]))
    else:
        typer.echo(f"{store} holds no runs yet; 'vqseg study run epsilon-sweep' makes some")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="Identity of a run, a unique beginning of it, or its folder.")],
    store: Store = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Show one run: what it is, how it stands, what it scored, where it lies."""
    import json

    import yaml

    from vqseg.records.run import resolve

    shown = _details(resolve(store, run))
    text = json.dumps(shown, indent=1) if as_json else yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    typer.echo(text.rstrip())


@app.command()
def sync(store: Store = DEFAULT_STORE, tracking: Tracking = None) -> None:
    """Complete the MLflow mirror from the run folders; sends only what is missing."""
    from vqseg.records import sync as mirroring

    with _bar("mirroring") as progress:
        outcome = mirroring.sync(store, tracking=tracking, progress=progress)
    _say(outcome, store)


@app.command()
def rebuild(store: Store = DEFAULT_STORE, tracking: Tracking = None) -> None:
    """Make the MLflow mirror anew from the run folders (a server keeps all that it has, and gets what it lacks)."""
    from vqseg.records import sync as mirroring

    with _bar("rebuilding") as progress:
        outcome = mirroring.rebuild(store, tracking=tracking, progress=progress)
    _say(outcome, store)


def _rows(store: Path) -> list[dict[str, Any]]:
    from vqseg.errors import InputError
    from vqseg.records import mirror

    members, rows = mirror.members_of(mirror.studies_of(store)[0]), []
    for run in mirror.runs_of(store):
        row: dict[str, Any] = {"identity": run.identity}
        try:
            status = run.status()
            dice = ((status.get("validation") or {}).get("last") or {}).get("teacher")
            row |= {"name": status.get("name"), "state": run.state(), "steps": _steps(status)}
            row |= {"val_dice": dice, "data": status["data"]["name"]}
        except (InputError, KeyError, TypeError):
            row |= {"name": None, "state": "damaged", "steps": None, "val_dice": None, "data": None}
        rows.append({**row, "studies": sorted({member.study for member in members.get(run.identity, [])})})
    return rows


def _steps(status: dict[str, Any]) -> str:
    """Return how far a run is; of one that was scored from its predictions, what its user told."""
    step, steps = status.get("step"), status["steps"]
    return f"{step}/{steps}" if step is not None else "?" if steps is None else str(steps)


def _details(run: "RunFolder") -> dict[str, Any]:
    from vqseg.records import exhibits, mirror

    status = run.status()
    members = mirror.members_of(mirror.studies_of(run.store)[0]).get(run.identity, [])
    files = sorted(path.name + "/" * path.is_dir() for path in run.path.iterdir() if not path.name.startswith("."))
    mirrored = [entry.get("run_id") for entry in mirror.Ledger.of(run.path).values()]
    return {
        **{key: value for key, value in status.items() if key != "code"},
        "state": run.state(),
        "studies": [f"{member.study}: {member.name}" for member in members],
        "dice_of_last_teacher": exhibits.scores(run.path),
        "folder": str(run.path.absolute()),
        "files": files,
        "mlflow_runs": mirrored,
    }


@contextmanager
def _bar(doing: str) -> "Iterator[Callable[[int, int], None]]":
    """Show progress on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say(outcome: "Outcome", store: Path) -> None:
    for problem in outcome.problems:
        typer.echo(f"vqseg: error: {problem}", err=True)
    empty = outcome.created + outcome.updated + outcome.unchanged + len(outcome.problems) == 0
    typer.echo(
        f"{store} holds no runs yet; 'vqseg study run epsilon-sweep' makes some"
        if empty
        else f"MLflow mirror: {outcome}"
    )
    if outcome.problems:
        raise typer.Exit(2)
