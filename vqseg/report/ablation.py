"""The generic report of any study: arms table, checkpoints and cost, effects; with what training logged.

Other reports take these sections as they are and add their own.
"""

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from vqseg.report import anova, arms, companions, facts, forest, integrity, published, reach, statistics, wilcoxon
from vqseg.report.content import Picture, Report, Section, conditions, over, scored_when, size_words
from vqseg.report.measures import LESIONS, MEASURES, SLICES, measure_name
from vqseg.report.numbers import interval, signed, worded_p
from vqseg.report.selection import Selection
from vqseg.report.table import Table
from vqseg.report.training import training_sections

MARKS = (
    "Bold: the best arm and every arm that cannot be told from it (Holm over the contrasts with the best, times half "
    "the number of arms because the best was picked by looking, level .05); underlined: the best of the others. Arms "
    "with fewer than 3 seeds are not ranked."
)
TEST = (
    "with patients (a patient's scans and classes averaged), t interval with Satterthwaite's degrees of freedom. "
    "Intervals are single ones, not corrected; p and marks are after Holm, over several contrasts with at "
    f"most {anova.FAMILY_DF} (seeds - 1) degrees of freedom."
)
FEW = (
    f"With fewer than {statistics.FEW_SEEDS} seeds Holm's level of .05 is approximate: by simulation .02 with the "
    "noise of this field, up to .11 over seven contrasts where seeds differ more than patients."
)
WEIGHTS = "Patients have different numbers of cases: means weigh every case alike, Δ and intervals every patient."


def build(selection: Selection) -> Report:
    """Build the generic report."""
    return Report(
        title=f"{selection.study['name']}: arms",
        question=selection.study.get("question", ""),
        banners=banners(selection),
        summary=best_sentence(selection),
        sections=[scores_section(selection), *training_sections(selection)],
    )


def banners(selection: Selection, *, warn_unlogged: bool = False) -> list[str]:
    """Return what a reader must know before anything else: that the codes hardly count, that runs had not converged."""
    return [*reach.banners(selection.cells, warn_unlogged=warn_unlogged), *integrity.banners(selection)]


def scores_section(
    selection: Selection,
    *,
    ticks: Mapping[str, Mapping[str, str]] | None = None,
    printed_elsewhere: Collection[str] = (),
) -> Section:
    """Return the arms table, its published companions, checkpoints and cost, and the forest of effects.

    Args:
        selection: the study's runs.
        ticks: columns of a grid's factors, see `arms.tabulate`; such a report has a table of cost of its own.
        printed_elsewhere: published sources that the report shows in another place.
    """
    options = selection.options
    main = arms.tabulate(
        selection, name="arms", title="Arms", columns=_columns(selection), caption="", ticks=ticks, rivals=True
    )
    inside, beside = companions.find(selection)
    beside = [row for row in beside if row.source not in printed_elsewhere]
    before = len(ticks or {}) + 1
    issues = integrity.issues(selection)
    rows = integrity.marked(main.rows, selection.tabled_arms, issues)
    for number, row in enumerate(inside):
        rows.append(companions.row_of(row, _columns(selection), options.decimals, before, ruled=number == 0))
    notes = _footnotes(selection, [*issues, *integrity.of_published(inside)], inside)
    main = replace(main, rows=rows, footnotes=notes, runs=_runs(selection))
    tables = [captioned(main, _arms_words(selection))]
    if options.columns is None:
        tables += _beside(selection, with_cost=ticks is None)
    tables += [companions.panel(beside, options.decimals)] if beside else []
    return Section("Scores", selection.notes, tables, _forest(selection))


def tested(selection: Selection) -> str:
    """Say how the table's contrasts were tested, whom its intervals are for, and what that leaves open."""
    fewest = selection.tabled_headline.groupby("arm")["seed"].nunique().min()
    drawn = "Draws of the labelled patients and seeds are crossed" if selection.draws > 1 else "Seeds are crossed"
    words = f"{drawn} {TEST} {statistics.covers(selection.draws)}"
    return f"{words} {FEW}" if fewest < statistics.FEW_SEEDS else words


