"""Score against the knob and against distortion, one line per family, one dot per seed."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import style
from vqseg.report.measures import MEASURES
from vqseg.report.selection import headline

X_LABELS = {"knob": "rate (eps or p)", "distortion": "distortion E|q'-q|² / E|q - mean q|²"}


def compute(scores: pd.DataFrame, cells: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Return one row per scored run: ``arm``, ``family``, ``knob``, ``seed``, ``distortion``, and every metric.

    Distortion is the mean over the last quarter of training; scores are the last teacher's, in printed units.
    """
    means = headline(scores).groupby("identity")[metrics].mean()
    table = cells[cells["identity"].isin(means.index)].copy()
    for metric in metrics:
        table[metric] = table["identity"].map(means[metric]) * MEASURES[metric].scale
    logged = table.get("late:perturbation/distortion", pd.Series(np.nan, index=table.index))
    table["distortion"] = logged.astype(float)
    return table[["arm", "family", "knob", "seed", "identity", "distortion", *metrics]].reset_index(drop=True)


def draw(table: pd.DataFrame, protocol: str = "scan") -> Figure:
    """Draw one row of panels per metric of ``compute``'s table: against the knob, and against distortion."""
    metrics = [name for name in table.columns if name in MEASURES]
    families = list(dict.fromkeys(table["family"]))
    with style.house():
        figure = style.sheet(style.PAGE_IN, 2.2 * len(metrics) + 0.5)
        grid = figure.subplots(len(metrics), 2, sharey="row", squeeze=False)
        for row, metric in zip(grid, metrics):
            for axes, x in zip(row, X_LABELS):
                _panel(axes, table, families, x, metric)
                axes.set_xlabel(X_LABELS[x])
            row[0].set_ylabel(MEASURES[metric].label(protocol))
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, max(len(labels), 1)), columnspacing=1.2)
    return figure


def _panel(axes: Axes, table: pd.DataFrame, families: list[str], x: str, metric: str) -> None:
    _band(axes, table[table["family"] == "none"], metric)
    moving = [family for family in families if family != "none"]
    for place, family in enumerate(moving):
        own = table[(table["family"] == family) & table[x].notna()].copy()
        look = style.look(family, families)
        # Families share rates, so each stands a little beside the other, and its seeds beside its mean.
        aside = 0.008 * (place - (len(moving) - 1) / 2) if x == "knob" else 0.0
        own[x] += aside
        # An empty line keeps the family in the legend where it has no place on this axis.
        means = own.groupby("arm", sort=False)[[x, metric]].mean().sort_values(x)
        axes.plot(
            means[x],
            means[metric],
            color=look.color,
            ls=look.dashes,
            marker=look.marker,
            label=style.words(family),
            zorder=3,
        )
        beside = own[x] + 0.02 if x == "knob" else own["arm"].map(means[x]) * 1.09
        axes.scatter(beside, own[metric], s=5, color=look.color, alpha=0.75, linewidths=0, zorder=4)
    if x == "distortion" and (table[x] > 0).any():
        axes.set_xscale("log")
        shown = table.loc[(table[x] > 0) & (table["family"] != "none"), x]
        if len(shown):
            axes.set_xlim(shown.min() / 1.7, shown.max() * 1.7)
        axes.xaxis.set_major_formatter("{x:g}")
        # A range of less than a decade may hold no power of ten: label 2 and 5 between them too.
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    elif x == "knob":
        axes.set_xlim(0, 1.04)


def _band(axes: Axes, none: pd.DataFrame, metric: str) -> None:
    if none.empty:
        return
    values = none[metric].astype(float)
    if len(values) > 1:
        axes.axhspan(values.min(), values.max(), color="#000000", alpha=0.10, lw=0, zorder=1)
    axes.axhline(values.mean(), color="#000000", lw=0.9, label="no perturbation (band: its seeds)", zorder=1.5)
