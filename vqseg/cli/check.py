"""``vqseg check``: does a part of one's own keep the promises of its family?"""

from pathlib import Path
from typing import Annotated

import typer

from vqseg.cli.options import Sets

Named = Annotated[str, typer.Argument(help="FILE.py:NAME or PACKAGE.MODULE:NAME; its code is run.")]


def check(
    name: Named,
    family: Annotated[
        str | None, typer.Option("--family", help="What it is, where that does not show: quantizer, method ...")
    ] = None,
    set_: Sets = None,
    source: Annotated[Path | None, typer.Option("--source", help="Folder for an importer to read.")] = None,
) -> None:
    """Run the contract tests of its family on a part; exit 1 if one fails, with what to mend."""
    from vqseg import contracts
    from vqseg.config import parse_overrides
    from vqseg.contracts.kind import named

    part = named(name, family, parse_overrides(set_ or []))
    typer.echo(f"{part.family} {part.label}{''.join(f', {key}={value}' for key, value in part.options.items())}")
    failed = 0
    for result in contracts.checked(part, source):
        failed += bool(result.failure)
        typer.echo(f"{'failed' if result.failure else 'ok':8}{result.check}{result.failure and f': {result.failure}'}")
    typer.echo(f"{failed} checks failed" if failed else "it keeps every promise of its family")
    raise typer.Exit(int(failed > 0))