def weighed(selection: Selection) -> str:
    """Say that means and differences weigh cases differently, where they do; else nothing."""
    cases = selection.headline[["patient", "case"]].drop_duplicates().groupby("patient").size()
    return WEIGHTS if cases.nunique() > 1 else ""


def captioned(table: Table, caption: str) -> Table:
    """Return ``table`` with a caption."""
    return replace(table, caption=caption)


def best_sentence(selection: Selection) -> list[str]:
    """Say in one sentence which arm leads and whether that can be told from the reference."""
    metric = measure_name(selection.options.metric)
    measure = MEASURES[metric]
    rows = selection.headline
    means = rows.groupby(statistics.run_keys(rows))[metric].mean().groupby("arm").mean() * measure.scale
    means = means.dropna()
    if means.empty:
        return []
    if len(means) > 1 and np.isclose(means.max(), means.min(), rtol=0, atol=1e-9):
        value = f"{means.iloc[0]:.{selection.options.decimals}f} {measure.label(selection.protocol)}"
        return [f"All arms have the same mean, {value}."]
    best = str(means.idxmax() if measure.higher_is_better else means.idxmin())
    among = " of the study's arms" if selection.rivals.names else ""
    sentence = f"{'Highest' if measure.higher_is_better else 'Lowest'} mean{among}: {best}"
    sentence += f", {means[best]:.{selection.options.decimals}f} {measure.label(selection.protocol)}."
    if best == selection.reference or selection.reference not in means:
        return [sentence]
    table = forest.compute(selection.tabled_scores, selection.reference, metric, selection.tabled_arms)
    row = table[table["arm"] == best]
    return [sentence] + [effect_sentence(each, best, selection) for each in row.to_dict("records")]


def effect_sentence(row: Mapping[Hashable, Any], arm: str, selection: Selection, against: str | None = None) -> str:
    """Word one contrast with its interval, its size and what it allows to say."""
    decimals, measure = selection.options.decimals, MEASURES[measure_name(selection.options.metric)]
    between = interval(row["low"], row["high"], decimals)
    known = not math.isnan(row["low"])
    verdict, unit = "one seed or one patient gives no interval", measure.short(selection.protocol)
    if known:
        told = row["p_holm"] < statistics.ALPHA
        better = (row["estimate"] > 0) == measure.higher_is_better
        verdict = ("better" if better else "worse") if told else "cannot be told apart"
        verdict += f" (p {worded_p(row['p_holm'])} after Holm)"
        if row["seeds"] < statistics.LEAST_SEEDS:
            verdict = f"only {row['seeds']:.0f} seeds, no verdict"
    return (
        f"{arm} against {against or selection.reference} on {selection.study['data']['name']} ({selection.part}): "
        f"{signed(row['estimate'], decimals)} {unit} {between}".rstrip()
        + ", "
        f"{size_words(row)}: {verdict}."
    )


def _columns(selection: Selection) -> list[str]:
    """Return the arms table's columns: facts that a rival may not share stand in it when there is one."""
    options, scores = selection.options, selection.tabled_headline
    default = (*arms.DEFAULT, *(facts.FACTS if selection.rivals.names else ()))
    return arms.with_nonempty(arms.columns_of(options.columns, scores, default), scores)


def _arms_words(selection: Selection) -> str:
    keys = _columns(selection)
    spread = f"The last teacher is scored; mean ± sd over {over(selection)}."
    words = [conditions(selection), spread, MARKS, _definitions(keys)]
    words += ["Δ: arm minus reference.", tested(selection), weighed(selection)] if {"effect", "p"} & set(keys) else []
    return " ".join(word for word in [*words, scored_when(selection)] if word)


