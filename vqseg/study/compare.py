"""Two runs side by side: the settings that differ, whatever else does, and the scores, paired by patient.

Loads no torch. Scores are those of the teacher, mean over a patient's cases and foreground classes, then over patients.
"""

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqseg.errors import InputError, pick
from vqseg.manifest import PARTS
from vqseg.records import differences, index
from vqseg.records.run import RunFolder, resolve

if TYPE_CHECKING:
    import pandas as pd

CAUTION = (
    "Two runs prove nothing about the methods behind them: another seed, or other patients, can turn such a difference"
    " around. A study with several seeds and its report can tell."
)
SCORES = ("dice", "jaccard", "hd95_voxel", "asd_voxel")
WHERE = ["part", "protocol", "checkpoint"]
COLUMNS = (*WHERE, "network", "patient", "class_index", *SCORES)

Pair = tuple[RunFolder, RunFolder]


def find_run(store: Path, reference: str) -> RunFolder:
    """Find a run: by its identity or the beginning of it, its folder, or as ``STUDY:CELL`` (``modules:QPM, seed 0``).

    Raises:
        InputError: none or several match.
    """
    study, colon, cell = reference.partition(":")
    if not colon or Path(reference).exists():
        return resolve(store, reference)
    record = index.find_study(store, study, one=True)
    cells = {one["name"]: one["identity"] for one in record["cells"]}
    run = RunFolder(store, cells[pick(cell.strip(), cells, f"cell of study {record['name']}")])
    if not run.exists():
        raise InputError(f"run {reference!r}: was not started yet; 'vqseg study run {record['study']}' goes on")
    return run


def compared(one: RunFolder, other: RunFolder) -> dict[str, Any]:
    """Return what differs between two runs, as plain data.

    Keys: ``runs``, ``settings`` (dotted key -> both values), ``circumstances`` (data, split, code, machine -> both),
    ``validation`` (last and best teacher), ``scores`` (one per part, protocol and kept teacher) and ``caution``.

    Raises:
        InputError: it is twice the same run, or a record is damaged.
    """
    if one.path.resolve() == other.path.resolve():
        raise InputError(f"{one.identity}: is compared with itself; name two runs")
    pair = (one, other)
    statuses = (one.status(), other.status())
    runs = [
        {"identity": run.identity, "name": status.get("name"), "state": run.state()}
        for run, status in zip(pair, statuses)
    ]
    return {
        "runs": runs,
        "settings": _listed(differences.settings(one.config(), other.config())),
        "circumstances": _listed(differences.circumstances(*statuses)),
        "validation": dict(_validation(*statuses)),
        "scores": sorted(_scores(pair, statuses), key=_order),
        "caution": CAUTION,
    }


def _validation(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what the curve said: the Dice of the last teacher, and of the best one."""
    found = [status.get("validation") or {} for status in (one, other)]
    last = [(each.get("last") or {}).get("teacher") for each in found]
    best = [((each.get("best") or {}).get("teacher") or {}).get("dice") for each in found]
    for name, values in (("last teacher", last), ("best teacher", best)):
        one_value, other_value = values
        if one_value is not None and other_value is not None:
            yield name, {"values": values, "difference": other_value - one_value}


def _scores(pair: Pair, statuses: tuple[dict[str, Any], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row per part, protocol and kept teacher that both runs were scored for."""
    tables = [_by_patient(run) for run in pair]
    data = [(status.get("data") or {}).get("digest") for status in statuses]
    for where in tables[0].keys() & tables[1].keys():
        one, other = (table[where] for table in tables)
        common = one.index.intersection(other.index) if data[0] == data[1] else one.index[:0]
        scores = {}
        for score in SCORES:
            values = (one[score], other[score]) if common.empty else (one.loc[common, score], other.loc[common, score])
            scores[score] = _score(*values, paired=not common.empty)
        alone = [len(table) - len(common) for table in (one, other)]
        yield {**dict(zip(WHERE, where)), "patients": len(common), "alone": alone, "scores": scores}


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return PARTS.index(row["part"]), row["protocol"], row["checkpoint"] != "last"


def _score(one: "pd.Series[float]", other: "pd.Series[float]", *, paired: bool) -> dict[str, Any]:
    """Return both means, their difference over ``n`` patients, and of how many patients the second is the larger."""
    if not paired:
        return {"values": [_number(one.mean()), _number(other.mean())], "difference": None, "n": 0, "larger": 0}
    apart = (other - one).dropna()
    known = apart.index
    return {
        "values": [_number(one[known].mean()), _number(other[known].mean())],
        "difference": _number(apart.mean()),
        "n": len(known),
        "larger": int((apart > 0).sum()),
    }


def _by_patient(run: RunFolder) -> dict[tuple[Hashable, ...], "pd.DataFrame"]:
    """Return the mean scores of every patient, for every part, protocol and checkpoint of the teacher."""
    rows = index.rows(run.store, [run.identity], COLUMNS)
    if rows.empty:
        return {}
    foreground = rows[(rows["network"] == "teacher") & (rows["class_index"] > 0)]
    groups = foreground.groupby(WHERE, sort=False)
    return {where: group.groupby("patient", sort=False)[list(SCORES)].mean() for where, group in groups}


def _listed(pairs: differences.Pairs) -> dict[str, list[Any]]:
    """Return both values as JSON has them."""
    return {key: list(values) for key, values in pairs.items()}


def _number(value: float) -> float | None:
    """Return a number, None where there is none: JSON has no NaN."""
    return None if value != value else float(value)
