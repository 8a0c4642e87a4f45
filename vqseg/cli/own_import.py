"""``vqseg data import``: a data set by an importer of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from vqseg.cli.options import Sets


def import_own(
    name: Annotated[str, typer.Argument(help="FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION; its code is run.")],
    source: Annotated[Path, typer.Argument(help="Folder that the function reads.")],
    out: Annotated[Path, typer.Argument(help="Prepared folder to write.")],
    set_: Sets = None,
    labelled: Annotated[
        str, typer.Option(help="Labelled training patients, the first: N, a share (10%), all.")
    ] = "all",
    val: Annotated[float, typer.Option(help="Share (0-1) of the patients to validate on.")] = 0.15,
    test: Annotated[float, typer.Option(help="Share (0-1) of the patients, the last ones, to test on.")] = 0.25,
) -> None:
    """Import by a function of your own that returns a Plan (docs/own-parts.md); 'vqseg check' tries it first."""
    from vqseg.cli.data import _say
    from vqseg.config import parse_overrides
    from vqseg.importers.foreign import importer, prepare_own

    part = importer(name, parse_overrides(set_ or []))
    _say(prepare_own(part, source, out, labelled=labelled, val=val, test=test), out)
