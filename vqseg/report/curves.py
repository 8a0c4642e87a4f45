"""Validation Dice over training, one panel per family, one line per arm, the range over seeds as a band."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import style

NAME = "val/dice_teacher"
MOST_IN_THREE = 6
MANY = 6
"""Lines of a panel: of more the names are small, and stand on a pale ground."""

DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))


def compute(curves: pd.DataFrame) -> pd.DataFrame:
    """Return ``family``, ``arm``, ``seed``, ``step``, ``dice`` (points) of the teacher on validation."""
    own = curves[curves["name"] == NAME]
    table = own.assign(dice=100 * own["value"].astype(float))
    return table[["family", "arm", "knob", "seed", "step", "dice"]].reset_index(drop=True)


def draw(table: pd.DataFrame) -> Figure:
    """Draw one panel per family; arm `none` stands in every panel for comparison."""
    families = list(dict.fromkeys(table["family"]))
    shown = [family for family in families if family != "none"] or families
    across = min(3 if len(shown) <= MOST_IN_THREE else 4, len(shown))
    down = math.ceil(len(shown) / across)
    with style.house():
        figure = style.sheet(style.PAGE_IN if across > 1 else style.COLUMN_IN, 2.0 * down + 0.2)
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for number, axes in enumerate(grid.flat):
            if number >= len(shown):
                axes.axis("off")
                continue
            _panel(axes, table, shown[number], families)
            style.step_axis(axes, table["step"])
            # Panels above an empty place keep their tick labels.
            axes.xaxis.set_tick_params(labelbottom=number + across >= len(shown))
            axes.set(xlabel="step" if number + across >= len(shown) else "")
            axes.xaxis.label.set_visible(True)
        for row in grid:
            row[0].set_ylabel("validation Dice (%), teacher")
    return figure


def _panel(axes: Axes, table: pd.DataFrame, family: str, families: list[str]) -> None:
    look = style.look(family, families)
    arms = list(dict.fromkeys(table.loc[table["family"] == family, "arm"]))
    if family != "none":
        for number, arm in enumerate(dict.fromkeys(table.loc[table["family"] == "none", "arm"])):
            _line(axes, table[table["arm"] == arm], style.GREY, DASHES[number % len(DASHES)], str(arm), 0.9)
    for number, arm in enumerate(arms):
        share = 1.0 if len(arms) == 1 else 0.45 + 0.55 * number / (len(arms) - 1)
        color = style.tint(look.color, share)
        own = table[table["arm"] == arm]
        label = str(arm).removeprefix(family).strip() or str(arm)
        _line(axes, own, color, DASHES[number % len(DASHES)], label, 1.3)
    axes.set_title(style.words(family))
    many = len(axes.lines) > MANY
    axes.legend(
        loc="lower right" if table["step"].nunique() > 1 else "lower left", fontsize=5 if many else 7,
        handlelength=2.2, labelspacing=0.1 if many else 0.25, frameon=many, framealpha=0.6, edgecolor="none",
    )  # fmt: skip


def _line(axes: Axes, own: pd.DataFrame, color: object, dashes: object, label: str, width: float) -> None:
    spread = own.groupby("step")["dice"].agg(["mean", "min", "max"])
    if own["seed"].nunique() > 1:
        axes.fill_between(spread.index, spread["min"], spread["max"], color=color, alpha=0.12, lw=0)
    axes.plot(
        spread.index, spread["mean"], color=color, ls=dashes, lw=width, label=label, marker=style.dots(len(spread)),
        mew=0,
    )  # fmt: skip
