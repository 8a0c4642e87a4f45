"""The arms table: one row per arm, scores with spread over seeds, effect against the reference, cost.

The numbers are `vqseg.report.arm_columns`'; `tabulate` words them. The printed mean is over scored cases and classes,
then over seeds (over runs, where the labelled patients were drawn several times); effects and marks use the patient as
unit. Every score has its own effect against the reference in its tip.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from vqseg.errors import pick
from vqseg.report import facts, statistics, wilcoxon
from vqseg.report.arm_columns import CHECKPOINTS, COST, EXTRA, classes_of, compute, effects
from vqseg.report.content import size_words
from vqseg.report.facts import FACTS
from vqseg.report.measures import DISTANCES, LESIONS, MEASURES, SHORT, measure_name
from vqseg.report.numbers import cell_p, interval, signed, worded_p
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

__all__ = ["BESIDE", "COST", "DEFAULT", "columns_of", "compute", "effects", "tabulate", "with_nonempty"]

DEFAULT = (
    *("dice", "jaccard", "hd95_voxel", "asd_voxel", "lesion_sensitivity", "false_positives", "surface_dice"),
    *("empty", "effect", "p"),
)
BESIDE = ("last", "best", "gap", "student", "parameters", "ms", "memory", "hours")


def columns_of(asked: tuple[str, ...] | None, scores: pd.DataFrame, default: tuple[str, ...] = DEFAULT) -> list[str]:
    """Return the columns' keys: those asked for, or ``default``; measures without a single number fall out by default.

    Raises:
        InputError: unknown column.
    """
    known = [*MEASURES, *SHORT, *EXTRA, *CHECKPOINTS, *COST, *FACTS]
    if asked is None:
        keys = [key for key in default if key not in MEASURES or (key in scores and scores[key].notna().any())]
    else:
        keys = [SHORT.get(key, key) for key in (pick(word, known, "column") for word in asked)]
    classes = [f"class:{name}" for name in classes_of(scores)]
    shown = [key for key in keys if key in DISTANCES] or ["hd95_voxel"]
    lesions = [key for key in LESIONS if key in scores and scores[key].notna().any()] or list(LESIONS)
    groups = {"classes": classes, "nonempty": [f"nonempty:{key}" for key in shown], "lesions": lesions}
    return [each for key in keys for each in groups.get(key, [key])]


def with_nonempty(keys: list[str], rows: pd.DataFrame) -> list[str]:
    """Return ``keys`` with the mean over non-empty cases of every distance among them, if ``rows`` has empties."""
    if not (rows["empty_prediction"] | rows["empty_reference"]).any():
        return keys
    shown = [key for key in keys if key in DISTANCES and rows[key].notna().any()]
    beside = [f"nonempty:{key}" for key in shown if f"nonempty:{key}" not in keys]
    place = 1 + max((keys.index(key) for key in (*shown, "empty") if key in keys), default=0)
    return [*keys[:place], *beside, *keys[place:]]


def tabulate(
    selection: Selection,
    *,
    name: str,
    title: str,
    columns: list[str],
    caption: str,
    ticks: Mapping[str, Mapping[str, str]] | None = None,
    rivals: bool = False,
) -> Table:
    """Word the numbers of `compute`: one row per arm of the study, also of those that have no scores yet.

    ``columns`` are `columns_of`'s keys; ``ticks`` are columns before all others, header -> arm -> words; ``rivals``
    says whether they follow the arms.
    """
    metric, leading = measure_name(selection.options.metric), ticks or {}
    scores = selection.tabled_scores if rivals else selection.scores
    cells = selection.tabled_cells if rivals else selection.cells
    tidy = compute(scores, cells, reference=selection.reference, columns=columns, metric=metric)
    lookup = {(line["arm"], line["column"]): line for line in tidy.to_dict("records")}
    decimals, reference = selection.options.decimals, selection.reference
    arms = selection.tabled_arms if rivals else selection.arms
    rows, counts = [], _counts(selection, arms)
    for arm in arms:
        row = [Cell(words.get(arm, "")) for words in leading.values()]
        row += [counts[arm]]
        for key in columns:
            line = lookup.get((arm, key))
            known = key not in FACTS
            row += [_worded(line, key, decimals, reference) if known else Cell(facts.fact(selection, arm, key))]
        label = facts.label_of(selection, arm, ticks=" ".join(words.get(arm, "") for words in leading.values()))
        rows.append(Row(label, row, ruled=arm in selection.rivals.names[:1]))
    counted = "seeds" if selection.draws < 2 else "runs"
    headers = ["arm", *leading, counted, *(_header(key, metric, selection.protocol) for key in columns)]
    return Table(name=name, title=title, headers=headers, rows=rows, caption=caption, tidy=tidy)


def _counts(selection: Selection, arms: list[str]) -> dict[str, Cell]:
    """Return, by arm, how many of its cells are scored; a rival has no cells that it could lack."""
    states: dict[str, list[str]] = {arm: [] for arm in arms}
    scored = dict.fromkeys(arms, 0)
    cells, several = selection.tabled_cells, selection.draws > 1
    said = cells["said"].where(cells["said"].notna(), cells["seed"]) if selection.rivals.names else cells["seed"]
    columns = [cells[key].tolist() for key in ("arm", "draw", "state", "identity")]
    for arm, draw, state, identity, seed in zip(*columns, said.tolist()):
        if arm in states:
            states[arm].append(f"{f'draw {draw}, ' if several else ''}seed {seed}: {state} {identity}")
            scored[arm] += identity in selection.scored
    theirs = set(selection.rivals.names)
    return {
        arm: Cell(f"{len(own)}" if arm in theirs else f"{scored[arm]}/{len(own)}", tip="; ".join(own))
        for arm, own in states.items()
    }


def _header(key: str, metric: str, protocol: str) -> str:
    if key in MEASURES:
        return MEASURES[key].label(protocol)
    if key.startswith("class:"):
        return f"{MEASURES[metric].short(protocol)} {key.removeprefix('class:')}"
    if key.startswith("nonempty:"):
        return f"{MEASURES[key.removeprefix('nonempty:')].short(protocol)} non-empty"
    if key in CHECKPOINTS:
        return f"{MEASURES[metric].short(protocol)} {CHECKPOINTS[key][0]}"
    if key in COST or key in FACTS:
        return COST[key][0] if key in COST else FACTS[key]
    unit = MEASURES[metric].short(protocol)
    return {
        "empty": "empties",
        "gap": "gap",
        "effect": f"Δ {unit} [95 %]",
        "p": "p (Holm)",
        "wilcoxon": wilcoxon.HEADER,
    }[key]


def _worded(line: Mapping[Hashable, Any] | None, key: str, decimals: int, reference: str) -> Cell:
    if line is None:
        return Cell("—")
    value, sd = float(line["value"]), float(line["sd"])
    low, high, tip = float(line["low"]), float(line["high"]), _tip(line, key, decimals, reference)
    if np.isnan(value):
        return Cell("—", tip=tip)
    if key == "p":
        return Cell(cell_p(value), tip=tip)
    if key == "wilcoxon":
        return Cell(" to ".join(dict.fromkeys((cell_p(low), cell_p(high)))), tip=tip)
    if key == "effect":
        return Cell(f"{signed(value, decimals)} {interval(low, high, decimals)}".strip(), tip=tip)
    if key in ("empty", "ms", "memory"):
        return Cell(f"{value:.0f}", tip=tip)
    spread = f" ± {sd:.{decimals}f}" if not np.isnan(sd) and key not in ("parameters", "hours") else ""
    has_sign = key == "gap" or key.startswith("volume_error")
    text = signed(value, decimals) if has_sign else f"{value:.{decimals}f}"
    return Cell(text + spread, line["mark"], tip)


def _tip(line: Mapping[Hashable, Any], key: str, decimals: int, reference: str) -> str:
    """Return what stands behind a cell: its effect with interval and p, how many runs and patients, and which runs."""
    behind = f"runs {line['runs']}"
    if key == "wilcoxon":
        pairs = int(line["draws"] * line["seeds"])
        of = f"up to {line['patients']:.0f} scans, {pairs} pair{'s' * (pairs != 1)} of runs"
        return f"{wilcoxon.WORDS}; {of}; {behind}"
    if key in COST or key == "gap":
        return f"{line['seeds']:g} seeds; {behind}"
    size = size_words(line)
    if np.isnan(effect := float(line["effect"])):
        return f"{size}; {behind}"
    between = interval(line["effect_low"], line["effect_high"], decimals)
    against = f"{signed(effect, decimals)} {between}".strip() + f" against {reference}"
    if line["seeds"] >= statistics.LEAST_SEEDS and not np.isnan(line["effect_p"]):
        against += f" (95 %, not corrected; p {worded_p(line['effect_p'])} after Holm)"
    return f"{against}; {size}; {behind}"
