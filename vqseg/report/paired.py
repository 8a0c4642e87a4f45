"""Two arms, or the means of some, patient by patient: who gains and who loses; the picture behind one interval.

`compute` makes one row per patient and seed; `draw` shows the pairs and their differences. The interval is that of
`statistics.assess`, for new seeds and new patients.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import statistics, style
from vqseg.report.bound import commits
from vqseg.report.content import Picture, conditions, size_words
from vqseg.report.measures import MEASURES
from vqseg.report.numbers import interval, signed
from vqseg.report.selection import Selection

BETTER, WORSE, EVEN = "#D55E00", "#0072B2", style.GREY
MOST_NAMES = 40
"""More patients are a row each, but no name."""

SEED_MARKERS = "ov^sDP*Xd<>ph"


@dataclass(frozen=True)
class Pair:
    """Two sides, what they are called, and the weight of every arm: positive on the first side, negative on the other.

    A side of several arms is their mean, as the effect of a module is over the settings of the others.
    """

    arm: str
    against: str
    weights: Mapping[str, float]


def of_arms(arm: str, against: str) -> Pair:
    """Return the pair of two arms."""
    return Pair(arm, against, {arm: 1.0, against: -1.0})


def compute(scores: pd.DataFrame, pair: Pair, metric: str) -> pd.DataFrame:
    """Pair two sides.

    Args:
        scores: scored rows with ``arm``, ``seed``, ``patient`` (and ``draw``), such as the last teacher's.
        pair: the sides.
        metric: the score column.

    Returns:
        One row per (``patient``, ``seed``, ``draw``) that all arms have: ``arm``, ``against``, ``difference``, each the
        mean over the patient's scans and classes, in printed units; sorted by the patient's mean difference.
    """
    own = scores[scores["arm"].isin(list(pair.weights))]
    own = own.assign(value=own[metric].astype(float) * MEASURES[metric].scale, draw=own.get("draw", 0))
    wide = own.groupby(["patient", "seed", "draw", "arm"])["value"].mean().unstack("arm")
    if not set(pair.weights) <= set(wide):
        return pd.DataFrame(columns=["patient", "seed", "draw", "arm", "against", "difference"])
    wide = wide.dropna(subset=list(pair.weights))
    sides = {name: [arm for arm, weight in pair.weights.items() if weight * sign > 0] for name, sign in _SIDES.items()}
    pairs = pd.DataFrame(
        {name: sum(abs(pair.weights[arm]) * wide[arm] for arm in arms) for name, arms in sides.items()}
    ).reset_index()
    pairs["difference"] = pairs["arm"] - pairs["against"]
    order = pairs.groupby("patient")["difference"].mean().sort_values(kind="stable").index
    rank = {patient: place for place, patient in enumerate(order)}
    return pairs.sort_values(["patient", "seed", "draw"]).sort_values(
        "patient", key=lambda names: names.map(rank), kind="stable", ignore_index=True
    )


_SIDES = {"arm": 1.0, "against": -1.0}


def picture(selection: Selection, pair: Pair, metric: str) -> Picture | None:
    """Return the figure of two sides of a study with its caption; None where no seed and patient has both."""
    pairs = compute(selection.headline, pair, metric)
    if pairs.empty:
        return None
    line = estimate(selection.headline, pair, metric)
    decimals, gained = selection.options.decimals, _better(pairs.groupby("patient")["difference"].mean(), metric)
    between = interval(line["low"], line["high"], decimals)
    mean = f"{signed(line['estimate'], decimals)} {MEASURES[metric].short(selection.protocol)} {between}".rstrip()
    note = ", 95 % interval for new seeds and new patients, not corrected" if between else ""
    words = (
        f"{pair.arm} against {pair.against}, patient by patient. Left: the mean of every patient over seeds on either "
        "side; right: the difference, one mark per seed, a bar from 0 to the patient's mean. "
        f"{gained.sum()} of {len(gained)} patients are better with {pair.arm}. Mean {mean}{note}, over "
        f"{size_words(line)}. {conditions(selection)} {commits(selection)}"
    ).rstrip()
    names = (pair.arm, pair.against)
    return Picture("paired", words, draw, (pairs, dict(line), names, metric, selection.protocol, selection.phantom))


def estimate(scores: pd.DataFrame, pair: Pair, metric: str) -> Mapping[Hashable, Any]:
    """Return `statistics.assess`'s row of the one contrast, in printed units."""
    valued = scores.assign(value=scores[metric].astype(float) * MEASURES[metric].scale)
    return statistics.assess(valued, {pair.arm: pair.weights}).to_dict("records")[0]


