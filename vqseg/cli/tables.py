"""What commands print: small tables."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

STYLES = {"finished": "green", "failed": "red", "running": "cyan", "killed": "yellow", "interrupted": "yellow"}


def print_scores(rows: Any, part: str) -> None:
    """Print mean scores of one part: one line per checkpoint, network and protocol."""
    from vqseg.evaluate import aggregate

    table = Table(title=f"part {part}: mean over cases and foreground classes")
    for column in ("checkpoint", "network", "protocol", "Dice", "Jaccard", "HD95 (voxel)", "ASD (voxel)", "empties"):
        table.add_column(column, justify="left" if column in ("checkpoint", "network", "protocol") else "right")
    for row in aggregate(rows[rows["part"] == part]).itertuples():
        overlap = (f"{row.dice:.4f}", f"{row.jaccard:.4f}")
        distance = (f"{row.hd95_voxel:.2f}", f"{row.asd_voxel:.2f}")
        table.add_row(str(row.checkpoint), str(row.network), str(row.protocol), *overlap, *distance, str(row.empties))
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
