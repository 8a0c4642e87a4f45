"""Stability: how often ranks change when patients or seeds are drawn again, arm by arm and pair by pair.

The numbers are `vqseg.report.resampling`'s. They describe; what may be claimed are the effects and intervals of the
study's own report.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import ablation, resampling, style
from vqseg.report.content import Picture, Report, Section, conditions
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.resampling import KINDS, MOST_SEEDS, RESAMPLES, SHARE, Cube
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

MOST_ARMS = 20
"""In figures: the best of them."""

MOST_NUMBERS = 12
"""Arms of a heat map that has numbers in it."""

NO_TEST = (
    "This describes how far the order hangs on who was drawn. It is no test: it knows no null, and with few seeds no "
    "resampling is as wide as new seeds would be. What may be claimed are the effects and intervals of the study's own "
    "report."
)
ITSELF = "#CFE3F1"
"""The color of an arm's place against itself."""

LOOKS = {"patients": ("#0072B2", "^", "--"), "seeds": ("#E69F00", "s", ":"), "both": ("#000000", "o", "-")}


def build(selection: Selection) -> Report:
    """Build the report."""
    metric = measure_name(selection.options.metric)
    rows = selection.headline
    own = resampling.cube(rows.assign(value=rows[metric].astype(float) * MEASURES[metric].scale), selection.arms)
    if own is None or len(own.arms) < 2:
        section, summary = Section("Ranks", [_why_not(selection, own)]), [_why_not(selection, own)]
    else:
        section, summary = _ranks(selection, own, metric), _sentences(selection, own, metric)
    return Report(
        title=f"{selection.study['name']}: stability of ranks",
        question="How often do ranks change when patients or seeds are drawn again?",
        banners=ablation.banners(selection),
        summary=summary,
        sections=[section],
    )


def _why_not(selection: Selection, own: Cube | None) -> str:
    if own is None:
        return "No order to speak of: no two arms were scored for the same seeds and patients."
    left = f" ({len(selection.arms)} in the study)" if len(selection.arms) > 1 else ""
    return f"No order to speak of: only {own.arms[0]} is scored{left}."


def _sentences(selection: Selection, own: Cube, metric: str) -> list[str]:
    higher = bool(MEASURES[metric].higher_is_better)
    table = resampling.summarize(own, higher_is_better=higher)
    best = table.sort_values("rank", kind="stable").iloc[0]
    where = f"on {selection.study['data']['name']} ({selection.part})"
    again = ", ".join(f"{_percent(best[f'first_{kind}'])} of {kind}" for kind in KINDS)
    said = [f"{best['arm']} is first of {len(own.arms)} arms {where}, and stays first in resamples: {again}."]
    left = resampling.without(own, higher_is_better=higher)
    if len(left) > 1:
        other = [f"without seed {line['seed']} it is {line['best']}" for line in left.to_dict("records")
                 if line["best"] != best["arm"]]  # fmt: skip
        said.append(f"Leaving out one seed at a time: {', '.join(other) or 'the same arm is first every time'}.")
        count = resampling.enough(resampling.by_seeds(own, higher_is_better=higher))
        most = f"about {count} seed{'s' * (count != 1)}" if count else f"more than {MOST_SEEDS} seeds"
        studies = f"{_percent(SHARE)} of studies on these patients"
        said.append(f"If seeds vary as these do, {most} would make the same arm first in {studies}.")
    return [*said, NO_TEST]


def _ranks(selection: Selection, own: Cube, metric: str) -> Section:
    higher, end = bool(MEASURES[metric].higher_is_better), conditions(selection)
    table = resampling.summarize(own, higher_is_better=higher).sort_values("rank", kind="stable")
    shown = _part(own, list(table["arm"][:MOST_ARMS]))
    best = f"The best {MOST_ARMS} of {len(own.arms)} arms. " if len(own.arms) > MOST_ARMS else ""
    how = f"{RESAMPLES:,} resamples with replacement, the same for all arms"
    caption = (
        f"{best}Left: ranks of every arm, the middle {_percent(SHARE)} of them; marker: rank of the mean as it is. "
        f"Right: how often it is first. {how}. {end}"
    )
    pictures = [Picture("stability-ranks", caption, draw_ranks, (table[: len(shown.arms)].reset_index(drop=True),))]
    if len(shown.arms) > 2:
        caption = "How often the row's arm beats the column's when patients and seeds are drawn again, in %"
        heat = pd.DataFrame(resampling.beats(shown, "both", higher_is_better=higher)).assign(arm=shown.arms)
        pictures.append(Picture("stability-pairs", f"{best}{caption}. {how}. {end}", draw_beats, (heat,)))
    growth = resampling.by_seeds(own, higher_is_better=higher)
    if len(growth):
        caption = (
            "How often a study of so many seeds would find the arm first that is first now, if seeds vary as these do "
            f"(normal, with their covariance over arms; patients stay). Dotted: {_percent(SHARE)}; line down: where it "
            f"is reached. {end}"
        )
        pictures.append(Picture("stability-seeds", caption, draw_growth, (growth,)))
    return Section("Ranks", _gaps(own), [_table(selection, own, table, metric)], pictures)


def _gaps(own: Cube) -> list[str]:
    lost = f"Left out, for want of runs that the others have too: {', '.join(own.lost)}." if own.lost else ""
    some = f"{own.left_out} runs of the arms shown are left out: another arm lacks theirs." if own.left_out else ""
    one = "One seed: drawing seeds again changes nothing." if len(own.seeds) < 2 else ""
    return [words for words in (lost, some, one) if words]


