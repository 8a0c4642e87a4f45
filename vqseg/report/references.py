"""The works that a methods paragraph refers to: ``reports/references.bib``, read as far as a page needs it."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vqseg import assets
from vqseg.errors import InputError

_ENTRY = re.compile(r"^@(\w+)\{([\w-]+),\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_ACCENTS = {r"{\'e}": "é", r"{\'i}": "í", r"{\'a}": "á", r"{\`e}": "è"}
"""What the file has of LaTeX's accents."""


@dataclass(frozen=True)
class Reference:
    """One entry: its key, its BibTeX, and how a text names it, such as ``Gu et al. 2022``."""

    key: str
    bibtex: str
    short: str


def read(path: Path | None = None) -> dict[str, Reference]:
    """Return all entries by key.

    Raises:
        InputError: an entry has no author or year.
    """
    return dict(_read(path or assets.folder("reports") / "references.bib"))


def bibliography(keys: list[str]) -> str:
    """Return the BibTeX of some entries, in order of their keys, each once."""
    known = read()
    return "\n\n".join(known[key].bibtex for key in sorted(set(keys))) + "\n"


@cache
def _read(path: Path) -> tuple[tuple[str, Reference], ...]:
    found = []
    for match in _ENTRY.finditer(path.read_text(encoding="utf-8")):
        key, body = match[2], match[3]
        author, year = _field(body, "author"), _field(body, "year")
        if not author or not year:
            raise InputError(f"{path}: {key}: expected an author and a year")
        found.append((key, Reference(key, match[0], f"{_names(author)} {year}")))
    return tuple(found)


def _field(body: str, name: str) -> str:
    match = re.search(rf"^\s*{name}\s*=\s*\{{(.*?)\}},?$", body, re.MULTILINE | re.DOTALL)
    words = " ".join(match[1].split()) if match else ""
    for tex, letter in _ACCENTS.items():
        words = words.replace(tex, letter)
    return words


def _names(author: str) -> str:
    """Return the last names: of one, of two, or the first one's ``et al.``."""
    last = [one.partition(",")[0].strip() for one in author.split(" and ")]
    if len(last) == 1:
        return last[0]
    return f"{last[0]} and {last[1]}" if len(last) == 2 and last[1] != "others" else f"{last[0]} et al."
