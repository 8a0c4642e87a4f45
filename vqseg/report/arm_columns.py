"""The numbers of the arms table: one line per arm and column, with the runs behind it; see `vqseg.report.arms`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from vqseg.report import statistics, wilcoxon
from vqseg.report.facts import FACTS
from vqseg.report.measures import MEASURES
from vqseg.report.selection import headline

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
EXTRA = ("empty", "nonempty", "effect", "p", "wilcoxon", "gap", "classes", "lesions")
EFFECT = {"estimate": "effect", "low": "effect_low", "high": "effect_high", "p_holm": "effect_p"}
"""How the columns of `statistics.compare` are called beside the mean that they are about."""

TIDY = [
    *("arm", "column", "value", "sd", "low", "high", "p", *EFFECT.values()),
    *("draws", "seeds", "patients", "left_out", "mark", "runs"),
]


@dataclass(frozen=True)
class _Source:
    """What one column is computed from."""

    scores: pd.DataFrame
    cells: pd.DataFrame
    reference: str
    metric: str

    @cached_property
    def headline(self) -> pd.DataFrame:
        """The last teacher's scores."""
        return headline(self.scores)

    @cached_property
    def arms(self) -> list[str]:
        """All arms, in the cells' order."""
        return list(dict.fromkeys(self.cells["arm"]))

    @cached_property
    def runs(self) -> dict[str, str]:
        """The identities behind every arm's `headline`."""
        return _runs(self.headline)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """Every arm against the reference, in ``metric``."""
        return statistics.compare(_valued(self.headline, self.metric), self.reference, arms=self.arms)


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
        Columns ``arm``, ``column``, ``value``, ``sd`` (over runs), ``low``, ``high``, ``p`` (Holm), ``effect`` against
        the reference with ``effect_low``, ``effect_high`` and ``effect_p`` (Holm) of a score, ``draws``, ``seeds``,
        ``patients``, ``left_out`` (runs without a place in the effect's layout), ``mark`` and ``runs`` (identities);
        in printed units. Arms without scores have no lines.
    """
    source = _Source(scores, cells, reference, metric)
    parts = [_column(key)(source, key).assign(column=key) for key in columns if key not in FACTS]
    filled = [part for part in parts if not part.empty]
    return pd.concat(filled, ignore_index=True).reindex(columns=TIDY) if filled else pd.DataFrame(columns=TIDY)


def effects(scores: pd.DataFrame, reference: str, metric: str, arms: list[str]) -> pd.DataFrame:
    """Contrast every arm's last teacher with the reference, in printed units: see `statistics.compare`."""
    return statistics.compare(_valued(headline(scores), metric), reference, arms=arms)


def _column(key: str) -> Callable[[_Source, str], pd.DataFrame]:
    if key in MEASURES or key.startswith(("class:", "nonempty:")):
        return _scores
    if key in CHECKPOINTS:
        return _checkpoint
    if key in COST:
        return _cost
    return {"empty": _empty, "gap": _gap, "effect": _effect, "p": _effect, "wilcoxon": _wilcoxon}[key]


def _scores(source: _Source, key: str) -> pd.DataFrame:
    rows = source.headline
    metric = key if key in MEASURES else source.metric
    if key.startswith("class:"):
        rows = rows[rows["class_name"] == key.removeprefix("class:")]
    if key.startswith("nonempty:"):
        metric = key.removeprefix("nonempty:")
        rows = rows[~(rows["empty_prediction"] | rows["empty_reference"])]
    valued = _valued(rows, metric)
    better = MEASURES[metric].higher_is_better
    grids = statistics.grids(valued)
    marks = {} if better is None else statistics.marks_of_grids(grids, higher_is_better=better)
    table = _over_seeds(valued, source.runs if len(valued) == len(source.headline) else None)
    effect = statistics.compare_grids(grids, source.reference, source.arms).set_index("arm")
    effect = effect.reindex(table["arm"])
    beside = {name: effect[column].to_numpy() for column, name in EFFECT.items()}
    left = effect["left_out"].to_numpy()
    return table.assign(mark=[marks.get(arm, "") for arm in table["arm"]], left_out=left, **beside)


def _checkpoint(source: _Source, key: str) -> pd.DataFrame:
    _, checkpoint, network = CHECKPOINTS[key]
    rows = source.scores
    return _over_seeds(_valued(rows[(rows["checkpoint"] == checkpoint) & (rows["network"] == network)], source.metric))


def _gap(source: _Source, key: str) -> pd.DataFrame:
    rows = _valued(source.scores[source.scores["network"] == "teacher"], source.metric)
    keys = ["arm", "draw", "seed", "identity", "checkpoint"]
    means = rows.groupby(keys)["value"].mean().unstack("checkpoint")
    if not {"best", "last"} <= set(means):
        return pd.DataFrame(columns=TIDY)
    gaps = (means["best"] - means["last"]).rename("value").reset_index().dropna()
    return _over_seeds(gaps.assign(patient=""))


def _empty(source: _Source, key: str) -> pd.DataFrame:
    rows = source.headline
    odd = rows["empty_prediction"] | rows["empty_reference"]
    counted = rows.assign(value=odd.astype(float), patient=rows["patient"])
    table = _over_seeds(counted, source.runs)
    totals = counted.groupby("arm")["value"].sum()
    return table.assign(value=[totals[arm] for arm in table["arm"]], sd=np.nan)


def _effect(source: _Source, key: str) -> pd.DataFrame:
    table, runs = source.effects, source.runs
    against = runs.get(source.reference, "")
    return pd.DataFrame(
        {
            "arm": table["arm"],
            "value": table["estimate" if key == "effect" else "p_holm"],
            "low": table["low"],
            "high": table["high"],
            "p": table["p_holm"],
            **{name: table[name] for name in ("draws", "seeds", "patients", "left_out")},
            "mark": "",
            "runs": [f"{runs.get(arm, '')} {against}".strip() for arm in table["arm"]],
        }
    )


def _wilcoxon(source: _Source, key: str) -> pd.DataFrame:
    pairs = wilcoxon.compute(_valued(source.headline, source.metric), source.reference)
    if pairs.empty:
        return pd.DataFrame(columns=TIDY)
    runs = source.runs
    table = pairs.groupby("arm", sort=False).agg(
        value=("p", "median"), low=("p", "min"), high=("p", "max"), draws=("draw", "nunique"),
        seeds=("seed", "nunique"), patients=("scans", "max"),
    )  # fmt: skip
    behind = [f"{runs[arm]} {runs[source.reference]}" for arm in table.index]
    return table.reset_index().assign(mark="", runs=behind)


def _cost(source: _Source, key: str) -> pd.DataFrame:
    _, column, scale = COST[key]
    finished = source.cells[source.cells["state"] == "finished"]
    if column not in finished:
        return pd.DataFrame(columns=TIDY)
    valued = finished.assign(value=pd.to_numeric(finished[column], errors="coerce") * scale, patient="")
    return _over_seeds(valued.dropna(subset=["value"]))


def _valued(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    return rows.assign(value=rows[metric].astype(float) * MEASURES[metric].scale)


def _over_seeds(rows: pd.DataFrame, runs: dict[str, str] | None = None) -> pd.DataFrame:
    """Return mean and spread over runs of every arm; ``runs``: the identities behind all rows, where they are known."""
    known = rows["value"].notna()
    rows, runs = (rows, runs) if known.all() else (rows[known], None)
    if rows.empty:
        return pd.DataFrame(columns=TIDY)
    keys = statistics.run_keys(rows)
    means = rows.groupby(keys, sort=False)["value"].mean().groupby("arm", sort=False)
    table = means.agg(value="mean", sd="std", seeds="count").reset_index()
    runs, by_arm = runs or _runs(rows), rows.groupby("arm")
    table["draws"] = 1
    if len(keys) > 2:
        for key in ("draw", "seed"):
            table[f"{key}s"] = by_arm[key].nunique()[table["arm"]].to_numpy()
    patients = by_arm["patient"].nunique()
    return table.assign(mark="", runs=[runs[a] for a in table["arm"]], patients=[patients[a] for a in table["arm"]])


def _runs(rows: pd.DataFrame) -> dict[str, str]:
    pairs = rows[["arm", "identity"]].drop_duplicates()
    return {str(arm): " ".join(runs) for arm, runs in pairs.groupby("arm")["identity"]}


def classes_of(scores: pd.DataFrame) -> list[str]:
    """Return the names of the classes that were scored, in their order."""
    ordered = scores[["class_index", "class_name"]].drop_duplicates().sort_values("class_index")
    return [str(name) for name in ordered["class_name"]]
