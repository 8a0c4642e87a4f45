"""How every figure looks: the style file, the colors and markers of the arms' families, the watermark, saving.

Figures are made as `matplotlib.figure.Figure` on the Agg canvas, without pyplot's global state.
Colors are Okabe and Ito's; markers and dashes differ as well, so that a grey print can be read.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.text import Text

from vqseg import assets
from vqseg.files import replacing
from vqseg.report.drawn import Stamp, stamp_of

COLUMN_IN, PAGE_IN = 3.4, 7.0
"""Width of one column and of both, in inches."""

GREY = "#666666"
FEW_POINTS = 3
MOST_PIXELS = 60_000
"""Of a side; Agg draws no more than 2^16."""


@dataclass(frozen=True)
class Look:
    """Color, marker, dashes and printed name (the family's own if empty) of one family of arms."""

    color: str
    marker: str
    dashes: str | tuple[float, tuple[float, ...]]
    words: str = ""


LOOKS = {
    "none": Look("#000000", "s", "-", "no perturbation"),
    "qpm": Look("#D55E00", "o", "-", "QPM"),
    "dropout": Look("#0072B2", "^", "--"),
    "channel-dropout": Look("#009E73", "D", "-.", "channel dropout"),
    "channel-dropout-shared": Look("#56B4E9", "v", ":", "channel dropout, shared stat."),
    "shuffle": Look("#CC79A7", "P", (0, (5, 1, 1, 1))),
    "uniform": Look("#E69F00", "X", (0, (3, 1)), "uniform replacement"),
    "mask-and-replace": Look("#11A579", "<", (0, (4, 1, 1, 1)), "mask and replace"),
    "cluster-qpm": Look("#8C6D00", "p", (0, (6, 2)), "QPM in clusters"),
    "db": Look("#0072B2", "^", "--", "DB"),
    "pfa": Look("#009E73", "D", "-.", "PFA"),
    "qpm+db": Look("#CC79A7", "v", (0, (5, 1, 1, 1)), "QPM + DB"),
    "qpm+pfa": Look("#E69F00", "X", (0, (3, 1)), "QPM + PFA"),
    "db+pfa": Look("#56B4E9", "P", ":", "DB + PFA"),
    "qpm+db+pfa": Look("#7F3C8D", "p", (0, (6, 2)), "QPM + DB + PFA"),
    "rival": Look("#666666", "*", (0, (1, 1)), "scored from predictions"),
}
SPARE = (
    Look("#8C6D00", "d", (0, (1, 1))),
    Look("#56B4E9", ">", (0, (4, 2, 1, 2))),
    Look("#7F3C8D", "p", (0, (6, 2))),
    Look("#999999", "h", (0, (2, 2))),
    Look("#11A579", "*", (0, (1, 3))),
)


def look(family: str, families: list[str]) -> Look:
    """Return the look of ``family``; families without one of their own share the spare looks in order."""
    if family in LOOKS:
        return LOOKS[family]
    strangers = [name for name in families if name not in LOOKS]
    return SPARE[strangers.index(family) % len(SPARE)] if family in strangers else SPARE[0]


def words(family: str) -> str:
    """Return the family's printed name."""
    return (LOOKS[family].words if family in LOOKS else "") or family


def tint(color: str, share: float) -> tuple[float, float, float]:
    """Mix ``color`` with white; share 1 is the color itself."""
    red, green, blue = matplotlib.colors.to_rgb(color)
    return tuple(1 - share * (1 - part) for part in (red, green, blue))  # type: ignore[return-value]


@contextmanager
def house() -> Iterator[None]:
    """Draw in the house style while the block lasts."""
    with matplotlib.rc_context(fname=str(assets.folder("reports") / "paper.mplstyle")):
        yield


def sheet(width_in: float, height_in: float, *, margins: Mapping[str, float] | None = None) -> Figure:
    """Return an empty figure on an Agg canvas; its margins are laid out, unless they are given (as shares of it)."""
    # None would mean what the style says, and matplotlib's own annotation knows no "none".
    layout: Any = "none" if margins else "constrained"
    figure = Figure(figsize=(width_in, height_in), layout=layout)
    if margins:
        figure.subplots_adjust(**margins)
    FigureCanvasAgg(figure)
    return figure


def watermark(figure: Figure, text: str = "phantom") -> None:
    """Write ``text`` across the figure, pale enough to read everything under it, and seen on dark images too."""
    width, height = figure.get_size_inches()
    size = min(64.0, 20 * min(width, 2.5 * height) / 2)
    # Black for what is light, and white, which nobody sees there, for images that are dark.
    for color, alpha, zorder in (("#FFFFFF", 0.2, 99), ("#000000", 0.13, 100)):
        figure.text(
            0.5, 0.5, text, fontsize=size, color=color, alpha=alpha, ha="center", va="center", rotation=20,
            zorder=zorder,
        )  # fmt: skip


def take_literally(figure: Figure) -> None:
    """Show the dollars of names as they are: between two of them matplotlib would read a formula.

    Its own formulas are the numbers of logarithmic axes.
    """
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels(which="both")  # makes those that are not there yet
    for words in figure.findobj(Text):
        if isinstance(words, Text) and r"\mathdefault" not in words.get_text():
            words.set_parse_math(False)


def save(figure: Figure, folder: Path, name: str) -> dict[str, Stamp]:
    """Write NAME.png and NAME.pdf with embedded fonts, without a date, and return their stamps.

    Each is drawn once, on its canvas: `Figure.savefig` would draw it twice for the same bytes.
    """
    stamps: dict[str, Stamp] = {}
    with house():
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
        figure.set_layout_engine("none")  # the layout is settled, so both files share it and it is made once
        figure.set_facecolor(matplotlib.rcParams["savefig.facecolor"])
        figure.set_dpi(min(matplotlib.rcParams["savefig.dpi"], MOST_PIXELS / max(figure.get_size_inches())))
        for kind in ("png", "pdf"):
            with replacing(folder / f"{name}.{kind}") as temporary:
                if kind == "png":
                    FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
                else:
                    FigureCanvasPdf(figure).print_pdf(temporary, metadata={"CreationDate": None})
                # Of the file that was written here: after the renaming it may be another process's.
                stamp = stamp_of(temporary)
            if stamp:
                stamps[f"{name}.{kind}"] = stamp
    return stamps


def dots(points: int) -> str:
    """Return the marker of a line with this many points: a line of one is invisible without, of two hardly seen."""
    return "o" if points < FEW_POINTS else ""


def step_axis(axes: Axes, steps: pd.Series) -> None:
    """Start the axis at 0 if there is but one step: matplotlib would show an arbitrary window around it."""
    if steps.nunique() == 1:
        axes.set_xlim(0, 1.05 * max(float(steps.iloc[0]), 1.0))


def slug(label: str) -> str:
    """Return ``label`` as a file name: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-.") or "arm"