def draw(
    pairs: pd.DataFrame,
    line: Mapping[Hashable, Any],
    names: tuple[str, str],
    metric: str,
    protocol: str,
    phantom: bool = False,
) -> Figure:
    """Draw slopes from the second side to the first, and the differences of every patient with their mean and interval.

    It stands in reports of several studies, so that it says itself when it is of synthetic images.
    """
    measure = MEASURES[metric]
    means = pairs.groupby("patient", sort=False)[["arm", "against", "difference"]].mean()
    colors = [_color(value, metric) for value in means["difference"]]
    height = float(np.clip(0.145 * len(means) + 1.1, 2.6, 8.5))
    with style.house():
        figure = style.sheet(style.PAGE_IN, height)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.7))
        _slopes(left, means, colors, names)
        left.set_ylabel(f"{measure.label(protocol)} of a patient")
        _differences(right, pairs, means, colors)
        _mean(right, line, len(means))
        better = "right" if measure.higher_is_better else "left"
        unit = measure.unit_of_difference(protocol)
        right.set_xlabel(f"Δ {measure.header} ({unit}; better to the {better})")
        if phantom:
            style.watermark(figure)
    return figure


def _slopes(axes: Axes, means: pd.DataFrame, colors: list[str], names: tuple[str, str]) -> None:
    for (start, end), color in zip(means[["against", "arm"]].to_numpy(), colors):
        dashes = "--" if color == WORSE else "-"
        axes.plot([0, 1], [start, end], color=color, lw=0.8, ls=dashes, marker="o", ms=2.5, alpha=0.75)
    whole = means[["against", "arm"]].mean().to_numpy()
    axes.plot([0, 1], whole, color="black", lw=2.2, marker="s", ms=5, zorder=4)
    axes.set_xticks([0, 1], [_broken(names[1]), _broken(names[0])])
    axes.set_xlim(-0.25, 1.25)
    axes.grid(axis="x", visible=False)
    axes.set_title("every patient, both sides")


def _differences(axes: Axes, pairs: pd.DataFrame, means: pd.DataFrame, colors: list[str]) -> None:
    place = {patient: height for height, patient in enumerate(means.index)}
    axes.barh(range(len(means)), means["difference"], height=0.62, color=[style.tint(c, 0.3) for c in colors])
    seeds = list(dict.fromkeys(zip(pairs["draw"], pairs["seed"])))
    several = pairs["draw"].nunique() > 1
    for number, (drawn, seed) in enumerate(sorted(seeds)):
        own = pairs[(pairs["draw"] == drawn) & (pairs["seed"] == seed)]
        axes.scatter(
            own["difference"], own["patient"].map(place), s=11, marker=SEED_MARKERS[number % len(SEED_MARKERS)],
            facecolors="white", edgecolors="#333333", linewidths=0.6, zorder=3,
            label=f"draw {drawn}, seed {seed}" if several else f"seed {seed}",
        )  # fmt: skip
    axes.axvline(0, color="black", lw=0.8)
    named = len(means) <= MOST_NAMES
    axes.set_yticks(range(len(means)) if named else [], list(means.index) if named else [], fontsize=6)
    axes.set_title("difference of every patient")
    if len(seeds) <= len(SEED_MARKERS):
        axes.legend(loc="lower right", fontsize=6, handletextpad=0.2, borderaxespad=0.2)


def _mean(axes: Axes, line: Mapping[Hashable, Any], patients: int) -> None:
    height = patients + 0.6
    axes.plot([line["low"], line["high"]], [height, height], color="black", lw=1.6)
    axes.plot(line["estimate"], height, marker="s", color="black", ms=5)
    axes.axhline(patients - 0.25, color=style.GREY, lw=0.6)
    axes.set_ylim(-0.8, patients + 1.4)
    ticks, names = list(axes.get_yticks()), [label.get_text() for label in axes.get_yticklabels()]
    axes.set_yticks([*ticks, height], [*names, "mean [95 %]"], fontsize=6)
    axes.grid(axis="y", visible=False)


def _better(differences: pd.Series, metric: str) -> pd.Series:
    return differences > 0 if MEASURES[metric].higher_is_better else differences < 0


def _color(value: float, metric: str) -> str:
    if value == 0:
        return EVEN
    return BETTER if (value > 0) == bool(MEASURES[metric].higher_is_better) else WORSE


def _broken(words: str) -> str:
    """Return a long label in two lines."""
    middle = words.rfind(" ", 0, 2 + len(words) // 2 + 4)
    return words if len(words) <= 16 or middle <= 0 else f"{words[:middle]}\n{words[middle + 1 :]}"
