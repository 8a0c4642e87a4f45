"""The paper's claims, each with a verdict on every study of the store that speaks about it.

A verdict is of one claim and one study, and names the data, the preset, the seeds, the patients and the runs. Intervals
and verdicts are single ones: every claim is a contrast that was declared before its runs. Beside them stands Holm's p
over all claims that were tested on the same study, for whoever reads them as one table.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vqseg.errors import InputError, pick
from vqseg.manifest import PARTS
from vqseg.report import claim_pages, obstacles, statistics
from vqseg.report.claim import OF_RUNS, Claim, load
from vqseg.report.content import Report
from vqseg.report.evidence import Evidence, Part, Record, gather
from vqseg.report.numbers import interval, signed
from vqseg.report.obstacles import Obstacle
from vqseg.report.options import Options
from vqseg.report.selection import Selection, select
from vqseg.report.verdict import Outcome, Settling, outcome, rule, rule_each, settle


@dataclass(frozen=True)
class Verdict:
    """What a study says about a claim.

    ``parts`` are the contrasts that could be computed, also where the claim could not be tested (``obstacles`` say why
    not). ``p`` is the smallest level at which the claim would be confirmed, ``p_holm`` the same over all claims that
    were tested on this study; NaN where it was not. No ``study``: none was run.
    """

    claim: Claim
    outcome: Outcome
    study: Mapping[str, Any] | None = None
    selection: Selection | None = None
    parts: tuple[Part, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[str, ...] = ()
    settling: Settling | None = None
    p: float = math.nan
    p_holm: float = math.nan

    @property
    def data(self) -> str:
        """Data set, part and preset: ``acdc devtest, cpu``; a dash where nothing was run."""
        if self.study is None:
            return "—"
        part = f" {self.selection.part}" if self.selection else ""
        return f"{self.study['data']['name']}{part}, {self._preset}"

    @property
    def phantom(self) -> bool:
        """Whether the data are synthetic."""
        return bool(self.study and self.study.get("data", {}).get("synthetic"))

    @property
    def decisive(self) -> Part | None:
        """The contrast that decides: one that refutes, else one that leaves it open, else the weakest."""
        ranked = sorted(self.parts, key=lambda part: (self._rank(part), self._weakness(part)))
        return ranked[0] if ranked else None

    @property
    def runs(self) -> tuple[str, ...]:
        """Identities of all runs behind the verdict."""
        return tuple(dict.fromkeys(run for part in self.parts for run in part.runs))

    @property
    def word(self) -> str:
        """The verdict in words: ``not tested (phantom)``, ``refuted``."""
        short = ", ".join(dict.fromkeys(each.short for each in self.obstacles))
        return f"not tested ({short})" if self.outcome == "not tested" else self.outcome

    @property
    def remedy(self) -> str:
        """What would settle it, empty where it is settled."""
        if self.outcome == "not tested":
            return self.obstacles[0].remedy
        part = self.decisive
        return self.settling.words(part.moments) if self.settling and part else ""

    def of(self, part: Part, level: float = statistics.ALPHA) -> tuple[float, float, float]:
        """Return estimate and interval of a part: arm minus against, in printed units."""
        own = part.moments.observed
        low, high = sorted(self.claim.sign * float(end) for end in own.interval(level))
        return self.claim.sign * float(own.value), low, high

    def of_part(self, part: Part) -> Outcome:
        """Return what one of several contrasts says, at the level that it has among them."""
        if self.outcome == "not tested":
            return "not tested"
        rulings = rule_each(self.claim.kind, [each.moments.observed for each in self.parts], self.claim.least)
        return outcome(rulings[self.parts.index(part)])

    def effect(self, decimals: int, part: Part | None = None) -> str:
        """Return ``+0.31 Dice [-0.38, +0.99]`` of the decisive part, or of ``part``; empty without numbers."""
        chosen = part or self.decisive
        if chosen is None:
            return ""
        value, low, high = self.of(chosen)
        return f"{signed(value, decimals)} {self.unit} {interval(low, high, decimals)}".rstrip()

    @property
    def unit(self) -> str:
        """What differences are called: ``Dice``, ``HD95 (voxel)``, points of a codebook's utilization."""
        protocol = self.selection.protocol if self.selection else "scan"
        measure = self.claim.measure
        return measure.unit_of_difference(protocol) if self.claim.metric in OF_RUNS else measure.short(protocol)

    def size(self, part: Part | None = None, *, words: bool = False) -> str:
        """Return ``3 x 20`` (seeds x patients) of the decisive part, or of ``part``."""
        chosen = part or self.decisive
        if chosen is None:
            return "—"
        sizes = chosen.moments.sizes
        if words or len(sizes) == 1:
            return " x ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in sizes.items())
        return " x ".join(str(count) for count in sizes.values())

    def sentence(self, decimals: int = 2) -> str:
        """Answer the claim's question in one sentence."""
        if self.study is None:
            return f"{self.claim.short}: not tested, {self.obstacles[0].short} ({self.obstacles[0].remedy})."
        where = f"{self.selection.part}, " if self.selection else ""
        head = f"{self.claim.short} on {self.study['data']['name']} ({where}preset {self._preset})"
        part = self.decisive
        if part is None:
            return f"{head}: {self.word}."
        narrowed = self._chosen or self.claim.matched or self.claim.needs.held
        named = f" ({part.words})" if len(self.parts) > 1 or narrowed else ""
        tested = self.outcome != "not tested" and self.claim.kind != "best"
        word = f"{self.word} (margin {self.claim.least:g})" if tested else self.word
        settled = f", {self.remedy} would settle it" if self.outcome == "inconclusive" else ""
        return f"{head}: {self.effect(decimals)}{named}, {self.size(words=True)}, {word}{settled}."

    @property
    def _preset(self) -> str:
        study = self.study or {}
        return f"{study.get('preset', '?')}{', supervised' if study.get('supervised') else ''}"

    @property
    def _chosen(self) -> bool:
        sides = (self.claim.arm, self.claim.against)
        return any(side is not None and side.best_on for side in sides)

    def _rank(self, part: Part) -> int:
        return {"refuted": 0, "inconclusive": 1, "confirmed": 2, "not tested": 1}[self.of_part(part)]

    def _weakness(self, part: Part) -> float:
        value = float(part.moments.mean)
        return -abs(value) if self.claim.kind == "null" else value


