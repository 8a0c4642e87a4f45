"""What the factors of a grid do, alone and together: table, sentences, forest, interaction plot."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import statistics, style
from vqseg.report.factorial import Effect, Grid
from vqseg.report.measures import MEASURES, Measure, measure_name
from vqseg.report.numbers import cell_p, interval, signed, worded_p
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

MAIN, TOGETHER, OFF, ON = "#0072B2", "#D55E00", "#E69F00", "#0072B2"


def verdict(row: Mapping[Hashable, Any], measure: Measure) -> str:
    """Say what one effect's interval and p allow to say."""
    if math.isnan(row["p_holm"]):
        return "no interval: one seed or one patient"
    if row["seeds"] < statistics.LEAST_SEEDS:
        return f"only {row['seeds']:.0f} seeds, no verdict"
    if not told(row):
        return "cannot be told from 0"
    better = (row["estimate"] > 0) == measure.higher_is_better
    if row["order"] == 1:
        return "better" if better else "worse"
    if row["order"] == 2:
        return "together better than their sum" if better else "together worse than their sum"
    return "not the sum of the smaller effects"


def told(row: Mapping[Hashable, Any]) -> bool:
    """Whether an effect may be marked: Holm's p below the level with at least three seeds."""
    return _judged(row) and bool(row["p_holm"] < statistics.ALPHA)


def tabulate(table: pd.DataFrame, runs: Mapping[str, str], selection: Selection) -> Table:
    """Word `factorial.assess`'s rows.

    Args:
        table: the effects.
        runs: effect -> identities behind it.
        selection: for the metric, its unit and the digits.
    """
    metric, protocol, decimals = _asked(selection)
    measure, rows = MEASURES[metric], []
    lines = table.to_dict("records")
    for number, line in enumerate(lines):
        words = [
            interval(line["low"], line["high"], decimals) or "—",
            cell_p(line["p_holm"]),
            f"{line['settings']} of {line['of']}",
            f"{line['seeds']} x {line['patients']}",
            verdict(line, measure),
        ]
        first = Cell(signed(line["estimate"], decimals), "bold" if told(line) else "", f"runs {runs[line['contrast']]}")
        above = number and lines[number - 1]["order"] == 1 < line["order"]
        rows.append(Row(str(line["contrast"]), [first, *map(Cell, words)], ruled=bool(above)))
    tidy = table.drop(columns="by_seed").rename(columns={"contrast": "arm", "estimate": "value"})
    return Table(
        name="module-effects",
        title="Effects of the modules, and interactions",
        headers=[
            *("effect", f"Δ {measure.short(protocol)}", "95 % interval", "p (Holm)", "settings", "seeds x patients"),
            "verdict",
        ],
        rows=rows,
        caption="",
        tidy=tidy.assign(column=f"effect on {metric}", runs=[runs[name] for name in table["contrast"]]),
    )


def sentences(table: pd.DataFrame, selection: Selection) -> list[str]:
    """Return one sentence per main effect and one or two about all interactions."""
    metric, protocol, decimals = _asked(selection)
    measure = MEASURES[metric]
    unit, said = measure.short(protocol), []
    for line in table[table["order"] == 1].to_dict("records"):
        between = interval(line["low"], line["high"], decimals)
        p = f" (p {worded_p(line['p_holm'])} after Holm over {len(table)} effects)" if _judged(line) else ""
        over = f"mean over {line['settings']} of {line['of']} settings of the other modules, " if line["of"] > 1 else ""
        said.append(
            f"{line['contrast']}: {signed(line['estimate'], decimals)} {unit} {between}".rstrip()
            + f", {over}{line['seeds']} {'seed' if line['seeds'] == 1 else 'seeds'} x {line['patients']} patients: "
            + f"{verdict(line, measure)}{p}."
        )
    interactions = table[table["order"] > 1].to_dict("records")
    judged = [line for line in interactions if _judged(line)]
    sure = [f"{one['contrast']} {signed(one['estimate'], decimals)}" for one in judged if told(one)]
    if judged:
        said.append(f"Interactions told from 0: {'; '.join(sure)}." if sure else "No interaction can be told from 0.")
    if len(judged) < len(interactions):
        left = [str(line["contrast"]) for line in interactions if not _judged(line)]
        said.append(f"No verdict on {', '.join(left)}: fewer than {statistics.LEAST_SEEDS} seeds.")
    return said


def _judged(row: Mapping[Hashable, Any]) -> bool:
    return row["seeds"] >= statistics.LEAST_SEEDS and not math.isnan(row["p_holm"])


def draw(table: pd.DataFrame, steps: pd.DataFrame, metric: str, protocol: str) -> Figure:
    """Draw the effects with their intervals; beside them, if there are any, the paper's steps and ours.

    Args:
        table: of `factorial.assess`.
        steps: the steps of `paper.compute` for that metric.
        metric: of both.
        protocol: which decides on the unit.
    """
    with style.house():
        count = max(len(table), len(steps))
        figure = style.sheet(style.PAGE_IN if len(steps) else 0.7 * style.PAGE_IN, 0.25 * count + 1.0)
        # One scale: a step of the paper's that looks as long as an effect of ours is as long.
        panels = figure.subplots(1, 2 if len(steps) else 1, squeeze=False, sharex=True)[0]
        measure = MEASURES[metric]
        better = "right" if measure.higher_is_better else "left"
        label = f"Δ {measure.header} ({measure.unit_of_difference(protocol)}; better to the {better})"
        _forest(panels[0], table, label)
        if len(steps):
            _steps(panels[1], steps, label)
    return figure


def _asked(selection: Selection) -> tuple[str, str, int]:
    return measure_name(selection.options.metric), selection.protocol, selection.options.decimals


