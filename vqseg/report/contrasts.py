"""Named contrasts of a report, in groups: tested together, as a table, as a forest and in words.

A contrast is any sum of arms with weights: one arm minus another, or a difference of such differences. Holm's
correction runs over all that stand in one table.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import statistics, style
from vqseg.report.content import size_words
from vqseg.report.measures import MEASURES, Measure, measure_name
from vqseg.report.numbers import cell_p, interval, signed, worded_p
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

BETTER = ("better", "worse")
COLOR, MARKER = "#0072B2", "o"


@dataclass(frozen=True)
class Contrast:
    """A name, the weight of every arm that enters, the group that it stands in, and what either sign means.

    ``words`` are said where it is told from 0: in the direction of the better score, and in the other one.
    """

    name: str
    weights: dict[str, float]
    group: str = ""
    words: tuple[str, str] = BETTER


def minus(arm: str, other: str, *, name: str = "", group: str = "") -> Contrast:
    """Return ``arm`` minus ``other``."""
    return Contrast(name or f"{arm} minus {other}", {arm: 1.0, other: -1.0}, group)


def assess(rows: pd.DataFrame, wanted: Iterable[Contrast], metric: str) -> pd.DataFrame:
    """Estimate and test contrasts; Holm over all that can be computed.

    Args:
        rows: scored rows with ``arm``, ``seed`` (and ``draw``), such as the last teacher's.
        wanted: the contrasts; those whose arms are not all scored, or share no seed, are left out.
        metric: the score column.

    Returns:
        `statistics.assess`'s columns with ``group``, ``words``, ``by_seed`` (the mean of every common run) and
        ``runs`` (identities); in printed units.
    """
    valued = rows.assign(value=rows[metric].astype(float) * MEASURES[metric].scale).dropna(subset=["value"])
    named = {str(number): contrast for number, contrast in enumerate(wanted)}
    table = statistics.assess(valued, {key: contrast.weights for key, contrast in named.items()})
    grids = statistics.grids(valued)
    runs = {str(arm): " ".join(own.unique()) for arm, own in valued.groupby("arm")["identity"]}
    own = [named[key] for key in table["contrast"]]
    return table.assign(
        contrast=[each.name for each in own],
        group=[each.group for each in own],
        words=pd.Series([each.words for each in own], dtype=object),
        by_seed=pd.Series([statistics.by_run(grids, each.weights) for each in own], dtype=object),
        runs=[" ".join(runs[arm] for arm in each.weights) for each in own],
    )


def judged(line: Mapping[Hashable, Any]) -> bool:
    """Whether a contrast has seeds and patients enough for a verdict."""
    return bool(line["seeds"] >= statistics.LEAST_SEEDS and not math.isnan(line["p_holm"]))


def told(line: Mapping[Hashable, Any]) -> bool:
    """Whether a contrast is told from 0: Holm's p below the level with at least three seeds."""
    return judged(line) and bool(line["p_holm"] < statistics.ALPHA)


def direction(line: Mapping[Hashable, Any], measure: Measure) -> int:
    """Return 1 where a contrast is told to be better, -1 where worse, 0 where it cannot be told."""
    if not told(line):
        return 0
    return 1 if (line["estimate"] > 0) == measure.higher_is_better else -1


def verdict(line: Mapping[Hashable, Any], measure: Measure) -> str:
    """Say what a contrast's interval and p allow to say."""
    if math.isnan(line["p_holm"]):
        return "no interval: one seed or one patient"
    if not judged(line):
        return f"only {line['seeds']:.0f} seeds, no verdict"
    found = direction(line, measure)
    return {1: line["words"][0], -1: line["words"][1], 0: "cannot be told from 0"}[found]


def number(line: Mapping[Hashable, Any], selection: Selection, metric: str | None = None) -> str:
    """Return a contrast's effect and interval: ``+0.8 Dice [-0.2, +1.7]``."""
    measure, decimals = MEASURES[metric or measure_name(selection.options.metric)], selection.options.decimals
    between = interval(line["low"], line["high"], decimals)
    return f"{signed(line['estimate'], decimals)} {measure.short(selection.protocol)} {between}".rstrip()


def words(line: Mapping[Hashable, Any], selection: Selection, metric: str | None = None) -> str:
    """Return effect, interval, size and verdict: ``+0.8 Dice [-0.2, +1.7], 3 seeds x 20 patients: better (p ...)``."""
    measure = MEASURES[metric or measure_name(selection.options.metric)]
    p = f" (p {worded_p(line['p_holm'])} after Holm)" if judged(line) else ""
    return f"{number(line, selection, metric)}, {size_words(line)}: {verdict(line, measure)}{p}"


def where(selection: Selection) -> str:
    """Return the data and part that a sentence speaks about."""
    return f"{selection.study['data']['name']} ({selection.part})"


