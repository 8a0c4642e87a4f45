"""The page of everything in its forms: one file of HTML, Markdown, a LaTeX document, words for a terminal."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vqseg import assets
from vqseg.files import read_yaml
from vqseg.report import REPORTS, embedded, page, references, table
from vqseg.report.book import Book, Chapter
from vqseg.report.content import Section
from vqseg.report.front import Front


def html(front: Front, books: list[Book], claimed: Chapter | None, out: Path) -> str:
    """Return the page; figures are read from where they were drawn, ``out`` being the page's own folder."""
    chapters = [*(chapter for book in books for chapter in book.chapters), *([claimed] if claimed else [])]
    drawn = [*front.report.sections, *(section for chapter in chapters for section in _sections(chapter))]
    most_px = embedded.width_px(sum(len(section.pictures) for section in drawn))

    def shown(sections: Iterable[Section], folder: Path) -> list[dict[str, Any]]:
        return [_section(section, folder, most_px) for section in sections]

    studies = [
        {
            "record": book.record,
            "anchor": book.anchor,
            "around": book.chapters[0].around,
            "chapters": [
                {
                    **{key: getattr(chapter, key) for key in ("anchor", "kind", "refused", "report")},
                    "about": REPORTS[chapter.kind].about,
                    "sections": shown(_sections(chapter), chapter.folder),
                }
                for chapter in book.chapters
            ],
        }
        for book in books
    ]
    return page.html(
        "all.html.j2",
        front=front,
        answers=[(each, book.anchor) for each, book in zip(front.answers, books, strict=True)],
        sections={name: shown(own, out) for name, own in front.sections.items()},
        studies=studies,
        claims={"report": claimed.report, "sections": shown(_sections(claimed), claimed.folder)} if claimed else None,
        reading=_reading(),
        bibliography=references.bibliography(front.methods.keys) if front.methods.keys else "",
    )


def _reading() -> dict[str, list[dict[str, str]]]:
    """Return how to read the page, and why published numbers do not compare: lists of ``term`` and ``words``."""
    found: dict[str, list[dict[str, str]]] = read_yaml(assets.folder("reports") / "reading.yaml")
    return found


def _sections(chapter: Chapter) -> list[Section]:
    return chapter.report.sections if chapter.report else []


def _section(section: Section, folder: Path, most_px: int) -> dict[str, Any]:
    """Return what a template shows of a section: figures as data, and what their captions begin with as text."""
    figures = []
    for picture in section.pictures:
        uri, width, height = embedded.data_uri(folder / f"{picture.name}.png", most_px=most_px)
        alt = picture.caption.partition(". ")[0]
        figures.append({"src": uri, "width": width, "height": height, "caption": picture.caption, "alt": alt})
    return {"title": section.title, "paragraphs": section.paragraphs, "tables": section.tables, "figures": figures}


def markdown(front: Front, books: list[Book], out: Path) -> str:
    """Return the same for a reader of text: what stands before the studies, then the way to each one's reports."""
    plain = table.plain
    lines = [f"# {plain(front.report.title)}", ""]
    lines += [line for banner in front.report.banners for line in (f"> **{plain(banner)}**", "")]
    for each in front.answers:
        lines += [f"- **{plain(each.study)}**: {plain(line.sentence)}" for line in each.lines]
    lines += ["", *page.body(front.report)]
    for book in books:
        lines += [f"## {plain(str(book.record['name']))}", "", plain(str(book.record.get("question", ""))), ""]
        for chapter in book.chapters:
            way = f"[{chapter.kind}]({_relative(chapter.folder, out)}/report.md)"
            lines.append(f"- {way}" if chapter.report else f"- {chapter.kind}: {plain(chapter.refused)}")
        lines.append("")
    for title, key in (("How to read this", "reading"), ("Why published numbers stand apart", "differences")):
        terms = [f"- **{plain(item['term'])}** {plain(item['words'])}" for item in _reading()[key]]
        lines += [f"## {title}", "", *terms, ""]
    return "\n".join([*lines, "## Methods", "", *(f"{plain(words)}\n" for words in front.methods.paragraphs)])


def tex(front: Front, books: list[Book], claimed: Chapter | None, out: Path) -> str:
    """Return a document of all tables and figures, each where it lies."""
    chapters = [*(chapter for book in books for chapter in book.chapters), *([claimed] if claimed else [])]
    reports = [(_relative(chapter.folder, out), chapter.report) for chapter in chapters if chapter.report]
    return page.tex(front.report.title, [("", front.report), *reports], front.report.banners)


def words_of(front: Front, width: int | None) -> str:
    """Return what a terminal that wide shows: the answers, the main table, what is missing."""
    blocks = [front.report.title, *(f"!! {banner}" for banner in front.report.banners)]
    said = [f"{each.study}: {line.sentence}" for each in front.answers for line in each.lines]
    blocks += ["\n".join(said)] if said else []
    tables = [each for section in front.sections["main"] for each in section.tables]
    blocks += [table.text(each, width) for each in tables[:1]]
    blocks += [] if tables else [words for own in front.sections["main"] for words in own.paragraphs]
    blocks += ["\n".join(["missing:", *(f"  {line}" for line in front.missing)])] if front.missing else []
    return "\n\n".join(blocks)


def _relative(folder: Path, out: Path) -> str:
    return Path(os.path.relpath(folder, out)).as_posix()
