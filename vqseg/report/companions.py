"""Published numbers beside ours: rows of our table where the protocol is the same, else a panel of their own."""

import pandas as pd

from vqseg.report import integrity, published
from vqseg.report.measures import MEASURES
from vqseg.report.published import Published
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table


def find(selection: Selection) -> tuple[list[Published], list[Published]]:
    """Return (published rows that may stand in our table, rows for the panel)."""
    cells, column = selection.cells, "split.parts.labelled.patients"
    counts = list(cells[column].dropna().unique()) if column in cells else []
    return published.split_by_protocol(
        published.load(),
        data=str(selection.study["data"]["name"]),
        labelled=int(counts[0]) if len(counts) == 1 else None,
        part=selection.part,
        protocol=selection.protocol,
        topics=[str(selection.study["study"])],
    )


def row_of(row: Published, keys: list[str], decimals: int, before: int, *, ruled: bool) -> Row:
    """Return a published row of our table: ``before`` unknown cells, then the values that it has."""
    cells = [*(Cell("?") for _ in range(before)), *(_value(row, key, decimals) for key in keys)]
    return Row(f"{row.method} [{row.trust}]{marks(row)}", cells, ruled=ruled)


def note_of(row: Published) -> str:
    """Return the footnote of a published row of our table: its source, and that nobody knows the rest."""
    unknown = "seeds, steps, preset, precision and code ?"
    words = f"{row.method}: {row.source} [{row.trust}: {published.TRUST[row.trust]}]; {unknown}"
    return f"{words}; {row.note}." if row.note else f"{words}."


def marks(row: Published) -> str:
    """Return what is wrong with a published row as marks after its name, such as `` †``."""
    return "".join(f" {marks}" for marks in integrity.marks_of(integrity.of_published([row])).values())


def _value(row: Published, key: str, decimals: int) -> Cell:
    if key == "labelled" and row.labelled is not None:
        return Cell(f"{row.labelled}", tip=row.source)
    if key not in row.values:
        return Cell("?")
    return Cell(f"{row.values[key] * MEASURES[key].scale:.{decimals}f}", tip=row.source)


def panel(rows: list[Published], decimals: int) -> Table:
    """Return the table of published rows that do not compare with ours."""
    keys = [key for key in MEASURES if any(key in row.values for row in rows)]
    lines, previous = [], None
    for row in rows:
        shown = "?" if row.protocol == "unknown" else row.protocol
        cells = [Cell(row.data), Cell(row.labels), Cell(row.part), Cell(shown)]
        cells += [_value(row, key, decimals) for key in keys] + [Cell(f"{row.source} [{row.trust}]")]
        lines.append(Row(f"{row.method}{marks(row)}", cells, ruled=previous not in (None, row.source)))
        previous = row.source
    values = [{"arm": r.method, "column": k, "value": v, "runs": r.source} for r in rows for k, v in r.values.items()]
    used = {row.trust for row in rows}
    notes = dict.fromkeys(f"{row.source}: {row.note}." for row in rows if row.note)
    return Table(
        name="published",
        title="Published, other protocol",
        headers=["method", "data", "labels", "part", "protocol", *(MEASURES[key].header for key in keys), "source"],
        rows=lines,
        caption=(
            "Not comparable with the table above: data, number of labels, part or protocol differ or are not stated "
            "(?). Dice and Jaccard in %, distances as printed. "
            + "; ".join(f"[{mark}] {words}" for mark, words in published.TRUST.items() if mark in used)
            + "."
        ),
        tidy=pd.DataFrame(values),
        footnotes=[*integrity.footnotes(integrity.of_published(rows)), *notes],
    )