def _beside(selection: Selection, *, with_cost: bool) -> list[Table]:
    """Return the table of the other weights that were kept and of cost; none if there is neither."""
    shown = [key for key in arms.BESIDE if with_cost or key not in arms.COST]
    keys = [key for key in shown if key not in arms.COST or _logged(selection, arms.COST[key][1])]
    measure = MEASURES[measure_name(selection.options.metric)]
    kept = set(selection.scores[["checkpoint", "network"]].drop_duplicates().itertuples(index=False, name=None))
    best, student = ("best", "teacher") in kept, ("last", "student") in kept
    keys = [key for key in keys if (best or key not in ("best", "gap")) and (student or key != "student")]
    if keys == ["last"]:
        return []
    words = ["The last teacher is the headline"]
    words += ["the teacher that was best on validation (best) stands beside it with the gap, best minus last"] * best
    words += ["the last student stands beside it"] * student
    words += ["its runs kept no other weights"] * (not best and not student)
    words += ["cost: mean over seeds"] * with_cost
    caption = f"{measure.label(selection.protocol)}. {conditions(selection)} {'; '.join(words)}. Mean ± sd over "
    caption += f"{over(selection)}."
    title = "Checkpoints and cost" if with_cost else "Checkpoints"
    return [arms.tabulate(selection, name="checkpoints", title=title, columns=keys, caption=caption)]


def _logged(selection: Selection, column: str) -> bool:
    return column in selection.cells and bool(selection.cells[column].notna().any())


def _definitions(keys: list[str]) -> str:
    words = []
    if any(key.startswith("asd") for key in keys):
        words.append("ASD is medpy's, from prediction to reference only.")
    if any(key.startswith("hd95") for key in keys):
        words.append("HD95 is medpy's, both directions pooled.")
    if set(keys) & set(LESIONS):
        words.append("Lesion columns: only classes that the data's manifest calls lesions, with its tolerances.")
    if any(key.startswith("volume_error") for key in keys):
        words.append("Volume error: prediction minus reference, so errors of both signs cancel in its mean.")
    if set(keys) & set(SLICES):
        words.append("Slice consistency is held against the reference's own: more than that is too smooth.")
    if "empty" in keys:
        words.append("Empties: cases x classes x seeds with an empty prediction or reference.")
    return " ".join(words)


def _footnotes(selection: Selection, issues: list[integrity.Issue], inside: list[published.Published]) -> list[str]:
    notes = [*integrity.footnotes(issues), *facts.footnotes(selection)]
    notes += [wilcoxon.NOTE] if "wilcoxon" in _columns(selection) else []
    return [*notes, *(companions.note_of(row) for row in inside)]


def _runs(selection: Selection) -> str:
    runs = [
        f"{arm}: {', '.join(f'{seed}={identity}' for seed, identity in zip(_seeds(own), own['identity']))}"
        for arm, own in selection.used.groupby("arm", sort=False)
    ]
    for name, own in selection.rivals.cells.groupby("arm", sort=False):
        runs.append(f"{name}: {', '.join(f'{seed}={run}' for seed, run in zip(own['said'], own['identity']))}")
    return f"Runs (seed=identity): {'; '.join(runs)}."


def _seeds(cells: pd.DataFrame) -> list[str]:
    """Return the seeds of cells, after their draw where there are several: ``1/0`` is draw 1, seed 0."""
    several = cells["draw"].nunique() > 1
    return [f"{draw}/{seed}" if several else f"{seed}" for draw, seed in zip(cells["draw"], cells["seed"])]


def _forest(selection: Selection) -> list[Picture]:
    metric = measure_name(selection.options.metric)
    table = forest.compute(selection.tabled_scores, selection.reference, metric, selection.tabled_arms)
    if table.empty:
        selection.notes.append(f"No effects: reference arm {selection.reference!r} shares no seed with a scored arm.")
        return []
    grey = "In grey: rivals, scored from their predictions. " if selection.rivals.names else ""
    caption = (
        f"Effect of every arm against {selection.reference}, 95 % interval, not corrected; filled where Holm's p is "
        f"below .05 with at least 3 seeds. Dots: single {'runs' if selection.draws > 1 else 'seeds'}. "
        f"{statistics.covers(selection.draws)} {grey}{conditions(selection)}"
    )
    return [Picture("effects", caption, forest.draw, (table, selection.reference, metric))]
