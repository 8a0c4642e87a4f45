"""One page with everything: what was asked and what the answer is, the main table, patients, gaps; then every study.

The page is one file that asks for nothing else: figures are embedded, styles stand in it. Every study's reports are
written into their own folders as `vqseg report STUDY` does, so that what stands there is not drawn again (below the
page's own folder, where other than the usual was asked for); a report that refuses says why in one line of the page.
"""

from pathlib import Path
from typing import Any

from vqseg.errors import InputError
from vqseg.report import book, bound, claim_pages, front, page, references, surroundings, whole_page
from vqseg.report.book import Chapter
from vqseg.report.content import Report
from vqseg.report.drawn import Drawn
from vqseg.report.options import Options
from vqseg.report.page import Around

NAME = "all"


def build(store: Path, studies: list[dict[str, Any]], options: Options) -> Report:
    """Build what stands before and behind the studies, without writing anything."""
    books = book.books(store, studies, options, store / "reports")
    return front.build(store, studies, books, options).report


def write(
    store: Path, studies: list[dict[str, Any]], options: Options, drawn: Drawn, width: int | None = None
) -> tuple[list[Path], str]:
    """Write the page and all reports of all studies; return its own paths, and what a terminal that wide shows.

    Raises:
        InputError: the folder cannot be written, or a claim file is wrong.
    """
    usual = drawn.folder == store / "reports" / NAME and options == Options()
    root = store / "reports" if usual else drawn.folder / "studies"
    books = book.books(store, studies, options, root)
    around = front.build(store, studies, books, options)
    claimed = _claims(store, studies, around, options, root)
    for chapter in (*(chapter for own in books for chapter in own.chapters), *([claimed] if claimed else [])):
        if chapter.whole is not None and chapter.around is not None:
            own = Drawn(chapter.folder)
            page.write(chapter.whole, chapter.around, own)
            own.save()
    out, cited = drawn.folder, around.methods.keys
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = page.parts(around.report, Around(False), drawn)
        paths = [
            drawn.put("index.html", whole_page.html(around, books, claimed, out)),
            drawn.put("report.md", whole_page.markdown(around, books, out)),
            drawn.put("report.tex", whole_page.tex(around, books, claimed, out)),
            drawn.put("references.bib", references.bibliography(cited) if cited else ""),
        ]
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}; choose another folder with --out") from None
    return [*paths, *written], whole_page.words_of(around, width)


def _claims(
    store: Path, studies: list[dict[str, Any]], around: front.Front, options: Options, root: Path
) -> Chapter | None:
    """Return the report of all claims, None where there is no study that they could be about."""
    if not around.verdicts:
        return None
    report, folder = claim_pages.report(around.verdicts, options.decimals), root / "claims"
    beside = surroundings.around([(store, studies)], folder)
    marked = bound.marked(report, studies)
    return Chapter("claims", "claims", folder, marked, marked, beside)
