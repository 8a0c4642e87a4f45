"""The paper's printed cells of a grid, and the steps between them, beside ours computed in the same way.

The paper prints 5 of the 8 cells of its modules, one number each, on other data: its differences can be computed and
not tested. Between two printed cells that differ in one factor lies a step, such as DB given QPM.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vqseg.report import published, statistics
from vqseg.report.factorial import Grid
from vqseg.report.measures import MEASURES
from vqseg.report.numbers import interval, signed
from vqseg.report.published import Published
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

TOPIC = "modules"
NONE = "base"


@dataclass(frozen=True)
class Step:
    """One factor turned on where ``given`` are on already."""

    factor: str
    given: frozenset[str]
    name: str


def printed(grid: Grid) -> dict[frozenset[str], Published]:
    """Return the printed cells; empty if the paper's factors are not all the grid's."""
    names = {factor.casefold(): factor for factor in grid.factors}
    cells = {}
    for row in published.load():
        if TOPIC not in row.topics:
            continue
        words = [word.strip().casefold() for word in row.method.split("+") if word.strip()]
        on = [names.get(word) for word in words if word != NONE]
        if None in on:
            return {}
        cells[frozenset(str(factor) for factor in on)] = row
    return cells


def steps(grid: Grid, cells: dict[frozenset[str], Published]) -> list[Step]:
    """Return every step between two printed cells that differ in one factor."""
    found = []
    for given in sorted(cells, key=lambda on: (len(on), [grid.factors.index(name) for name in grid.ordered(on)])):
        for factor in grid.factors:
            if factor not in given and given | {factor} in cells:
                where = f"given {' + '.join(grid.ordered(given))}" if given else "on base"
                found.append(Step(factor, given, f"{factor} {where}"))
    return found


def compute(selection: Selection, grid: Grid, metrics: list[str]) -> pd.DataFrame:
    """Compute the printed cells and the steps, theirs and ours.

    Returns:
        One row per (``row``, ``metric``): ``kind`` (cell or step), ``theirs``, ``ours``, and for a step ``low``,
        ``high``, ``seeds``, ``patients`` of ours (`statistics.assess`, not corrected); in printed units.
    """
    cells = printed(grid)
    records: list[dict[str, Any]] = []
    for metric in metrics:
        scale = MEASURES[metric].scale
        valued = selection.headline.assign(value=selection.headline[metric].astype(float) * scale)
        means = valued.groupby(["arm", "seed"])["value"].mean().groupby("arm").mean()
        for on, row in cells.items():
            records.append(
                {
                    "row": row.method, "metric": metric, "kind": "cell",
                    "theirs": row.values.get(metric, float("nan")) * scale,
                    "ours": means.get(grid.arms.get(on, ""), float("nan")),
                }
            )  # fmt: skip
        wanted = steps(grid, cells)
        own = {
            step.name: {grid.arms[step.given | {step.factor}]: 1.0, grid.arms[step.given]: -1.0}
            for step in wanted
            if step.given in grid.arms and step.given | {step.factor} in grid.arms
        }
        tested = statistics.assess(valued, own).set_index("contrast")
        for step in wanted:
            ends = [cells[on].values.get(metric, float("nan")) for on in (step.given | {step.factor}, step.given)]
            record = {"row": step.name, "metric": metric, "kind": "step", "theirs": scale * (ends[0] - ends[1])}
            if step.name in tested.index:
                line = tested.loc[step.name]
                record |= {"ours": line["estimate"], **{k: line[k] for k in ("low", "high", "seeds", "patients")}}
            records.append(record)
    columns = ["row", "metric", "kind", "theirs", "ours", "low", "high", "seeds", "patients"]
    return pd.DataFrame(records, columns=columns)


def tabulate(selection: Selection, grid: Grid, metrics: list[str], conditions: str) -> Table | None:
    """Word `compute`: printed cells above, steps below; None if the paper has no such grid."""
    table = compute(selection, grid, metrics)
    if table.empty:
        return None
    decimals = selection.options.decimals
    source = next(iter(printed(grid).values()))
    rows: list[Row] = []
    for (kind, name), own in table.groupby(["kind", "row"], sort=False):
        cells = []
        for line in own.to_dict("records"):
            for column in ("theirs", "ours"):
                value = float(line[column])
                words = signed(value, decimals) if kind == "step" else f"{value:.{decimals}f}"
                cells.append(Cell("—" if pd.isna(value) else words, tip=_tip(line, column, decimals)))
        first = kind == "step" and (not rows or table.loc[table["row"] == rows[-1].label, "kind"].iloc[0] == "cell")
        rows.append(Row(str(name), cells, ruled=first))
    shown = [(MEASURES[metric].header, MEASURES[metric].label(selection.protocol)) for metric in metrics]
    headers = [words for header, label in shown for words in (f"{header} paper", f"{label} ours")]
    data = f"{source.data.upper()}, {source.labels} labelled"
    return Table(
        name="paper-effects",
        title="The paper's cells and the steps between them",
        headers=["cell or step", *headers],
        rows=rows,
        caption=(
            f"paper: {source.source} [{source.trust}: {published.TRUST[source.trust]}], {data}; {source.note}. Other "
            "data and another protocol than ours, and single numbers: its steps can be computed and not tested, and "
            f"only their signs can be held beside ours. ours: the same cells and steps. {conditions}"
        ),
        tidy=table.rename(columns={"row": "arm", "metric": "column", "ours": "value"}).assign(runs=source.source),
    )


def _tip(line: Mapping[Hashable, Any], column: str, decimals: int) -> str:
    between = interval(line["low"], line["high"], decimals) if column == "ours" else ""
    size = f"at 95 %, not corrected; {line['seeds']:.0f} seeds x {line['patients']:.0f} patients"
    return f"{between} {size}" if between else ""
