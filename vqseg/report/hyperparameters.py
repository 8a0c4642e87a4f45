"""Loss weights: the two-way table of lambda_u and lambda_a, other weights as curves, and whether any of it is noise.

Source: VQ-Seg (NeurIPS 2025), Table 3, whose best arm by Dice is not its best by HD95 or by ASD.
Differs: every number is a mean over seeds with its spread, and what cannot be told apart is said to be so.
"""

import re
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import ablation, arms, contrasts, crossed, published, statistics, style
from vqseg.report.content import Picture, Report, Section, conditions, over, size_words
from vqseg.report.crossed import Crossing
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.published import Published
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

TOPIC = "loss-weights"
KNOWN = ("dice", "jaccard", "hd95_voxel", "asd_voxel")
SHOWN = ("dice", "hd95_voxel", "asd_voxel")
PRINTED_AT = {"lambda_u": 1.0, "lambda_a": 5.0}
"""Where the paper's other weight stands while one moves (its choice)."""
SYMBOL = re.compile(r"(\w+)=([\d.]+)")


def build(selection: Selection) -> Report:
    """Build the report of a grid of loss weights."""
    bests = best_by_metric(selection)
    return Report(
        title=f"{selection.study['name']}: weights of the losses",
        question=selection.study.get("question", ""),
        banners=ablation.banners(selection),
        summary=[*flatness(selection), *differing(bests), *ablation.best_sentence(selection)[1:]],
        sections=[
            ablation.scores_section(selection),
            _grid(selection, bests),
            *([section] if (section := _curves(selection)).pictures else []),
            *ablation.training_sections(selection),
        ],
    )


def grid_of(selection: Selection) -> Crossing | None:
    """Return the crossing of the two axes on which most places are taken, None if no two axes meet."""
    where = crossed.places(selection.study)
    pairs: dict[tuple[str, str], set[tuple[Any, Any]]] = {}
    for at in where.values():
        for down, across in combinations(at, 2):
            pairs.setdefault((down, across), set()).add((at[down], at[across]))
    if not pairs:
        return None
    return crossed.cross(where, *max(pairs, key=lambda pair: len(pairs[pair])))


def printed(crossing: Crossing) -> dict[str, Published]:
    """Return the rows that the paper printed, by the arm that stands at their place."""
    found = {}
    for row in published.load():
        told = {symbol: float(value) for symbol, value in SYMBOL.findall(row.method)}
        if TOPIC not in row.topics or not set(told) <= set(PRINTED_AT):
            continue
        at = {**PRINTED_AT, **told}
        arm = crossing.arms.get((at.get(crossing.down), at.get(crossing.across)))
        if arm:
            found[arm] = row
    return found


