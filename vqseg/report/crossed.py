"""Arms placed along two axes of a study, such as lambda_u x lambda_a: a table of both, and heat maps.

Where an arm stands is what the study says of it (``at``); an older study does not, and its reports derive it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vqseg.report import arms, statistics, style
from vqseg.report.content import size_words
from vqseg.report.measures import MEASURES
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

Value = Any
Places = Mapping[str, Mapping[str, Value]]
SHADES = LinearSegmentedColormap.from_list("pale-to-blue", ["#F7FBFF", "#9ECAE1", "#2171B5", "#08306B"])
"""From worst to best; its lightness falls evenly, so that a grey print keeps the order."""
EVEN = 0.18
"""The luminance of a ground on which black and white are read alike."""
SPAN = 6.0
"""Shades span so many times the median sd over seeds at least."""


@dataclass(frozen=True)
class Crossing:
    """Two axes, their values in order, which arm stands where, and words for values that need some."""

    down: str
    across: str
    rows: list[Value]
    columns: list[Value]
    arms: dict[tuple[Value, Value], str]
    words: dict[Value, str] = field(default_factory=dict)

    def say(self, value: Value) -> str:
        """Return a value of either axis in words."""
        return self.words.get(value) or said(value)

    def beyond(self, labels: list[str]) -> list[str]:
        """Return those of ``labels`` that stand nowhere here."""
        placed = set(self.arms.values())
        return [label for label in labels if label not in placed]


def places(study: Mapping[str, Any]) -> dict[str, dict[str, Value]]:
    """Return where every arm stands: label -> axis -> value."""
    return {str(arm["label"]): dict(arm.get("at") or {}) for arm in study["arms"]}


def ordered(values: list[Value]) -> list[Value]:
    """Return values without repeats: numbers by size, words as they come."""
    once = list(dict.fromkeys(values))
    numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in once)
    return sorted(once) if numbers else once


def cross(where: Places, down: str, across: str) -> Crossing:
    """Cross two axes over the arms that have a place on both; of two arms at one place the first stands there."""
    found: dict[tuple[Value, Value], str] = {}
    for label, at in where.items():
        if down in at and across in at:
            found.setdefault((at[down], at[across]), label)
    return Crossing(down, across, ordered([row for row, _ in found]), ordered([column for _, column in found]), found)


def said(value: Value) -> str:
    """Return a value of an axis in words."""
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def compute(selection: Selection, crossing: Crossing, metrics: list[str]) -> pd.DataFrame:
    """Compute the mean of every place under every metric.

    Returns:
        One line per (``metric``, ``row``, ``column``), of places without scores too: ``arm`` and what
        `arms.compute` says of it (``value``, ``sd``, ``mark``, ``seeds``, ``patients``, ``runs``), in printed units;
        ``beside`` is empty, for words that a report sets beside the number. Marks are among all arms of the study.
    """
    tidy = arms.compute(selection.scores, selection.cells, reference=selection.reference, columns=metrics)
    known = {(line["arm"], line["column"]): line for line in tidy.to_dict("records")}
    empty = {"value": np.nan, "sd": np.nan, "mark": "", "draws": 1, "seeds": 0, "patients": 0, "runs": "", "beside": ""}
    lines = []
    for metric in metrics:
        for row in crossing.rows:
            for column in crossing.columns:
                arm = crossing.arms.get((row, column), "")
                line = known.get((arm, metric), empty)
                place = {"metric": metric, "row": crossing.say(row), "column": crossing.say(column), "arm": arm}
                lines.append({**empty, **{key: line[key] for key in empty if key in line}, **place})
    return pd.DataFrame(lines, columns=["metric", "row", "column", "arm", *empty])


def tabulate(
    table: pd.DataFrame,
    crossing: Crossing,
    metric: str,
    *,
    name: str,
    title: str,
    caption: str,
    decimals: int,
) -> Table:
    """Word `compute`'s lines of one metric."""
    own = table[table["metric"] == metric]
    rows = []
    for row in crossing.rows:
        lines = own[own["row"] == crossing.say(row)].to_dict("records")
        rows.append(Row(_titled(crossing.down, row, crossing), [_cell(line, decimals) for line in lines]))
    headers = [f"{crossing.down} × {crossing.across}"]
    headers += [_titled(crossing.across, column, crossing) for column in crossing.columns]
    tidy = own.rename(columns={"row": crossing.down, "column": crossing.across, "metric": "column"})
    return Table(name, title, headers, rows, caption, tidy)


def _titled(axis: str, value: Value, crossing: Crossing) -> str:
    """Return a value with its axis before it, unless it is a word and speaks for itself."""
    return crossing.say(value) if isinstance(value, str) else f"{axis} {crossing.say(value)}"


def _cell(line: Mapping[Any, Any], decimals: int) -> Cell:
    after = str(line["beside"])
    if np.isnan(line["value"]):
        return Cell(after or ("—" if line["arm"] else ""))
    spread = "" if np.isnan(line["sd"]) else f" ± {line['sd']:.{decimals}f}"
    tip = f"{line['arm']}: {size_words(line)}; runs {line['runs']}"
    return Cell(" ".join(word for word in (f"{line['value']:.{decimals}f}{spread}", after) if word), line["mark"], tip)


