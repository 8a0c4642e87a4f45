"""The arms table: one row per arm, scores with spread over seeds, effect against the reference, cost.

`compute` makes the tidy numbers, one line per (arm, column) with the runs behind it; `tabulate` words them.
The printed mean is over scored cases and classes, then over seeds; effect and marks use the patient as unit.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vqseg.errors import pick
from vqseg.report import facts, statistics
from vqseg.report.facts import FACTS
from vqseg.report.measures import DISTANCES, LESIONS, MEASURES, SHORT, measure_name
from vqseg.report.numbers import cell_p, interval, signed
from vqseg.report.selection import Selection, headline
from vqseg.report.table import Cell, Row, Table

DEFAULT = (
    *("dice", "jaccard", "hd95_voxel", "asd_voxel", "lesion_sensitivity", "false_positives", "surface_dice"),
    *("empty", "effect", "p"),
)
BESIDE = ("last", "best", "gap", "student", "parameters", "ms", "memory", "hours")
COST = {
    "parameters": ("params (M)", "cost.parameters", 1e-6),
    "ms": ("ms per step", "cost.ms_per_step", 1.0),
    "memory": ("peak MB", "cost.peak_memory_mb", 1.0),
    "hours": ("hours", "cost.train_seconds", 1 / 3600),
}
CHECKPOINTS = {
    "last": ("last", "last", "teacher"),
    "best": ("best", "best", "teacher"),
    "student": ("student", "last", "student"),
    "best-student": ("best student", "best", "student"),
}
EXTRA = ("empty", "nonempty", "effect", "p", "gap", "classes", "lesions")
TIDY = ["arm", "column", "value", "sd", "low", "high", "p", "seeds", "patients", "mark", "runs"]


@dataclass(frozen=True)
class _Source:
    """What one column is computed from."""

    scores: pd.DataFrame
    cells: pd.DataFrame
    reference: str
    metric: str


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
    classes = [f"class:{name}" for name in _classes(scores)]
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


def compute(
    scores: pd.DataFrame, cells: pd.DataFrame, *, reference: str, columns: list[str], metric: str = "dice"
) -> pd.DataFrame:
    """Compute every cell of the table.

    Args:
        scores: rows of one part and protocol with ``arm`` and ``seed``, all checkpoints and networks.
        cells: one row per (arm, seed), see `Selection`.
        reference: the arm that effects are measured against.
        columns: keys, see `columns_of`.
        metric: the score column of ``effect``, ``p``, ``last``, ``best``, ``gap``, ``student`` and ``class:NAME``.

    Returns:
        Columns ``arm``, ``column``, ``value``, ``sd`` (over seeds), ``low``, ``high``, ``p`` (Holm), ``seeds``,
        ``patients``, ``mark`` and ``runs`` (identities); in printed units. Arms without scores have no lines.
    """
    source = _Source(scores, cells, reference, metric)
    parts = [_column(key)(source, key).assign(column=key) for key in columns if key not in FACTS]
    filled = [part for part in parts if not part.empty]
    return pd.concat(filled, ignore_index=True).reindex(columns=TIDY) if filled else pd.DataFrame(columns=TIDY)


def effects(scores: pd.DataFrame, reference: str, metric: str, arms: list[str]) -> pd.DataFrame:
    """Contrast every arm's last teacher with the reference, in printed units: see `statistics.compare`."""
    return statistics.compare(_valued(headline(scores), metric), reference, arms=arms)


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
    rows = []
    for arm in selection.tabled_arms if rivals else selection.arms:
        row = [Cell(words.get(arm, "")) for words in leading.values()]
        row += [_seeds(selection, arm)]
        for key in columns:
            line = lookup.get((arm, key))
            known = key not in FACTS
            row += [_worded(line, key, selection.options.decimals) if known else Cell(facts.fact(selection, arm, key))]
        label = facts.label_of(selection, arm, ticks=" ".join(words.get(arm, "") for words in leading.values()))
        rows.append(Row(label, row, ruled=arm in selection.rivals.names[:1]))
    headers = ["arm", *leading, "seeds", *(_header(key, metric, selection.protocol) for key in columns)]
    return Table(name=name, title=title, headers=headers, rows=rows, caption=caption, tidy=tidy)


def _seeds(selection: Selection, arm: str) -> Cell:
    """Return how many of an arm's cells are scored; a rival has no cells that it could lack."""
    own = selection.by_arm.get(arm, selection.cells[:0])
    if arm in selection.rivals.names:
        return Cell(f"{len(own)}", tip=_states(own.assign(seed=own["said"])))
    scored = sum(identity in selection.scored for identity in own["identity"])
    return Cell(f"{scored}/{len(own)}", tip=_states(own))


def _column(key: str) -> Callable[[_Source, str], pd.DataFrame]:
    if key in MEASURES or key.startswith(("class:", "nonempty:")):
        return _scores
    if key in CHECKPOINTS:
        return _checkpoint
    if key in COST:
        return _cost
    return {"empty": _empty, "gap": _gap, "effect": _effect, "p": _effect}[key]