def _table(selection: Selection, own: Cube, table: pd.DataFrame, metric: str) -> Table:
    runs = {str(arm): " ".join(group.unique()) for arm, group in selection.headline.groupby("arm")["identity"]}
    draws = f"{own.draws} draws x " if own.draws > 1 else ""
    size = f"{draws}{len(own.seeds)} seeds x {own.patients} patients"
    rows = []
    for line in table.to_dict("records"):
        tip = f"{size}; runs {runs[line['arm']]}"
        words = [f"{line['mean']:.{selection.options.decimals}f}", f"{line['rank']:.0f}"]
        words += [_percent(line[f"first_{kind}"]) for kind in KINDS]
        words += [f"{line[f'low_{kind}']:.3g} to {line[f'high_{kind}']:.3g}" for kind in KINDS]
        rows.append(Row(str(line["arm"]), [Cell(each, tip=tip) for each in words]))
    headers = ["arm", MEASURES[metric].label(selection.protocol), "rank", *(f"first, {kind}" for kind in KINDS)]
    headers += [f"ranks, {kind}" for kind in KINDS]
    caption = (
        f"Means over patients, then runs ({size}). First: how often an arm is first of {len(own.arms)} when patients, "
        f"seeds{' and draws' if own.draws > 1 else ''}, or all are drawn again, all arms by the same draw "
        f"({RESAMPLES:,} times); ties are shared. Ranks: the middle {_percent(SHARE)}. {NO_TEST} "
        f"{conditions(selection)}"
    )
    behind = [runs[arm] for arm in table["arm"]]
    tidy = table.rename(columns={"mean": "value"}).assign(column=metric, runs=behind)
    return Table("stability", "Stability of ranks", headers, rows, caption, tidy)


def draw_ranks(table: pd.DataFrame) -> Figure:
    """Draw rank intervals and shares of being first, one line per arm, of `resampling.summarize`'s rows."""
    with style.house():
        figure = style.sheet(style.PAGE_IN, 0.3 * len(table) + 0.9)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.3, 1))
        heights = np.arange(len(table))
        for shift, kind in zip((-0.22, 0.0, 0.22), KINDS):
            color, marker, dashes = LOOKS[kind]
            left.hlines(heights + shift, table[f"low_{kind}"], table[f"high_{kind}"], color=color, ls=dashes, lw=1.6)
            left.plot(table["rank"], heights + shift, ls="", marker=marker, color=color, ms=3.5, label=_again(kind))
            right.plot(
                100 * table[f"first_{kind}"], heights + shift, ls="", marker=marker, color=color, ms=4.5, mfc="white"
            )
            right.hlines(heights + shift, 0, 100 * table[f"first_{kind}"], color=color, ls=dashes, lw=1.2)
        left.set(
            yticks=heights, yticklabels=table["arm"], ylim=(len(table) - 0.4, -0.6), xlabel="rank (1 is best)",
            xlim=(0.7, table[["rank", *(f"high_{kind}" for kind in KINDS)]].max().max() + 0.3),
        )  # fmt: skip
        left.xaxis.get_major_locator().set_params(integer=True)
        right.set(xlabel="first in (%)", xlim=(-2, 103))
        for axes in (left, right):
            axes.grid(axis="y", visible=False)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def draw_beats(heat: pd.DataFrame) -> Figure:
    """Draw how often rows beat columns: shares (A, A) in numbered columns, and ``arm``."""
    arms = heat["arm"].tolist()
    values = 100 * heat.drop(columns="arm").to_numpy(dtype=float)
    with style.house():
        wide = len(arms) > MOST_NUMBERS // 2
        figure = style.sheet(style.PAGE_IN if wide else style.COLUMN_IN, 0.27 * len(arms) + (1.5 if wide else 1.2))
        axes = figure.subplots()
        axes.set_facecolor(ITSELF)
        seaborn.heatmap(
            values, vmin=0, vmax=125, cmap="Greys", annot=len(arms) <= MOST_NUMBERS, fmt=".0f", annot_kws={"size": 7},
            linewidths=0.5, linecolor="white", xticklabels=arms, yticklabels=arms, ax=axes,
            cbar_kws={"label": "beats (%)", "boundaries": range(101), "ticks": range(0, 101, 25)},
        )  # fmt: skip
        axes.tick_params(axis="x", rotation=45, length=0)
        axes.tick_params(axis="y", rotation=0, length=0)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
        axes.grid(visible=False)
    return figure


def draw_growth(table: pd.DataFrame) -> Figure:
    """Draw how often the best arm is best against the number of seeds, of `resampling.by_seeds`."""
    with style.house():
        figure = style.sheet(style.COLUMN_IN, 2.2)
        axes = figure.subplots()
        axes.plot(table["seeds"], 100 * table["share"], color="#0072B2", marker="o", ms=2.5)
        axes.axhline(100 * SHARE, color="black", lw=0.8, ls=":")
        _mark(axes, resampling.enough(table))
        axes.set(xscale="log", xlabel="seeds", ylabel="the same arm is first (%)", ylim=(0, 102))
        axes.set_xticks(ticks := [1, 2, 3, 5, 10, 20, 40, 64], [str(tick) for tick in ticks])
        axes.minorticks_off()
    return figure


def _mark(axes: Axes, count: int | None) -> None:
    if count is not None:
        axes.axvline(count, color="black", lw=0.8)
        axes.annotate(
            f"{count} seed{'s' * (count != 1)}", (count, 4), xytext=(3, 0), textcoords="offset points", va="bottom"
        )


def _part(own: Cube, arms: list[str]) -> Cube:
    places = [own.arms.index(arm) for arm in arms]
    return replace(own, values=own.values[places], arms=arms)


def _again(kind: str) -> str:
    return "patients and seeds are drawn again" if kind == "both" else f"{kind} are drawn again"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