def along(own: pd.DataFrame, selection: Selection, *, noun: str, of: int) -> str:
    """Say at how many places one contrast can be told, and what it is at each.

    Args:
        own: `assess`'s rows of the contrast, one per place, which is its group.
        selection: for the metric and the digits.
        noun: what a place is called.
        of: how many places the study has.
    """
    measure, decimals = MEASURES[measure_name(selection.options.metric)], selection.options.decimals
    lines = own.to_dict("records")
    numbers = "; ".join(
        f"{line['group']} {signed(line['estimate'], decimals)} {interval(line['low'], line['high'], decimals)}".rstrip()
        for line in lines
    )
    found = [direction(line, measure) for line in lines if judged(line)]
    counts = [(found.count(1), "better"), (found.count(-1), "worse"), (found.count(0), "not told from 0")]
    counts.append((of - len(found), "without a verdict"))
    parts = [(count, word) for count, word in counts if count]
    said = ", ".join(f"{word} at {count}" for count, word in parts) + f" of {of} {noun}{'s' * (of != 1)}"
    if len(parts) == 1:
        said = f"{parts[0][1]} at every {noun}" if of > 1 else parts[0][1]
    return f"{said} (Δ {measure.short(selection.protocol)}: {numbers}; {size_words(lines[0])})"


def tabulate(
    table: pd.DataFrame,
    selection: Selection,
    *,
    name: str,
    title: str,
    caption: str,
    first: str = "contrast",
    grouped: str = "",
    metric: str | None = None,
) -> Table:
    """Word `assess`'s rows; ``grouped`` is the header of a column of groups, none if empty."""
    metric = metric or measure_name(selection.options.metric)
    measure, decimals = MEASURES[metric], selection.options.decimals
    rows, before = [], None
    for line in table.to_dict("records"):
        effect = Cell(
            signed(line["estimate"], decimals), "bold" if told(line) else "", f"{size_words(line)}; runs {line['runs']}"
        )
        rest = [
            interval(line["low"], line["high"], decimals) or "—",
            cell_p(line["p_holm"]),
            size_words(line),
            verdict(line, measure),
        ]
        leading = [Cell(str(line["group"]))] if grouped else []
        ruled = before is not None and line["group"] != before
        rows.append(Row(str(line["contrast"]), [*leading, effect, *map(Cell, rest)], ruled=ruled))
        before = line["group"]
    headers = [
        *(first, *([grouped] if grouped else []), f"Δ {measure.short(selection.protocol)}", "95 % interval"),
        *("p (Holm)", "seeds x patients", "verdict"),
    ]
    tidy = table.drop(columns=["by_seed", "words"]).rename(columns={"contrast": "arm", "estimate": "value"})
    return Table(name, title, headers, rows, caption, tidy.assign(column=f"contrast on {metric}"))


def draw(table: pd.DataFrame, metric: str, protocol: str) -> Figure:
    """Draw `assess`'s rows as a forest, group by group; filled where told from 0, dots are single seeds."""
    lines = _lines(table)
    with style.house():
        figure = style.sheet(0.75 * style.PAGE_IN, 0.2 * len(lines) + 0.8)
        axes = figure.subplots()
        axes.axvline(0, color="black", lw=0.8)
        for height, line in enumerate(lines):
            if isinstance(line, dict):
                _row(axes, height, line)
        axes.set_yticks(range(len(lines)), [_label(line) for line in lines])
        for tick, line in zip(axes.get_yticklabels(), lines):
            tick.set_fontweight("normal" if isinstance(line, dict) else "bold")
        measure = MEASURES[metric]
        better = "right" if measure.higher_is_better else "left"
        unit = measure.unit_of_difference(protocol)
        axes.set(ylim=(len(lines) - 0.4, -0.6), xlabel=f"Δ {measure.header} ({unit}; better to the {better})")
        axes.grid(axis="y", visible=False)
    return figure


def _lines(table: pd.DataFrame) -> list[Any]:
    """Return the rows with the name of every group, if there are several, before its own."""
    lines: list[Any] = []
    several = table["group"].nunique() > 1
    for group, own in table.groupby("group", sort=False):
        lines += [*([str(group)] if several else []), *own.to_dict("records")]
    return lines


def _label(line: Any) -> str:
    return str(line["contrast"]) if isinstance(line, dict) else str(line)


def _row(axes: Axes, height: int, line: Mapping[Hashable, Any]) -> None:
    axes.plot([line["low"], line["high"]], [height, height], color=COLOR, lw=1.2)
    face = COLOR if told(line) else "white"
    axes.plot(line["estimate"], height, marker=MARKER, color=COLOR, mfc=face, ms=4.5, zorder=3)
    seeds = line["by_seed"]
    axes.scatter(seeds, [height + 0.3] * len(seeds), s=5, color=COLOR, alpha=0.6, linewidths=0)
