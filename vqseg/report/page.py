"""Writes a report: one page (HTML), one Markdown file, every table in five forms, every figure in two."""

import os
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2

from vqseg import assets
from vqseg.errors import InputError
from vqseg.report import drafting, rivals, table
from vqseg.report.content import Picture, Report, environment, missing_words
from vqseg.report.drawn import Drawn
from vqseg.report.selection import Selection

PHANTOM = "Phantom: made from synthetic images. These numbers show that the bench works and nothing about a method."


def write(report: Report, selection: Selection, drawn: Drawn) -> list[Path]:
    """Write everything into ``drawn``'s folder and return the paths, the page first; figures that stand there stay.

    Raises:
        InputError: the folder cannot be written.
    """
    out = drawn.folder
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = _parts(report, selection, drawn)
        banners = [*report.banners, *([PHANTOM] if selection.phantom else [])]
        page = drawn.put("index.html", _page(report, selection, out, banners))
        words = drawn.put("report.md", _markdown(report, selection, banners))
        document = drawn.put("report.tex", _document(report, banners))
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}; choose another folder with --out") from None
    return [page, words, document, *written]


def _parts(report: Report, selection: Selection, drawn: Drawn) -> list[Path]:
    tables = [each for section in report.sections for each in section.tables]
    written: list[Path] = []
    for each in tables:
        forms = {".md": table.markdown(each), ".tex": table.latex(each), ".csv": table.csv_text(each)}
        forms["-cells.csv"] = each.tidy.to_csv(index=False)
        written += [drawn.put(f"{each.name}{ending}", words) for ending, words in forms.items()]
    # Tips are no part of a table's picture.
    bare = [[replace(row, cells=[replace(cell, tip="") for cell in row.cells]) for row in each.rows] for each in tables]
    pictures = [Picture(each.name, "", table.draw, (each.headers, rows)) for each, rows in zip(tables, bare)]
    pictures += [picture for section in report.sections for picture in section.pictures]
    return written + drafting.draw(pictures, drawn, phantom=selection.phantom)


def _page(report: Report, selection: Selection, out: Path, banners: list[str]) -> str:
    loader = jinja2.FileSystemLoader(assets.folder("reports"))
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "page.html.j2"
    )
    runs = [
        {
            **{key: cell[key] for key in ("arm", "state", "identity")},
            "seed": _seed(cell),
            "link": _link(selection, str(cell["identity"]), out),
        }
        for cell in selection.tabled_cells.to_dict("records")
    ]
    return template.render(
        report=report,
        banners=banners,
        missing=missing_words(selection),
        runs=runs,
        cells=len(selection.cells),
        environment=environment(selection),
        phantom=selection.phantom,
    )


def _seed(cell: Mapping[Hashable, Any]) -> str:
    """Return the seed that a run says it had; a rival's other number only pairs it with the reference."""
    return str(cell["said"] if cell.get("family") == rivals.FAMILY else cell["seed"])


def _link(selection: Selection, identity: str, out: Path) -> str | None:
    """Return the way from the page to a run, None for a run that never began."""
    folder = selection.store / "runs" / identity
    return Path(os.path.relpath(folder, out)).as_posix() if folder.is_dir() else None


def _markdown(report: Report, selection: Selection, banners: list[str]) -> str:
    plain = table.plain
    lines = [f"# {plain(report.title)}", "", plain(report.question), ""]
    lines += [line for banner in banners for line in (f"> **{plain(banner)}**", "")]
    lines += [f"- {plain(sentence)}" for sentence in report.summary] + [""]
    missing = missing_words(selection)
    if missing:
        lines += ["## Missing", "", *(f"- {plain(line)}" for line in missing), ""]
    for section in report.sections:
        lines += [f"## {plain(section.title)}", ""]
        lines += [line for words in section.paragraphs for line in (plain(words), "")]
        lines += [table.markdown(each) for each in section.tables]
        for picture in section.pictures:
            lines += [f"![{plain(picture.name)}]({picture.name}.png)", "", plain(picture.caption), ""]
    lines += ["## Runs", "", "| arm | seed | state | run |", "| :-- | --: | :-- | :-- |"]
    for cell in selection.tabled_cells.to_dict("records"):
        lines.append(f"| {plain(str(cell['arm']))} | {_seed(cell)} | {cell['state']} | `{cell['identity']}` |")
    return "\n".join([*lines, "", plain(environment(selection)), ""])


def _document(report: Report, banners: list[str]) -> str:
    loader = jinja2.FileSystemLoader(assets.folder("reports"))
    # LaTeX is full of braces and percent signs, so the template uses other delimiters; names arrive escaped.
    engine = jinja2.Environment(  # noqa: S701
        loader=loader, block_start_string="<%", block_end_string="%>", variable_start_string="<<",
        variable_end_string=">>", comment_start_string="<#", comment_end_string="#>", trim_blocks=True,
    )  # fmt: skip
    sections = [
        {
            "title": table.escape(section.title),
            "tables": [each.name for each in section.tables],
            "pictures": [{"name": each.name, "caption": table.escape(each.caption)} for each in section.pictures],
        }
        for section in report.sections
    ]
    words = {"title": table.escape(report.title), "banners": [table.escape(banner) for banner in banners]}
    return engine.get_template("document.tex.j2").render(**words, sections=sections)
