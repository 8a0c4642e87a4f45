"""The forest of verdicts: one line per claim, grouped by verdict, the margin as strokes, the paper's effect hollow."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vqseg.report import style


@dataclass(frozen=True)
class Mark:
    """How a verdict is drawn: its color, marker and face tell it, and in grey the latter two alone."""

    color: str
    marker: str
    filled: bool


MARKS = {
    "confirmed": Mark("#0072B2", "o", True),
    "refuted": Mark("#D55E00", "X", True),
    "inconclusive": Mark("#000000", "D", False),
    "not tested": Mark("#8A8A8A", "s", False),
}
WIDE = 6.0
"""Lines that reach farther out have an axis of their own, or they would leave the others no room."""
LINE_IN, WRAP = 0.27, 46
"""Height of a line, which has room for two of words, and characters of one."""


def draw(table: pd.DataFrame, phantom: bool) -> Figure:
    """Draw one line per verdict.

    Args:
        table: ``label``, ``outcome``, ``value``, ``low``, ``high``, ``margin``, ``other_margin``, ``paper`` (NaN where
            there is none) and ``metric`` in words.
        phantom: whether the figure is of synthetic data, and says so.
    """
    panels = _panels(table)
    heights = [_height(own) for _, own in panels]
    with style.house():
        figure = style.sheet(style.PAGE_IN, LINE_IN * sum(heights) + 0.55 * len(panels) + 0.4)
        grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (words, own) in zip(grid, panels):
            _panel(axes, own)
            axes.set_xlabel(words)
        figure.legend(handles=_legend(table), loc="outside lower center", ncols=3, columnspacing=1.4)
        if phantom:
            style.watermark(figure)
    return figure


def _panels(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the tables of the panels with the words of their axes: one per metric, and apart what reaches far out."""
    found = []
    reach = table[["value", "low", "high", "margin", "paper"]].abs().max(axis=1)
    for metric, own in table.groupby("metric", sort=False):
        for far in (False, True):
            part = own[(reach[own.index] > WIDE) == far]
            if len(part):
                found.append((f"Δ {metric}", part))
    return found


def _groups(own: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(word, group) for word in MARKS if len(group := own[own["outcome"] == word])]


def _height(own: pd.DataFrame) -> int:
    return len(own) + len(_groups(own))


def _panel(axes: Axes, own: pd.DataFrame) -> None:
    axes.axvline(0, color="black", lw=0.8)
    labels: list[str] = []
    heads: list[int] = []
    for word, group in _groups(own):
        heads.append(len(labels))
        labels.append(word)
        for line in group.to_dict("records"):
            _line(axes, len(labels), line)
            labels.append(str(line["label"]))
    axes.set_yticks(
        range(len(labels)), ["\n".join(fill(line, WRAP) for line in label.splitlines()) for label in labels]
    )
    for place, tick in enumerate(axes.get_yticklabels()):
        tick.set_fontweight("bold" if place in heads else "normal")
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _line(axes: Axes, height: int, line: Mapping[Hashable, Any]) -> None:
    mark = MARKS[str(line["outcome"])]
    for margin in {line["margin"], line["other_margin"]}:
        if not np.isnan(margin):
            axes.plot([margin, margin], [height - 0.38, height + 0.38], color=style.GREY, lw=1.0, ls="-")
    axes.plot([line["low"], line["high"]], [height, height], color=mark.color, lw=1.3)
    face = mark.color if mark.filled else "white"
    axes.plot(line["value"], height, marker=mark.marker, color=mark.color, mfc=face, ms=5, zorder=3)
    if not np.isnan(line["paper"]):
        # A little above, or the two would hide each other where they agree.
        axes.plot(line["paper"], height - 0.24, marker="*", color="black", mfc="white", mew=0.7, ms=6.5, zorder=4)


def _legend(table: pd.DataFrame) -> list[Line2D]:
    handles = [
        Line2D([], [], color=mark.color, marker=mark.marker, mfc=mark.color if mark.filled else "white", label=word)
        for word, mark in MARKS.items()
        if (table["outcome"] == word).any()
    ]
    handles.append(Line2D([], [], color=style.GREY, marker="|", ls="", ms=8, label="margin"))
    if table["paper"].notna().any():
        handles.append(Line2D([], [], color="black", marker="*", mfc="white", mew=0.7, ls="", ms=7, label="paper"))
    return handles
