"""Draws how cost grows: one panel per size, time on logarithmic axes, and memory beside it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from vqseg.bench import growth_tasks as tasks
from vqseg.errors import InputError
from vqseg.files import replacing
from vqseg.report import style

if TYPE_CHECKING:
    from vqseg.bench.growth import Curve

# Color, marker and dashes of a cost; the same in every panel.
LOOKS = {
    tasks.QPM_DRAW: ("#D55E00", "o", "-"),
    tasks.QUANTIZE: ("#0072B2", "^", "--"),
    tasks.STEP: ("#000000", "s", "-"),
    tasks.SCORING: ("#009E73", "D", "-"),
    tasks.QUEUE: ("#CC79A7", "v", "-"),
    tasks.TABLES: ("#E69F00", "P", "-"),
}
SECOND = ("#666666", "X", ":")
"""Of the same cost of another preset."""
ACROSS = 3
RING = "ring: from here on it is the bottleneck (half of a step, or as long as what it serves); exponents: upper half"


def draw(curves: Sequence["Curve"]) -> Figure:
    """Return the figure: a panel of time per axis, then memory against codes and image size."""
    shown = [curve for curve in curves if curve.points]
    axes_names = list(dict.fromkeys(curve.task.axis for curve in shown))
    panels = [(name, [curve for curve in shown if curve.task.axis == name], False) for name in axes_names]
    for name in (tasks.CODES, tasks.SIDE):
        held = [curve for curve in shown if curve.task.axis == name and _memory(curve)]
        panels += [(name, held, True)] if held else []
    down = math.ceil(len(panels) / ACROSS)
    with style.house():
        figure = style.sheet(style.PAGE_IN, 2.15 * down + 0.1)
        grid = figure.subplots(down, ACROSS, squeeze=False).ravel()
        for axes, (name, own, memory) in zip(grid, panels):
            _panel(axes, name, own, memory=memory)
        for axes in grid[len(panels) :]:
            axes.remove()
        if any(_ringed(curve) for curve in shown):
            figure.supxlabel(RING, fontsize=7, x=0.01, ha="left")
    return figure


def write(curves: Sequence["Curve"], path: Path) -> None:
    """Draw into ``path``.

    Raises:
        InputError: it is neither .png nor .pdf.
    """
    kind = path.suffix[1:].lower()
    if kind not in ("png", "pdf"):
        raise InputError(f"--set figure={path}: expected a .png or .pdf file")
    figure = draw(curves)
    with style.house(), replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata={"Software": None} if kind == "png" else {"CreationDate": None})


def _panel(axes: Axes, name: str, curves: Sequence["Curve"], *, memory: bool) -> None:
    presets = list(dict.fromkeys(curve.task.preset for curve in curves if curve.task.part == tasks.STEP))
    for curve in curves:
        step = curve.task.part == tasks.STEP
        second = step and presets.index(curve.task.preset) > 0
        color, marker, dashes = SECOND if second else LOOKS[curve.task.part]
        label = f"{curve.task.part}, {curve.task.preset}" if step else curve.task.part
        points = _memory(curve) if memory else [(p.value, 1000 * p.time.median) for p in curve.points]
        exponent = f" (n$^{{{curve.fit.exponent:.2f}}}$)" if curve.fit and not memory else ""
        axes.plot(*zip(*points), color=color, marker=marker, ls=dashes, label=label + exponent, markersize=3.2)
        if not memory and _ringed(curve):
            place = ([curve.bottleneck or 0], [1000 * (curve.bound_s or 0)])
            axes.plot(*place, marker="o", ms=8, mfc="none", mec=color, mew=0.9, ls="")
    axes.set(xscale="log", yscale="log", xlabel=name, title="extra memory (MiB)" if memory else "time")
    values = [value for curve in curves for value in (point.value for point in curve.points)]
    axes.set_xlim(min(values) / 1.25, max(values) * 1.25)
    low, high = axes.get_ylim()
    # Room for the legend above the lines.
    axes.set_ylim(low, high * (high / low) ** (0.16 + 0.17 * len(curves)))
    axes.legend(loc="upper left", fontsize=6, handlelength=2.2, labelspacing=0.2, borderaxespad=0.1)
    for axis, many in ((axes.xaxis, max(values) / min(values) > 50), (axes.yaxis, high / low > 50)):
        timed = axis is axes.yaxis and not memory
        axis.set_major_formatter(FuncFormatter(_duration if timed else _short))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_locator(LogLocator(base=10, subs=(1.0,) if many else (1.0, 2.0, 5.0), numticks=8))
    if name in (tasks.CODES, tasks.TOKENS, tasks.WORKERS, tasks.SIDE, tasks.IMAGES, tasks.RUNS):
        ticks = sorted(set(values))
        axes.set_xticks(ticks[:: math.ceil(len(ticks) / 5)] if len(ticks) > 5 else ticks)


def _ringed(curve: "Curve") -> bool:
    """Whether a cost becomes the bottleneck at a size that was measured."""
    return bool(curve.bottleneck) and curve.points[0].value <= (curve.bottleneck or 0) <= curve.points[-1].value


def _memory(curve: "Curve") -> list[tuple[int, float]]:
    """Return what a logarithmic axis can show of the memory."""
    return [(point.value, point.memory_mb) for point in curve.points if point.memory_mb > 0]


def _short(value: float, _: object = None) -> str:
    """Return 1,024 codes as 1k, 65,536 as 65k, a million and a half as 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            whole = value >= 10 * size or math.log2(value).is_integer()
            return f"{value // size:.0f}{letter}" if whole else f"{value / size:.2g}{letter}"
    return f"{value:g}"


def _duration(ms: float, _: object = None) -> str:
    """Return milliseconds in the unit that reads best."""
    return f"{ms:g} ms" if ms < 1000 else f"{ms / 1000:g} s"
