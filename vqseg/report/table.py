"""A table of words: the same rows as Markdown, LaTeX, CSV, terminal text and a picture.

Cells carry a mark (``bold`` or ``underline``) and a tip (seeds, patients, run identities) that the page shows.
The numbers behind the words lie in ``tidy``, with the identities of their runs.
"""

import csv
import io
import re
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vqseg.report import style

LONG, LONG_HEADER, WIDE, WIDEST = 26, 14, 10, 13
"""Longer labels and headers are broken into lines in LaTeX, and tables of more columns are set smaller, those of the
most scaled, or the table leaves the page."""

TEXT_PT, LETTER_PT, SMALL_LETTER_PT, GAP_PT = 495.0, 3.7, 3.2, 5.0
"""Of a page that is 7 inches wide: its text, a letter in either size on the average, and the gap between columns."""


@dataclass(frozen=True)
class Cell:
    """One printed cell."""

    text: str
    mark: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Row:
    """A label and its cells; ``ruled`` draws a line above it."""

    label: str
    cells: list[Cell]
    ruled: bool = False


@dataclass(frozen=True)
class Table:
    """A named table with its caption, its footnotes, the runs and the numbers behind it.

    ``phantom``: its numbers are of synthetic images, though the report that it stands in speaks of others too.
    """

    name: str
    title: str
    headers: list[str]
    rows: list[Row]
    caption: str
    tidy: pd.DataFrame
    footnotes: list[str] = field(default_factory=list)
    runs: str = ""
    phantom: bool = False


def markdown(table: Table) -> str:
    """Return the table as a Markdown pipe table with its caption and footnotes."""
    lines = [f"**{plain(table.title)}.** {plain(table.caption)}", ""]
    lines.append("| " + " | ".join(map(plain, table.headers)) + " |")
    lines.append("|" + "|".join([" :-- "] + [" --: "] * (len(table.headers) - 1)) + "|")
    for row in table.rows:
        lines.append("| " + " | ".join([plain(row.label), *(_md_cell(cell) for cell in row.cells)]) + " |")
    notes = [line for note in (*table.footnotes, table.runs) if note for line in ("", plain(note))]
    return "\n".join([*lines, *notes, ""])


