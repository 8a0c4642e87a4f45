"""``vqseg doctor``: versions, devices, weights, disk and store, and what is wrong."""

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    store: Annotated[Path, typer.Option(envvar="VQSEG_STORE", help="Folder that holds runs and studies.")] = Path(
        "vqseg-store"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Say what is installed, what this machine can do, and what is wrong; exit 2 if something is broken."""
    import json

    from vqseg import doctor as examination

    findings = examination.examine(store)
    shown = [vars(finding) for finding in findings]
    typer.echo(json.dumps(shown, indent=1) if as_json else examination.text_of(findings))
    raise typer.Exit(2 if examination.broken(findings) else 0)
