"""The first screen: a sentence per question, and the contrast that is drawn patient by patient.

What answers a study's question are the verdicts on the claims about it that their files call headlines. A study that no
claim speaks about says what its own report says first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vqseg.report import main
from vqseg.report.bound import is_phantom
from vqseg.report.claims import Verdict
from vqseg.report.content import Picture
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.paired import Pair, of_arms, picture
from vqseg.report.selection import Selection


@dataclass(frozen=True)
class Line:
    """One sentence; ``outcome`` is the verdict in a word, empty where it is none."""

    outcome: str
    sentence: str


@dataclass(frozen=True)
class Answer:
    """A study's question, the sentences that answer it, and those on further claims about the study."""

    study: str
    question: str
    lines: list[Line]
    others: list[Line]
    phantom: bool


def answers(
    studies: Sequence[Mapping[str, Any]], verdicts: Sequence[Verdict], said: Mapping[str, list[str]], decimals: int
) -> list[Answer]:
    """Return one answer per study.

    Args:
        studies: the studies, in the page's order.
        verdicts: on all claims.
        said: what every study's own report says first, or why it refuses.
        decimals: digits after the point.
    """
    found = []
    for study in studies:
        name, question = str(study["name"]), str(study.get("question", ""))
        own = ranked([each for each in verdicts if each.study is not None and each.study["name"] == name])
        first = [each for each in own if each.claim.headline and each.parts] or own[:1]
        lines = [Line(each.outcome, each.sentence(decimals)) for each in first]
        others = [Line(each.outcome, each.sentence(decimals)) for each in own if each not in first]
        lines = lines or [Line("", (said.get(name) or ["Nothing to say yet."])[0])]
        found.append(Answer(name, question, lines, others, is_phantom(study)))
    return found


def ranked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return verdicts as they are worth reading: of real data, with numbers, headlines, and what is settled first."""
    order = ("confirmed", "refuted", "inconclusive", "not tested")
    return sorted(
        verdicts, key=lambda each: (each.phantom, not each.parts, not each.claim.headline, order.index(each.outcome))
    )


def patients(verdicts: Sequence[Verdict], selections: Sequence[Selection], metric: str) -> tuple[Picture | None, str]:
    """Return the patient-paired figure of the first verdict that has one, and whose study it is.

    Without a claim that has numbers it shows a study's best arm on validation against its reference.
    """
    for each in ranked(verdicts):
        if each.selection is not None and each.decisive is not None and each.claim.metric in MEASURES:
            arm, _, against = each.decisive.words.partition(", mean over ")[0].partition(" minus ")
            pair = Pair(arm, against, each.decisive.weights)
            if against and (drawn := picture(each.selection, pair, each.claim.metric)):
                return drawn, str(each.selection.study["name"])
    metric = measure_name(metric)
    for selection in selections:
        best = main.best_on_validation(selection, metric)
        if best is not None and best != selection.reference:
            drawn = picture(selection, of_arms(best, selection.reference), metric)
            if drawn is not None:
                return drawn, str(selection.study["name"])
    return None, ""
