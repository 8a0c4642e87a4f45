"""What of a report stands already: its figures by what they show, the whole of it by all that it was made from.

    OUT/.drawn.json     figures: {name: {key, files}}; report: {key, words, files}; files: {name: [inode, ns, size]}

A key is a digest of inputs, of the code that draws and of the versions that matter, and a file counts only while it is
the one that was written then: changed, exchanged or deleted, it is made again. So the file may be deleted at any time.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vqseg import assets
from vqseg.files import digest, replacing, write_text

LEDGER = ".drawn.json"
FORMAT = 1
LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy")
Stamp = list[int]


class Drawn:
    """The ledger of one folder; a damaged one, or one of another format, is an empty one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.report: dict[str, Any] = {}
        self.figures: dict[str, Any] = {}
        self.texts: dict[str, Stamp | None] = {}
        try:
            known = json.loads((folder / LEDGER).read_text(encoding="utf-8"))
            if known["format"] == FORMAT:
                self.report, self.figures = dict(known["report"]), dict(known["figures"])
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def stands(self, entry: Any, key: str) -> bool:
        """Whether what an entry tells of was made from what ``key`` stands for, and lies there as it was written."""
        try:
            files = entry["files"]
            return bool(entry["key"] == key and all(stamp_of(self.folder / name) == files[name] for name in files))
        except (KeyError, TypeError):
            return False

    def put(self, name: str, text: str) -> Path:
        """Write a text of the report, remember the file that it is, and return its path.

        A file that says the same already stays: so a report that stands does not fall because another wrote it again.
        """
        path, data = self.folder / name, text.encode()
        if _bytes(path) == data:
            self.texts[name] = stamp_of(path)
            return path
        with replacing(path) as temporary:
            temporary.write_bytes(data)
            # Of the file that was written here: after the renaming it may be another process's.
            self.texts[name] = stamp_of(temporary)
        return path

    def save(self) -> None:
        """Write the ledger."""
        known = {"format": FORMAT, "report": self.report, "figures": self.figures}
        write_text(self.folder / LEDGER, json.dumps(known) + "\n")


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def stamp_of(path: Path) -> Stamp | None:
    """Return what changes when a file is written anew, None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_ino, status.st_mtime_ns, status.st_size]


def content(value: Any) -> str:
    """Return a digest of what a figure is drawn from: words, numbers, tables (without their index), rows of tables.

    Raises:
        TypeError: a value of a kind whose content this does not know.
    """
    found = hashlib.sha256()
    for piece in _pieces(value):
        found.update(len(piece).to_bytes(8, "little") + piece)
    return found.hexdigest()[:32]


@cache
def code(*folders: str) -> str:
    """Return a digest of all code below folders of vqseg (of all of it, if none), of what reports show of the files
    beside it (styles, published numbers, claims, presets, studies), and of versions.
    """
    package = Path(__file__).parents[1]
    found = hashlib.sha256(" ".join([sys.version, *(f"{name} {version(name)}" for name in LIBRARIES)]).encode())
    for root in [package / folder for folder in folders] or [package]:
        for path in sorted(root.rglob("*.py")):
            found.update(path.read_bytes())
    for folder in ("reports", "configs", "studies"):
        for path in sorted(path for path in assets.folder(folder).rglob("*") if path.is_file()):
            found.update(path.read_bytes())
    return found.hexdigest()[:32]


def of_files(paths: Iterable[Path]) -> str:
    """Return a digest of the stamps of files, of those too that are not there."""
    return digest([[str(path), stamp_of(path)] for path in paths])


def _pieces(value: Any) -> Iterable[bytes]:
    if value is None or isinstance(value, str | int | float):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, Mapping):
        yield b"mapping"
        for key, inner in value.items():
            yield from (*_pieces(key), *_pieces(inner))
    elif isinstance(value, frozenset | set):
        yield from _pieces(sorted(value))
    elif isinstance(value, list | tuple):
        yield f"list {len(value)}".encode()
        for inner in value:
            yield from _pieces(inner)
    elif is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__.encode()
        for field in fields(value):
            yield from _pieces(getattr(value, field.name))
    else:
        yield from _columns(value)


def _columns(table: Any) -> Iterable[bytes]:
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"no digest of a {type(table).__name__}")
    yield f"table {list(table.columns)} {[str(kind) for kind in table.dtypes]} {len(table)}".encode()
    for name in table:
        column = table[name]
        if column.dtype == object:
            yield from _pieces(column.tolist())
        else:
            yield pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes()