def _forest(axes: Axes, table: pd.DataFrame, label: str) -> None:
    axes.axvline(0, color="black", lw=0.8)
    for height, row in enumerate(table.to_dict("records")):
        color, marker = (MAIN, "o") if row["order"] == 1 else (TOGETHER, "D")
        axes.plot([row["low"], row["high"]], [height, height], color=color, lw=1.2, ls="-" if marker == "o" else "--")
        axes.plot(
            row["estimate"], height, marker=marker, color=color, mfc=color if told(row) else "white", ms=4.5, zorder=3
        )
        seeds = row["by_seed"]
        axes.scatter(seeds, [height + 0.28] * len(seeds), s=5, color=color, alpha=0.6, linewidths=0)
    between = int((table["order"] == 1).sum())
    if 0 < between < len(table):
        axes.axhline(between - 0.4, color=style.GREY, lw=0.5, ls=":")
    axes.set(
        title="Effects and interactions", yticks=range(len(table)), yticklabels=table["contrast"],
        ylim=(len(table) - 0.4, -0.6), xlabel=label,
    )  # fmt: skip


def _steps(axes: Axes, steps: pd.DataFrame, label: str) -> None:
    axes.axvline(0, color="black", lw=0.8)
    for height, row in enumerate(steps.to_dict("records")):
        axes.plot([row["low"], row["high"]], [height - 0.13] * 2, color=MAIN, lw=1.2)
        axes.plot(
            row["ours"], height - 0.13, ls="", marker="o", color=MAIN, mfc="white", ms=4.5, zorder=3,
            label=None if height else "ours, 95 % (not corrected)",
        )  # fmt: skip
        axes.plot(
            row["theirs"], height + 0.16, ls="", marker="X", color="black", ms=5, zorder=3,
            label=None if height else "paper: one number, other data",
        )  # fmt: skip
    axes.set(
        title="The paper's steps", yticks=range(len(steps)), yticklabels=steps["row"],
        ylim=(len(steps) - 0.4, -0.6), xlabel=label,
    )  # fmt: skip
    axes.figure.legend(loc="outside lower right", ncols=2, columnspacing=1.0)


def means_by_setting(scores: pd.DataFrame, grid: Grid, effect: Effect, metric: str) -> pd.DataFrame:
    """Average the arms of a two-way interaction over the settings that it averages over, in the seeds that all have.

    Returns:
        ``first`` and ``second`` (whether the factor is on), ``seed``, ``value`` in printed units.
    """
    valued = scores.assign(value=scores[metric].astype(float) * MEASURES[metric].scale)
    own = valued[valued["arm"].isin(set(effect.weights))]
    means = own.groupby(["arm", "seed"])["value"].mean().unstack("arm").dropna()
    first, second = effect.members
    placed = pd.DataFrame(
        [
            {"first": first in on, "second": second in on, "seed": seed, "value": value}
            for on, arm in grid.arms.items()
            if arm in effect.weights
            for seed, value in means[arm].items()
        ]
    )
    return placed.groupby(["first", "second", "seed"])["value"].mean().reset_index()


def draw_interactions(scores: pd.DataFrame, grid: Grid, found: list[Effect], metric: str, protocol: str) -> Figure:
    """Draw one panel per pair of factors: the mean with one off and on, one line per state of the other."""
    pairs = [effect for effect in found if len(effect.members) == 2]
    across = min(3, len(pairs))
    down = math.ceil(len(pairs) / across)
    with style.house():
        figure = style.sheet(style.PAGE_IN * across / 3 if across > 1 else style.COLUMN_IN, 2.1 * down + 0.2)
        panels = figure.subplots(down, across, sharey=True, squeeze=False)
        for axes, effect in zip(panels.flat, pairs):
            _pair(axes, means_by_setting(scores, grid, effect, metric), effect)
        for axes in list(panels.flat)[len(pairs) :]:
            axes.axis("off")
        for row in panels:
            row[0].set_ylabel(MEASURES[metric].label(protocol))
    return figure


def _pair(axes: Axes, table: pd.DataFrame, effect: Effect) -> None:
    first, second = effect.members
    for on, color, dashes, marker, aside in ((False, OFF, "--", "s", -0.04), (True, ON, "-", "o", 0.04)):
        own = table[table["second"] == on]
        means = own.groupby("first")["value"].mean()
        words = f"with {second}" if on else f"without {second}"
        axes.plot([0, 1], means.reindex([False, True]), color=color, ls=dashes, marker=marker, label=words, zorder=3)
        axes.scatter(own["first"].astype(float) + aside, own["value"], s=6, color=color, alpha=0.6, linewidths=0)
    axes.set(xticks=[0, 1], xticklabels=[f"without {first}", f"with {first}"], xlim=(-0.35, 1.35))
    axes.set_title(effect.name)
    axes.legend(loc="best", handlelength=3.0)


def gaps(found: list[Effect], lost: list[str], table: pd.DataFrame, missing: list[str]) -> list[str]:
    """Say what the grid lacks and what that does to the effects."""
    words = []
    if missing:
        words.append(f"Cells of the grid without scores: {', '.join(missing)}.")
    partial = [effect.name for effect in found if effect.settings < effect.of]
    if partial:
        words.append(
            "Averaged over the settings that are there, and so not free of interactions with the others: "
            f"{', '.join(partial)}."
        )
    apart = [effect.name for effect in found if effect.name not in set(table["contrast"])]
    if lost or apart:
        reason = " (its arms share no seed and patient)" if apart and not lost else ""
        words.append(f"Cannot be estimated: {', '.join([*lost, *apart])}{reason}.")
    return words
