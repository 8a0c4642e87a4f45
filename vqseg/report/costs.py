"""What every arm of a study costs, and what a point of score costs against the reference.

Parameters are those that are trained, hours those of training one run. Times are only as good as the machine was free:
the report says where they were taken, whether that was one place, and whether runs shared it.
"""

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import arms, contrasts, cost, facts, legends, machines, style
from vqseg.report.content import Picture, Report, Section, conditions, over, size_words
from vqseg.report.measures import MEASURES, Measure, measure_name
from vqseg.report.numbers import signed
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

DECIMALS, MOST_NAMED = 3, 8
"""Of hours per point, and arms that a figure names."""


def build(selection: Selection) -> Report:
    """Build the report of what a study costs."""
    table, metric = compute(selection), measure_name(selection.options.metric)
    wanted = [
        contrasts.minus(arm, selection.reference, name=arm) for arm in selection.arms if arm != selection.reference
    ]
    effects = contrasts.assess(selection.headline, wanted, metric)
    warned, sections = machines.caveats(selection), []
    end = " ".join([*warned, conditions(selection)])
    if len(table):
        caption = (
            "Score against the hours of training one run (left) and its peak memory (right). Marker: mean of an arm, "
            f"dots: runs; dotted, and named above: arms than which none is both cheaper and better. {end}"
        )
        inputs = (points(selection), metric, selection.protocol)
        picture = [Picture("cost", caption, draw, inputs)] if len(inputs[0]) else []
        sections.append(Section("Cost", [], [tabulate(selection, table, effects)], picture))
    else:
        sections.append(Section("Cost", ["No finished run measured what it costs."], [_nothing(selection)]))
    return Report(
        title=f"{selection.study['name']}: cost",
        question=selection.study.get("question", ""),
        banners=[],
        summary=answers(selection, table, effects),
        sections=[*sections, Section("Machines", [], [machines.tabulate(selection)])],
    )


def compute(selection: Selection) -> pd.DataFrame:
    """Return the cost of every arm, some of `arms.compute`'s columns."""
    found = arms.compute(
        selection.scores, selection.cells, reference=selection.reference, columns=list(arms.COST), metric="dice"
    )
    return found[["arm", "column", "value", "sd", "draws", "seeds", "runs"]]


def points(selection: Selection) -> pd.DataFrame:
    """Return one row per scored run with a cost: ``arm``, ``family``, ``hours``, ``memory`` and the score ``value``."""
    metric = measure_name(selection.options.metric)
    scores = selection.headline.groupby("identity")[metric].mean() * MEASURES[metric].scale
    own = selection.used
    found = {key: machines.numbers(own, arms.COST[key]) for key in ("hours", "memory")}
    table = own[["arm", "family"]].assign(value=own["identity"].map(scores), **found)
    return table.dropna(subset=["value", "hours"]).reset_index(drop=True)


def tabulate(selection: Selection, table: pd.DataFrame, effects: pd.DataFrame) -> Table:
    """Tabulate cost, the ratio of times, and what a point costs against the reference."""
    metric = measure_name(selection.options.metric)
    measure = MEASURES[metric]
    at = {(line["arm"], line["column"]): line for line in table.to_dict("records")}
    gains = {line["contrast"]: line for line in effects.to_dict("records")}
    keys = [key for key in arms.COST if key in set(table["column"])]
    rows = []
    for arm in selection.arms:
        cells = [_cost(at.get((arm, key)), key, selection) for key in keys]
        gain = gains.get(arm)
        words = (
            "—"
            if gain is None
            else contrasts.number(gain, selection).replace(f" {measure.short(selection.protocol)}", "")
        )
        tip = "" if gain is None else f"{size_words(gain)}; runs {gain['runs']}"
        more = _more(at, arm, selection.reference)
        cells += [_ratio(at, arm, selection.reference), Cell(words, tip=tip), Cell(per_point(gain, more, measure))]
        rows.append(Row(f"{arm} (reference)" if arm == selection.reference else arm, cells))
    unit = measure.short(selection.protocol)
    headers = ["arm", *(arms.COST[key][0] for key in keys), "time / reference", f"Δ {unit} [95 %]", "hours per point"]
    caption = (
        f"Parameters are those that are trained, hours those of training one run; mean ± sd over {over(selection)}. "
        f"hours per point: hours more than {selection.reference} for every point of {unit} more; in brackets where the "
        f"gain cannot be told from 0. {' '.join([*machines.caveats(selection), conditions(selection)])}"
    )
    return Table("costs", "What every arm costs", headers, rows, caption, table)


def _cost(line: Mapping[Any, Any] | None, key: str, selection: Selection) -> Cell:
    if line is None:
        return Cell("—")
    decimals = cost.DECIMALS[key]
    spread = "" if key == "parameters" or pd.isna(line["sd"]) else f" ± {line['sd']:.{decimals}f}"
    return Cell(
        f"{line['value']:.{decimals}f}{spread}", tip=f"{line['seeds']:.0f} {over(selection)}; runs {line['runs']}"
    )


def _ratio(at: Mapping[tuple[str, str], Mapping[Any, Any]], arm: str, reference: str) -> Cell:
    own, base = at.get((arm, "hours")), at.get((reference, "hours"))
    return Cell("—" if own is None or base is None or not base["value"] else f"{own['value'] / base['value']:.2f}")