def best_by_metric(selection: Selection) -> pd.DataFrame:
    """Return per metric the best arm: ``metric``, ``arm``, ``value``, ``sd``, ``rank`` (its own by Dice), ``tied``
    (arms that cannot be told from it, itself not counted; -1 where it is not ranked itself), ``arms`` (that are
    ranked), ``paper`` (its best place).
    """
    metrics = [key for key in KNOWN if selection.headline[key].notna().any()]
    tidy = arms.compute(selection.scores, selection.cells, reference=selection.reference, columns=metrics)
    own = {metric: lines.set_index("arm") for metric, lines in tidy.groupby("column", sort=False)}
    lines = []
    for metric, table in own.items():
        higher = bool(MEASURES[str(metric)].higher_is_better)
        best = str(table["value"].idxmax() if higher else table["value"].idxmin())
        ranks = own["dice"]["value"].rank(ascending=False) if "dice" in own else pd.Series(dtype=float)
        lines.append(
            {
                "metric": metric, "arm": best, "value": table.loc[best, "value"], "sd": table.loc[best, "sd"],
                "rank": ranks.get(best, float("nan")), "arms": int((table["seeds"] >= statistics.LEAST_SEEDS).sum()),
                "tied": int((table["mark"] == "bold").sum()) - 1 if table.loc[best, "mark"] == "bold" else -1,
                "paper": _best_printed(str(metric)),
                **{key: table.loc[best, key] for key in ("draws", "seeds", "patients", "runs")},
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def _best_printed(metric: str) -> str:
    rows = [row for row in published.load() if TOPIC in row.topics and metric in row.values]
    if not rows:
        return ""
    better = max if MEASURES[metric].higher_is_better else min
    return better(rows, key=lambda row: row.values[metric]).method


def flatness(selection: Selection) -> list[str]:
    """Say in one sentence whether any arm can be told from the best one, and how far the farthest is."""
    metric = measure_name(selection.options.metric)
    measure, rows = MEASURES[metric], selection.headline
    means = rows.groupby(["arm", "seed"])[metric].mean().groupby("arm").mean().dropna()
    if len(means) < 2:
        return ["Only one arm is scored: nothing can be said of the weights."] if len(means) else []
    best = str(means.idxmax() if measure.higher_is_better else means.idxmin())
    wanted = [contrasts.minus(arm, best, name=arm) for arm in selection.arms if arm in means and arm != best]
    table = contrasts.assess(rows, wanted, metric)
    judged = [line for line in table.to_dict("records") if contrasts.judged(line)]
    leads = f"{best} ({means[best] * measure.scale:.{selection.options.decimals}f} {measure.short(selection.protocol)})"
    if not judged:
        return [f"No verdict on {contrasts.where(selection)}: {leads} leads, with fewer than 3 seeds or 2 patients."]
    # The best was picked by looking, so what is told from it is what the marks of the tables say.
    marks = crossed.marks_within(selection, [[best, *(str(line["contrast"]) for line in judged)]], metric)
    worse = sum(marks.get(str(line["contrast"])) != "bold" for line in judged)
    counted = f"{worse} of {len(judged)} other arms can be told from the best"
    opening = f"The weights matter: {counted}" if worse else "Flat within noise: no other arm can be told from the best"
    far = max(judged, key=lambda line: abs(line["estimate"]))
    return [
        f"{opening}, {leads}, on {contrasts.where(selection)}; the farthest, {far['contrast']}, lies "
        f"{contrasts.number(far, selection)} from it, {size_words(far)}."
    ]


def differing(bests: pd.DataFrame) -> list[str]:
    """Say whether the metrics agree on the best arm, and that the paper's do not."""
    if len(bests) < 2:
        return []
    by = {MEASURES[line["metric"]].header: line for line in bests.to_dict("records")}
    first = next(iter(by))
    others = {name: line for name, line in by.items() if line["arm"] != by[first]["arm"]}
    said = [f"{name}: {line['arm']} (number {line['rank']:g} by {first})" for name, line in others.items()]
    ours = f"The best arm depends on the metric: {first}: {by[first]['arm']}; {'; '.join(said)}."
    theirs = {name: str(line["paper"]) for name, line in by.items() if line["paper"]}
    sentences = [ours if others else f"All metrics have the same best arm, {by[first]['arm']}."]
    if len(set(theirs.values())) > 1:
        listed = ", ".join(f"{name} {place}" for name, place in theirs.items())
        sentences.append(f"The paper's own best depends on it too: {listed}.")
    return sentences


def _grid(selection: Selection, bests: pd.DataFrame) -> Section:
    """Return the two-way tables, the heat maps and the table of bests."""
    tables = [_bests(selection, bests)]
    crossing = grid_of(selection)
    if crossing is None:
        return Section("Two weights at a time", ["No two weights are crossed in this study."], tables)
    metrics = [key for key in SHOWN if selection.headline[key].notna().any()]
    table, theirs = crossed.compute(selection, crossing, metrics), printed(crossing)
    decimals, places = selection.options.decimals, zip(table["arm"], table["metric"])
    table["beside"] = [_printed_words(theirs.get(arm), metric, decimals) for arm, metric in places]
    source = "; ".join(dict.fromkeys(f"{row.source} [{row.trust}], {row.data.upper()}" for row in theirs.values()))
    paper = (
        f"In brackets what the paper printed there ({source}), of other data and another protocol. " if theirs else ""
    )
    words = f"Mean ± sd over {over(selection)}. {ablation.MARKS} {paper}"
    for metric in metrics:
        label = MEASURES[metric].label(selection.protocol)
        name, title = f"weights-{style.slug(metric)}", f"{label} over {crossing.down} and {crossing.across}"
        caption = f"{words}{conditions(selection)}"
        own = crossed.tabulate(table, crossing, metric, name=name, title=title, caption=caption, decimals=decimals)
        tables.append(own)
    framed = "cells that the paper printed, its number in brackets" if theirs else ""
    caption = f"{crossed.reading(framed)} {conditions(selection)}"
    inputs = (table, crossing.down, crossing.across, selection.protocol, decimals, tuple(theirs))
    return Section("Two weights at a time", [], tables, [Picture("weights", caption, crossed.draw, inputs)])


def _printed_words(row: Published | None, metric: str, decimals: int) -> str:
    if row is None or metric not in row.values:
        return ""
    return f"({row.values[metric] * MEASURES[metric].scale:.{decimals}f})"


def _bests(selection: Selection, bests: pd.DataFrame) -> Table:
    decimals, rows = selection.options.decimals, []
    for line in bests.to_dict("records"):
        spread = "" if pd.isna(line["sd"]) else f" ± {line['sd']:.{decimals}f}"
        tip = f"{size_words(line)}; runs {line['runs']}"
        ranked = line["arms"] > 1 and line["tied"] >= 0
        cells = [
            Cell(line["arm"]), Cell(f"{line['value']:.{decimals}f}{spread}", tip=tip), Cell(f"{line['rank']:g}"),
            Cell(f"{line['tied']} of {line['arms'] - 1}" if ranked else "—"), Cell(line["paper"] or "?"),
        ]  # fmt: skip
        rows.append(Row(MEASURES[line["metric"]].label(selection.protocol), cells))
    caption = (
        "The best arm by every metric, its rank by Dice, and how many others cannot be told from it (Holm over the "
        f"contrasts with it; arms with 3 seeds at least). paper: the best of Table 3 there. {conditions(selection)}"
    )
    headers = ["metric", "best arm", "mean", "rank by Dice", "not told from it", "paper's best"]
    tidy = bests.rename(columns={"metric": "column"})
    return Table("best-by-metric", "The best arm by every metric", headers, rows, caption, tidy)


def _curves(selection: Selection) -> Section:
    """Return the other axes as curves, one column of panels each."""
    crossing = grid_of(selection)
    crossed_axes = {crossing.down, crossing.across} if crossing else set()
    metrics = [key for key in SHOWN[:2] if selection.headline[key].notna().any()]
    table = axis_scores(selection, crossed_axes, metrics)
    caption = (
        "Score over one weight, all others as in the reference. Values stand side by side, not to scale. Line: mean; "
        f"dots: seeds; square: the reference, {selection.reference}. {conditions(selection)}"
    )
    inputs = (table, metrics, selection.reference, selection.protocol)
    return Section("One weight at a time", [], [], [Picture("one-weight", caption, draw, inputs)] if len(table) else [])


def axis_scores(selection: Selection, without: set[str], metrics: list[str]) -> pd.DataFrame:
    """Return ``axis``, ``value``, ``arm``, ``seed`` and every metric (printed units) along all axes but ``without``.

    The reference stands on an axis too, where the study says which value it has there.
    """
    where = crossed.places(selection.study)
    means = selection.headline.groupby(["arm", "seed"])[metrics].mean().reset_index()
    for metric in metrics:
        means[metric] *= MEASURES[metric].scale
    parts = []
    for axis in dict.fromkeys(axis for at in where.values() for axis in at if axis not in without):
        own = {label: at[axis] for label, at in where.items() if axis in at}
        base = value_of_reference(selection, axis, own)
        if base is not None and base not in own.values():
            own[selection.reference] = base
        part = means[means["arm"].isin(set(own))]
        if part["arm"].nunique() > 1:
            parts.append(part.assign(axis=axis, value=[own[arm] for arm in part["arm"]]))
    columns = ["axis", "value", "arm", "seed", *metrics]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def value_of_reference(selection: Selection, axis: str, places: Mapping[str, Any]) -> Any:
    """Return the reference's value of the setting that an axis moves, None where the study does not tell."""
    told = [selection.of_arm[label].get("overrides") or {} for label in places]
    keys = [key for key in told[0] if all(own.get(key) == value for own, value in zip(told, places.values()))]
    if not keys:
        return None
    own = selection.of_arm.get(selection.reference, {}).get("overrides") or {}
    if keys[0] in own:
        return own[keys[0]]
    node: Any = selection.study.get("base_config") or {}
    for name in keys[0].split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def draw(table: pd.DataFrame, metrics: list[str], reference: str, protocol: str) -> Figure:
    """Draw `axis_scores`'s table: one row of panels per metric, one column per axis."""
    axes_names = list(dict.fromkeys(table["axis"]))
    with style.house():
        width = style.COLUMN_IN if len(axes_names) == 1 else style.PAGE_IN
        figure = style.sheet(width, 1.7 * len(metrics) + 0.3)
        grid = figure.subplots(len(metrics), len(axes_names), sharey="row", squeeze=False)
        for row, metric in zip(grid, metrics):
            for axes, name in zip(row, axes_names):
                _panel(axes, table[table["axis"] == name], metric, reference)
                axes.set(xlabel=name if metric == metrics[-1] else "", ylabel="")
            row[0].set_ylabel(MEASURES[metric].label(protocol))
    return figure


def _panel(axes: Axes, own: pd.DataFrame, metric: str, reference: str) -> None:
    values = crossed.ordered(own["value"].tolist())
    places = own["value"].map(values.index)
    seaborn.stripplot(
        x=places + 0.1, y=own[metric], native_scale=True, jitter=False, size=3, color="#0072B2", alpha=0.6, ax=axes
    )
    means = own.assign(place=places).groupby("place")[metric].mean()
    axes.plot(means.index, means, color="#0072B2", marker="o", zorder=3)
    there = own.loc[own["arm"] == reference, "value"]
    if len(there):
        place = values.index(there.iloc[0])
        axes.plot(place, means[place], marker="s", ms=6, color="black", mfc="none", ls="", zorder=4)
    axes.set_xticks(range(len(values)), [crossed.said(value) for value in values])
    axes.set_xlim(-0.5, len(values) - 0.5)