def build(store: Path, studies: list[dict[str, Any]], options: Options, files: Sequence[Path] = ()) -> Report:
    """Build the report of all claims.

    Raises:
        InputError: a claim file is wrong, or a metric is asked for: every claim has its own.
    """
    if options.metric != Options.metric:
        raise InputError(
            f"--metric {options.metric}: every claim names its own metric; for another one write a claim file "
            f"({store / 'claims'}/NAME.yaml)"
        )
    return claim_pages.report(verdicts(store, studies, options, files=files), options.decimals)


def verdicts(
    store: Path, studies: Iterable[dict[str, Any]], options: Options, *, files: Iterable[Path] = ()
) -> list[Verdict]:
    """Judge every claim on every study of its definition; where there is none, the claim has one verdict without.

    Args:
        store: where studies, runs and the user's own claims lie.
        studies: the studies to look at, as `records.index.studies` reads them.
        options: part, protocol and ``allow_mixed`` are taken from them; the metric is the claims' own.
        files: further claim files.

    Raises:
        InputError: a claim file is wrong, or the part or protocol that is asked for does not exist.
    """
    if options.part is not None:
        pick(options.part, PARTS, "part")
    known: dict[str, Record | Obstacle] = {}
    listed, found = list(studies), []
    for claim in load(store, files):
        own = [study for study in listed if study["study"] == claim.study]
        fitting = [study for study in own if bool(study.get("supervised")) == (claim.form == "supervised")]
        for study in fitting or own:
            name = str(study["name"])
            if name not in known:
                known[name] = _selected(store, study, options)
            found.append(judge(claim, study, known[name], fits=bool(fitting)))
        if not own:
            found.append(Verdict(claim, "not tested", obstacles=(obstacles.not_run(claim),)))
    return _corrected(found)


def judge(claim: Claim, study: Mapping[str, Any], record: Record | Obstacle, *, fits: bool = True) -> Verdict:
    """Judge one claim on one study; it does not ``fit`` where the claim is about the study's other form."""
    form = () if fits else (obstacles.wrong_form(claim, study),)
    if isinstance(record, Obstacle):
        return Verdict(claim, "not tested", study, obstacles=(*form, record))
    evidence = gather(claim, record, claim.metric, claim.sign)
    known = (*form, *obstacles.found(claim, record, evidence))
    return _judged(claim, study, record.selection, evidence, known)


def _judged(
    claim: Claim, study: Mapping[str, Any], selection: Selection, evidence: Evidence, known: tuple[Obstacle, ...]
) -> Verdict:
    parts, notes = tuple(evidence.parts), tuple(evidence.notes)
    open_verdict = Verdict(claim, "not tested", study, selection, parts, known, notes)
    if not parts or any(not each.lacks for each in known):
        return open_verdict
    given = [part.moments for part in parts]
    ruling = rule(claim.kind, [each.observed for each in given], claim.least)
    # A claim about every arm falls with one of them, and stands only with all; about the best of them only with all.
    chosen = any(side is not None and side.best_on for side in (claim.arm, claim.against))
    if known and not (ruling.refuted and claim.combine == "each" and not chosen):
        return open_verdict
    said = "refuted" if known else outcome(ruling)
    left = settle(claim.kind, given, claim.least) if said == "inconclusive" else None
    return replace(open_verdict, outcome=said, settling=left, p=float(ruling.p))


def _corrected(found: list[Verdict]) -> list[Verdict]:
    """Give every verdict Holm's p over the claims that were tested on its study."""
    adjusted: dict[int, float] = {}
    names = [str(each.study["name"]) if each.study else "" for each in found]
    for name in dict.fromkeys(names):
        places = [place for place, own in enumerate(names) if own == name]
        corrected = statistics.holm(np.array([found[place].p for place in places]))
        adjusted |= dict(zip(places, corrected.tolist()))
    return [replace(each, p_holm=adjusted[place]) for place, each in enumerate(found)]


def _selected(store: Path, study: dict[str, Any], options: Options) -> Record | Obstacle:
    try:
        return Record(select(store, study, replace(options, rivals=False)))
    except InputError as error:
        if str(error).startswith("unknown "):  # an option that no study could fulfil
            raise
        return obstacles.unreadable(error)
