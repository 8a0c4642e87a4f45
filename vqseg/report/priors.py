"""Priors: what aligning tokens with a frozen model adds, by what that model was trained on, and what it costs.

Source: VQ-Seg (NeurIPS 2025), Table 4, of five foundation models and without a row that has none.
Differs: every prior is held against none, with an interval; one that could not be run stands there with the command
that gets its weights.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import ablation, arms, contrasts, facts, published, style
from vqseg.report.content import Picture, Report, Section, conditions, size_words
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.numbers import cell_p, interval, signed
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

TOPIC = "fm-prior"
COMMAND = re.compile(r"'(vqseg [^']+)'")
OURS, PAPER = "#0072B2", "#D55E00"
FEW = "5 %"
"""The published share of labels that is drawn open; the other is filled."""


def build(selection: Selection) -> Report:
    """Build the report of a study of priors."""
    table = assessed(selection)
    return Report(
        title=f"{selection.study['name']}: priors",
        question=selection.study.get("question", ""),
        banners=ablation.banners(selection),
        summary=[*answers(selection, table), *unrun(selection)],
        sections=[
            ablation.scores_section(selection),
            _priors(selection, table),
            *ablation.training_sections(selection),
        ],
    )


def assessed(selection: Selection) -> pd.DataFrame:
    """Return every arm minus the reference, as `contrasts.assess` does, with ``arm``."""
    metric, rows = measure_name(selection.options.metric), selection.headline
    scored = [arm for arm in selection.arms if arm != selection.reference]
    table = contrasts.assess(rows, [contrasts.minus(arm, selection.reference, name=arm) for arm in scored], metric)
    return table.assign(arm=table["contrast"])


def skipped(selection: Selection) -> dict[str, str]:
    """Return what was not run for want of weights: label -> words that name the command which gets them."""
    found = {}
    for label, reason in selection.skipped.items():
        command = COMMAND.search(reason)
        found[label] = f"not run: {f'weights absent ({command[1]})' if command else reason}"
    return found


def prior_name(selection: Selection, arm: str) -> str:
    """Return the prior of an arm, also of one that is not in the study because it was skipped; empty if none."""
    known = facts.prior_of(selection, arm)
    named = next((name for name in facts.pretraining() if name in re.split(r"[\s=]+", arm.casefold())), "")
    return known if arm in selection.of_arm else named


def printed() -> dict[str, dict[str, float]]:
    """Return the published Dice (%), by the prior's name without case and marks, then by the share of labels."""
    found: dict[str, dict[str, float]] = {}
    for row in published.load():
        if TOPIC in row.topics and "dice" in row.values:
            found.setdefault(_bare(row.method), {})[row.labels] = 100 * row.values["dice"]
    return found


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def answers(selection: Selection, table: pd.DataFrame) -> list[str]:
    """Say what the best prior adds, and how many can be told from none."""
    where = contrasts.where(selection)
    if table.empty:
        return [f"No answer yet on {where}: no prior is scored beside {selection.reference}."]
    measure, lines = MEASURES[measure_name(selection.options.metric)], table.to_dict("records")
    best = (max if measure.higher_is_better else min)(lines, key=lambda line: line["estimate"])
    domain = facts.pretraining().get(prior_name(selection, best["arm"]))
    trained = f" (trained on {domain.domain})" if domain else ""
    first = (
        f"The best of {len(lines)} priors on {where} is {best['arm']}{trained}: against {selection.reference} "
        f"{contrasts.words(best, selection)}."
    )
    found = {line["arm"]: contrasts.direction(line, measure) for line in lines if contrasts.judged(line)}
    parts = [
        f"{word}: {', '.join(names)}"
        for sign, word in ((1, "better"), (-1, "worse"), (0, "not told from it"))
        if (names := [arm for arm, way in found.items() if way == sign])
    ]
    return [first, f"Against {selection.reference}, {'; '.join(parts)}."] if parts else [first]


def unrun(selection: Selection) -> list[str]:
    """Name the priors that were not run."""
    left = skipped(selection)
    return [f"Not run: {', '.join(left)}; their weights are absent."] if left else []


