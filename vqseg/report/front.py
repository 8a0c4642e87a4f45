"""What stands before and behind the studies of a page: answers, main table, patients, gaps; methods, environment."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqseg.report import answers, bound, claims, gaps, integrity, main, methods_text, surroundings
from vqseg.report.book import Book
from vqseg.report.content import Report, Section
from vqseg.report.options import Options

TITLE = "VQ-Seg bench: every study of this store"


@dataclass(frozen=True)
class Front:
    """What stands before and behind the studies; ``report`` is all of it that has tables and figures."""

    report: Report
    answers: list[answers.Answer]
    sections: dict[str, list[Section]]
    methods: methods_text.Text
    absent: dict[str, str]
    verdicts: list[claims.Verdict]
    missing: list[str] = field(default_factory=list)


def build(store: Path, studies: list[dict[str, Any]], books: list[Book], options: Options) -> Front:
    """Build all of it from studies whose reports were built already.

    Raises:
        InputError: a claim file is wrong, or a part or protocol that is asked for does not exist.
    """
    selections = [book.selection for book in books if book.selection is not None]
    verdicts = claims.verdicts(store, studies, options) if studies else []
    said = {str(book.record["name"]): _said(book) for book in books}
    found = answers.answers([book.record for book in books], verdicts, said, options.decimals)
    picture, whose = answers.patients(verdicts, selections, options.metric)
    methods = main.of_selections(selections, options, [])
    holes = gaps.compute(store, studies)
    environment = surroundings.environment(surroundings.runs_of([(store, studies)]))
    published = [section for section in methods.sections if section.title.startswith("Published")]
    sections = {
        "main": [section for section in methods.sections if section not in published],
        "patients": [Section(f"Patient by patient: {whose}", [], [], [picture])] if picture else [],
        "missing": [Section("What is missing and its cost", [], [gaps.tabulate(holes)])] if studies else [],
        "published": published,
        "environment": [Section("Environment", [], [environment])] if environment else [],
    }
    report = Report(
        title=TITLE,
        question="What was asked, what is the answer, and how sure is it?",
        banners=integrity.banners(*selections),
        summary=[line.sentence for each in found for line in each.lines],
        sections=[section for own in sections.values() for section in own],
    )
    report = bound.marked(report, studies)
    # The marked report has marked tables: what the page shows are those.
    marked = iter(report.sections)
    shown = {name: [next(marked) for _ in own] for name, own in sections.items()}
    text, lacking = methods_text.write(selections), gaps.sentences(holes)
    return Front(report, found, shown, text, gaps.absent(studies), verdicts, lacking)


def _said(book: Book) -> list[str]:
    first = book.chapters[0]
    return [f"{first.refused}."] if first.report is None else first.report.summary