def _more(at: Mapping[tuple[str, str], Mapping[Any, Any]], arm: str, reference: str) -> float:
    """Return the hours that an arm takes more than the reference, NaN where either is not known."""
    own, base = at.get((arm, "hours")), at.get((reference, "hours"))
    return float("nan") if own is None or base is None else float(own["value"] - base["value"])


def per_point(gain: Mapping[Any, Any] | None, more: float, measure: Measure) -> str:
    """Return in words what a point costs, given the gain's contrast and the hours more."""
    if gain is None or np.isnan(more):
        return "—"
    better = gain["estimate"] if measure.higher_is_better else -gain["estimate"]
    if better <= 0:
        return "no gain"
    words = "better and not dearer" if more <= 0 else signed(more / better, DECIMALS)
    return words if contrasts.told(gain) else f"({words})"


def answers(selection: Selection, table: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    """Say what the dearest arm costs against the reference and brings, and what the study took in all."""
    where, hours = contrasts.where(selection), table[table["column"] == "hours"].set_index("arm")["value"]
    if hours.empty:
        return [f"No finished run on {where} measured what it costs."]
    base, sentences = hours.get(selection.reference, float("nan")), []
    gains = {line["contrast"]: line for line in effects.to_dict("records")}
    dear = str(hours.idxmax())
    if dear in gains and base > 0:
        ratio = f"{hours[dear] / base:.2f} times the hours of {selection.reference}"
        sentences.append(
            f"The dearest arm on {where}, {dear}, takes {ratio} ({hours[dear]:.3g} against {base:.3g} h a run) for "
            f"{contrasts.words(gains[dear], selection)}."
        )
    else:
        sentences.append(f"Training one run on {where} takes {hours.min():.3g} to {hours.max():.3g} h.")
    return [*sentences, total(selection), *machines.caveats(selection)]


def total(selection: Selection) -> str:
    """Say what the study's finished runs took, and what was trained once for all."""
    done = selection.cells[selection.cells["state"] == "finished"].drop_duplicates("identity")
    hours = machines.numbers(done, arms.COST["hours"])
    spans = [machines.span(run) for run in done.to_dict("records") if not run.get("resumes")]
    whole = sum((end - start).total_seconds() / 3600 for start, end in filter(None, spans))
    words = f"The study's {len(done)} finished runs trained for {hours.sum():.3g} h"
    words += f", {whole:.3g} h from start to end with validation and scoring" if all(spans) and spans else ""
    if any(facts.prior_of(selection, arm) == facts.TRAINED_HERE for arm in selection.arms):
        own = facts.local_priors(selection.store, str(selection.study["data"]["digest"]))
        seconds = sum(float(each.get("train_seconds") or 0) for each in own)
        words += f"; the local prior took {seconds / 3600:.3g} h, once for all" if seconds else ""
    return f"{words}."


def _nothing(selection: Selection) -> Table:
    rows = [Row(arm, [Cell("—")]) for arm in selection.arms]
    return Table("costs", "What every arm costs", ["arm", "hours"], rows, conditions(selection), pd.DataFrame())


def draw(runs: pd.DataFrame, metric: str, protocol: str) -> Figure:
    """Draw `points`: score against hours, and against memory where that was measured."""
    panels = {"hours": "hours of training", "memory": "peak memory (MB)"}
    shown = [key for key in panels if runs[key].notna().any()]
    families = list(dict.fromkeys(runs["family"]))
    with style.house():
        figure = style.sheet(style.PAGE_IN if len(shown) > 1 else 0.6 * style.PAGE_IN, 2.9)
        for axes, key in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown):
            _panel(axes, runs.dropna(subset=[key]), key, families, bool(MEASURES[metric].higher_is_better))
            axes.set(xlabel=panels[key], ylabel=MEASURES[metric].label(protocol) if key == shown[0] else "")
        legends.below(figure, legends.of(figure))
    return figure


def _panel(axes: Axes, own: pd.DataFrame, key: str, families: list[str], higher: bool) -> None:
    means = own.groupby(["arm", "family"], sort=False)[[key, "value"]].mean().reset_index()
    for family in families:
        look = style.look(family, families)
        runs, here = own[own["family"] == family], means[means["family"] == family]
        axes.scatter(runs[key], runs["value"], s=4, color=look.color, alpha=0.45, lw=0)
        axes.plot(
            here[key], here["value"], ls="", marker=look.marker, color=look.color, label=style.words(family), zorder=3
        )
    front = frontier(means, key, higher=higher)
    axes.plot(front[key], front["value"], color=style.GREY, lw=0.8, ls=":", zorder=1)
    # Names beside the markers would cover each other: arms of one study cost much the same.
    names = [str(arm) for arm in front["arm"]]
    listed = ", ".join(names[:MOST_NAMED]) + (" ..." if len(names) > MOST_NAMED else "")
    axes.set_title("\n".join(wrap(f"dotted: {listed}", 58)), fontsize=6.5)
    axes.margins(0.06)


def frontier(means: pd.DataFrame, key: str, *, higher: bool) -> pd.DataFrame:
    """Return the arms than which none is both cheaper and better, by cost."""
    ordered = means.sort_values([key, "value"], ascending=[True, not higher])
    best = ordered["value"].cummax() if higher else ordered["value"].cummin()
    return ordered[(ordered["value"] == best) & ~best.duplicated()]
