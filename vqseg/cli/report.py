"""`vqseg report NAME`: tables and figures of a study, of a whole store, of what differs between two."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from vqseg.cli.options import DEFAULT_STORE, Store

NameArgument = Annotated[
    str, typer.Argument(help="A report, a study's full name or definition; 'list' shows them all.")
]
Subjects = Annotated[
    list[str] | None, typer.Argument(help="The study that the report is about; of diff OLD NEW: two stores or studies.")
]
Data = Annotated[str | None, typer.Option(help="Only studies on this data set (its name or folder).")]
SplitName = Annotated[
    str | None, typer.Option("--split", help="Only studies on this split; val, test or devtest mean --part.")
]
Part = Annotated[str | None, typer.Option(help="val, test or devtest; by default the best part scored for all runs.")]
Protocol = Annotated[str | None, typer.Option(help="Scoring protocol; by default scan, or image for 2-D sets.")]
Metric = Annotated[str, typer.Option(help="Score of effects and summary: dice, jaccard, hd95, asd, hd95_mm ...")]
Columns = Annotated[
    str | None, typer.Option(help="Columns of the table, by comma: dice,hd95,classes,lesions,effect,ms ...")
]
Decimals = Annotated[int, typer.Option(min=0, max=6, help="Digits after the point.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write to; by default STORE/reports/STUDY or /REPORT.")]
Rivals = Annotated[bool, typer.Option("--rivals/--no-rivals", help="Rows of runs that 'vqseg score' made.")]
Projection = Annotated[str, typer.Option(help="Codes in two dimensions by pca, or tsne (needs scikit-learn).")]
AllowMixed = Annotated[bool, typer.Option("--allow-mixed", help="Tabulate runs that disagree; captions say so.")]


def report(
    name: NameArgument,
    subjects: Subjects = None,
    store: Store = DEFAULT_STORE,
    data: Data = None,
    split: SplitName = None,
    part: Part = None,
    protocol: Protocol = None,
    metric: Metric = "dice",
    columns: Columns = None,
    decimals: Decimals = 2,
    out: Out = None,
    allow_mixed: AllowMixed = False,
    rivals: Rivals = True,
    projection: Projection = "pca",
) -> None:
    """Render a report, print its table and say where the files lie: of a study, or with 'all' of everything."""
    from vqseg.manifest import PARTS
    from vqseg.report.make import listing, make
    from vqseg.report.options import Options

    if name == "list":
        typer.echo(listing(store))
        return
    if split in PARTS:
        split, part = None, part or split
    keys = tuple(word.strip() for word in columns.split(",") if word.strip()) if columns is not None else None
    options = Options(part, protocol, metric, keys or None, decimals, allow_mixed, rivals, projection)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    made = make(name, *(subjects or []), store=store, data=data, split=split, out=out, options=options, width=width)
    typer.echo(f"{made.words}\n\n{'wrote' if made.anew else 'nothing changed since these were written'}")
    for path in made.paths:
        typer.echo(f"  {path}")
