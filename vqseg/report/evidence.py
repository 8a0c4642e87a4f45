"""What a study has to say about a claim: the differences between the arms that it means, and what lacks of them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from vqseg.report import codebook, layouts, picking, reach
from vqseg.report.claim import OF_RUNS, Arms, Claim, Held, Premise
from vqseg.report.epsilon import best_on_validation
from vqseg.report.measures import MEASURES
from vqseg.report.picking import ANY, Arm
from vqseg.report.selection import Selection
from vqseg.report.verdict import Moments, moments

Pairs = list[tuple[Arm, Arm]]


@dataclass(frozen=True)
class Part:
    """One contrast of a claim: its words, the weight of every arm, its runs, and its differences signed as claimed.

    ``by_seed`` are the mean differences of single seeds (of every draw), not signed.
    """

    words: str
    weights: dict[str, float]
    moments: Moments
    runs: tuple[str, ...]
    by_seed: tuple[float, ...] = ()


@dataclass
class Evidence:
    """The contrasts that can be computed, and why others cannot.

    Arms lack, were skipped, or are too many to know which is meant (``ambiguous``); ``not_held`` are those that missed
    their target, where that leaves no contrast.
    """

    parts: list[Part] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    not_held: dict[str, str] = field(default_factory=dict)
    ambiguous: str = ""
    notes: list[str] = field(default_factory=list)


class Record:
    """What a study recorded, as claims ask for it; each answer is found once, however many claims ask."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.arms = picking.arms_of(selection.study)
        self._values: dict[str, pd.DataFrame] = {}
        self._grids: dict[str, dict[str, pd.DataFrame]] = {}

    @cached_property
    def reach(self) -> float:
        """Dice (0-1) that replacing every code costs, NaN if it was not logged."""
        return reach.reach(reach.compute(self.selection.used))

    @cached_property
    def learned(self) -> float:
        """Validation Dice (0-1) of the best arm, NaN if it is not known."""
        return reach.learned(self.selection.used)

    @cached_property
    def codebooks(self) -> pd.DataFrame:
        """Every run's use of its codes on the scored part: see `codebook.summarize`."""
        table = codebook.summarize(codebook.compute(self.selection.usage, self.selection.part))
        cells = self.selection.cells.drop_duplicates("identity").set_index("identity")
        ceiling = table["utilization"] / table["ceiling"]
        return table.assign(utilization_of_ceiling=ceiling, draw=table["identity"].map(cells["draw"]))

    def values(self, metric: str) -> pd.DataFrame:
        """Return ``arm``, ``draw``, ``seed``, ``patient``, ``identity``, ``value`` in printed units; of a codebook one
        value per run.
        """
        if metric not in self._values:
            of_runs = metric in OF_RUNS
            rows = self.codebooks.assign(patient="run") if of_runs else self.selection.headline
            scale = (OF_RUNS if of_runs else MEASURES)[metric].scale
            self._values[metric] = rows.assign(value=scale * rows[metric].astype(float)).dropna(subset=["value"])
        return self._values[metric]

    def missed(self, held: Held) -> dict[str, str]:
        """Return the arms of which a run missed what it was to hold, with the worst value in words."""
        column, used = f"late:{held.metric}", self.selection.used
        logged = used[column].astype(float) if column in used else pd.Series(math.nan, index=used.index)
        targets = {arm.label: arm.at.get(held.axis) for arm in self.arms}
        off = {}
        for arm, value in zip(used["arm"], logged):
            target = targets.get(arm)
            if isinstance(target, (int, float)) and not abs(value - target) <= held.within * abs(target):
                off[str(arm)] = "nothing logged" if math.isnan(value) else f"{value:.3g}"
        return off

    def grids(self, metric: str) -> dict[str, pd.DataFrame]:
        """Return the grid of every arm: see `layouts.grids`."""
        if metric not in self._grids:
            self._grids[metric] = layouts.grids(self.values(metric))
        return self._grids[metric]


def gather(claim: Claim | Premise, record: Record, metric: str, sign: float) -> Evidence:
    """Return the evidence for a claim, or for its premise.

    Args:
        claim: what says which arms.
        record: the study's runs.
        metric: the score column, or one of `claim.OF_RUNS`.
        sign: of the differences that count as claimed.
    """
    search = _Search(record.selection, metric, record.arms)
    best = isinstance(claim, Claim) and claim.kind == "best"
    pairs, found = search.against_all(claim) if best else search.pairs(claim), search.found
    pairs = _held(claim.needs.held, pairs, record, found) if isinstance(claim, Claim) and claim.needs.held else pairs
    values, grids = record.values(metric), record.grids(metric)
    found.missing += [arm.label for pair in pairs for arm in pair if arm.label not in grids]
    there = [(one.label, other.label) for one, other in pairs if {one.label, other.label} <= set(grids)]
    contrasts = {f"{one} minus {other}": {one: 1.0, other: -1.0} for one, other in there}
    if isinstance(claim, Claim) and claim.combine == "mean" and len(contrasts) > 1:
        contrasts = {} if found.missing else {_mean_words(claim, len(contrasts)): _mean(contrasts.values())}
    runs = {str(arm): list(own.unique()) for arm, own in values.groupby("arm")["identity"]}
    for words, weights in contrasts.items():
        whole = layouts.layout(grids, weights)
        if not whole.values.size:
            found.missing.append(f"a seed that {' and '.join(weights)} share")
            continue
        if whole.left_out:
            found.notes.append(f"{words}: runs left out because they have no partner: {whole.left_out}.")
        made = moments(sign * whole.values, draws=whole.values.ndim > 2, of_runs=metric in OF_RUNS)
        own = tuple(dict.fromkeys(run for arm in weights for run in runs[arm]))
        by_seed = tuple(whole.values.mean(axis=-1).ravel().tolist())
        found.parts.append(Part(words, weights, made, own, by_seed))
    found.missing = list(dict.fromkeys(found.missing))
    return found


