"""Writes a report: one page (HTML), one Markdown file, every table in five forms, every figure in two."""

import os
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from vqseg import assets
from vqseg.errors import InputError
from vqseg.report import drafting, rivals, table
from vqseg.report.content import Picture, Report, environment, missing_words
from vqseg.report.drawn import Drawn
from vqseg.report.selection import Selection
from vqseg.report.table import Table

PHANTOM = "Phantom: made from synthetic images. These numbers show that the bench works and nothing about a method."


@dataclass(frozen=True)
class Around:
    """What surrounds a report on its page: what is missing of its ``cells``, its runs, what they were made with.

    ``runs`` are rows of ``arm``, ``study``, ``seed``, ``state``, ``identity`` and the page's ``link`` to it. With
    ``phantom`` everything is watermarked; without, the tables that say so of themselves.
    """

    phantom: bool
    cells: int = 0
    missing: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    environment: str = ""

    @property
    def several(self) -> bool:
        """Whether the runs are of several studies."""
        return len({run["study"] for run in self.runs}) > 1


def of_selection(selection: Selection, out: Path) -> Around:
    """Return what surrounds the report of one study on a page that lies in ``out``."""
    runs = [
        {
            **{key: cell[key] for key in ("arm", "state", "identity")},
            "study": selection.study["name"],
            "seed": _seed(cell),
            "link": link(selection.store, str(cell["identity"]), out),
        }
        for cell in selection.tabled_cells.to_dict("records")
    ]
    cells, missing = len(selection.cells), missing_words(selection)
    return Around(selection.phantom, cells, missing, runs, environment(selection))


def write(report: Report, around: Around, drawn: Drawn) -> list[Path]:
    """Write everything into ``drawn``'s folder and return the paths, the page first; figures that stand there stay.

    Raises:
        InputError: the folder cannot be written.
    """
    out = drawn.folder
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = parts(report, around, drawn)
        banners = [*report.banners, *([PHANTOM] if around.phantom else [])]
        page = drawn.put("index.html", html("page.html.j2", report=report, around=around, banners=banners))
        words = drawn.put("report.md", _markdown(report, around, banners))
        document = drawn.put("report.tex", tex(report.title, [("", report)], banners))
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}; choose another folder with --out") from None
    return [page, words, document, *written]


def parts(report: Report, around: Around, drawn: Drawn) -> list[Path]:
    """Write every table and every figure of a report, and return the paths."""
    tables = [each for section in report.sections for each in section.tables]
    written: list[Path] = []
    for each in tables:
        forms = {".md": table.markdown(each), ".tex": table.latex(each), ".csv": table.csv_text(each)}
        forms["-cells.csv"] = table.tidy_text(each)
        written += [drawn.put(f"{each.name}{ending}", words) for ending, words in forms.items()]
    kinds: dict[bool, list[Picture]] = {False: [], True: []}
    for each in tables:
        kinds[around.phantom or each.phantom].append(_picture(each))
    kinds[around.phantom] += [picture for section in report.sections for picture in section.pictures]
    return written + [path for phantom, own in kinds.items() for path in drafting.draw(own, drawn, phantom=phantom)]


def html(template: str, **words: Any) -> str:
    """Fill a template of ``reports``; what comes from data is escaped."""
    return _engine(tex=False).get_template(template).render(**words)


@cache
def _engine(*, tex: bool) -> jinja2.Environment:
    """Return what fills templates. Those of LaTeX have other delimiters, because it is full of braces and percents."""
    loader = jinja2.FileSystemLoader(assets.folder("reports"))
    if not tex:
        return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return jinja2.Environment(  # noqa: S701 - names arrive escaped
        loader=loader, block_start_string="<%", block_end_string="%>", variable_start_string="<<",
        variable_end_string=">>", comment_start_string="<#", comment_end_string="#>", trim_blocks=True,
    )  # fmt: skip


def link(store: Path, identity: str, out: Path) -> str | None:
    """Return the way from a page in ``out`` to a run, None for a run that never began."""
    folder = store / "runs" / identity
    return Path(os.path.relpath(folder, out)).as_posix() if folder.is_dir() else None


def tex(title: str, reports: Iterable[tuple[str, Report]], banners: list[str]) -> str:
    """Return a LaTeX document of all tables and figures of reports; each lies in a folder, ``""`` if beside it."""
    bound = [
        {
            "title": table.escape(report.title),
            "folder": f"{folder}/" if folder else "",
            "sections": [
                {
                    "title": table.escape(section.title),
                    "tables": [each.name for each in section.tables],
                    "pictures": [
                        {"name": each.name, "caption": table.escape(each.caption)} for each in section.pictures
                    ],
                }
                for section in report.sections
            ],
        }
        for folder, report in reports
    ]
    words = {"title": table.escape(title), "banners": [table.escape(banner) for banner in banners]}
    return _engine(tex=True).get_template("document.tex.j2").render(**words, reports=bound)


def body(report: Report, level: int = 2) -> list[str]:
    """Return the sections of a report as lines of Markdown, their headings at ``level``."""
    plain, lines = table.plain, list[str]()
    for section in report.sections:
        lines += [f"{'#' * level} {plain(section.title)}", ""]
        lines += [line for words in section.paragraphs for line in (plain(words), "")]
        lines += [table.markdown(each) for each in section.tables]
        for picture in section.pictures:
            lines += [f"![{plain(picture.name)}]({picture.name}.png)", "", plain(picture.caption), ""]
    return lines


def _picture(each: Table) -> Picture:
    """Return a table as a picture; tips are no part of it."""
    bare = [replace(row, cells=[replace(cell, tip="") for cell in row.cells]) for row in each.rows]
    return Picture(each.name, "", table.draw, (each.headers, bare))


def _seed(cell: Mapping[Hashable, Any]) -> str:
    """Return the seed that a run says it had; a rival's other number only pairs it with the reference."""
    return str(cell["said"] if cell.get("family") == rivals.FAMILY else cell["seed"])


def _markdown(report: Report, around: Around, banners: list[str]) -> str:
    plain = table.plain
    lines = [f"# {plain(report.title)}", "", plain(report.question), ""]
    lines += [line for banner in banners for line in (f"> **{plain(banner)}**", "")]
    lines += [f"- {plain(sentence)}" for sentence in report.summary] + [""]
    if around.missing:
        lines += ["## Missing", "", *(f"- {plain(line)}" for line in around.missing), ""]
    lines += body(report)
    several = around.several
    lines += ["## Runs", "", f"| arm |{' study |' * several} seed | state | run |"]
    lines += [f"| :-- |{' :-- |' * several} --: | :-- | :-- |"]
    for run in around.runs:
        study = f" {plain(run['study'])} |" * several
        lines.append(f"| {plain(str(run['arm']))} |{study} {run['seed']} | {run['state']} | `{run['identity']}` |")
    return "\n".join([*lines, "", plain(around.environment), ""])
