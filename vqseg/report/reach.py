"""Reach: Dice lost and pixels flipped on validation when the codes are perturbed.

`own` is the arm's own perturbation, `uniform` the replacement of every code by any other. If even the latter costs
less than .05 Dice, the codes do not matter to the output and a sweep over perturbations cannot answer. Where nothing
was learned there is nothing to lose either: that is said instead.
"""

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from vqseg.report import style

LEAST = 0.05
LEARNED = 0.05
"""Validation Dice (0-1) of the last teacher of the best arm, below which nothing was learned."""

QUANTITIES = {
    "dice": ("Dice lost (points)", 100.0),
    "flips": ("pixels flipped (%)", 100.0),
}
KINDS = {"own": ("own perturbation", "o", "#D55E00"), "uniform": ("uniform replacement, rate 1", "D", "#0072B2")}


def compute(cells: pd.DataFrame) -> pd.DataFrame:
    """Return ``arm``, ``seed``, ``quantity``, ``kind``, ``value`` (0-1) at the last validation of finished runs."""
    finished = cells[cells["state"] == "finished"]
    parts = []
    for quantity in QUANTITIES:
        for kind in KINDS:
            column = f"last:reach/{quantity}_{kind}"
            if column in finished:
                part = finished[["arm", "family", "seed", "identity"]].assign(
                    quantity=quantity, kind=kind, value=finished[column].astype(float)
                )
                parts.append(part.dropna(subset=["value"]))
    columns = ["arm", "family", "seed", "identity", "quantity", "kind", "value"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def reach(table: pd.DataFrame) -> float:
    """Return the mean Dice lost (0-1) under uniform replacement, of arm `none` if it has any, else of all; or NaN."""
    uniform = table[(table["quantity"] == "dice") & (table["kind"] == "uniform")]
    none = uniform[uniform["family"] == "none"]
    chosen = none if len(none) else uniform
    return float(chosen["value"].mean()) if len(chosen) else float("nan")


def learned(cells: pd.DataFrame) -> float:
    """Return the last teacher's validation Dice (0-1) of the arm that has most of it, a mean over seeds; or NaN."""
    finished = cells[cells["state"] == "finished"]
    column = next((name for name in ("last:val/dice_teacher", "validation.last.teacher") if name in finished), None)
    if column is None:
        return float("nan")
    return float(finished[column].astype(float).groupby(finished["arm"]).mean().max())


def banners(cells: pd.DataFrame, *, warn_unlogged: bool = False) -> list[str]:
    """Return the banner that the study cannot answer, if nothing was learned or reach is below its least.

    Args:
        cells: one row per (arm, seed).
        warn_unlogged: also return a banner where no finished run logged reach.
    """
    most = learned(cells)
    if most < LEARNED:
        return [
            f"This study cannot answer: nothing was learned. The last teacher's validation Dice is {most:.3f} in the "
            f"best arm, below {LEARNED:g}; its scores are those of untrained networks. Train longer (train.steps)."
        ]
    value = reach(compute(cells))
    if np.isnan(value):
        unknown = "Reach was not logged: whether the codes matter to the output is unknown"
        return [f"{unknown}, so read no null result here."] if warn_unlogged else []
    if value >= LEAST:
        return []
    return [
        f"This study cannot answer: reach is {value:.3f} Dice, below {LEAST:g}. Replacing every code hardly "
        "changes the output, so equal scores say nothing about the perturbations."
    ]


def draw(table: pd.DataFrame) -> Figure:
    """Draw one line per arm, one dot per seed, for Dice lost and for pixels flipped."""
    arms = list(dict.fromkeys(table["arm"]))
    with style.house():
        figure = style.sheet(style.PAGE_IN, 0.19 * len(arms) + 1.1)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (quantity, (label, scale)) in zip(panels, QUANTITIES.items()):
            for kind, (words, marker, color) in KINDS.items():
                own = table[(table["quantity"] == quantity) & (table["kind"] == kind)]
                places = own["arm"].map(arms.index).astype(float) + (-0.14 if kind == "own" else 0.14)
                seaborn.stripplot(
                    x=own["value"] * scale, y=places, orient="h", native_scale=True, jitter=False, size=2.4,
                    color=color, alpha=0.45, linewidth=0, legend=False, ax=axes,
                )  # fmt: skip
                means = own.groupby("arm")["value"].mean() * scale
                heights = np.array([arms.index(arm) for arm in means.index]) + (-0.14 if kind == "own" else 0.14)
                face = color if kind == "own" else "white"
                axes.plot(
                    means, heights, ls="", marker=marker, mfc=face, mec=color, mew=1, ms=4.2, label=words, zorder=3
                )
            if quantity == "dice":
                axes.axvline(
                    LEAST * scale,
                    color="black",
                    lw=0.8,
                    ls=":",
                    label=f"least that uniform must reach, {LEAST * scale:g}",
                )
            axes.set(xlabel=label, ylabel="", yticks=range(len(arms)), yticklabels=arms, ylim=(len(arms) - 0.4, -0.6))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure
