"""The vocabulary of the MLflow mirror (knows no MLflow): what is pushed, what of it was, where to.

A folder's `View` is everything that its MLflow run should show. `mirror.json` beside the record remembers, per
tracking store, what it shows already:

    {"format": 1, "tracking": {URI_DIGEST: {run_id, pending, seen, name, tags, params, dataset, steps, totals,
                                            artifacts, status}}}

`pending` is written before the first request of a push and cleared after the last, so that a push that was cut off is
compared with the store instead of being repeated. The file may be deleted at any time; it is found out again.
"""

import csv
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vqseg.errors import InputError
from vqseg.files import digest, read_json, write_json
from vqseg.records.run import STATUS, RunFolder

EXPERIMENT = "vqseg"
POINTS = 500
VERSION = 1  # of what a View shows; raise it and every run is looked at again
Point = tuple[str, int, float, int]  # metric, step, value, ms since 1970


@dataclass(frozen=True)
class Dataset:
    """A data set by name, digest and place."""

    name: str
    digest: str
    source: str


@dataclass(frozen=True)
class Artifact:
    """One file of an MLflow run; ``write`` makes it at a given path, only when ``digest`` is new."""

    name: str
    digest: str
    write: Callable[[Path], object]


@dataclass(frozen=True)
class View:
    """Everything that one MLflow run shows; times in ms since 1970, ``ended`` None while it runs."""

    key: str
    name: str
    started: int
    ended: int | None
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    step: int
    points: list[Point] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    dataset: Dataset | None = None


@dataclass(frozen=True)
class Member:
    """One study's claim on a run."""

    study: str
    arm: str
    name: str


class Ledger:
    """`mirror.json` of one folder, for one tracking store."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.path, self._folder, self._key = folder / "mirror.json", folder, digest(uri)
        self.entry: dict[str, Any] = self.of(folder).get(self._key, {})

    def save(self) -> None:
        """Write the entry beside those of other tracking stores."""
        write_json(self.path, {"format": 1, "tracking": {**self.of(self._folder), self._key: self.entry}})

    def forget(self) -> None:
        """Drop the entry of this tracking store."""
        if self.entry:
            self.entry = {}
            self.save()

    @staticmethod
    def of(folder: Path) -> dict[str, dict[str, Any]]:
        """Return the entries of all tracking stores, by the digest of their address."""
        path = folder / "mirror.json"
        try:
            tracking = read_json(path)["tracking"] if path.is_file() else {}
        except (InputError, KeyError, TypeError):
            return {}  # a damaged memory is found out again from the store
        return tracking if isinstance(tracking, dict) else {}


def default_uri(store: Path) -> str:
    """Return the address of the store's own SQLite file."""
    return f"sqlite:///{store.absolute() / 'mlflow' / 'mlflow.db'}"


def resolve_uri(store: Path, tracking: str | None) -> str:
    """Return the tracking address: the option, else MLFLOW_TRACKING_URI, else the store's own.

    Raises:
        InputError: an address that MLflow no longer serves (a plain folder), or none at all.
    """
    given = (tracking or os.environ.get("MLFLOW_TRACKING_URI", "")).strip().rstrip("/")
    if not given:
        return default_uri(store)
    if given.startswith("sqlite:///"):
        return f"sqlite:///{Path(given.removeprefix('sqlite:///')).absolute()}"
    if urlsplit(given).scheme.split("+")[0] in ("http", "https", "postgresql", "mysql", "mssql", "databricks"):
        return given
    raise InputError(
        f"tracking address {shown_uri(given)!r}: expected http(s)://HOST:PORT, sqlite:///FILE or postgresql://"
    )


def require_address(store: Path, tracking: str | None) -> str:
    """Return the tracking address unless it can never be reached; a server that is away may come back.

    Raises:
        InputError: an unknown scheme, or an SQLite file where none can be written.
    """
    uri = resolve_uri(store, tracking)
    database = database_of(uri)
    if database is None or uri == default_uri(store):
        return uri
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=database.parent):
            pass
    except OSError as error:
        raise InputError(
            f"tracking address {uri}: no file can be written in {database.parent} ({error.strerror}); choose another"
        ) from None
    return uri