@dataclass
class _Search:
    """Looks for a claim's arms in a study, and keeps what it could not find."""

    selection: Selection
    metric: str
    arms: list[Arm]
    found: Evidence = field(default_factory=Evidence)

    def picked(self, wanted: Arms | None) -> list[Arm]:
        """Return the arms that are wanted and were not skipped; of them the best on validation, if that is wanted."""
        if wanted is None:
            return []
        self.found.missing += picking.absent(self.arms, wanted)
        own = picking.matching(self.arms, wanted)
        self.found.skipped |= {arm.label: arm.skipped for arm in own if arm.skipped}
        there = [arm for arm in own if not arm.skipped]
        lost = [name for name in wanted.family if not picking.matching(self.arms, Arms(family=(name,)))]
        if lost and there:
            self.found.notes.append(f"The study has no arm of family {' or '.join(lost)}.")
        return self._best(there, wanted) if wanted.best_on and there else there

    def against_all(self, claim: Claim | Premise) -> Pairs:
        """Return the arm that is claimed to be best, with every other one."""
        candidates = self.picked(claim.arm)
        others = self.picked(getattr(claim, "among", None))
        if len(candidates) > 1:
            self.found.ambiguous = f"'arm' ({claim.arm.words()}) matches {picking.labels(candidates)}; it must be one"
        if len(candidates) != 1:
            return []
        rest = [arm for arm in others if arm != candidates[0]]
        if not rest and not self.found.missing:
            self.found.missing.append("any other arm")
        return [(candidates[0], other) for other in rest]

    def pairs(self, claim: Claim | Premise) -> Pairs:
        """Return every arm that is claimed something of, with the one that it is held against."""
        ours, theirs = self.picked(claim.arm), self.picked(claim.against)
        axes = claim.matched if isinstance(claim, Claim) else ()
        several = len(claim.against.family) > 1 if claim.against else False
        pairs = []
        for arm in ours:
            partners = [other for other in theirs if other != arm and picking.alike(arm, other, axes)]
            # Of several families that are named, each has its own.
            if len(partners) > (len({other.family for other in partners}) if several else 1):
                self.found.ambiguous = (
                    f"'against' ({claim.against.words() if claim.against else ''}) matches {picking.labels(partners)} "
                    f"for {arm.label}; narrow it, or name the axes that are 'matched'"
                )
                return []
            pairs += [(arm, other) for other in partners]
            if theirs and not partners and axes:
                self.found.notes.append(f"{arm.label} has no partner with the same {' and '.join(axes)}.")
        if axes and ours and theirs and not pairs:
            self.found.missing.append(f"arms that share a place along {' and '.join(axes)}")
        lacking = self.found.missing or self.found.skipped
        if not pairs and not lacking:
            against = claim.against.words() if claim.against else "nothing"
            self.found.ambiguous = (
                f"'arm' ({claim.arm.words()}) is {picking.labels(ours) or 'no arm'} and 'against' ({against}) is "
                f"{picking.labels(theirs) or 'no arm'}; they must be two"
            )
        return pairs

    def _best(self, arms: list[Arm], wanted: Arms) -> list[Arm]:
        """Return the arm with the best mean on validation, as if all were of one family."""
        rows, cells = self.selection.validation, self.selection.cells
        scored = set(self.selection.headline["arm"])
        labels = [arm.label for arm in arms if arm.label in scored]
        # The best of some is not the best of all: the others might be better.
        self.found.missing += [arm.label for arm in arms if arm.label not in scored]
        own = replace(
            self.selection,
            validation=rows[rows["arm"].isin(labels)].assign(family=ANY),
            cells=cells[cells["arm"].isin(labels)].assign(family=ANY),
        )
        label = best_on_validation(own, self.metric if self.metric in MEASURES else "dice").get(ANY)
        if label is None:
            self.found.missing.append(f"validation scores of {wanted.words()}")
            return []
        same = "; scored on the same part, so optimistic for it" if self.selection.part == "val" else ""
        among = f"{len(labels)} of {len(arms)} arms: {', '.join(labels)}"
        self.found.notes.append(f"{label} was chosen on validation among {among}{same}.")
        return [arm for arm in arms if arm.label == label]


def _held(held: Held, pairs: Pairs, record: Record, found: Evidence) -> Pairs:
    """Return the pairs of arms that both met their target."""
    off = record.missed(held)
    met = []
    for one, other in pairs:
        lost = [arm.label for arm in (one, other) if arm.label in off]
        if not lost:
            met.append((one, other))
            continue
        why = ", ".join(f"{label} did not hold its {held.axis} ({off[label]})" for label in lost)
        found.notes.append(f"{one.label} minus {other.label} is left out: {why}.")
    if pairs and not met:
        found.not_held = {arm.label: off[arm.label] for pair in pairs for arm in pair if arm.label in off}
    return met


def _mean(contrasts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    listed = list(contrasts)
    total: dict[str, float] = {}
    for weights in listed:
        for arm, weight in weights.items():
            total[arm] = total.get(arm, 0.0) + weight / len(listed)
    return {arm: weight for arm, weight in total.items() if not np.isclose(weight, 0.0)}


def _mean_words(claim: Claim, pairs: int) -> str:
    against = claim.against.words() if claim.against else ""
    over = f" settings of {', '.join(claim.matched)}" if claim.matched else " pairs"
    return f"{claim.arm.words()} minus {against}, mean over {pairs}{over}"