def _scores(source: _Source, key: str) -> pd.DataFrame:
    rows = headline(source.scores)
    metric = key if key in MEASURES else source.metric
    if key.startswith("class:"):
        rows = rows[rows["class_name"] == key.removeprefix("class:")]
    if key.startswith("nonempty:"):
        metric = key.removeprefix("nonempty:")
        rows = rows[~(rows["empty_prediction"] | rows["empty_reference"])]
    valued = _valued(rows, metric)
    better = MEASURES[metric].higher_is_better
    marks = {} if better is None else statistics.marks(valued, higher_is_better=better)
    table = _over_seeds(valued)
    return table.assign(mark=[marks.get(arm, "") for arm in table["arm"]])


def _checkpoint(source: _Source, key: str) -> pd.DataFrame:
    _, checkpoint, network = CHECKPOINTS[key]
    rows = source.scores
    return _over_seeds(_valued(rows[(rows["checkpoint"] == checkpoint) & (rows["network"] == network)], source.metric))


def _gap(source: _Source, key: str) -> pd.DataFrame:
    rows = _valued(source.scores[source.scores["network"] == "teacher"], source.metric)
    means = rows.groupby(["arm", "seed", "identity", "checkpoint"])["value"].mean().unstack("checkpoint")
    if not {"best", "last"} <= set(means):
        return pd.DataFrame(columns=TIDY)
    gaps = (means["best"] - means["last"]).rename("value").reset_index().dropna()
    return _over_seeds(gaps.assign(patient=""))


def _empty(source: _Source, key: str) -> pd.DataFrame:
    rows = headline(source.scores)
    odd = rows["empty_prediction"] | rows["empty_reference"]
    counted = rows.assign(value=odd.astype(float), patient=rows["patient"])
    table = _over_seeds(counted)
    totals = counted.groupby("arm")["value"].sum()
    return table.assign(value=[totals[arm] for arm in table["arm"]], sd=np.nan)


def _effect(source: _Source, key: str) -> pd.DataFrame:
    table = effects(source.scores, source.reference, source.metric, list(dict.fromkeys(source.cells["arm"])))
    runs = _runs(headline(source.scores))
    against = runs.get(source.reference, "")
    return pd.DataFrame(
        {
            "arm": table["arm"],
            "value": table["estimate" if key == "effect" else "p_holm"],
            "low": table["low"],
            "high": table["high"],
            "p": table["p_holm"],
            "seeds": table["seeds"],
            "patients": table["patients"],
            "mark": "",
            "runs": [f"{runs.get(arm, '')} {against}".strip() for arm in table["arm"]],
        }
    )


def _cost(source: _Source, key: str) -> pd.DataFrame:
    _, column, scale = COST[key]
    finished = source.cells[source.cells["state"] == "finished"]
    if column not in finished:
        return pd.DataFrame(columns=TIDY)
    valued = finished.assign(value=pd.to_numeric(finished[column], errors="coerce") * scale, patient="")
    return _over_seeds(valued.dropna(subset=["value"]))


def _valued(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    return rows.assign(value=rows[metric].astype(float) * MEASURES[metric].scale)


def _over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.dropna(subset=["value"])
    if rows.empty:
        return pd.DataFrame(columns=TIDY)
    means = rows.groupby(["arm", "seed"], sort=False)["value"].mean().groupby("arm", sort=False)
    table = means.agg(value="mean", sd="std", seeds="count").reset_index()
    runs, patients = _runs(rows), rows.groupby("arm")["patient"].nunique()
    return table.assign(
        mark="", runs=[runs[arm] for arm in table["arm"]], patients=[patients[arm] for arm in table["arm"]]
    )


def _runs(rows: pd.DataFrame) -> dict[str, str]:
    pairs = rows[["arm", "identity"]].drop_duplicates()
    return {str(arm): " ".join(runs) for arm, runs in pairs.groupby("arm")["identity"]}


def _classes(scores: pd.DataFrame) -> list[str]:
    ordered = scores[["class_index", "class_name"]].drop_duplicates().sort_values("class_index")
    return [str(name) for name in ordered["class_name"]]


def _states(cells: pd.DataFrame) -> str:
    states = zip(cells["seed"], cells["state"], cells["identity"])
    return "; ".join(f"seed {seed}: {state} {identity}" for seed, state, identity in states)


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
    }[key]


def _worded(line: Mapping[Hashable, Any] | None, key: str, decimals: int) -> Cell:
    if line is None:
        return Cell("—")
    value, sd = float(line["value"]), float(line["sd"])
    low, high = float(line["low"]), float(line["high"])
    seeds, patients = line["seeds"], line["patients"]
    tip = f"{seeds:g} seeds, {patients:g} patients; runs {line['runs']}"
    if np.isnan(value):
        return Cell("—", tip=tip)
    if key == "p":
        return Cell(cell_p(value), tip=tip)
    if key == "effect":
        return Cell(f"{signed(value, decimals)} {interval(low, high, decimals)}".strip(), tip=tip)
    if key in ("empty", "ms", "memory"):
        return Cell(f"{value:.0f}", tip=tip)
    spread = f" ± {sd:.{decimals}f}" if not np.isnan(sd) and key not in ("parameters", "hours") else ""
    has_sign = key == "gap" or key.startswith("volume_error")
    text = signed(value, decimals) if has_sign else f"{value:.{decimals}f}"
    return Cell(text + spread, line["mark"], tip)
