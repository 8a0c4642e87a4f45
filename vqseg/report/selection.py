"""Which runs a report speaks about: cells of one study, one part, one protocol, and whether they may stand together.

Only finished runs are tabulated, and only those that agree (`vqseg.report.agreement`); otherwise a report refuses.
A run that several cells of one arm mean is counted once.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from vqseg.errors import InputError, pick
from vqseg.manifest import PARTS
from vqseg.records import index
from vqseg.report.agreement import disagreements, odd
from vqseg.report.measures import MEASURES, completed
from vqseg.report.options import Options
from vqseg.report.rivals import Rivals, find, last_of, marks_of

PART_ORDER = ("test", "devtest", "val")
PROTOCOL_ORDER = ("scan", "image", "ssl4mis", "unimatch", "vqseg-release")
COLUMNS = (
    *("part", "checkpoint", "network", "protocol", "case", "patient", "class_index", "class_name"),
    *("empty_prediction", "empty_reference", "scoring", *MEASURES),
)
"""Of the scored rows, what reports read."""

DRAWN = ["val/dice_teacher", "codebook/utilization", "codebook/ceiling", "codebook/perplexity", "codebook/dead"]
"""Of the logged metrics, what figures draw: read at one go, because those of a run are one file."""


@dataclass(frozen=True)
class Selection:
    """The runs of one study, read and checked.

    ``cells`` has one row per (arm, draw, seed) with everything that `index.frame` knows of its run; ``scores`` the rows
    of the chosen part and protocol with ``arm``, ``draw`` (of the labelled patients, 0 where a study has but one),
    ``seed``, ``family``, ``knob``; ``validation`` the same of part val. ``rivals`` are runs that are no cells of the
    study; what is ``tabled`` is the study and they.
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
        return set(self.scores["identity"].unique())

    @cached_property
    def used(self) -> pd.DataFrame:
        """The cells that have scores here."""
        return self.cells[self.cells["identity"].isin(self.scored)]

    @cached_property
    def headline(self) -> pd.DataFrame:
        """The scores that are printed first: the last teacher."""
        return headline(self.scores)

    @cached_property
    def tabled_headline(self) -> pd.DataFrame:
        """The last teacher's scores of the study, then those of the rivals."""
        return headline(self.tabled_scores) if self.rivals.names else self.headline

    @property
    def draws(self) -> int:
        """How many draws of the labelled patients have scores here."""
        return max(int(self.scores["draw"].nunique()), 1)

    @property
    def missing(self) -> pd.DataFrame:
        """Cells that no table counts: ``arm``, ``draw``, ``seed``, ``state``, ``error``, ``identity``."""
        left = self.cells[~self.cells["identity"].isin(self.scored)].copy()
        left.loc[left["state"] == "finished", "error"] = f"finished, but not scored on {self.part} by {self.protocol}"
        pruned = left["state"] == "pruned"
        if pruned.any():
            why = left.get("pruned.why", pd.Series("", index=left.index)).fillna("").astype(str)
            left.loc[pruned, "error"] = why[pruned].mask(why[pruned] == "", "given up by the search")
        return left[["arm", "draw", "seed", "state", "error", "identity"]].fillna("")

    @property
    def skipped(self) -> dict[str, str]:
        """Arms that the study left out before anything started, with the reason."""
        return {str(arm["label"]): str(arm.get("reason") or "no reason given") for arm in self.study.get("skipped", [])}

    def curves(self, names: list[str]) -> pd.DataFrame:
        """Return some of the `DRAWN` metrics of all runs with their ``arm``, ``seed``, ``family``, ``knob``."""
        return self._drawn[self._drawn["name"].isin(names)]

    @cached_property
    def _drawn(self) -> pd.DataFrame:
        return _joined(index.curves(self.store, list(self.cells["identity"]), DRAWN), self.cells)

    @cached_property
    def usage(self) -> pd.DataFrame:
        """The codebook histograms of all runs with their ``arm``, ``seed``, ``family``, ``knob``."""
        columns = ("part", "network", "code", "tokens")
        return _joined(index.usage(self.store, list(self.cells["identity"]), columns), self.cells)

    @cached_property
    def by_arm(self) -> dict[str, pd.DataFrame]:
        """The cells of every arm, rivals among them."""
        return {str(arm): own for arm, own in self.tabled_cells.groupby("arm", sort=False)}

    @cached_property
    def of_arm(self) -> dict[str, dict[str, Any]]:
        """What the study says of every arm."""
        return {str(arm["label"]): arm for arm in reversed(self.study["arms"])}


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
    rows = index.rows(store, list(finished["identity"]), COLUMNS)
    if rows.empty:
        states = ", ".join(f"{count} {state}" for state, count in cells["state"].value_counts().items())
        raise InputError(
            f"study {study['name']!r}: no finished run has scores yet ({states}); 'vqseg study run' goes on"
        )
    foreground = rows["class_index"] > 0
    rows = completed(rows if foreground.all() else rows[foreground])
    notes: list[str] = []
    part = _part(rows, finished["identity"].nunique(), options.part, notes)
    protocol = _protocol(rows.loc[rows["part"] == part, "protocol"], options.protocol, part)
    rows = _joined(rows[(rows["protocol"] == protocol) & ((rows["part"] == part) | (rows["part"] == "val"))], cells)
    scores = rows[rows["part"] == part]
    used = finished[finished["identity"].isin(scores["identity"].unique())]
    records = used.to_dict("records")
    cut = [run["name"] for run in records if last_of(run, part, protocol).get("unfinished")]
    if cut:
        raise InputError(
            f"study {study['name']!r}: the last scoring of {cut[0]!r} on {part} was cut short; finish it:"
            f" vqseg study evaluate {study['name']} --part {part} --protocol {protocol}"
        )
    marked = {run["name"]: marks_of(run, part, protocol) for run in records}
    differences = [*disagreements(used, scores, study), *odd("lesion marks", marked)]
    if differences and not options.allow_mixed:
        raise InputError(
            f"study {study['name']!r}: the runs do not belong in one table: {'; '.join(differences)}; "
            "run the odd ones again, or pass --allow-mixed"
        )
    validation = rows[rows["part"] == "val"]
    others = Rivals()
    if options.rivals:
        others = find(store, study, part=part, protocol=protocol, scores=scores, mixed=options.allow_mixed)
        # A rival's labelled patients are its own business; it is held against the study's first draw.
        first = scores["draw"].min()
        others = replace(others, cells=others.cells.assign(draw=first), scores=others.scores.assign(draw=first))
    notes += [*others.notes, *_repeats(cells)]
    return Selection(store, study, options, cells, scores, validation, part, protocol, differences, notes, others)


