"""The epsilon sweep: do low rates do nothing, do high ones hurt, and is QPM better than the best dropout?

Adds to the generic sections: scores against rate and distortion, QPM against every other family (each represented by
its best rate on validation), and the theory figure. If the codes hardly reach the output, a banner says so first.
"""

from dataclasses import replace

import pandas as pd

from vqseg.report import ablation, divergence, statistics, sweep
from vqseg.report.content import Picture, Report, Section, conditions
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.numbers import cell_p, interval, signed
from vqseg.report.selection import Selection, headline
from vqseg.report.table import Cell, Row, Table


def build(selection: Selection) -> Report:
    """Build the report of an epsilon sweep."""
    table, sentences = against_dropout(selection)
    scores = ablation.scores_section(selection)
    if table is not None:
        scores = replace(scores, tables=[scores.tables[0], table, *scores.tables[1:]])
    return Report(
        title=f"{selection.study['name']}: perturbation rates",
        question=selection.study.get("question", ""),
        banners=ablation.banners(selection, warn_unlogged=True),
        summary=sentences or ablation.best_sentence(selection),
        sections=[scores, _sweep(selection), *ablation.training_sections(selection), _divergence(selection)],
    )


def best_on_validation(selection: Selection, metric: str) -> dict[str, str]:
    """Return for every family the arm with the best mean of ``metric`` on validation (last teacher)."""
    rows = headline(selection.validation)
    if rows.empty:
        column = "validation.last.teacher"
        if column not in selection.used:
            return {}
        means, higher = selection.used.groupby(["family", "arm"])[column].mean(), True
    else:
        means = rows.groupby(["family", "arm", "seed"])[metric].mean().groupby(["family", "arm"]).mean()
        higher = bool(MEASURES[metric].higher_is_better)
    known = means.dropna()
    order = known.sort_values(ascending=not higher).reset_index().drop_duplicates("family")
    return {str(family): str(arm) for family, arm in zip(order["family"], order["arm"])}


def compute(selection: Selection) -> pd.DataFrame:
    """Contrast QPM's best rate with the best rate of every other family, both chosen on validation.

    Returns:
        `statistics.compare`'s columns, QPM minus the other, with ``qpm``; empty if either side is absent.
    """
    metric = measure_name(selection.options.metric)
    best = best_on_validation(selection, metric)
    rows = selection.headline
    if "qpm" not in best or best["qpm"] not in set(rows["arm"].unique()):
        return pd.DataFrame(columns=["arm"])
    valued = rows.assign(value=rows[metric].astype(float) * MEASURES[metric].scale)
    others = [arm for family, arm in best.items() if family != "qpm" and arm in set(rows["arm"].unique())]
    table = statistics.compare(valued, best["qpm"], arms=[arm for arm in selection.arms if arm in others])
    flipped = {"estimate": -table["estimate"], "low": -table["high"], "high": -table["low"]}
    return table.assign(qpm=best["qpm"], **flipped)


def against_dropout(selection: Selection) -> tuple[Table | None, list[str]]:
    """Return the table of `compute` in words, and one sentence per dropout family."""
    table = compute(selection)
    if table.empty:
        return None, []
    decimals, metric = selection.options.decimals, measure_name(selection.options.metric)
    rows, sentences = [], []
    for record in table.to_dict("records"):
        arm, qpm = str(record["arm"]), str(record["qpm"])
        between = interval(record["low"], record["high"], decimals) or "—"
        size = f"{record['seeds']} x {record['patients']}"
        words = [signed(record["estimate"], decimals), between, cell_p(record["p_holm"]), size]
        rows.append(Row(f"{qpm} minus {arm}", [Cell(each) for each in words]))
        if "dropout" in arm:
            sentences.append(ablation.effect_sentence(record, qpm, selection, against=arm))
    caption = (
        "Every family is represented by the rate that was best on validation. "
        + ("Chosen and scored on the same part, so both sides are optimistic. " if selection.part == "val" else "")
        + f"{ablation.tested(selection)} {conditions(selection)}"
    )
    effect = f"Δ {MEASURES[metric].short(selection.protocol)}"
    headers = ["contrast", effect, "95 % interval", "p (Holm)", "seeds x patients"]
    runs = {str(arm): " ".join(own["identity"].unique()) for arm, own in selection.headline.groupby("arm")}
    behind = [f"{runs[str(r['qpm'])]} {runs[str(r['arm'])]}" for r in table.to_dict("records")]
    tidy = table.rename(columns={"estimate": "value"}).assign(column="qpm minus arm", runs=behind)
    return Table("qpm-against", "QPM against the best of the others", headers, rows, caption, tidy), sentences


def _sweep(selection: Selection) -> Section:
    metric = measure_name(selection.options.metric)
    metrics = [name for name in dict.fromkeys(["dice", "hd95_voxel", metric]) if selection.scores[name].notna().any()]
    table = sweep.compute(selection.scores, selection.cells, metrics)
    notes = [] if table["distortion"].notna().any() else ["Distortion was not logged: its panels are empty."]
    caption = (
        "Score against the rate (left) and against the distortion that the rate causes (right, log scale; mean of the "
        "last quarter of training). Marker: mean of an arm; dots to its right: seeds; families are shifted sideways "
        "a little; horizontal: no perturbation. A rate of .7 means "
        f"different things to different arms, so the right panels are the fairer comparison. {conditions(selection)}"
    )
    return Section(
        "Rate and distortion", notes, [], [Picture("sweep", caption, sweep.draw, (table, selection.protocol))]
    )


def _divergence(selection: Selection) -> Section:
    table = divergence.compute(selection.store, selection.cells, selection.usage)
    notes = [] if len(table) else ["No finished QPM run kept its codebook (codes.npz): only the theory is drawn."]
    caption = (
        "KL divergence between codes before and after, and the share of the code's information that survives. Dropout: "
        "1/2 (p/(1-p) + log(1-p)), triangles at p = .3, .5, .7, .9. QPM: from the learned codebooks, dots at each "
        f"arm's own rate, band over runs; its KL is bounded. {divergence.NOT_A_STRENGTH} {conditions(selection)}"
    )
    return Section("Theory", notes, [], [Picture("divergence", caption, divergence.draw, (table,))])
