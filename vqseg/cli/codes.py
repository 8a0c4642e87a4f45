"""``vqseg codes``: which code every token took, for the figures of codes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqseg.cli.options import DEFAULT_STORE, AllowCode, Device, Store

if TYPE_CHECKING:
    from vqseg.records.run import RunFolder


def codes(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Runs (identity, its beginning, or folder), or studies: the first finished run of each arm."
        ),
    ],
    part: Annotated[
        str | None, typer.Option("--part", help="test, devtest or val; default: the first of these that was scored.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The data's folder, if it has moved.")] = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    store: Store = DEFAULT_STORE,
) -> None:
    """Record which code every token of a part took; 'vqseg report codebook' then shows what codes stand for."""
    from vqseg.errors import InputError
    from vqseg.token_codes import record

    runs, failed = _runs(store, names), 0
    for folder in runs:
        try:
            made = record(folder, part=part, root=data, device=device, allow_code=allow_code)
        except InputError as error:
            if len(runs) == 1:
                raise
            failed += 1
            typer.echo(f"{folder.status()['name']}: not recorded: {error}", err=True)
            continue
        said = f"{made.tokens:,} tokens of {made.part}" + ("" if made.anew else ", there already")
        typer.echo(f"{folder.status()['name']} ({folder.identity}): {said}")
    if failed:
        raise typer.Exit(2 if failed == len(runs) else 1)


def _runs(store: Path, names: list[str]) -> list["RunFolder"]:
    """Return the runs that names mean, each once.

    Raises:
        InputError: no run and no study is called so, or a study has no finished run.
    """
    from vqseg.errors import InputError
    from vqseg.records import index
    from vqseg.records.run import RunFolder, resolve

    studies = {study[key] for study in index.studies(store) for key in ("name", "study")}
    found: dict[str, RunFolder] = {}
    for name in names:
        if name not in studies:
            run = resolve(store, name)
            found[run.identity] = run
            continue
        arms: dict[str, RunFolder] = {}
        for cell in index.find_study(store, name)["cells"]:
            run = RunFolder(store, cell["identity"])
            if cell["arm"] not in arms and run.exists() and run.state() == "finished":
                arms[cell["arm"]] = run
        if not arms:
            raise InputError(f"study {name!r}: no run is finished; 'vqseg study run' goes on")
        found |= {run.identity: run for run in arms.values()}
    return list(found.values())
