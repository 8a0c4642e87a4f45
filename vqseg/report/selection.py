"""Which runs a report speaks about: cells of one study, one part, one protocol, and whether they may stand together.

Only finished runs are tabulated. A table agrees in split, data, step budget, labels, scoring and the hash of every
code module that two runs share, unless the study itself declares the difference; otherwise it refuses. Arms that name
different files of the user's declare one, whatever the files are called.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from vqseg.errors import InputError, pick
from vqseg.manifest import PARTS
from vqseg.records import index
from vqseg.report.measures import completed
from vqseg.report.rivals import Rivals, find, last_of, marks_of

PART_ORDER = ("test", "devtest", "val")
PROTOCOL_ORDER = ("scan", "image", "ssl4mis", "unimatch", "vqseg-release")
AGREE = {
    "data.digest": "data",
    "split.digest": "split",
    "steps": "steps",
    "labels": "labels",
    "preset": "preset",
    "scoring": "scoring code",
    "provenance.precision": "precision",
}
DECLARES = {"steps": "train.steps", "labels": "data.labels", "provenance.precision": "train.precision"}


@dataclass(frozen=True)
class Options:
    """What the user asked for; None leaves the choice to the report."""

    part: str | None = None
    protocol: str | None = None
    metric: str = "dice"
    columns: tuple[str, ...] | None = None
    decimals: int = 2
    allow_mixed: bool = False
    rivals: bool = True


@dataclass(frozen=True)
class Selection:
    """The runs of one study, read and checked.

    ``cells`` has one row per (arm, seed) with everything that `index.frame` knows of its run; ``scores`` the rows of
    the chosen part and protocol with ``arm``, ``seed``, ``family``, ``knob``; ``validation`` the same of part val.
    ``rivals`` are runs that are no cells of the study; what is ``tabled`` is the study and they.
    """

    store: Path
    study: dict[str, Any]
    options: Options
    cells: pd.DataFrame
    scores: pd.DataFrame
    validation: pd.DataFrame
    part: str
    protocol: str
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rivals: Rivals = field(default_factory=Rivals)

    @property
    def arms(self) -> list[str]:
        """Labels of all arms, in the study's order, scored or not."""
        return [arm["label"] for arm in self.study["arms"]]

    @property
    def tabled_arms(self) -> list[str]:
        """The study's arms, then the rivals."""
        return [*self.arms, *self.rivals.names]

    @cached_property
    def tabled_scores(self) -> pd.DataFrame:
        """The scores of the study, then those of the rivals."""
        return pd.concat([self.scores, self.rivals.scores], ignore_index=True) if self.rivals.names else self.scores

    @cached_property
    def tabled_cells(self) -> pd.DataFrame:
        """The cells of the study, then those of the rivals."""
        return pd.concat([self.cells, self.rivals.cells], ignore_index=True) if self.rivals.names else self.cells

    @property
    def reference(self) -> str:
        """The declared reference arm."""
        return str(self.study["reference"])

    @property
    def phantom(self) -> bool:
        """Whether the data are synthetic, so that every product is watermarked."""
        return bool(self.study.get("data", {}).get("synthetic"))

    @cached_property
    def scored(self) -> set[str]:
        """Identities of the runs that have scores here."""
        return set(self.scores["identity"])

    @cached_property
    def used(self) -> pd.DataFrame:
        """The cells that have scores here."""
        return self.cells[self.cells["identity"].isin(self.scored)]

    @cached_property
    def headline(self) -> pd.DataFrame:
        """The scores that are printed first: the last teacher."""
        return headline(self.scores)

    @property
    def missing(self) -> pd.DataFrame:
        """Cells that no table counts: ``arm``, ``seed``, ``state``, ``error``, ``identity``."""
        left = self.cells[~self.cells["identity"].isin(self.scored)].copy()
        left.loc[left["state"] == "finished", "error"] = f"finished, but not scored on {self.part} by {self.protocol}"
        return left[["arm", "seed", "state", "error", "identity"]].fillna("")

    def curves(self, names: list[str]) -> pd.DataFrame:
        """Return logged metrics of all runs with their ``arm``, ``seed``, ``family``, ``knob``."""
        return _joined(index.curves(self.store, list(self.cells["identity"]), names), self.cells)

    def usage(self) -> pd.DataFrame:
        """Return the codebook histograms of all runs with their ``arm``, ``seed``, ``family``, ``knob``."""
        return _joined(index.usage(self.store, list(self.cells["identity"])), self.cells)


