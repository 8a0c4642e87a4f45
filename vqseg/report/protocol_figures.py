"""Figures of one study under every protocol: ranks as lines that cross, effects side by side."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import contrasts, legends, style
from vqseg.report.measures import MEASURES

MOST = 40
"""So many arms are drawn with their effects: those that the protocol moves most."""
NAMED = 60
"""Up to so many arms have their names beside the lines."""
LOOKS = (("o", "#0072B2"), ("D", "#D55E00"), ("^", "#009E73"), ("s", "#CC79A7"), ("v", "#E69F00"), ("P", "#000000"))


def shown(effects: pd.DataFrame) -> pd.DataFrame:
    """Return the effects of the arms that are drawn, in their order."""
    spread = effects.groupby("arm")["estimate"].agg(lambda values: values.max() - values.min())
    wanted = set(spread.nlargest(MOST).index)
    return effects[effects["arm"].isin(wanted)].reset_index(drop=True)


def draw_ranks(ranks: pd.DataFrame, families: Mapping[str, str]) -> Figure:
    """Draw the rank of every arm (column ``arm``) under every protocol (the other columns); 1 is on top."""
    names, arms = [str(column) for column in ranks if column != "arm"], [str(arm) for arm in ranks["arm"]]
    listed = list(dict.fromkeys(families.get(arm, arm) for arm in arms))
    named = len(arms) <= NAMED
    with style.house():
        figure = style.sheet(style.PAGE_IN, (0.17 if named else 0.05) * len(arms) + 0.8)
        axes = figure.subplots()
        for arm, *own in ranks[["arm", *names]].itertuples(index=False, name=None):
            look = style.look(families.get(str(arm), str(arm)), listed)
            axes.plot(
                range(len(names)), own, color=look.color, ls=look.dashes, marker=look.marker, ms=4 if named else 2
            )
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.15, len(names) - 0.85)
        axes.set_ylim(len(arms) + 0.6, 0.4)
        axes.set_ylabel("" if named else "rank")
        if named:
            _names(axes, ranks, names[0])
            right = axes.twinx()
            right.set_ylim(axes.get_ylim())
            _names(right, ranks, names[-1])
            right.grid(visible=False)
            right.spines["right"].set_visible(True)
    return figure


def _names(axes: Axes, ranks: pd.DataFrame, protocol: str) -> None:
    """Write the arms beside their ranks under one protocol; those of one rank share a line."""
    known = ranks.dropna(subset=[protocol]).groupby(protocol)["arm"].agg(lambda names: ", ".join(map(str, names)))
    axes.set_yticks(list(known.index), [f"{rank:.0f}  {name}" for rank, name in known.items()])


def draw_effects(effects: pd.DataFrame, metric: str, protocol: str) -> Figure:
    """Draw every arm's effect, one line per protocol; filled where told from 0 within its protocol.

    Args:
        effects: `protocols.by_protocol`'s.
        metric: of the effects.
        protocol: which decides on the unit.
    """
    arms, names = list(dict.fromkeys(effects["arm"])), list(dict.fromkeys(effects["protocol"]))
    step = 0.8 / max(len(names), 1)
    with style.house():
        figure = style.sheet(0.8 * style.PAGE_IN, (0.1 * len(names) + 0.1) * len(arms) + 1.0)
        axes = figure.subplots()
        axes.axvline(0, color="black", lw=0.8)
        for place, name in enumerate(names):
            marker, color = LOOKS[place % len(LOOKS)]
            for line in effects[effects["protocol"] == name].to_dict("records"):
                height = arms.index(line["arm"]) + (place - (len(names) - 1) / 2) * step
                axes.plot([line["low"], line["high"]], [height, height], color=color, lw=1.0)
                face = color if contrasts.told(line) else "white"
                axes.plot(line["estimate"], height, marker=marker, color=color, mfc=face, ms=4, zorder=3)
            axes.plot([], [], marker=marker, color=color, ls="-", lw=1.0, label=name)
        for place in range(1, len(arms)):
            axes.axhline(place - 0.5, color="#E4E4E4", lw=0.6)
        measure = MEASURES[metric]
        better = "right" if measure.higher_is_better else "left"
        unit = measure.unit_of_difference(protocol)
        axes.set(
            yticks=range(len(arms)), yticklabels=arms, ylim=(len(arms) - 0.5, -0.5),
            xlabel=f"Δ {measure.header} ({unit}; better to the {better})",
        )  # fmt: skip
        axes.grid(axis="y", visible=False)
        legends.below(figure, legends.of(figure), columns=5)
    return figure
