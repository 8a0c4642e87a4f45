"""Where QPM sends a few codes: rows of pi, and the figure in which every target shows what it stands for.

    pi(i|i) = 1 - eps        pi(j|i) = eps exp(-d(c_i, c_j) / unit) / Z_i,  j != i

Source: VQ-Seg, section 3.2; the same numbers as `vqseg.perturbations.qpm.QPM.transitions`, without torch.

Letters: V codes, C channels, R rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vqseg.report import images, patches, style
from vqseg.report.patches import Patch

SAMPLE = 256
"""Codes that the nearest-neighbor unit is estimated from, as in the perturbation itself."""
TARGETS = 6
LEAST = 1e-9
SIDE_IN, STEP_IN, STRIP_IN, HEAD_IN, ROW_IN = 0.68, 0.76, 0.17, 0.18, 1.14


@dataclass(frozen=True)
class Target:
    """A code that another may become: its probability, its patch (None: no token took it), its tokens' classes."""

    code: int
    probability: float
    patch: Patch | None
    classes: tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """One row: a code with its patch, the probability to stay, the most probable targets, and all others together."""

    own: Target
    targets: tuple[Target, ...]
    others: float
    count: int


def transitions(
    codes: np.ndarray,
    own: Sequence[int],
    *,
    rate: float,
    distance: str = "squared-euclidean",
    temperature: float = 1.0,
    scale: str = "absolute",
) -> np.ndarray:
    """Return the rows pi(.|i) of codes ``own`` of the table (V, C): float64 (R, V), each of sum 1.

    Args:
        codes: the learned table.
        own: the codes whose rows are wanted.
        rate: eps.
        distance: ``squared-euclidean`` or ``euclidean``.
        temperature: what distances are divided by, in units of ``scale``.
        scale: ``absolute``, or ``nearest-neighbor``: the median distance to the nearest other code.
    """
    table = np.asarray(codes, dtype=np.float64)
    unit = temperature * (_nearest(table, distance) if scale == "nearest-neighbor" else 1.0)
    rows = np.empty((len(own), len(table)))
    for row, code in zip(rows, own):
        logits = -_apart(table, code, distance) / unit
        logits[code] = -np.inf
        weights = np.exp(logits - logits.max())
        row[:] = rate * weights / weights.sum()
        row[code] = 1 - rate
    return rows


def _apart(table: np.ndarray, code: int, distance: str) -> np.ndarray:
    squared = np.square(table - table[code]).sum(axis=1)
    return np.asarray(squared if distance == "squared-euclidean" else np.sqrt(squared))


def _nearest(table: np.ndarray, distance: str) -> float:
    found = []
    for code in range(0, len(table), max(len(table) // SAMPLE, 1)):
        apart = _apart(table, code, distance)
        apart[code] = np.inf
        found.append(apart.min())
    return max(float(np.sort(found)[(len(found) - 1) // 2]), 1e-12)  # the lower middle value, as torch's median is


def draw(sources: Sequence[Source], classes: Sequence[str]) -> Figure:
    """Draw a row per code: its patch, the probability to stay, its targets over their probability, all others."""
    values = [value for source in sources for value in (*(t.probability for t in source.targets), source.others)]
    norm = LogNorm(max(min(value for value in values if value > 0), LEAST) / 1.5, 1.0)
    across = 3 + max(len(source.targets) for source in sources)
    with style.house():
        figure, axes = images.board(0.1 + STEP_IN * across, HEAD_IN + ROW_IN * len(sources) + 0.24)
        heads = ["code i", "stays", *(f"target {n + 1}" for n in range(across - 3)), "all others"]
        for place, head in enumerate(heads):
            axes.text(_left(place) + SIDE_IN / 2, 0.15, head, ha="center", va="bottom", fontsize=7)
        for number, source in enumerate(sources):
            top = HEAD_IN + ROW_IN * number
            _patch(axes, source.own, _left(0), top, 0.0)
            _heat(axes, source.own.probability, norm, _left(1), top, SIDE_IN)
            for place, target in enumerate(source.targets):
                _patch(axes, target, _left(2 + place), top, STRIP_IN)
                _heat(axes, target.probability, norm, _left(2 + place), top + SIDE_IN, STRIP_IN)
            _heat(axes, source.others, norm, _left(across - 1), top, SIDE_IN)
            _say(axes, f"{source.count:,} codes", _left(across - 1), top + SIDE_IN)
        images.key(figure, classes)
    return figure


def _left(place: int) -> float:
    return 0.06 + STEP_IN * place


def _patch(axes: Axes, target: Target, left: float, top: float, strip: float) -> None:
    """Put a code on the board: its patch, and below (under a strip) the classes of its tokens and its number."""
    if target.patch is None:
        axes.add_patch(Rectangle((left, top), SIDE_IN, SIDE_IN, facecolor="#F2F2F2", edgecolor="none"))
        axes.text(left + SIDE_IN / 2, top + SIDE_IN / 2, "no token\ntook it", ha="center", va="center", fontsize=6.5)
    else:
        patches.tile(axes, target.patch, left, top, SIDE_IN)
    below = top + SIDE_IN + strip
    images.bar(axes, target.classes, left, below + 0.02, SIDE_IN, 0.05)
    _say(axes, f"code {target.code}", left, below + 0.07)


def _heat(axes: Axes, value: float, norm: LogNorm, left: float, top: float, height: float) -> None:
    """Fill a field with the color of a probability and print it in it."""
    color = colormaps["viridis"](norm(max(value, LEAST)))
    axes.add_patch(Rectangle((left, top), SIDE_IN, height, facecolor=color, edgecolor="none"))
    bright = float(np.dot(color[:3], (0.299, 0.587, 0.114))) > 0.5
    axes.text(
        left + SIDE_IN / 2, top + height / 2, worded(value), ha="center", va="center", fontsize=7.5,
        color="black" if bright else "white",
    )  # fmt: skip


def _say(axes: Axes, words: str, left: float, top: float) -> None:
    axes.text(left + SIDE_IN / 2, top + 0.01, words, ha="center", va="top", fontsize=6.5)


def worded(value: float) -> str:
    """Return a probability with two digits that count: ``.30``, ``.0042``, ``7e-06``."""
    if value < 1e-4:
        return f"{value:.0e}" if value > 0 else "0"
    digits = max(2, 1 - int(np.floor(np.log10(value))))
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if text.startswith("0.") else text