def headline(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last teacher."""
    return scores[(scores["checkpoint"] == "last") & (scores["network"] == "teacher")]


def select(store: Path, study: dict[str, Any], options: Options) -> Selection:
    """Read the study's runs and choose part and protocol.

    Raises:
        InputError: nothing is scored, the part or protocol is not there, or the runs do not agree.
    """
    cells = _cells(store, study)
    finished = cells[cells["state"] == "finished"]
    rows = index.rows(store, list(finished["identity"]))
    if rows.empty:
        states = ", ".join(f"{count} {state}" for state, count in cells["state"].value_counts().items())
        raise InputError(
            f"study {study['name']!r}: no finished run has scores yet ({states}); 'vqseg study run' goes on"
        )
    rows = completed(rows[rows["class_index"] > 0])
    notes: list[str] = []
    part = _part(rows, len(finished), options.part, notes)
    protocol = _protocol(rows[rows["part"] == part], options.protocol, part)
    rows = _joined(rows[rows["protocol"] == protocol], cells)
    scores = rows[rows["part"] == part]
    used = finished[finished["identity"].isin(scores["identity"])]
    records = used.to_dict("records")
    cut = [run["name"] for run in records if last_of(run, part, protocol).get("unfinished")]
    if cut:
        raise InputError(
            f"study {study['name']!r}: the last scoring of {cut[0]!r} on {part} was cut short; finish it:"
            f" vqseg study evaluate {study['name']} --part {part} --protocol {protocol}"
        )
    marked = {run["name"]: marks_of(run, part, protocol) for run in records}
    differences = [*disagreements(used, scores, study), *_odd("lesion marks", marked)]
    if differences and not options.allow_mixed:
        raise InputError(
            f"study {study['name']!r}: the runs do not belong in one table: {'; '.join(differences)}; "
            "run the odd ones again, or pass --allow-mixed"
        )
    validation = rows[rows["part"] == "val"]
    others = Rivals()
    if options.rivals:
        others = find(store, study, part=part, protocol=protocol, scores=scores, mixed=options.allow_mixed)
    notes += others.notes
    return Selection(store, study, options, cells, scores, validation, part, protocol, differences, notes, others)


def disagreements(runs: pd.DataFrame, scores: pd.DataFrame, study: dict[str, Any]) -> list[str]:
    """Return in words what differs between runs though the study does not declare it."""
    declared = {key for arm in study["arms"] for key in (arm.get("overrides") or {})}
    found = []
    for column, what in AGREE.items():
        if column not in runs or DECLARES.get(column) in declared:
            continue
        found += _odd(what, dict(zip(runs["name"], runs[column])))
    hashes = scores.groupby("identity")["scoring"].agg(lambda values: " ".join(sorted(set(values))))
    names = dict(zip(runs["identity"], runs["name"]))
    found += _odd("scoring of rows", {names[identity]: value for identity, value in hashes.items()})
    modules: dict[tuple[str, str], dict[str, Any]] = {}
    for name, arm, code in zip(runs["name"], runs["arm"], runs.get("code", [])):
        for module, code_hash in (code if isinstance(code, dict) else {}).items():
            modules.setdefault((module, _file_of(module, arm, study)), {})[name] = code_hash
    for (module, _), hashes_of in modules.items():
        found += _odd(f"code of {module}", hashes_of)
    return list(dict.fromkeys(found))


def _file_of(module: str, arm: str, study: dict[str, Any]) -> str:
    """Return which file an arm means by a user's part (``family file.py:NAME``), as far as the study says."""
    label = module.partition(" ")[2]
    if not label:  # a module of vqseg
        return ""
    own = next((row.get("overrides") or {} for row in study["arms"] if row["label"] == arm), {})
    for settings in (own, study.get("overrides") or {}, study.get("base_config") or {}):
        named = [text for text in _texts(settings) if text == label or text.endswith(f"/{label}")]
        if named:
            return named[0]
    return ""


def _texts(settings: Any) -> Iterator[str]:
    if isinstance(settings, str):
        yield settings
    inner = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    for value in inner:
        yield from _texts(value)


def _odd(what: str, values: dict[str, Any]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(str(value), []).append(name)
    if len(groups) < 2:
        return []
    ranked = sorted(groups.items(), key=lambda item: -len(item[1]))[:2]
    (one, ones), (other, others) = ranked
    return [f"{what} {one} ({ones[0]!r} and {len(ones) - 1} more) against {other} ({others[0]!r})"]


def _cells(store: Path, study: dict[str, Any]) -> pd.DataFrame:
    arms = {arm["label"]: arm for arm in study["arms"]}
    cells = pd.DataFrame(
        [
            {
                "arm": cell["arm"],
                "seed": cell["seed"],
                "identity": cell["identity"],
                "family": arms[cell["arm"]].get("family", cell["arm"]),
                "knob": _number(arms[cell["arm"]].get("knob")),
                "name": cell.get("name", f"{cell['arm']}, seed {cell['seed']}"),
            }
            for cell in study["cells"]
        ]
    )
    runs = index.frame(store, list(cells["identity"]))
    cells = cells.merge(runs.drop(columns=["name", "seed"], errors="ignore"), on="identity", how="left")
    for identity, error in index.failures(store, study).items():  # no run tells of a cell that failed before it began
        cells.loc[(cells["identity"] == identity) & (cells["state"] == "missing"), ["state", "error"]] = "failed", error
    return cells


def _joined(table: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    known = cells[["identity", "arm", "seed", "family", "knob"]]
    return table.merge(known, on="identity", how="inner")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _part(rows: pd.DataFrame, runs: int, asked: str | None, notes: list[str]) -> str:
    counts = {str(name): int(number) for name, number in rows.groupby("part")["identity"].nunique().items()}
    if asked is not None:
        pick(asked, PARTS, "part")
        if asked not in counts:
            raise InputError(
                f"part {asked!r} was not scored (scored: {', '.join(counts)}); 'vqseg study evaluate' scores it"
            )
        return asked
    for part in PART_ORDER:
        if 0 < counts.get(part, 0) < runs:
            notes.append(f"{part} is scored for {counts[part]} of {runs} finished runs only")
    whole = [part for part in PART_ORDER if counts.get(part) == runs]
    return whole[0] if whole else max(PART_ORDER, key=lambda part: counts.get(part, 0))


def _protocol(rows: pd.DataFrame, asked: str | None, part: str) -> str:
    there = set(rows["protocol"])
    if asked is not None:
        pick(asked, dict.fromkeys([*PROTOCOL_ORDER, *sorted(there)]), "protocol")
        if asked not in there:
            raise InputError(f"protocol {asked!r} is not among those scored on {part}: {', '.join(sorted(there))}")
        return asked
    return next((name for name in PROTOCOL_ORDER if name in there), sorted(there)[0])
