"""The figures of a search: scores in the order of the trials, validations, scores over settings, importances."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vqseg.report import style

DOT, LEAD, OWN = "#0072B2", "#D55E00", "#000000"
LINES = {"finished": (DOT, "-"), "pruned": (style.GREY, "-"), "failed": (style.GREY, ":")}
ORDER = [style.tint(DOT, 0.3), style.tint(DOT, 1.0), style.tint("#00263D", 1.0)]
ACROSS = 4
LABEL = "validation Dice (%)"
FOOT = 0.03
"""Where pruned trials stand, as a share of the axis: their last validation is of an earlier step than a score."""


def draw_history(table: pd.DataFrame, reference: str) -> Figure:
    """Draw the trials in their order: ``number``, ``arm``, ``state``, ``score`` (%)."""
    finished = table[table["state"] == "finished"].sort_values("number")
    own = finished[finished["arm"] == reference]
    with style.house():
        figure = style.sheet(style.COLUMN_IN, 2.4)
        axes = figure.subplots()
        axes.plot(finished["number"], finished["score"], "o", color=DOT, ms=3.5, label="finished")
        best = finished["score"].cummax()
        axes.plot(finished["number"], best, color=LEAD, drawstyle="steps-post", label="best so far")
        if len(own):
            _mark_own(axes, own["number"], own["score"])
            axes.axhline(own["score"].iloc[0], color=OWN, ls="--", lw=0.8, zorder=1)
        _foot(axes, table.loc[table["state"] == "pruned", "number"])
        axes.set(xlabel="trial", ylabel=LABEL)
        axes.set_xlim(-0.8, max(int(table["number"].max()) if len(table) else 0, 1) + 0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure, axes)
    return figure


def draw_curves(table: pd.DataFrame, reference: str, best: str) -> Figure:
    """Draw all validations: ``number``, ``arm``, ``state``, ``step``, ``dice`` (%)."""
    with style.house():
        figure = style.sheet(style.COLUMN_IN, 2.4)
        axes = figure.subplots()
        for name, own in table.sort_values("step").groupby("arm", sort=False):
            arm = str(name)
            state = str(own["state"].iloc[0])
            pruned = state == "pruned"
            color, dashes = LINES.get(state, (DOT, ":"))
            width, front, label = 0.7, 2, state if state in LINES else "not over"
            if arm == best:
                color, width, front, label = LEAD, 1.6, 4, f"best: {arm}"
            if arm == reference:
                color, width, dashes, front = OWN, 1.2, "--", 5
                label = "preset's own point" if arm != best else "best: the preset's own point"
            alpha = 1.0 if front > 2 else 0.55
            axes.plot(
                own["step"], own["dice"], color=color, lw=width, ls=dashes, zorder=front, label=label, alpha=alpha
            )
            if pruned:
                axes.plot(own["step"].iloc[-1], own["dice"].iloc[-1], "o", color=style.GREY, ms=3, zorder=front)
        axes.set(xlabel="step", ylabel=LABEL)
        style.step_axis(axes, table["step"])
        _legend(figure, axes)
    return figure


def draw_settings(table: pd.DataFrame, scales: Mapping[str, Mapping[str, Any]], reference: str) -> Figure:
    """Draw ``score`` (%) over every setting: one panel per symbol of ``scales`` (its low, high, log, choices)."""
    down = math.ceil(len(scales) / ACROSS)
    across = math.ceil(len(scales) / down)
    with style.house():
        width = style.COLUMN_IN if across < 3 else style.PAGE_IN
        figure = style.sheet(width, 1.75 * down + 0.35)
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        for number, axes in enumerate(grid.flat):
            if number >= len(scales):
                axes.axis("off")
                continue
            symbol = list(scales)[number]
            _setting(axes, table, symbol, scales[symbol], reference)
        for row in grid:
            row[0].set_ylabel(LABEL)
        _legend(figure, grid[0][0], across=5 if across > 2 else 2)
    return figure


def draw_importances(table: pd.DataFrame) -> Figure:
    """Draw ``share`` with its range ``low`` to ``high`` per ``symbol``, the largest on top."""
    own = table.iloc[::-1]
    with style.house():
        figure = style.sheet(style.COLUMN_IN, 0.24 * len(own) + 0.75)
        axes = figure.subplots()
        axes.barh(own["symbol"], own["share"], color=style.tint(DOT, 0.55), height=0.62)
        sides = [(own["share"] - own["low"]).clip(lower=0), (own["high"] - own["share"]).clip(lower=0)]
        axes.errorbar(own["share"], own["symbol"], xerr=sides, fmt="none", ecolor="black", elinewidth=0.9, capsize=2)
        axes.axvline(1 / max(len(own), 1), color=style.GREY, ls="--", lw=0.9)
        axes.set(
            xlabel="share of the explained variance (fANOVA)",
            xlim=(0, 1.02 * max(own["high"].max(), own["share"].max())),
        )
        axes.grid(visible=False, axis="y")
    return figure


def _setting(axes: Axes, table: pd.DataFrame, symbol: str, scale: Mapping[str, Any], reference: str) -> None:
    finished = table[table["state"] == "finished"].sort_values("number")
    choices = scale.get("choices")
    places = {repr(choice): place for place, choice in enumerate(choices or [])}
    where = table[symbol].map(lambda value: places.get(repr(value), np.nan)) if choices else table[symbol].astype(float)
    last = max(int(table["number"].max()), 1)
    # Choices share a place: a little to the side by their order, so that no two trials hide each other.
    beside = (table["number"] / last - 0.5) * 0.3 if choices else 0.0
    there = where + beside
    shades = matplotlib.colors.LinearSegmentedColormap.from_list("order", ORDER)
    axes.scatter(
        there[finished.index], finished["score"], c=finished["number"] / last, cmap=shades, vmin=0, vmax=1, s=12,
        linewidths=0, zorder=3,
    )  # fmt: skip
    best = finished.nlargest(1, "score")
    axes.plot(there[best.index], best["score"], "o", color=LEAD, ms=6.5, mfc="none", mew=1.2, label="best")
    for name, shade in (("finished, early", ORDER[0]), ("late", ORDER[-1])):
        axes.plot([], [], "o", color=shade, ms=3.5, label=name)
    own = finished[finished["arm"] == reference]
    if len(own):
        _mark_own(axes, there[own.index], own["score"])
    _foot(axes, there[table["state"] == "pruned"])
    axes.set_xlabel(symbol)
    if choices:
        axes.set_xticks(range(len(choices)), [str(choice) for choice in choices])
        axes.set_xlim(-0.6, len(choices) - 0.4)
        return
    if scale.get("log"):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    _room(axes, float(scale["low"]), float(scale["high"]), bool(scale.get("log")))


def _room(axes: Axes, low: float, high: float, log: bool) -> None:
    """Show all that was sampled, and a little more."""
    if log:
        more = (high / low) ** 0.04
        axes.set_xlim(low / more, high * more)
    else:
        axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))


def _mark_own(axes: Axes, x: pd.Series, y: pd.Series) -> None:
    axes.plot(x, y, "s", color=OWN, ms=5.5, mfc="none", mew=1.1, zorder=5, label="preset's own point")


def _foot(axes: Axes, places: pd.Series) -> None:
    """Put pruned trials at the foot of the axes."""
    if len(places):
        foot = [FOOT] * len(places)
        axes.plot(
            places, foot, "x", color=style.GREY, ms=3.5, mew=0.8, transform=axes.get_xaxis_transform(), zorder=2,
            label="pruned", clip_on=False,
        )  # fmt: skip
        axes.margins(y=0.12)


def _legend(figure: Figure, axes: Axes, across: int = 2) -> None:
    """Write one legend above everything, each label once."""
    named: dict[str, Any] = {}
    for handle, label in zip(*axes.get_legend_handles_labels()):
        named.setdefault(label, handle)
    columns = min(len(named), across)
    figure.legend(list(named.values()), list(named), loc="outside upper center", ncols=columns, columnspacing=1.2)
