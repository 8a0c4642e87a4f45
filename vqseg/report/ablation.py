"""The generic report of any study: arms table, checkpoints and cost, effects, curves, reach, codebooks.

Other reports take these sections as they are and add their own.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from vqseg.report import arms, codebook, curves, forest, published, reach, statistics, style
from vqseg.report.content import Picture, Report, Section, conditions, scored_when
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

BROKEN = "† mean Jaccard below D/(2-D) of the mean Dice, which no set of cases can give."
MARKS = (
    "Bold: the best arm and every arm that cannot be told from it (Holm over the contrasts with the best, level .05); "
    "underlined: the best of the others. Arms with fewer than 3 seeds are not ranked."
)
TEST = (
    "Seeds are crossed with patients (a patient's scans and classes averaged), t interval with Satterthwaite's degrees "
    "of freedom, p after Holm."
)


def build(selection: Selection) -> Report:
    """Build the generic report."""
    return Report(
        title=f"{selection.study['name']}: arms",
        question=selection.study.get("question", ""),
        banners=reach.banners(selection.cells),
        summary=best_sentence(selection),
        sections=[scores_section(selection), *training_sections(selection)],
    )


def scores_section(selection: Selection) -> Section:
    """Return the arms table, its published companions, checkpoints and cost, and the forest of effects."""
    options = selection.options
    keys = arms.columns_of(options.columns, selection.scores)
    keys = arms.with_nonempty(keys, selection.headline)
    words = [conditions(selection), "The last teacher is scored; mean ± sd over seeds.", MARKS, _asd(keys)]
    words += ["Δ: arm minus reference.", TEST] if {"effect", "p"} & set(keys) else []
    words += [scored_when(selection)]
    main = arms.tabulate(
        selection, name="arms", title="Arms", columns=keys, caption=" ".join(word for word in words if word)
    )
    inside, beside = _published(selection)
    rows = _flagged(main.rows, selection)
    rows += [_foreign(row, keys, options.decimals, number == 0) for number, row in enumerate(inside)]
    main = replace(main, rows=rows, footnotes=_footnotes(rows, inside), runs=_runs(selection))
    tables = [main]
    if options.columns is None:
        tables.append(_beside(selection))
    tables += [_panel(beside, options.decimals)] if beside else []
    return Section("Scores", selection.notes, tables, _forest(selection))


def training_sections(selection: Selection) -> list[Section]:
    """Return training curves, reach and codebook health, as far as the runs logged them."""
    return [
        section
        for section in (_curves(selection), reach_section(selection), _codebooks(selection))
        if section.pictures or section.paragraphs
    ]


def reach_section(selection: Selection) -> Section:
    """Return the reach figure with its caption."""
    table = reach.compute(selection.cells)
    if table.empty:
        return Section("Reach", ["Reach was not logged by any finished run."])
    mean = reach.reach(table)
    caption = (
        f"Dice lost and pixels that change class on validation when the codes are perturbed, at the last validation. "
        f"Reach (uniform replacement at rate 1): {mean:.3f} Dice. Dots: seeds. {conditions(selection)}"
    )
    return Section("Reach", [], [], [Picture("reach", caption, reach.draw(table))])


def best_sentence(selection: Selection) -> list[str]:
    """Say in one sentence which arm leads and whether that can be told from the reference."""
    metric = measure_name(selection.options.metric)
    measure = MEASURES[metric]
    rows = selection.headline
    means = rows.groupby(["arm", "seed"])[metric].mean().groupby("arm").mean() * measure.scale
    means = means.dropna()
    if means.empty:
        return []
    if len(means) > 1 and np.isclose(means.max(), means.min(), rtol=0, atol=1e-9):
        value = f"{means.iloc[0]:.{selection.options.decimals}f} {measure.label(selection.protocol)}"
        return [f"All arms have the same mean, {value}."]
    best = str(means.idxmax() if measure.higher_is_better else means.idxmin())
    sentence = f"Highest mean: {best}" if measure.higher_is_better else f"Lowest mean: {best}"
    sentence += f", {means[best]:.{selection.options.decimals}f} {measure.label(selection.protocol)}."
    if best == selection.reference or selection.reference not in means:
        return [sentence]
    table = forest.compute(selection.scores, selection.reference, metric, selection.arms)
    row = table[table["arm"] == best]
    return [sentence] + [effect_sentence(each, best, selection) for each in row.to_dict("records")]


def effect_sentence(row: Mapping[Hashable, Any], arm: str, selection: Selection, against: str | None = None) -> str:
    """Word one contrast with its interval, its size and what it allows to say."""
    decimals, measure = selection.options.decimals, MEASURES[measure_name(selection.options.metric)]
    interval = f"[{arms.signed(row['low'], decimals)}, {arms.signed(row['high'], decimals)}]"
    known = not math.isnan(row["low"])
    verdict, unit = "one seed or one patient gives no interval", measure.short(selection.protocol)
    if known:
        told = row["p_holm"] < statistics.ALPHA
        better = (row["estimate"] > 0) == measure.higher_is_better
        verdict = ("better" if better else "worse") if told else "cannot be told apart"
        verdict += f" (p {arms.worded_p(row['p_holm'])} after Holm)"
        if row["seeds"] < statistics.LEAST_SEEDS:
            verdict = f"only {row['seeds']:.0f} seeds, no verdict"
    return (
        f"{arm} against {against or selection.reference} on {selection.study['data']['name']} ({selection.part}): "
        f"{arms.signed(row['estimate'], decimals)} {unit}{' ' + interval if known else ''}, "
        f"{row['seeds']:.0f} seeds x {row['patients']:.0f} patients: {verdict}."
    )


def _beside(selection: Selection) -> Table:
    keys = [key for key in arms.BESIDE if key not in arms.COST or _logged(selection, arms.COST[key][1])]
    measure = MEASURES[measure_name(selection.options.metric)]
    caption = (
        f"{measure.label(selection.protocol)}. {conditions(selection)} The last "
        "teacher is the headline; the teacher that was best on validation (best) stands beside it with the gap, best "
        "minus last, and the last student. Mean ± sd over seeds; cost: mean over seeds."
    )
    return arms.tabulate(selection, name="checkpoints", title="Checkpoints and cost", columns=keys, caption=caption)


def _logged(selection: Selection, column: str) -> bool:
    return column in selection.cells and bool(selection.cells[column].notna().any())


def _asd(keys: list[str]) -> str:
    words = []
    if any(key.startswith("asd") for key in keys):
        words.append("ASD is medpy's, from prediction to reference only.")
    if any(key.startswith("hd95") for key in keys):
        words.append("HD95 is medpy's, both directions pooled.")
    if "empty" in keys:
        words.append("Empties: cases x classes x seeds with an empty prediction or reference.")
    return " ".join(words)


def _flagged(rows: list[Row], selection: Selection) -> list[Row]:
    means = selection.headline.groupby("arm")[["dice", "jaccard"]].mean()
    broken = {arm for arm, row in means.iterrows() if published.breaks_convexity(row["dice"], row["jaccard"], 1e-9)}
    return [replace(row, label=f"{row.label} †") if arm in broken else row for arm, row in zip(selection.arms, rows)]


def _published(selection: Selection) -> tuple[list[published.Published], list[published.Published]]:
    cells, column = selection.cells, "split.parts.labelled.patients"
    counts = list(cells[column].dropna().unique()) if column in cells else []
    return published.split_by_protocol(
        published.load(),
        data=str(selection.study["data"]["name"]),
        labelled=int(counts[0]) if len(counts) == 1 else None,
        part=selection.part,
        protocol=selection.protocol,
        topics=[str(selection.study["study"])],
    )


def _footnotes(rows: list[Row], inside: list[published.Published]) -> list[str]:
    notes = [f"{row.method}: {row.source} [{row.trust}: {published.TRUST[row.trust]}]; {row.note}." for row in inside]
    return [BROKEN, *notes] if any("†" in row.label for row in rows) else notes


def _runs(selection: Selection) -> str:
    runs = [
        f"{arm}: {', '.join(f'{seed}={identity}' for seed, identity in zip(own['seed'], own['identity']))}"
        for arm, own in selection.used.groupby("arm", sort=False)
    ]
    return f"Runs (seed=identity): {'; '.join(runs)}."


def _foreign(row: published.Published, keys: list[str], decimals: int, first: bool) -> Row:
    cells = [Cell("?"), *(_value(row, key, decimals) for key in keys)]
    return Row(f"{row.method} [{row.trust}]{' †' if row.breaks_convexity else ''}", cells, ruled=first)


def _value(row: published.Published, key: str, decimals: int) -> Cell:
    if key not in row.values:
        return Cell("?")
    return Cell(f"{row.values[key] * MEASURES[key].scale:.{decimals}f}", tip=row.source)


def _panel(rows: list[published.Published], decimals: int) -> Table:
    keys = [key for key in MEASURES if any(key in row.values for row in rows)]
    lines, previous = [], None
    for row in rows:
        shown = "?" if row.protocol == "unknown" else row.protocol
        cells = [Cell(row.data), Cell(row.labels), Cell(row.part), Cell(shown)]
        cells += [_value(row, key, decimals) for key in keys] + [Cell(f"{row.source} [{row.trust}]")]
        lines.append(
            Row(f"{row.method}{' †' if row.breaks_convexity else ''}", cells, ruled=previous not in (None, row.source))
        )
        previous = row.source
    values = [{"arm": r.method, "column": k, "value": v, "runs": r.source} for r in rows for k, v in r.values.items()]
    used = {row.trust for row in rows}
    notes = dict.fromkeys(f"{row.source}: {row.note}." for row in rows)
    return Table(
        name="published",
        title="Published, other protocol",
        headers=["method", "data", "labels", "part", "protocol", *(MEASURES[key].header for key in keys), "source"],
        rows=lines,
        caption=(
            "Not comparable with the table above: data, number of labels, part or protocol differ or are not stated "
            "(?). Dice and Jaccard in %, distances as printed. "
            + "; ".join(f"[{mark}] {words}" for mark, words in published.TRUST.items() if mark in used)
            + f". {BROKEN}"
        ),
        tidy=pd.DataFrame(values),
        footnotes=list(notes),
    )


def _forest(selection: Selection) -> list[Picture]:
    metric = measure_name(selection.options.metric)
    table = forest.compute(selection.scores, selection.reference, metric, selection.arms)
    if table.empty:
        selection.notes.append(f"No effects: reference arm {selection.reference!r} shares no seed with a scored arm.")
        return []
    caption = (
        f"Effect of every arm against {selection.reference}, 95 % interval; filled where Holm's p is below .05 with at "
        f"least 3 seeds. Dots: single seeds. {conditions(selection)}"
    )
    return [Picture("effects", caption, forest.draw(table, selection.reference, metric))]


def _curves(selection: Selection) -> Section:
    table = curves.compute(selection.curves([curves.NAME]))
    if table.empty:
        return Section("Training", ["No validation curve was logged."])
    caption = f"Validation Dice of the teacher during training; band: range over seeds. {conditions(selection)}"
    return Section("Training", [], [], [Picture("curves", caption, curves.draw(table))])


def _codebooks(selection: Selection) -> Section:
    logged = selection.curves(codebook.NAMES)
    ranked = codebook.compute(selection.usage(), selection.part)
    health = codebook.summarize(ranked)
    pictures = []
    for arm in selection.study["arms"]:
        label = arm["label"]
        own, bars = logged[logged["arm"] == label], ranked[ranked["arm"] == label]
        if own.empty and bars.empty:
            continue
        figure = codebook.draw(own, bars, str(arm.get("family", label)))
        pictures.append(
            Picture(f"codebook-{style.slug(label)}", _codebook_words(label, health, bars, selection), figure)
        )
    return Section("Codebook", [] if pictures else ["No codebook was logged."], [], pictures)


def _codebook_words(label: str, health: pd.DataFrame, bars: pd.DataFrame, selection: Selection) -> str:
    own = health[health["arm"] == label]
    words = f"Codebook of {label}: in training over a window of tokens, and the teacher's sorted usage. "
    if len(own):
        first = own.iloc[0]
        words += (
            f"On {bars['part'].iloc[0]}, {first['tokens']:,.0f} tokens and {first['codes']:,} codes: "
            f"{100 * own['utilization'].mean():.1f} % used, ceiling {100 * first['ceiling']:.1f} %, "
            f"perplexity {own['perplexity'].mean():,.0f}. "
        )
        if first["tokens"] < 10 * first["codes"]:
            words += "Fewer than 10 tokens per code: no claim about utilization. "
    return words + conditions(selection)
