"""Rivals: runs that were scored from predictions alone, as further rows of a study's table.

`vqseg score` makes them from what any other program predicted. They join a table if data, split, part and protocol are
the study's; what is not known of them is printed as `?`. A rival's seeds have nothing to do with the study's, so its
runs are paired with the reference's seeds in order.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vqseg.records import index
from vqseg.records.run import latest
from vqseg.report.measures import completed

FAMILY = "rival"
MARK = "‡"


@dataclass(frozen=True)
class Rivals:
    """``cells``: one row per run, ``arm`` being the method's name, ``seed`` the one that it is paired with;
    ``scores``: their rows of the table's part and protocol; ``notes``: what was left out, and why.
    """

    cells: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["arm", "seed", "identity"]))
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The methods, in order."""
        return list(dict.fromkeys(self.cells["arm"]))


@dataclass(frozen=True)
class _Wanted:
    """What a run has to be to stand in a table; no ``scoring`` allows any code."""

    study: dict[str, Any]
    part: str
    protocol: str
    scoring: set[str]
    marks: set[str]


def find(
    store: Path, study: dict[str, Any], *, part: str, protocol: str, scores: pd.DataFrame, mixed: bool = False
) -> Rivals:
    """Find the rivals that may stand in the study's table.

    Args:
        store: the store.
        study: the study's record.
        part: the table's part.
        protocol: the table's protocol.
        scores: the study's own rows of that part and protocol.
        mixed: also take rivals that other scoring code scored.
    """
    known = index.frame(store, index.foreign(store, str(study["data"]["digest"])))
    if known.empty:
        return Rivals()
    known = known[known["state"] == "finished"]
    rows = index.rows(store, list(known["identity"]))
    if rows.empty:
        return Rivals()
    rows = rows[(rows["class_index"] > 0) & (rows["part"] == part) & (rows["protocol"] == protocol)]
    # A method that was scored on several parts is several runs: those of other parts count only if it has none here.
    scored = known["identity"].isin(rows["identity"].unique())
    known = known[scored | ~known["name"].isin(known.loc[scored, "name"])]
    ours = index.frame(store, list(scores["identity"].unique())).to_dict("records")
    marks = {marks_of(run, part, protocol) for run in ours}
    table = _Wanted(study, part, protocol, set() if mixed else set(scores["scoring"].unique()), marks)
    kept, refused = [], []
    for run in known.to_dict("records"):
        if reason := _reason(run, rows[rows["identity"] == run["identity"]], table):
            refused.append(f"{run['name']}, scored from its predictions, is left out: {reason}.")
        else:
            kept.append(run["identity"])
    known, notes = _newest(known[known["identity"].isin(kept)])
    notes += refused
    cells = _cells(known, study, scores)
    paired = cells[["identity", "arm", "seed", "family", "knob"]]
    return Rivals(cells, completed(rows.merge(paired, on="identity", how="inner")), list(dict.fromkeys(notes)))


def marks_of(run: Mapping[Hashable, Any], part: str, protocol: str) -> str:
    """Return in words how lesions were marked when a run's rows of a part and protocol were made.

    Args:
        run: a row of `index.frame`.
        part: the part.
        protocol: the protocol.

    Returns:
        Classes with their tolerances, such as ``lesion=2``, or ``none``; older records do not tell, and count as none.
    """
    marks = last_of(run, part, protocol).get("lesions") or {}
    return ", ".join(f"{name}={tolerance:g}" for name, tolerance in sorted(marks.items())) or "none"


def last_of(run: Mapping[Hashable, Any], part: str, protocol: str) -> dict[str, Any]:
    """Return the evaluation that a run's rows of a part and protocol are of, empty where none is known."""
    listed = run.get("evaluations")
    return latest(listed, part).get(protocol, {}) if isinstance(listed, list) else {}


def _newest(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep the newest run of every method, seed and split: the same predictions scored twice are no second seed."""
    called = [_called(run) for run in runs.to_dict("records")]
    ordered = runs.assign(called=called).sort_values("called", ascending=False, kind="stable")
    ordered = ordered.assign(said=[_seed(seed) for seed in ordered["seed"]])
    again = ordered.duplicated(["name", "said", "split.digest"])
    notes = [
        f"{name}, seed {seed}: scored {len(own) + 1} times, the newest stands here"
        + ("; give every run its --seed if they are several." if seed == "?" else ".")
        for (name, seed), own in ordered[again].groupby(["name", "said"])
    ]
    return ordered[~again], notes


def _called(run: Mapping[Hashable, Any]) -> str:
    """Return when a run was last asked for with 'vqseg score'; of older ones, when it was last scored, or made."""
    listed = run.get("evaluations")
    dates = [str(one.get("date", "")) for one in listed] if isinstance(listed, list) else []
    said = (run.get("called"), *reversed(dates), run.get("created"))
    return next((one for one in said if isinstance(one, str) and one), "")


def _reason(run: Mapping[Hashable, Any], rows: pd.DataFrame, table: _Wanted) -> str:
    """Return why a run cannot stand in the table, empty if it can."""
    split = table.study["split"]
    if run.get("split.digest") != split["digest"]:
        return f"its split is {run.get('split.name')}, not {split['name']}"
    if rows.empty:
        return f"not scored on {table.part} by {table.protocol}"
    if last_of(run, table.part, table.protocol).get("unfinished"):
        return "its last scoring was cut short; 'vqseg score' finishes it"
    if table.scoring and not set(rows["scoring"].unique()) <= table.scoring:
        return "other scoring code scored it than the study; score again, by either command, what is older"
    marks = marks_of(run, table.part, table.protocol)
    if marks not in table.marks:
        theirs = f"lesions were marked {marks} when it was scored, {' or '.join(sorted(table.marks))} for the study"
        return f"{theirs}; score again, by 'vqseg score' or 'vqseg study evaluate', what is older"
    return ""


def _cells(runs: pd.DataFrame, study: dict[str, Any], scores: pd.DataFrame) -> pd.DataFrame:
    labels = {arm["label"] for arm in study["arms"]}
    own = scores[scores["arm"] == study["reference"]] if (scores["arm"] == study["reference"]).any() else scores
    seeds = sorted(int(seed) for seed in own["seed"].unique())
    parts = []
    for name, group in runs.groupby("name", sort=True):
        group = group.assign(order=pd.to_numeric(group["seed"])).sort_values(["order", "identity"])
        # Runs beyond the reference's have nothing to be paired with, and numbers of their own.
        beyond = range(max(seeds, default=-1) + 1, max(seeds, default=-1) + 1 + len(group))
        label = f"{name} (predictions)" if name in labels else str(name)
        parts.append(group.assign(arm=label, seed=[*seeds, *beyond][: len(group)], family=FAMILY, knob=float("nan")))
    return pd.concat(parts, ignore_index=True) if parts else Rivals().cells.assign(family="", knob=0.0)


def _seed(value: Any) -> str:
    return "?" if value is None or pd.isna(value) else f"{int(value)}"
