"""The figure of cases: a row per case, the reference first, then a column per arm, outlines on the image."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vqseg.report import images, style
from vqseg.report.images import Raster

MOST = 5
"""Arms beside each other; more are shared out among figures, the first one in each."""
LABEL_IN, GAP_IN, WIDEST_IN = 0.5, 0.05, 1.6
LETTER_IN = 0.062
HEAD_LINES = 3


@dataclass(frozen=True)
class Panel:
    """One arm's label map of a slice with the Dice of the whole case and of the slice, in points."""

    labels: Raster
    case: float
    slice: float | None


@dataclass(frozen=True)
class Line:
    """One case: what stands at its left, the image, the reference mask, and the arms."""

    words: str
    image: Raster
    reference: Raster
    panels: tuple[Panel, ...]


def groups(arms: Sequence[str]) -> list[tuple[str, ...]]:
    """Share arms out among figures, the first one in each, the others evenly."""
    first, others = arms[0], list(arms[1:])
    count = max(-(-len(others) // (MOST - 1)), 1)
    size = max(-(-len(others) // count), 1)
    return [(first, *others[number * size : (number + 1) * size]) for number in range(count)]


def draw(lines: Sequence[Line], arms: Sequence[str], classes: Sequence[str]) -> Figure:
    """Draw a row per case, a column for the reference and one per arm."""
    across = len(arms) + 1
    side = min((style.PAGE_IN - LABEL_IN) / across - GAP_IN, WIDEST_IN)
    heads = ["reference mask", *("\n".join(_wrapped(arm, side)) for arm in arms)]
    top = 0.05 + 0.125 * max(head.count("\n") + 1 for head in heads)
    with style.house():
        width = LABEL_IN + across * (side + GAP_IN)
        figure, axes = images.board(width, top + len(lines) * (side + GAP_IN) + 0.27)
        for place, head in enumerate(heads):
            left = LABEL_IN + place * (side + GAP_IN)
            axes.text(left + side / 2, top - 0.03, head, ha="center", va="bottom", fontsize=7, linespacing=1.1)
        for number, line in enumerate(lines):
            _row(axes, line, top + number * (side + GAP_IN), side)
        figure.legend(handles=_handles(classes), loc="lower center", ncols=5, borderaxespad=0.1, columnspacing=1.2)
    return figure


def _wrapped(arm: str, side: float) -> list[str]:
    """Break an arm's label into the lines that its column has room for."""
    found = textwrap.wrap(arm, max(int(side / LETTER_IN), 6))
    return found if len(found) <= HEAD_LINES else [*found[: HEAD_LINES - 1], found[HEAD_LINES - 1] + "…"]


def _row(axes: Axes, line: Line, top: float, side: float) -> None:
    axes.text(
        LABEL_IN - 0.05, top + side / 2, line.words, rotation=90, ha="right", va="center", fontsize=6.5,
        linespacing=1.3, multialignment="center",
    )  # fmt: skip
    reference = line.reference.array
    images.tile(axes, line.image, LABEL_IN, top, side)
    images.outline(axes, reference, LABEL_IN, top, side, solid=True)
    for place, panel in enumerate(line.panels, start=1):
        left = LABEL_IN + place * (side + GAP_IN)
        images.tile(axes, line.image, left, top, side)
        images.outline(axes, panel.labels.array, left, top, side, solid=True)
        images.outline(axes, reference, left, top, side, solid=False, width=0.9)
        seen = "" if panel.slice is None else f"\nslice {panel.slice:.1f}"
        axes.text(
            left + 0.03, top + 0.03, f"{panel.case:.1f}{seen}", va="top", fontsize=6.5, color="white", linespacing=1.1,
            bbox={"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.2},
        )  # fmt: skip


def _handles(classes: Sequence[str]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=images.class_color(index), lw=1.6, label=name)
        for index, name in enumerate(classes)
        if index > 0
    ]
    dashes = (0, (2.0, 1.5))
    handles.append(Line2D([], [], color="black", lw=1.2, label="prediction (in color)"))
    return [*handles, Line2D([], [], color="black", lw=1.2, ls=dashes, label="reference mask (in white)")]
