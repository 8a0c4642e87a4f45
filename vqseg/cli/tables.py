"""What commands print: small tables."""

import math
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

STYLES = {
    "finished": "green",
    "failed": "red",
    "running": "cyan",
    "killed": "yellow",
    "interrupted": "yellow",
    "pruned": "blue",
}


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


def print_skipped(skipped: list[dict[str, str]]) -> None:
    """Print which arms of a study were left out, and why."""
    for row in skipped:
        Console(soft_wrap=True).print(f"skipped: {escape(row['label'])}: {escape(row['reason'])}", highlight=False)


def print_comparison(found: dict[str, Any]) -> None:
    """Print what `vqseg.study.compare.compared` found."""
    console = Console()
    names = [f"{run['name']} ({run['identity']}, {run['state']})" for run in found["runs"]]
    for letter, name in zip("AB", names):
        console.print(f"{letter}: {escape(name)}", highlight=False)
    for title, pairs in (("settings that differ", found["settings"]), ("what else does", found["circumstances"])):
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for column in (title, "A", "B"):
            table.add_column(column, overflow="fold")
        for key, values in pairs.items():
            table.add_row(escape(key), *(escape("-" if value is None else str(value)) for value in values))
        console.print(table if pairs else f"{title}: nothing")
    table = Table(title="scores: A, B, (B - A), by patient", box=None, padding=(0, 2, 0, 0))
    for column in ("part", "protocol", "teacher", "Dice", "Jaccard", "HD95", "ASD", "patients"):
        table.add_column(column, overflow="fold")
    for name, row in found["validation"].items():
        table.add_row("val", "curve", name.partition(" ")[0], _three(row, 4), "", "", "", "")
    for row in found["scores"]:
        each = [_three(score, 4 if name in ("dice", "jaccard") else 2) for name, score in row["scores"].items()]
        patients = str(row["patients"]) + (f", not in both {row['alone']}" if any(row["alone"]) else "")
        table.add_row(row["part"], row["protocol"], row["checkpoint"], *each, escape(patients))
    console.print(table)
    console.print(found["caution"], highlight=False)


def _three(score: dict[str, Any], digits: int) -> str:
    """Return two values and how far they are apart; "-" for what is not known."""
    values = [*score["values"]]
    shown = ["-" if value is None else f"{value:.{digits}f}" for value in values]
    difference = score["difference"]
    return " ".join([*shown, "-" if difference is None else f"({difference:+.{digits}f})"])