def latex(table: Table) -> str:
    """Return the table as a LaTeX ``table*``; every name is escaped.

    It needs booktabs alone, but amssymb where it has ticks and graphicx where it has more columns than a page holds.
    """
    long = max((len(row.label) for row in table.rows), default=0) > LONG
    alignment = (r"p{0.19\textwidth}" if long else "l") + "r" * (len(table.headers) - 1)
    ragged = r"\raggedright " if long else ""
    size = r"\scriptsize" if len(table.headers) <= WIDE else r"\fontsize{6}{7}\selectfont"
    fit = len(table.headers) > WIDEST or _width_pt(table) > TEXT_PT
    lines = [
        f"% {_one_line(table.runs)}",
        r"\begin{table*}[tbp]",
        rf"\centering{size}\setlength{{\tabcolsep}}{{2.5pt}}",
        rf"\caption{{\textbf{{{escape(table.title)}.}} {escape(table.caption)}}}",
        rf"\label{{tab:{re.sub(r'[^a-z0-9-]', '-', table.name.lower())}}}",
        (r"\resizebox{\textwidth}{!}{" if fit else "") + rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
        r"\toprule",
        " & ".join(map(_tex_header, table.headers)) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        lines += [r"\midrule"] if row.ruled else []
        label = ragged + _breakable(escape(row.label)) if long else escape(row.label)
        lines.append(" & ".join([label, *map(_tex_cell, row.cells)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}" + ("}" if fit else "")]
    lines += [rf"\par\smallskip\parbox{{\textwidth}}{{\scriptsize {escape(note)}}}" for note in table.footnotes]
    return "\n".join([*lines, r"\end{table*}", ""])


def _breakable(words: str) -> str:
    """Let names such as ``augment.flip_vertical_probability`` be broken where a hyphen would be wrong."""
    return re.sub(r"(\\_|\.(?=[a-z]))", r"\1\\allowbreak{}", words)


def _width_pt(table: Table) -> float:
    """Return about how wide a table is set, so that one that would leave the page is scaled."""
    columns = [[row.cells[place].text for row in table.rows] for place in range(len(table.headers) - 1)]
    heads = [max(len(word) for word in header.split(" [")) for header in table.headers[1:]]
    widths = [max([min(head, LONG_HEADER), *map(len, texts)]) for head, texts in zip(heads, columns)]
    label = min(LONG, max((len(row.label) for row in table.rows), default=0))
    letter = LETTER_PT if len(table.headers) <= WIDE else SMALL_LETTER_PT
    return letter * (label + sum(widths)) + GAP_PT * len(widths)


def csv_text(table: Table) -> str:
    """Return the words as CSV, without marks."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_inert, table.headers))
    writer.writerows([_inert(row.label), *(_inert(cell.text) for cell in row.cells)] for row in table.rows)
    return out.getvalue()


def text(table: Table, width: int | None = None) -> str:
    """Return the table for a terminal: columns aligned, bold as ``*``, underlined as ``_``.

    Columns that do not fit into ``width`` stand below, beside the labels again.
    """
    marks = {"bold": "*", "underline": "_", "": " "}
    grid = [table.headers, *([row.label, *(c.text + marks[c.mark] for c in row.cells)] for row in table.rows)]
    widths = [max(len(line[column]) for line in grid) for column in range(len(table.headers))]
    blocks: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        taken = widths[0] + sum(2 + widths[each] for each in blocks[-1])
        if width is not None and blocks[-1] and taken + 2 + widths[column] > width:
            blocks.append([])
        blocks[-1].append(column)
    return "\n\n".join(
        "\n".join([*([] if n else [table.title]), *_block(grid, widths, b)]) for n, b in enumerate(blocks)
    )


def _block(grid: list[list[str]], widths: list[int], columns: list[int]) -> list[str]:
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(line[each].rjust(widths[each]) for each in columns)]).rstrip()
        for line in grid
    ]
    rule = "-" * (widths[0] + sum(2 + widths[each] for each in columns))
    return [lines[0], rule, *lines[1:]]


def draw(headers: list[str], rows: list[Row]) -> Figure:
    """Draw a table as a picture, rules as in booktabs; as wide as its words need, for a paper use the LaTeX."""
    with style.house():
        grid = [headers, *([row.label, *(cell.text for cell in row.cells)] for row in rows)]
        widths = [max(len(line[column]) for line in grid) + 2 for column in range(len(headers))]
        total, line_in = sum(widths), 0.165
        width_in = max(style.COLUMN_IN, total * 0.062)
        figure = style.sheet(width_in, line_in * (len(grid) + 1.2))
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.005, 0.0, 0.99, 1.0))
        axes.set(xlim=(0, total), ylim=(-len(grid) - 0.1, 0.6))
        axes.axis("off")
        ends = [sum(widths[: column + 1]) for column in range(len(widths))]
        for number, line in enumerate(grid):
            _draw_line(axes, number, line, ends, [""] if number == 0 else _marks(rows[number - 1]))
            if number > 0 and rows[number - 1].ruled:
                axes.plot([0, total], [-number + 0.5] * 2, color="black", lw=0.4)
        for height, weight in ((0.5, 1.0), (-0.5, 0.5), (-len(grid) + 0.5, 1.0)):
            axes.plot([0, total], [height] * 2, color="black", lw=weight, clip_on=False)
    return figure


def _one_line(words: str) -> str:
    return " ".join(words.split())


def escape(words: str) -> str:
    """Return ``words`` for LaTeX: specials escaped, characters that pdflatex lacks replaced."""
    return "".join(_TEX.get(char, char if _is_set(char) else "?") for char in words)


def _is_set(char: str) -> bool:
    """Whether pdflatex sets a letter with its own fonts."""
    return char in " \t" or (char.isprintable() and ord(char) < 0x180 and char not in _NOT_SET)


_NOT_SET = "ĦħĸĿŀŉŦŧſ\u00ad"


_TEX = {
    # After the end of a row LaTeX reads a bracket or a star as its own.
    "[": "{[}", "*": "{*}",
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "±": r"$\pm$", "−": r"$-$", "—": "--", "–": "--", "Δ": r"$\Delta$",
    "†": r"$\dagger$", "‡": r"$\ddagger$", "✓": r"\checkmark{}",
    "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "\n": " ", "→": r"$\to$", "·": r"$\cdot$",
    "ε": r"$\epsilon$", "'": "'", "’": "'", "…": r"\ldots{}",
}  # fmt: skip


def _draw_line(axes, number: int, line: list[str], ends: list[int], marks: list[str]) -> None:  # type: ignore[no-untyped-def]
    marks = marks + [""] * (len(line) - len(marks))
    axes.text(0, -number, line[0], va="center", ha="left", parse_math=False)
    for words, end, mark in zip(line[1:], ends[1:], marks):
        weight = "bold" if mark == "bold" else "normal"
        drawn = axes.text(end, -number, words, va="center", ha="right", weight=weight, parse_math=False)
        if mark == "underline":
            axes.annotate(
                "", xy=(0, -0.08), xytext=(1, -0.08), xycoords=drawn, textcoords=drawn,
                arrowprops={"arrowstyle": "-", "lw": 0.6, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip


def _marks(row: Row) -> list[str]:
    return [cell.mark for cell in row.cells]


def plain(words: str) -> str:
    """Return ``words`` for Markdown, with everything escaped that it would read as markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", words).replace("\n", " ")


def _md_cell(cell: Cell) -> str:
    around = {"bold": ("**", "**"), "underline": ("<u>", "</u>"), "": ("", "")}[cell.mark]
    return around[0] + plain(cell.text) + around[1]


def _tex_header(words: str) -> str:
    cut = words.rfind(" [" if "[" in words else " ")
    if len(words) <= LONG_HEADER or cut <= 0:
        return escape(words)
    return rf"\shortstack[r]{{{escape(words[:cut])}\\{{{escape(words[cut + 1 :])}}}}}"


def _tex_cell(cell: Cell) -> str:
    words = escape(cell.text)
    if cell.mark == "bold":
        return rf"\textbf{{{words}}}"
    return rf"\underline{{{words}}}" if cell.mark == "underline" else words


_NUMBERS = r"[+-]?[\d.][\d.,e+\- ]*( ?[±%\[(][\d.,±%\[\]()+\-− ]*)?"
"""A number, with a spread, an interval or a unit of percent behind it."""


def tidy_text(table: Table) -> str:
    """Return the numbers behind a table as CSV, names in it inert."""
    names = table.tidy.select_dtypes(exclude="number").columns
    tidy = table.tidy.assign(**{str(name): [_inert_value(value) for value in table.tidy[name]] for name in names})
    return str(tidy.rename(columns=lambda name: _inert(str(name))).to_csv(index=False))


def _inert_value(value: Any) -> Any:
    return _inert(value) if isinstance(value, str) else value


def _inert(words: str) -> str:
    """Keep a spreadsheet from reading a name as a formula, and a line from ending inside of one."""
    words = re.sub(r"[\r\n\t]+", " ", words).strip()
    suspect = words[:1] in ("=", "+", "-", "@") and not re.fullmatch(_NUMBERS, words)
    return "'" + words if suspect else words
