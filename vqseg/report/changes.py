"""What differs between two sides (two stores, or two studies of one): runs, scores, printed numbers, verdicts.

A study is compared with the one of its name, or, where each side is but one study, with that. Cells are the same where
arm, draw and seed are; their scores are held against each other seed by seed and patient by patient.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vqseg.errors import InputError
from vqseg.files import digest
from vqseg.records import differences, index
from vqseg.records.run import RunFolder
from vqseg.report import bound, claims, integrity, report_of, rivals, statistics
from vqseg.report.content import Report
from vqseg.report.measures import MEASURES
from vqseg.report.options import Options
from vqseg.report.selection import Selection
from vqseg.report.surroundings import Source
from vqseg.report.table import Table

SAME = "same"
MARKS = "".join([rivals.MARK, *integrity.MARKS.values()])
"""What a row's label may end with: footnotes."""

MOST = 6
"""So many differences of a pair of runs are told, then how many more there are."""


@dataclass(frozen=True)
class Side:
    """One study of one side with its report, or why it has none."""

    store: Path
    record: dict[str, Any]
    selection: Selection | None = None
    report: Report | None = None
    refused: str = ""


@dataclass(frozen=True)
class Pair:
    """One study as it was and as it is; a side is None where it has no such study."""

    name: str
    old: Side | None
    new: Side | None

    @property
    def whole(self) -> tuple[Side, Side] | None:
        """Both sides, None where one of them has no such study."""
        return (self.old, self.new) if self.old and self.new else None


def pairs(old: Source, new: Source, options: Options) -> list[Pair]:
    """Return the studies of two sides, each with its partner."""
    sides = [{str(study["name"]): (store, study) for study in studies} for store, studies in (old, new)]
    if all(len(side) == 1 for side in sides):
        (one,), (other,) = (tuple(side) for side in sides)
        names = [(one if one == other else f"{one} and {other}", one, other)]
    else:
        names = [(name, name, name) for name in dict.fromkeys([*sides[0], *sides[1]])]
    found = []
    for name, one, other in names:
        found.append(Pair(name, *(_side(side.get(key), options) for side, key in zip(sides, (one, other)))))
    return found


def runs(pair: Pair) -> pd.DataFrame:
    """Return one row per cell: ``study``, ``arm``, ``draw``, ``seed``, ``change``, ``why``, and the two identities.

    ``change`` is `SAME`, new, gone, other settings, other circumstances (data, split, code, versions, machine), other
    state, or other scores where nothing else differs.
    """
    sides = [_cells(side) for side in (pair.old, pair.new)]
    rows = []
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = (side.get(key) for side in sides)
        change, why = _change(pair, one, other)
        named = dict(zip(("arm", "draw", "seed"), key))
        rows.append({"study": pair.name, **named, "change": change, "why": why, "old": one or "", "new": other or ""})
    columns = ["study", "arm", "draw", "seed", "change", "why", "old", "new"]
    return pd.DataFrame(rows, columns=columns)


def scores(pair: Pair, metric: str) -> pd.DataFrame:
    """Return one row per arm that both sides scored: ``arm``, ``before``, ``after``, and `statistics.assess`'s columns.

    Only cells that both sides have count, on the part and protocol of both; ``runs`` are their identities. In printed
    units; empty where the sides have no part and protocol in common.
    """
    if pair.whole is None:
        return pd.DataFrame(columns=["arm"])
    old, new = (side.selection for side in pair.whole)
    if old is None or new is None or (old.part, old.protocol) != (new.part, new.protocol):
        return pd.DataFrame(columns=["arm"])
    rows = []
    scale = MEASURES[metric].scale
    for arm in (label for label in old.arms if label in new.arms):
        both = [own.headline[own.headline["arm"] == arm] for own in (old, new)]
        known = [each.assign(draw=each.get("draw", 0), value=each[metric].astype(float) * scale) for each in both]
        keys = [set(zip(each["draw"], each["seed"])) for each in known]
        there = [each[[key in keys[0] & keys[1] for key in zip(each["draw"], each["seed"])]] for each in known]
        if there[0].empty or there[1].empty:
            continue
        table = pd.concat([each.assign(arm=side) for each, side in zip(there, ("old", "new"))], ignore_index=True)
        tested = statistics.assess(table, {arm: {"new": 1.0, "old": -1.0}})
        means = [float(each.groupby("identity")["value"].mean().mean()) for each in there]
        named = {"study": pair.name, "arm": arm, "before": means[0], "after": means[1]}
        identities = " ".join(dict.fromkeys([*there[0]["identity"], *there[1]["identity"]]))
        rows += [named | line | {"runs": identities} for line in tested.to_dict("records")]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["arm"])


