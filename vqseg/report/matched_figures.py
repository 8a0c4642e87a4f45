"""Figures of perturbations at matched distortion: score against what they do, and what the controller did."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import legends, style
from vqseg.report.measures import MEASURES

PANELS = {"distortion": "distortion E|q'-q|² / E|q - mean q|²", "flips": "pixels flipped (%)"}
NAMES = {"perturbation/distortion": "distortion", "perturbation/rate": "rate"}


def draw(runs: pd.DataFrame, states: Mapping[str, str], metric: str, protocol: str) -> Figure:
    """Draw score against distortion and against flips, one line per perturbation.

    Args:
        runs: of `matched.compute`.
        states: of every arm; all but ``held`` ones are open.
        metric: of ``value``.
        protocol: which decides on the unit.
    """
    kinds = list(dict.fromkeys(runs["kind"]))
    with style.house():
        figure = style.sheet(style.PAGE_IN, 2.9)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (x, words) in zip(panels, PANELS.items()):
            scale = 100.0 if x == "flips" else 1.0
            for kind in kinds:
                own = runs[(runs["kind"] == kind) & runs[x].notna()]
                _line(axes, own.assign(x=own[x] * scale), kind, kinds, states)
            axes.set_xlabel(words)
        targets = sorted(runs["target"].unique())
        for target in targets:
            panels[0].axvline(target, color="black", lw=0.6, ls=":", zorder=1)
        if (runs["distortion"] > 0).any():
            panels[0].set_xscale("log")
            ticks = [f"{target:g}" for target in targets]
            panels[0].set_xticks(targets, ticks)
            panels[0].set_xticks([], minor=True)
        panels[0].set_ylabel(MEASURES[metric].label(protocol))
        legends.below(figure, legends.of(figure))
    return figure


def _line(axes: Axes, own: pd.DataFrame, kind: str, kinds: list[str], states: Mapping[str, str]) -> None:
    look = style.look(kind, kinds)
    means = own.groupby("arm", sort=False)[["x", "value"]].mean().sort_values("x")
    # The line itself has the legend's entry, also where a perturbation has no place on this axis.
    axes.plot(means["x"], means["value"], color=look.color, ls=look.dashes, marker=look.marker, label=style.words(kind))
    for arm, mean in means.iterrows():
        if states.get(str(arm)) != "held":
            axes.plot(
                mean["x"], mean["value"], marker=look.marker, color=look.color, mfc="white", ls="", zorder=3
            )  # fmt: skip
    axes.scatter(own["x"], own["value"], s=5, color=look.color, alpha=0.6, linewidths=0, zorder=4)


def draw_trajectories(lines: pd.DataFrame, end: float) -> Figure:
    """Draw distortion and rate over the steps, one row of panels per perturbation, one line per run.

    Args:
        lines: of `matched.trajectories`.
        end: the rate where the controller's range ends.
    """
    kinds = list(dict.fromkeys(lines["kind"]))
    targets = sorted(lines["target"].unique())
    with style.house():
        figure = style.sheet(style.PAGE_IN, 1.15 * len(kinds) + 0.5)
        grid = figure.subplots(len(kinds), 2, sharex=True, sharey="col", squeeze=False)
        for row, kind in zip(grid, kinds):
            for axes, name in zip(row, NAMES):
                own = lines[(lines["kind"] == kind) & (lines["name"] == name)]
                _runs(axes, own, kind, kinds, targets)
                axes.set_ylabel(NAMES[name])
            for target in targets:
                row[0].axhline(target, color="black", lw=0.6, ls=":")
            row[1].axhline(end, color="black", lw=0.6, ls="--")
            row[0].set_title(style.words(kind))
        known = lines.loc[(lines["name"] == "perturbation/distortion") & (lines["value"] > 0), "value"]
        if len(known):
            grid[0][0].set_yscale("log")
            grid[0][0].set_ylim(min(known.min(), targets[0]) / 1.5, max(known.max(), targets[-1]) * 1.5)
            grid[0][0].set_yticks(targets, [f"{target:g}" for target in targets])
            grid[0][0].set_yticks([], minor=True)
        grid[0][1].set_ylim(-0.04, 1.04)
        for axes in grid[-1]:
            axes.set_xlabel("step")
    return figure


def _runs(axes: Axes, own: pd.DataFrame, kind: str, kinds: list[str], targets: list[float]) -> None:
    color = style.look(kind, kinds).color
    for place, target in enumerate(targets, start=1):
        shade = style.tint(color, 0.45 + 0.55 * place / len(targets))
        for _, run in own[own["target"] == target].groupby("identity"):
            axes.plot(run["step"], run["value"], color=shade, lw=0.9, marker=style.dots(len(run)))
