"""Why a claim cannot be tested on a study: what lacks, and what its runs do not fulfil.

An obstacle has a few words for a table's cell, a sentence, and what would remove it.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vqseg import assets
from vqseg.errors import InputError, nearest
from vqseg.records.run import RunFolder
from vqseg.report import reach
from vqseg.report.claim import Claim, Premise
from vqseg.report.evidence import Evidence, Part, Record, gather
from vqseg.report.numbers import interval, signed
from vqseg.report.selection import Selection
from vqseg.report.verdict import rule_each

SAID = {
    "no finished run has scores": ("nothing scored", "finish the study"),
    "do not belong in one table": ("runs disagree", "run the odd ones again"),
    "was cut short": ("scoring cut short", "vqseg study evaluate"),
    "was not scored": ("part not scored", "vqseg study evaluate"),
    "is not among those scored": ("protocol not scored", "vqseg study evaluate"),
}
"""What an error of `selection.select` says -> words for a cell, and what to do."""


@dataclass(frozen=True)
class Obstacle:
    """``short`` for a cell, ``words`` in full, ``remedy`` what would remove it.

    A claim about every arm can be refuted by one, so what only ``lacks`` arms may still be refuted.
    """

    short: str
    words: str
    remedy: str
    lacks: bool = False


def not_run(claim: Claim) -> Obstacle:
    """There is no such study in the store, or nowhere."""
    known = assets.names("studies")
    if claim.study not in known:
        close = nearest(claim.study, known)
        words = f"Study {claim.study!r} is neither in the store nor built in{close}; one of your own must be run first."
        return Obstacle("study unknown", words, f"run {claim.study}{close}")
    words = f"Study {claim.study} was not run{' in its supervised form' if claim.form == 'supervised' else ''}."
    return Obstacle("study not run", words, f"run {claim.study}")


def wrong_form(claim: Claim, study: Mapping[str, Any]) -> Obstacle:
    """The study is fully supervised and the claim is not, or the other way round."""
    there = "supervised" if study.get("supervised") else "semi-supervised"
    says = f"The claim is about the {claim.form} form ({claim.source}), and only the {there} one was run."
    return Obstacle(f"{there} only", says, f"the {claim.form} form")


def unreadable(error: InputError) -> Obstacle:
    """Nothing can be selected from the study."""
    words = str(error)
    short, remedy = next((said for key, said in SAID.items() if key in words), ("cannot be read", "see its words"))
    return Obstacle(short, f"{words[:1].upper()}{words[1:]}.", remedy)


def found(claim: Claim, record: Record, evidence: Evidence) -> list[Obstacle]:
    """Return everything that keeps the evidence from being a test of the claim."""
    known, selection = list[Obstacle](), record.selection
    if selection.phantom:
        known.append(Obstacle("phantom", "Made from synthetic images, which say nothing about a method.", "real data"))
    if selection.differences:  # asked for with --allow-mixed
        words = f"The runs do not belong in one table: {'; '.join(selection.differences)}."
        known.append(Obstacle("runs disagree", words, "run the odd ones again"))
    known += list(_lacking(evidence, selection))
    if evidence.not_held and claim.needs.held:
        listed = ", ".join(f"{label} {value}" for label, value in evidence.not_held.items())
        words = f"No two arms held their {claim.needs.held.axis} within {claim.needs.held.within:.0%}: {listed}."
        known.append(Obstacle(f"{claim.needs.held.axis} not held", words, "arms that reach the target"))
    known += list(_unmet(claim, record, evidence.parts))
    if claim.premise and all(each.lacks for each in known):
        known += _premise(claim.premise, claim, record)
    return known


def _lacking(evidence: Evidence, selection: Selection) -> Iterable[Obstacle]:
    if evidence.skipped:
        listed = "; ".join(f"{label}: {reason}" for label, reason in evidence.skipped.items())
        yield Obstacle(
            "weights absent", f"Arms were skipped: {listed}.", f"weights of {', '.join(evidence.skipped)}", True
        )
    if evidence.ambiguous:
        yield Obstacle("ambiguous", f"{evidence.ambiguous}.", "narrow the claim's file")
    missing = [label for label in evidence.missing if label not in evidence.skipped]
    if missing:
        states = _states(selection, missing)
        listed = ", ".join(f"{label}{states.get(label, '')}" for label in missing)
        remedy = f"run {missing[0]}" if len(missing) == 1 else f"run {len(missing)} more arms"
        yield Obstacle("arms missing", f"Not there, or not scored: {listed}.", remedy, True)


def _states(selection: Selection, labels: Collection[str]) -> dict[str, str]:
    """Return how the runs of arms stand that are in the study and have no scores."""
    cells = selection.cells[selection.cells["arm"].isin(list(labels))]
    return {str(arm): f" ({', '.join(dict.fromkeys(own['state']))})" for arm, own in cells.groupby("arm")}


def _unmet(claim: Claim, record: Record, parts: list[Part]) -> Iterable[Obstacle]:
    needs, learned = claim.needs, record.learned
    if learned < reach.LEARNED:
        words = f"The best arm has a validation Dice of {learned:.3f}: nothing was learned."
        yield Obstacle("nothing learned", words, "more steps")
    if needs.reach is not None:
        value = record.reach
        if not value >= needs.reach:
            short = "reach unknown" if math.isnan(value) else f"reach {value:.3f} < {needs.reach:g}"
            why = "not logged" if math.isnan(value) else f"{value:.3f} Dice, so the codes hardly matter to the output"
            yield Obstacle(short, f"Reach is {why}; the claim needs {needs.reach:g}.", "a preset whose codes matter")
    if not parts:
        return
    arms = {arm for part in parts for arm in part.weights}
    if needs.tokens is not None:
        yield from _few_tokens(needs.tokens, record, arms)
    yield from _other_settings(needs.settings, record.selection, [run for part in parts for run in part.runs])
    seeds, patients = min(part.moments.seeds for part in parts), min(part.moments.patients or 2 for part in parts)
    if seeds < needs.seeds:
        said = f"{seeds} seed{'s' * (seeds != 1)}"
        yield Obstacle(said, f"Only {said}, {needs.seeds} are needed.", f"{needs.seeds} seeds")
    if patients < 2:
        yield Obstacle("1 patient", "Only 1 patient: its scores have no interval.", "more patients")


def _few_tokens(least: float, record: Record, arms: Collection[str]) -> Iterable[Obstacle]:
    own = record.codebooks[record.codebooks["arm"].isin(list(arms))]
    if own.empty:
        yield Obstacle("usage unknown", "No run kept how often its codes were used.", "run it again")
        return
    line = own.assign(share=own["tokens"] / own["codes"]).sort_values("share").iloc[0]
    if line["share"] < least:
        yield Obstacle(
            f"{line['share']:.1f} tokens per code",
            f"{line['tokens']:,.0f} tokens, {line['codes']:,} codes in {line['arm']}: fewer than {least:g} per code.",
            "more tokens: more or larger images",
        )


def _other_settings(wanted: Mapping[str, Any], selection: Selection, runs: Iterable[str]) -> Iterable[Obstacle]:
    if not wanted:
        return
    configs = {run: RunFolder(selection.store, run).config() for run in dict.fromkeys(runs)}
    for key, value in wanted.items():
        there = {run: _at(config, key) for run, config in configs.items()}
        other = {run: own for run, own in there.items() if own != value}
        if other:
            run, own = next(iter(other.items()))
            shown = "unknown" if own is None else own
            yield Obstacle(
                f"{key.rpartition('.')[2]} {shown}",
                f"{key} is {shown} in {len(other)} of {len(there)} runs ({run}); the claim needs {value}.",
                f"{key}={value}",
            )


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _premise(premise: Premise, claim: Claim, record: Record) -> list[Obstacle]:
    sign = 1.0 if premise.direction == "higher" else -1.0
    evidence = gather(premise, record, claim.metric, sign)
    if evidence.parts and not evidence.missing and not evidence.skipped and not evidence.ambiguous:
        estimates = [part.moments.observed for part in evidence.parts]
        told = [bool(each.confirmed) for each in rule_each("effect", estimates, premise.margin)]
        if all(told):
            return []
        failed = told.index(False)
        low, high = sorted(sign * float(end) for end in estimates[failed].interval())
        said = f"{signed(sign * float(estimates[failed].value), 2)} {interval(low, high, 2)}".strip()
        said += f", {evidence.parts[failed].words}"
        return [Obstacle("premise not met", f"{premise.says}: not confirmed ({said}).", "nothing to explain so far")]
    if evidence.ambiguous:
        words = f"{premise.says}: cannot be tested, {evidence.ambiguous}."
        return [Obstacle("premise not tested", words, "narrow the claim's file")]
    lost = ", ".join([*evidence.missing, *evidence.skipped])
    return [Obstacle("premise not tested", f"{premise.says}: cannot be tested, {lost} missing.", f"run {lost}")]