def _priors(selection: Selection, table: pd.DataFrame) -> Section:
    shown = [*selection.arms, *(label for label in skipped(selection) if label not in selection.arms)]
    points = _points(selection)
    caption = (
        "Left: ours, dots are seeds, the bar their mean, the line the mean of the reference; right: what the paper "
        "printed, of other data and another protocol, so that only the orders can be held side by side. "
        f"{conditions(selection)}"
    )
    rows = [
        {"arm": arm, "note": skipped(selection).get(arm, ""), **printed().get(_bare(prior_name(selection, arm)), {})}
        for arm in shown
    ]
    inputs = (
        points,
        pd.DataFrame(rows),
        selection.reference,
        measure_name(selection.options.metric),
        selection.protocol,
    )
    return Section("Priors", [], [tabulate(selection, table, shown)], [Picture("prior-scores", caption, draw, inputs)])


def _points(selection: Selection) -> pd.DataFrame:
    metric = measure_name(selection.options.metric)
    means = selection.headline.groupby(["arm", "seed"])[metric].mean() * MEASURES[metric].scale
    return means.rename("value").reset_index()


def tabulate(selection: Selection, table: pd.DataFrame, shown: list[str]) -> Table:
    """Tabulate every prior: what it was trained on, its score and effect, its cost, what the paper printed."""
    metric, decimals = measure_name(selection.options.metric), selection.options.decimals
    keys = [metric, "ms", "memory"]
    tidy = arms.compute(selection.scores, selection.cells, reference=selection.reference, columns=keys, metric=metric)
    numbers = {(line["arm"], line["column"]): line for line in tidy.to_dict("records")}
    effects = {line["arm"]: line for line in table.to_dict("records")}
    theirs = printed()
    labels = list(dict.fromkeys(share for own in theirs.values() for share in own))
    rows, state = [], skipped(selection)
    for arm in shown:
        told = _pretraining(selection, arm)
        paper = theirs.get(_bare(prior_name(selection, arm)), {})
        cells = [
            Cell(told.domain if told else "—", tip=f"{told.trained_on}; {told.source}" if told else ""),
            Cell("—" if told is None or np.isnan(told.parameters_m) else f"{told.parameters_m:.1f}"),
            _score(numbers.get((arm, metric)), decimals),
            _effect(effects.get(arm), decimals),
            *(_more(numbers, arm, selection.reference, key) for key in ("ms", "memory")),
            *(Cell(f"{paper[share]:.{decimals}f}" if share in paper else "—") for share in labels),
        ]
        # The command that gets the weights is longer than a table is wide: it stands below.
        label = f"{arm}: {state[arm].partition(' (')[0]}" if arm in state else arm
        rows.append(Row(f"{arm} (reference)" if arm == selection.reference else label, cells))
    unit = MEASURES[metric].short(selection.protocol)
    score = MEASURES[metric].label(selection.protocol)
    headers = ["prior", "trained on", "params (M)", score, f"Δ {unit} [95 %]", "+ ms", "+ MB"]
    headers += [f"paper, {share}" for share in labels]
    return Table("priors", "Priors", headers, rows, _caption(selection), tidy, footnotes=_footnotes(selection, shown))


def _caption(selection: Selection) -> str:
    reference = selection.reference
    return (
        f"params: of the frozen model; Δ, + ms (time per step) and + MB (peak memory): minus {reference}; Δ is bold "
        f"where it is told from 0 (Holm, at least 3 seeds). {ablation.MARKS} {ablation.tested(selection)} paper: Dice "
        f"of VQ-Seg (NeurIPS 2025), Table 4, of other data and another protocol. {conditions(selection)}"
    )


def _pretraining(selection: Selection, arm: str) -> facts.Pretraining | None:
    name = prior_name(selection, arm)
    told = facts.pretraining().get(name)
    if told is not None and name == facts.TRAINED_HERE:
        found = facts.local_priors(selection.store, str(selection.study["data"]["digest"]))
        told = told._replace(parameters_m=found[0]["parameters_m"]) if found else told
    return told


