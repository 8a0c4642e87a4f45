"""What commands print: small tables."""

import math
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

STYLES = {"finished": "green", "failed": "red", "running": "cyan", "killed": "yellow", "interrupted": "yellow"}


def print_scores(rows: Any, part: str, *, method: str | None = None) -> None:
    """Print mean scores of one part: one line per kept weights, or for a ``method`` without any, and protocol."""
    from vqseg.evaluate import aggregate

    title = f"part {part}: mean over cases and foreground classes; distances in voxels"
    table = Table(title=title, box=None, padding=(0, 2, 0, 0), header_style="bold")
    numbers = ("Dice", "Jaccard", "HD95", "ASD", "cases", "empties")
    for column in ("method" if method else "weights", "protocol", *numbers):
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    for row in aggregate(rows[rows["part"] == part]).to_dict("records"):
        overlap = (f"{row[name]:.4f}" for name in ("dice", "jaccard"))
        distance = ("-" if math.isnan(row[name]) else f"{row[name]:.2f}" for name in ("hd95_voxel", "asd_voxel"))
        first = escape(method or f"{row['checkpoint']} {row['network']}")
        table.add_row(first, str(row["protocol"]), *overlap, *distance, str(row["cases"]), str(row["empties"]))
    Console().print(table)


def print_cells(name: str, rows: list[dict[str, Any]]) -> None:
    """Print one line per cell of a study."""
    table = Table(title=name)
    for column in ("cell", "state", "step", "val Dice", "run", "error"):
        table.add_column(column)
    for row in rows:
        step = f"{row['step']}/{row['steps']}" if row["steps"] else ""
        dice = f"{row['dice']:.4f}" if row["dice"] is not None else ""
        state = f"[{STYLES.get(row['state'], 'white')}]{row['state']}[/]"
        table.add_row(escape(row["name"]), state, step, dice, row["identity"], escape(row["error"] or ""))
    Console().print(table)