def printed(pair: Pair) -> pd.DataFrame:
    """Return the printed numbers that differ: ``study``, ``table``, ``row``, ``column``, and ``old`` and ``new``.

    Only what both sides print counts: rows that one of them lacks are cells that are new or gone.
    """
    texts = [_texts(side.report) if side and side.report else {} for side in (pair.old, pair.new)]
    if pair.whole is None or not all(texts):
        return pd.DataFrame(columns=["study", "table", "row", "column", "old", "new"])
    rows = []
    for key, words in texts[0].items():
        if texts[1].get(key, words) != words:
            place = dict(zip(("table", "row", "column"), key))
            rows.append({"study": pair.name, **place, "old": words, "new": texts[1][key]})
    return pd.DataFrame(rows, columns=["study", "table", "row", "column", "old", "new"])


def verdicts(old: Source, new: Source, options: Options) -> tuple[pd.DataFrame, int]:
    """Return the claims whose verdict differs, and how many were held against each other.

    Columns: ``claim``, ``study``, ``old``, ``new`` (verdicts in words), ``old_effect``, ``new_effect``.
    """
    alone = len(old[1]) == len(new[1]) == 1
    sides = []
    for store, studies in (old, new):
        own = claims.verdicts(store, studies, options)
        sides.append({(v.claim.name, "" if alone else str(v.study["name"])): v for v in own if v.study is not None})
    rows, common = [], [key for key in sides[0] if key in sides[1]]
    for key in common:
        one, other = (side[key] for side in sides)
        if one.outcome != other.outcome:
            effects = {f"{name}_effect": v.effect(options.decimals) for name, v in (("old", one), ("new", other))}
            rows.append({"claim": one.claim.claim, "study": key[1], "old": one.word, "new": other.word, **effects})
    columns = ["claim", "study", "old", "new", "old_effect", "new_effect"]
    return pd.DataFrame(rows, columns=columns), len(common)


def _side(found: tuple[Path, dict[str, Any]] | None, options: Options) -> Side | None:
    if found is None:
        return None
    store, study = found
    try:
        own = bound.of_study(report_of(study), store, study, options)
    except InputError as error:
        return Side(store, study, refused=str(error))
    return Side(store, study, own.selection, own.report)


def _cells(side: Side | None) -> dict[tuple[str, int, int], str]:
    if side is None:
        return {}
    cells = side.record["cells"]
    return {(str(cell["arm"]), int(cell.get("draw", 0)), int(cell["seed"])): str(cell["identity"]) for cell in cells}


def _change(pair: Pair, old: str | None, new: str | None) -> tuple[str, str]:
    """Return what became of a cell, and why in words."""
    if old is None or new is None:
        return ("new" if old is None else "gone"), ""
    assert pair.old is not None
    assert pair.new is not None
    one, other = RunFolder(pair.old.store, old), RunFolder(pair.new.store, new)
    if one.path.resolve() == other.path.resolve():
        return SAME, ""
    if not (one.exists() and other.exists()):
        there = [run.exists() for run in (one, other)]
        return (SAME, "") if not any(there) else ("other state", "started" if there[1] else "not there any more")
    settings = differences.settings(one.config(), other.config())
    around = differences.circumstances(one.status(), other.status())
    if settings or old != new:
        return "other settings" if settings else "other circumstances", _told({**settings, **around})
    states = (one.state(), other.state())
    if states[0] != states[1]:
        return "other state", f"{states[0]} → {states[1]}"
    if _rows(one) != _rows(other):
        return (
            ("other scores", _told(around) or "scored anew") if not around else ("other circumstances", _told(around))
        )
    return SAME, ""


def _rows(run: RunFolder) -> str:
    """Return a digest of the scores of a run, whenever they were made."""
    table = index.rows(run.store, [run.identity])
    if table.empty:
        return ""
    plain = table.drop(columns=["evaluated"], errors="ignore")
    return digest(plain.to_csv(index=False), 32)


def _told(found: Mapping[str, tuple[Any, Any]]) -> str:
    words = [f"{key} {_shown(one)} → {_shown(other)}" for key, (one, other) in found.items()]
    more = f" and {len(words) - MOST} more" if len(words) > MOST else ""
    return "; ".join(words[:MOST]) + more


def _shown(value: Any) -> str:
    words = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return words if len(words) <= 24 else f"{words[:21]}..."


def _texts(report: Report) -> dict[tuple[str, str, str], str]:
    return {key: words for section in report.sections for each in section.tables for key, words in _cells_of(each)}


def _cells_of(table: Table) -> Iterator[tuple[tuple[str, str, str], str]]:
    seen: dict[str, int] = {}
    for row in table.rows:
        # A mark comes and goes with the numbers, and the row stays the same.
        name = row.label.rstrip(f" {MARKS}")
        seen[name] = seen.get(name, 0) + 1
        # Rows of one label, as in a table of published numbers, are told apart by their order.
        label = name if seen[name] == 1 else f"{name} ({seen[name]})"
        for header, cell in zip(table.headers[1:], row.cells):
            yield (table.name, label, header), cell.text