def _footnotes(selection: Selection, shown: list[str]) -> list[str]:
    told = {prior_name(selection, arm): _pretraining(selection, arm) for arm in shown}
    notes = [f"{arm}: {words}." for arm, words in skipped(selection).items() if " (" in words]
    notes += [f"{name}: {own.trained_on} ({own.source})." for name, own in told.items() if own]
    if facts.TRAINED_HERE in told:
        for own in facts.local_priors(selection.store, str(selection.study["data"]["digest"])):
            seconds = f"{own.get('train_seconds', float('nan')):.0f} s"
            notes.append(f"{facts.TRAINED_HERE}: trained once for all runs in {seconds}, which no column counts.")
    return notes


def _score(line: Mapping[Any, Any] | None, decimals: int) -> Cell:
    if line is None:
        return Cell("—")
    spread = "" if pd.isna(line["sd"]) else f" ± {line['sd']:.{decimals}f}"
    tip = f"{size_words(line)}; runs {line['runs']}"
    return Cell(f"{line['value']:.{decimals}f}{spread}", line["mark"], tip)


def _effect(line: Mapping[Any, Any] | None, decimals: int) -> Cell:
    if line is None:
        return Cell("—")
    words = f"{signed(line['estimate'], decimals)} {interval(line['low'], line['high'], decimals)}".rstrip()
    tip = f"p {cell_p(line['p_holm'])} after Holm; {size_words(line)}; runs {line['runs']}"
    return Cell(words, "bold" if contrasts.told(line) else "", tip)


def _more(numbers: Mapping[tuple[str, str], Mapping[Any, Any]], arm: str, reference: str, key: str) -> Cell:
    own, base = numbers.get((arm, key)), numbers.get((reference, key))
    if own is None or base is None or arm == reference:
        return Cell("—")
    tip = f"{own['value']:.0f} against {base['value']:.0f}; runs {own['runs']}"
    return Cell(signed(own["value"] - base["value"], 0), tip=tip)


def draw(points: pd.DataFrame, rows: pd.DataFrame, reference: str, metric: str, protocol: str) -> Figure:
    """Draw our scores, one row per prior, beside the published ones.

    Args:
        points: ``arm``, ``seed``, ``value``.
        rows: ``arm`` in order, ``note`` of those that were not run, and one column per published share of labels.
        reference: the arm whose mean is drawn as a line.
        metric: of the values.
        protocol: which decides on the unit.
    """
    names = [str(arm) for arm in rows["arm"]]
    shares = [column for column in rows if column not in ("arm", "note")]
    with style.house():
        figure = style.sheet(style.PAGE_IN, 0.27 * len(names) + 0.9)
        panels = figure.subplots(1, 2 if shares else 1, sharey=True, squeeze=False)[0]
        _ours(panels[0], points, names, reference)
        panels[0].set(xlabel=MEASURES[metric].label(protocol), yticks=range(len(names)), yticklabels=names)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        for place, note in enumerate(rows["note"]):
            _unrun(panels[0], place, str(note))
        for share in shares:
            face = "white" if share == FEW else PAPER
            panels[1].plot(
                rows[share],
                range(len(names)),
                ls="",
                marker="D",
                ms=4,
                color=PAPER,
                mfc=face,
                label=f"paper, {share} labelled",
            )
        if shares:
            panels[1].set(xlabel="the paper's Dice (%), other data")
            figure.legend(loc="outside lower right", ncols=len(shares))
    return figure


def _unrun(axes: Axes, place: int, note: str) -> None:
    if note:
        words = "not run: weights absent" if "absent" in note else "not run"
        box = {"fc": "white", "ec": "none", "pad": 1.0}
        axes.text(0.03, place, words, transform=axes.get_yaxis_transform(), va="center", color=style.GREY, bbox=box)


def _ours(axes: Axes, points: pd.DataFrame, names: list[str], reference: str) -> None:
    own = points[points["arm"].isin(names)]
    base = own.loc[own["arm"] == reference, "value"]
    if len(base):
        axes.axvline(base.mean(), color="black", lw=0.8, ls=":", zorder=1)
    if own.empty:
        return
    heights = own["arm"].map(names.index)
    seaborn.stripplot(
        x=own["value"], y=heights, orient="h", native_scale=True, jitter=False, size=3.6, color=OURS, alpha=0.6, ax=axes
    )
    means = own.groupby("arm")["value"].mean()
    axes.plot(means, [names.index(str(arm)) for arm in means.index], ls="", marker="|", ms=11, mew=1.6, color="black")
    axes.set_ylabel("")
