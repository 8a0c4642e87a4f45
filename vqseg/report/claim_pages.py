"""How verdicts are shown: the table of all, one section per claim, the forest."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pandas as pd

from vqseg.report import claim_forest, integrity, statistics, style
from vqseg.report.content import Picture, Report, Section, conditions
from vqseg.report.integrity import Issue
from vqseg.report.numbers import cell_p, interval, signed
from vqseg.report.table import Cell, Row, Table

if TYPE_CHECKING:
    from vqseg.report.claim import Claim
    from vqseg.report.claims import Verdict

MARKS = {"confirmed": "bold", "refuted": "bold"}
HOW = (
    "Differences are arm minus against; 95 % intervals are for new seeds and new patients (crossed, Satterthwaite's "
    "degrees of freedom), and new draws of the labelled patients where there are several. Effect: confirmed if the "
    "interval lies above 0, as claimed, and the estimate is at least the margin, refuted if the interval lies below "
    "the margin. Null: confirmed if the 90 % interval lies within the margin on both sides, refuted if the 95 % "
    "interval lies outside. Noninferior: confirmed if the 90 % interval lies above minus the margin, refuted if the "
    "95 % interval lies below it. Best: confirmed if better than each other arm after Holm, refuted if worse than one. "
    "Of several contrasts all must hold; shown is the one that decides. Intervals and verdicts are single ones, each "
    "claim being declared beforehand; p (Holm) is over all claims that were tested on the same study. With fewer than "
    "5 seeds a level of 5 % can be 8 %, that of the best of eight arms 12 % (8 % with 5 seeds). What would settle it "
    "is reckoned as if the estimate and the variances stayed, so that number of seeds gives about an even chance."
)
LEVELS = {True: "after Holm over all {}", False: "confirmed alone, and refuted at the level .05 / {}"}
PRINTED = "paper: the difference of its printed numbers, of other data and another protocol; one number, no interval."


def report(found: Sequence["Verdict"], decimals: int) -> Report:
    """Return the report of verdicts, in the order in which they come."""
    forests = [picture for phantom in (False, True) if (picture := _forest(found, phantom))]
    table = overview(found, decimals)
    sections = [Section("Verdicts", [], [table], forests)]
    sections += [
        _section(claim, list(own), decimals) for claim, own in groupby(found, key=lambda verdict: verdict.claim)
    ]
    return Report(
        title="The paper's claims",
        question="Which of the claims that the paper makes hold on these data, and which have not been tested?",
        banners=integrity.banners(*(each.selection for each in found if each.selection is not None)),
        summary=_summary(found, decimals),
        sections=sections,
    )


def overview(found: Sequence["Verdict"], decimals: int) -> Table:
    """Return the table of all verdicts: one row per claim and study."""
    rows, before = [], None
    for each in found:
        claim, part = each.claim, each.decisive
        tip = f"{part.words}; {each.size(words=True)}; runs {' '.join(part.runs)}" if part else ""
        # The first reason is what would have to go first; the tip and the claim's section have all.
        short = f"not tested ({each.obstacles[0].short})" if each.outcome == "not tested" else each.outcome
        cells = [
            Cell(short, MARKS.get(each.outcome, ""), f"{each.word}; {_study(each)}"),
            Cell(each.effect(decimals).replace(" Dice", "") or "—", tip=tip),
            Cell(paper_words(claim, decimals), tip=f"{claim.published.where}"),
            Cell(each.data, tip=_study(each)),
            Cell(each.size()),
            Cell(cell_p(each.p_holm), tip=f"p {cell_p(each.p)} alone"),
            Cell(each.remedy or "—"),
        ]
        rows.append(Row(claim.claim, cells, ruled=before not in (None, claim.study)))
        before = claim.study
    headers = ["claim", "verdict", "effect [95 %]", "paper", "data, preset", "seeds x patients", "p (Holm)"]
    return Table(
        name="claims",
        title="Verdicts",
        headers=[*headers, "would settle it"],
        rows=rows,
        caption=f"Effects are Dice points unless said. {HOW} {PRINTED}",
        tidy=pd.DataFrame([line for each in found for line in tidy(each)]),
        footnotes=list(dict.fromkeys(_runs(each) for each in found if each.runs)),
    )


def tidy(verdict: "Verdict") -> list[dict[str, Any]]:
    """Return the numbers behind a verdict, one line per contrast; one without numbers where there are none."""
    claim, study = verdict.claim, verdict.study or {}
    shared = {
        "claim": claim.name, "kind": claim.kind, "metric": claim.metric, "margin": claim.least,
        "verdict": verdict.outcome, "obstacles": "; ".join(each.short for each in verdict.obstacles),
        "study": study.get("name", ""), "p": verdict.p, "p_holm": verdict.p_holm,
        "settle": verdict.remedy, "published": " ".join(f"{value:.2f}" for value in claim.printed),
    }  # fmt: skip
    lines = []
    for part in verdict.parts:
        value, low, high = verdict.of(part)
        _, low_90, high_90 = verdict.of(part, 2 * statistics.ALPHA)
        size = {"seeds": part.moments.seeds, "patients": part.moments.patients}
        ends = {"low": low, "high": high, "low_90": low_90, "high_90": high_90}
        words = {"contrast": part.words, "says": verdict.of_part(part), "runs": " ".join(part.runs)}
        lines.append({**shared, **words, "value": value, **ends, **size})
    return lines or [shared]


def paper_words(claim: "Claim", decimals: int) -> str:
    """Return the published effect, or the range of several, a dash if none was printed."""
    values = sorted(claim.printed)
    if not values:
        return "—"
    ends = [signed(value, decimals) for value in dict.fromkeys((values[0], values[-1]))]
    return " to ".join(dict.fromkeys(ends))


def _section(claim: "Claim", found: list["Verdict"], decimals: int) -> Section:
    printed = f"Printed, {claim.published.where}: {paper_words(claim, decimals)}"
    paper = f"Paper: {claim.source}. {printed if claim.printed else f'No effect is printed: {claim.published.where}'}."
    margin = "" if claim.kind == "best" else f", margin {claim.least:g} {claim.measure.unit_of_difference('scan')}"
    kind = f"Kind {claim.kind}{margin}; metric {claim.measure.header}; study {claim.study}, {claim.form}."
    words = [paper, kind, claim.about]
    for each in found:
        words.append(each.sentence(decimals))
        words += [f"{obstacle.words} To be done: {obstacle.remedy}." for obstacle in each.obstacles]
        words += each.notes
    tables = [_evidence(each, decimals) for each in found if each.parts]
    return Section(claim.claim, words, tables)


def _evidence(verdict: "Verdict", decimals: int) -> Table:
    claim, rows = verdict.claim, []
    lines = tidy(verdict)
    for part, line in zip(verdict.parts, lines, strict=True):
        seeds = ", ".join(signed(value, decimals) for value in part.by_seed)
        cells = [
            Cell(signed(line["value"], decimals), MARKS.get(line["says"], ""), f"runs {line['runs']}"),
            Cell(_ends(line, "low", "high", decimals)),
            Cell(_ends(line, "low_90", "high_90", decimals)),
            Cell(seeds),
            Cell(verdict.size(part), tip=f"runs {line['runs']}"),
            Cell(line["says"]),
        ]
        rows.append(Row(part.words, cells))
    selection = verdict.selection
    end = conditions(selection) if selection else ""
    several = f"What a contrast says is {LEVELS[claim.kind == 'best'].format(len(rows))}. " if len(rows) > 1 else ""
    return Table(
        name=style.slug(f"claim-{claim.name}-{_study(verdict)}"),
        title=f"{verdict.word[0].upper()}{verdict.word[1:]} on {_study(verdict)}",
        headers=["contrast", f"Δ {verdict.unit}", "95 %", "90 %", "Δ of every seed", "seeds x patients", "says"],
        rows=rows,
        caption=f"Intervals are single ones, not corrected. {several}{end}".rstrip(),
        tidy=pd.DataFrame(lines),
        footnotes=integrity.footnotes(_issues(verdict)),
        runs=_runs(verdict),
        phantom=verdict.phantom,
    )


def _issues(verdict: "Verdict") -> list[Issue]:
    """Return what is wrong with the rows behind a verdict."""
    arms = {arm for part in verdict.parts for arm in part.weights}
    return [issue for issue in integrity.issues(verdict.selection) if issue.row in arms] if verdict.selection else []


def _ends(line: Mapping[str, Any], low: str, high: str, decimals: int) -> str:
    return interval(line[low], line[high], decimals) or "—"


def _forest(found: Sequence["Verdict"], phantom: bool) -> Picture | None:
    """Return the forest of real, or of synthetic data; None if there are no numbers."""
    own = [each for each in found if each.decisive is not None and each.phantom == phantom]
    if not own:
        return None
    several = len({each.data for each in own}) > 1
    table = pd.DataFrame([_line(each, several=several) for each in own])
    data = "; ".join(dict.fromkeys(each.data for each in own))
    caption = (
        "Effects behind the verdicts with 95 % intervals, single ones: of every claim the contrast that decides. Short "
        "strokes: the margin. Hollow stars: the paper's printed difference, of other data and another protocol. "
        f"Markers and shades: the verdict. Dice points unless said. Data and preset: {data}."
    )
    name = "claims-forest-phantom" if phantom else "claims-forest"
    return Picture(name, caption, claim_forest.draw, (table, phantom))


def _line(verdict: "Verdict", *, several: bool) -> dict[str, Any]:
    claim, part = verdict.claim, verdict.decisive
    assert part is not None
    value, low, high = verdict.of(part)
    printed = claim.printed
    weakest = min(printed, key=lambda each: claim.sign * each) if printed else float("nan")
    label = f"{claim.short}\n{verdict.data}" if several else claim.short
    margins = {"null": (-1.0, 1.0), "effect": (claim.sign,), "noninferior": (-claim.sign,), "best": ()}[claim.kind]
    ends = [sign * claim.least for sign in margins]
    return {
        "label": label, "outcome": verdict.outcome, "value": value, "low": low, "high": high, "paper": weakest,
        "margin": ends[0] if ends else float("nan"), "other_margin": ends[-1] if ends else float("nan"),
        "metric": f"{claim.measure.header} ({claim.measure.unit_of_difference('scan')})",
    }  # fmt: skip


def _summary(found: Sequence["Verdict"], decimals: int) -> list[str]:
    """Say how many verdicts there are, what answers a question, and which claims have no study yet."""
    known = [each.sentence(decimals) for each in found if each.claim.headline and each.study]
    studies = list(dict.fromkeys(each.claim.study for each in found if not each.study))
    return [_counts(found), *known, *([f"Not run yet: {', '.join(studies)}."] if studies else [])]


def _counts(found: Sequence["Verdict"]) -> str:
    counts = pd.Series([each.outcome for each in found], dtype=str).value_counts()
    order = ("confirmed", "refuted", "inconclusive", "not tested")
    listed = ", ".join(f"{counts.get(word, 0)} {word}" for word in order)
    claims = len({each.claim.name for each in found})
    return f"{claims} claims, {len(found)} verdicts: {listed}."


def _study(verdict: "Verdict") -> str:
    return str(verdict.study["name"]) if verdict.study else "no study"


def _runs(verdict: "Verdict") -> str:
    return f"{verdict.claim.name} on {_study(verdict)}: runs {' '.join(verdict.runs)}."