def _cells(store: Path, study: dict[str, Any]) -> pd.DataFrame:
    arms = {arm["label"]: arm for arm in study["arms"]}
    columns = ["arm", "draw", "seed", "identity", "family", "knob", "name"]
    cells = pd.DataFrame(
        [
            (
                cell["arm"],
                cell.get("draw", 0),
                cell["seed"],
                cell["identity"],
                arms[cell["arm"]].get("family", cell["arm"]),
                _number(arms[cell["arm"]].get("knob")),
                cell.get("name", f"{cell['arm']}, seed {cell['seed']}"),
            )
            for cell in study["cells"]
        ],
        columns=columns,
    )
    runs = index.frame(store, list(cells["identity"]))
    cells = cells.merge(runs.drop(columns=["name", "seed"], errors="ignore"), on="identity", how="left")
    for identity, error in index.failures(store, study).items():  # no run tells of a cell that failed before it began
        cells.loc[(cells["identity"] == identity) & (cells["state"] == "missing"), ["state", "error"]] = "failed", error
    return cells


def _joined(table: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    known = cells[["identity", "arm", "draw", "seed", "family", "knob"]]
    if not known["identity"].is_unique:  # arms that are the same run; within one arm it would be counted twice
        return table.merge(known.drop_duplicates(["identity", "arm"]), on="identity", how="inner")
    places = pd.Index(known["identity"]).get_indexer(table["identity"])
    table, places = (table, places) if (places >= 0).all() else (table[places >= 0], places[places >= 0])
    added = known.drop(columns="identity").take(places).reset_index(drop=True)
    return pd.concat([table.reset_index(drop=True), added], axis=1)


def _repeats(cells: pd.DataFrame) -> list[str]:
    """Say which arms have cells that are one run."""
    again = cells[cells.duplicated(["arm", "identity"])]
    return [
        f"{arm}: {len(own)} of its cells are a run that another one is too (the same labelled patients): counted once."
        for arm, own in again.groupby("arm", sort=False)
    ]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _part(rows: pd.DataFrame, runs: int, asked: str | None, notes: list[str]) -> str:
    counts = {
        str(name): int(n) for name, n in rows[["part", "identity"]].drop_duplicates().groupby("part").size().items()
    }
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


def _protocol(protocols: pd.Series, asked: str | None, part: str) -> str:
    there = set(protocols.unique())
    if asked is not None:
        pick(asked, dict.fromkeys([*PROTOCOL_ORDER, *sorted(there)]), "protocol")
        if asked not in there:
            raise InputError(f"protocol {asked!r} is not among those scored on {part}: {', '.join(sorted(there))}")
        return asked
    return next((name for name in PROTOCOL_ORDER if name in there), sorted(there)[0])