def marks_within(selection: Selection, groups: list[list[str]], metric: str) -> dict[str, str]:
    """Return the mark of every arm among those of its group alone, by label."""
    rows, better = selection.headline, bool(MEASURES[metric].higher_is_better)
    valued = rows.assign(value=rows[metric].astype(float)).dropna(subset=["value"])
    found: dict[str, str] = {}
    for group in groups:
        found |= statistics.marks(valued[valued["arm"].isin(group)], higher_is_better=better)
    return found


def reading(framed: str = "") -> str:
    """Return how to read `draw`'s figure; ``framed`` says what stands in frames."""
    return (
        f"Means ± sd over seeds; darker is better, shades span at least {SPAN:g} times the median sd; bold: the best "
        f"and what cannot be told from it{f'; framed: {framed}' if framed else ''}; hatched: not scored."
    )


def draw(
    table: pd.DataFrame,
    down: str,
    across: str,
    protocol: str,
    decimals: int = 2,
    outlined: tuple[str, ...] = (),
) -> Figure:
    """Draw `compute`'s table as heat maps, one per metric; darker is better, bold is marked.

    Shades span six times the median sd over seeds at least: differences within noise stay pale differences.

    Args:
        table: the means, with what stands beside them.
        down: name of the axis of rows.
        across: name of the axis of columns.
        protocol: which decides on the unit of distances.
        decimals: of the means.
        outlined: arms whose cells get a frame.
    """
    metrics = list(dict.fromkeys(table["metric"]))
    rows, columns = list(dict.fromkeys(table["row"])), list(dict.fromkeys(table["column"]))
    narrow = len(metrics) == 1 and len(columns) <= 4
    with style.house():
        width = style.COLUMN_IN if narrow else style.PAGE_IN
        figure = style.sheet(width, max(0.42 * len(rows), 0.9) + 0.75)
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for number, (axes, metric) in enumerate(zip(panels, metrics)):
            own = table[table["metric"] == metric]
            _panel(axes, own, rows, columns, metric, decimals, outlined)
            axes.set(title=MEASURES[metric].label(protocol), xlabel=across, ylabel=down if number == 0 else "")
            axes.set_yticks(np.arange(len(rows)) + 0.5, rows if number == 0 else [""] * len(rows), rotation=0)
    return figure


def _panel(
    axes: Axes,
    own: pd.DataFrame,
    rows: list[str],
    columns: list[str],
    metric: str,
    decimals: int,
    outlined: tuple[str, ...],
) -> None:
    shape = (len(rows), len(columns))
    values = own["value"].to_numpy(dtype=float).reshape(shape)
    better = 1.0 if MEASURES[metric].higher_is_better else -1.0
    notes = np.array([_note(line, decimals) for line in own.to_dict("records")], dtype=object).reshape(shape)
    low, high = _ends(better * values, own["sd"].to_numpy(dtype=float))
    seaborn.heatmap(
        better * values, annot=notes, fmt="", cmap=SHADES, vmin=low, vmax=high, cbar=False, ax=axes, linewidths=1.0,
        linecolor="white", xticklabels=columns, yticklabels=False, annot_kws={"fontsize": 6.2, "linespacing": 1.1},
    )  # fmt: skip
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=0)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    shades = axes.collections[0].get_facecolor()
    known = [(line, shade) for line, shade in zip(own.to_dict("records"), shades) if not np.isnan(line["value"])]
    for text, (line, shade) in zip(axes.texts, known):
        text.set_fontweight("bold" if line["mark"] == "bold" else "normal")
        text.set_color("black" if seaborn.utils.relative_luminance(shade) > EVEN else "white")
    for place, line in enumerate(own.to_dict("records")):
        corner = (place % len(columns), place // len(columns))
        if np.isnan(line["value"]):
            axes.add_patch(Rectangle(corner, 1, 1, fc="#F2F2F2", ec="white", hatch="////", lw=0))
            middle = (corner[0] + 0.5, corner[1] + 0.5)
            axes.text(*middle, line["beside"], ha="center", va="center", fontsize=6, color=style.GREY)
        if line["arm"] and line["arm"] in outlined:
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="#D55E00", lw=1.6, clip_on=False, zorder=4))


def _note(line: Mapping[Any, Any], decimals: int) -> str:
    if np.isnan(line["value"]):
        return ""
    spread = "" if np.isnan(line["sd"]) else f"\n±{line['sd']:.{decimals}f}"
    beside = f"\n{line['beside']}" if line["beside"] else ""
    return f"{line['value']:.{decimals}f}{spread}{beside}"


def _ends(values: np.ndarray, spreads: np.ndarray) -> tuple[float, float]:
    """Return the ends of the shades: the numbers' own, widened where they differ by no more than seeds do."""
    known, noise = values[~np.isnan(values)], spreads[~np.isnan(spreads)]
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    least = SPAN * float(np.median(noise)) if len(noise) else 0.0
    more = max(least - (high - low), 1e-9 if high > low else 1.0) / 2
    return low - more, high + more
