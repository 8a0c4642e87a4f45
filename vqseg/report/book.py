"""The reports of every study as chapters of a page: the study's own first, then those of any study.

Of a further report only what the chapters before it do not have stands in its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vqseg.errors import InputError
from vqseg.report import REPORTS, bound, folder_name, page, report_of, style
from vqseg.report.content import Report
from vqseg.report.options import Options
from vqseg.report.page import Around
from vqseg.report.selection import Selection, select

EXTRAS = ("qualitative", "cost", "stability")
"""Reports of any study that stand below its own."""

FIRST = ("codebook", *EXTRAS)
"""The same of the first study that has scores: one look at what its codes are, instead of one per study."""


@dataclass(frozen=True)
class Chapter:
    """One report on the page: its place there, the folder that it is written to, or why it refuses.

    ``report`` is what the page shows; ``whole`` what is written into the folder, with what stands in chapters before.
    """

    anchor: str
    kind: str
    folder: Path
    report: Report | None = None
    whole: Report | None = None
    around: Around | None = None
    refused: str = ""


@dataclass(frozen=True)
class Book:
    """Everything of one study: its own report first."""

    record: dict[str, Any]
    anchor: str
    chapters: list[Chapter]
    selection: Selection | None = None


def books(store: Path, studies: Iterable[dict[str, Any]], options: Options, root: Path) -> list[Book]:
    """Build all reports of all studies, in the page's order; nothing is written yet.

    Args:
        store: where they lie.
        studies: their records.
        options: what the user asked for.
        root: the folder that theirs lie in.
    """
    found: list[Book] = []
    for number, study in enumerate(ordered(studies)):
        anchor = f"study-{number}-{style.slug(str(study['name']))}"
        first = all(book.selection is None for book in found)
        found.append(_book(store, study, options, root / folder_name(study), anchor, FIRST if first else EXTRAS))
    return found


def ordered(studies: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return studies of real images first, then in the order of their reports, those with the generic one last."""
    order = [name for name in REPORTS if name != "ablation"] + ["ablation"]
    return sorted(studies, key=lambda study: (bound.is_phantom(study), order.index(report_of(study)), study["name"]))


def _book(
    store: Path, study: dict[str, Any], options: Options, folder: Path, anchor: str, more: tuple[str, ...]
) -> Book:
    usual = report_of(study)
    try:
        selection = select(store, study, options)
    except InputError as error:
        return Book(study, anchor, [Chapter(anchor, usual, folder, refused=str(error))])
    chapters: list[Chapter] = []
    for kind in (usual, *(kind for kind in more if kind != usual)):
        place, out = (anchor, folder) if kind == usual else (f"{anchor}-{kind}", folder / kind)
        try:
            report = bound.of_study(kind, store, study, options, selection=selection).report
        except InputError as error:
            chapters.append(Chapter(place, kind, out, refused=str(error)))
            continue
        known = [chapter.report for chapter in chapters if chapter.report]
        around = page.of_selection(selection, out)
        chapters.append(Chapter(place, kind, out, _beyond(report, known), report, around))
    return Book(study, anchor, chapters, selection)


def _beyond(report: Report, known: list[Report]) -> Report:
    """Return a report without the tables, figures and words that stand in those before it."""
    if not known:
        return report
    sections = [section for each in known for section in each.sections]
    shown = {(table.name, table.caption) for section in sections for table in section.tables}
    shown |= {(picture.name, picture.caption) for section in sections for picture in section.pictures}
    said = {words for each in known for words in (*each.banners, *each.summary)}
    said |= {words for section in sections for words in section.paragraphs}
    left = [
        replace(
            section,
            paragraphs=[words for words in section.paragraphs if words not in said],
            tables=[table for table in section.tables if (table.name, table.caption) not in shown],
            pictures=[picture for picture in section.pictures if (picture.name, picture.caption) not in shown],
        )
        for section in report.sections
    ]
    return replace(
        report,
        banners=[words for words in report.banners if words not in said],
        summary=[words for words in report.summary if words not in said],
        sections=[section for section in left if section.paragraphs or section.tables or section.pictures],
    )