def database_of(uri: str) -> Path | None:
    """Return the SQLite file that ``uri`` names, None for a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def artifacts_of(store: Path, uri: str) -> Path | None:
    """Return the folder for the artifacts of a new experiment, None where the server decides."""
    if database := database_of(uri):
        return database.parent / "artifacts"
    return (
        None if urlsplit(uri).scheme in ("http", "https", "databricks") else store.absolute() / "mlflow" / "artifacts"
    )


def shown_uri(uri: str) -> str:
    """Return ``uri`` without user name and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def runs_of(store: Path) -> list[RunFolder]:
    """Return every run of the store, in the order of their identities."""
    return [RunFolder(store, path.parent.name) for path in sorted((store / "runs").glob(f"*/{STATUS}"))]


def studies_of(store: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the readable ``study.json`` of the store, oldest first, and one line per unreadable one."""
    studies, problems = [], []
    for path in sorted((store / "studies").glob("*/study.json")):
        try:
            study = read_json(path)
            studies.append({**study, "folder": path.parent, "cells": list(study["cells"])})
        except (InputError, KeyError, TypeError) as error:
            problems.append(str(error) if isinstance(error, InputError) else f"{path}: not a study's record")
    return sorted(studies, key=lambda study: (study.get("created", ""), study["name"])), problems


def members_of(studies: Iterable[dict[str, Any]]) -> dict[str, list[Member]]:
    """Return for every identity the studies that hold it, the oldest first."""
    members: dict[str, list[Member]] = {}
    for study in studies:
        for cell in study["cells"]:
            members.setdefault(cell["identity"], []).append(Member(study["name"], cell["arm"], cell["name"]))
    return members


def fingerprint(run: RunFolder, members: list[Member], parent: str | None) -> str:
    """Return a digest that changes whenever the run's view could; costs a few `stat` calls."""
    files = [stamp(run.path / name) for name in (STATUS, "metrics.csv", "rows.parquet", "codebook.parquet")]
    pictures = [(path.name, stamp(path)) for path in sorted((run.path / "overlays").glob("*.png"))]
    weights = [(path.name, stamp(path)) for path in sorted((run.path / "weights").glob("*.safetensors"))]
    return digest([VERSION, run.state(), files, pictures, weights, [list(vars(m).values()) for m in members], parent])


def stamp(path: Path) -> list[int]:
    """Return (size, time in ns) of a file, empty if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def milliseconds(moment: str | None) -> int | None:
    """Return an ISO time as ms since 1970."""
    return int(datetime.fromisoformat(moment).timestamp() * 1000) if moment else None


def sanitized(name: str) -> str:
    """Return ``name`` with what MLflow rejects in names turned into single spaces: `qpm eps=0.7` -> `qpm eps 0.7`."""
    return re.sub(r" +", " ", re.sub(r"[^\w.\-: /]", " ", name)).strip(" /") or "unnamed"


def flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) for every leaf of a config; text is JSON unless it is text, at most 6,000 long."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) and value else json.dumps(value, default=str)
            yield sanitized(f"{prefix}{name}"), text[:6000]


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return {name: [(step, value)]} of a ``metrics.csv``; a line that is still being written is left out."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    found: dict[str, list[tuple[int, float]]] = {}
    for row in csv.reader(text[: text.rfind("\n") + 1].splitlines()[1:]):
        if len(row) == 3:
            found.setdefault(row[1], []).append((int(row[0]), float(row[2])))
    return found


def thin(points: list[tuple[int, float]], steps: int, *, final: bool, limit: int = POINTS) -> list[tuple[int, float]]:
    """Keep the first point of each of ``limit`` - 1 equal stretches of the planned steps, and the last when ``final``.

    What is kept of a run's beginning does not depend on how far it has come, so points can be pushed as they arrive.
    """
    width = max(1, -(-(steps + 1) // (limit - 1)))
    kept, stretch = [], -1
    for step, value in points:
        if min(step, steps) // width > stretch:
            stretch = min(step, steps) // width
            kept.append((step, value))
    return kept + points[-1:] if final and points and kept[-1] != points[-1] else kept
