"""Reads many run folders and studies into tidy tables; what reports see of a store.

    STORE/studies/FULLNAME/study.json     the study: question, arms, cells (arm, seed, identity)
    STORE/studies/FULLNAME/errors/        why cells failed (`vqseg.study.standing`)
    STORE/runs/IDENTITY/                  see `vqseg.records.run`
    STORE/index/runs.parquet              cache of what `frame` read, safe to delete

The cache holds, per run, what the status and the metrics said together with the stamp (inode, time, size) of both
files at the moment before they were read, so an entry is used only while neither file has changed.
A run that claims to be running is asked anew every time, because only its lock can tell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqseg.errors import InputError, nearest
from vqseg.files import read_json, replacing
from vqseg.records import bulk
from vqseg.records.run import STATUS, RunFolder

if TYPE_CHECKING:
    import pandas as pd

CACHE = Path("index") / "runs.parquet"
COLUMNS = ["identity", "stamp", "record"]
VERSION = "2"
"""Of what a record holds: entries of another version are read again."""

FOREIGN = "foreign"
"""The ``kind`` in the status of a run that was scored from predictions alone."""

LATE = 0.75
"""`late:NAME` averages a metric over the steps from this share of the run on."""


def studies(store: Path) -> list[dict[str, Any]]:
    """Return every ``study.json`` of the store, newest first.

    Raises:
        InputError: a study file is damaged.
    """
    found = [read_json(path) for path in sorted((store / "studies").glob("*/study.json"))]
    return sorted(found, key=lambda study: str(study.get("created", "")), reverse=True)


def tabulable(store: Path, study: dict[str, Any]) -> bool:
    """Whether at least one cell of the study has scored rows."""
    return any((store / "runs" / cell["identity"] / "rows.parquet").is_file() for cell in study["cells"])


def find_study(
    store: Path, name: str | None, *, data: str | None = None, split: str | None = None, one: bool = False
) -> dict[str, Any]:
    """Find a study by its full name, else the newest one of that definition; ``None``: the newest with scored rows.

    Args:
        store: the store.
        name: full name, definition name, or None.
        data: only studies on this data set (its name or folder).
        split: only studies on this split.
        one: take no newest of several.

    Raises:
        InputError: no such study; the nearest names are given. Several, where ``one`` is asked for.
    """
    known = studies(store)
    matching = [study for study in known if is_on(study, data, split)]
    if name is None:
        found = [study for study in matching if tabulable(store, study)]
    else:
        found = [study for study in matching if study["name"] == name] or [
            study for study in matching if study["study"] == name
        ]
    if one and len(found) > 1:
        listed = ", ".join(f"{study['name']} (split {study['split']['name']})" for study in found)
        raise InputError(f"{len(found)} studies are called {name!r}: {listed}; name one of them in full")
    if found:
        return next((study for study in found if tabulable(store, study)), found[0])
    raise InputError(_nothing(store, name, known, data, split))


def failures(store: Path, study: dict[str, Any]) -> dict[str, str]:
    """Return identity -> error of the cells that the study saw fail, those among them whose run never began."""
    notes = sorted((store / "studies" / study["name"] / "errors").glob("*.json"))
    return {note.stem: str(read_json(note)["error"]) for note in notes}


def frame(store: Path, identities: list[str]) -> pd.DataFrame:
    """Return one row per run, in the order given; runs that were never started are rows with state ``missing``.

    Columns: ``identity``, ``state`` (the true one), ``error``, then ``status.json`` flattened with dots
    (``split.digest``, ``cost.parameters``), ``code`` and ``evaluations`` as they stand, and for every logged
    metric ``last:NAME`` (last value) and ``late:NAME`` (mean over the last quarter of the steps).
    """
    import pandas as pd

    cached = _read_cache(store)
    # The stamps are taken before the files are read, so that what changes in between is read again the next time.
    stamps = {identity: _stamp(store, identity) for identity in dict.fromkeys(identities)}
    there = {identity: stamp for identity, stamp in stamps.items() if stamp is not None}
    stale = [identity for identity, stamp in there.items() if cached.get(identity, ("",))[0] != stamp]
    known = {identity: cached[identity][1] for identity in there if identity in cached}
    known |= {identity: json.dumps(record) for identity, record in _summaries(store, stale).items()}
    if stale:
        _write_cache(store, {**cached, **{identity: (stamp, known[identity]) for identity, stamp in there.items()}})
    missing = {"state": "missing", "error": "never started"}
    records = [
        json.loads(known[identity]) if identity in known else {"identity": identity, **missing} for identity in stamps
    ]
    for record in records:
        if record["state"] == "running":
            record["state"] = RunFolder(store, record["identity"]).state()
    return pd.DataFrame(records, columns=None if records else ["identity", "state", "error"])


def foreign(store: Path, data: str) -> list[str]:
    """Return the identities of the runs on the data of digest ``data`` that were scored from predictions alone.

    They are no cells of a study: `vqseg score` made them from what another program predicted.
    """
    found = []
    for path in sorted((store / "runs").glob(f"*/{STATUS}")):
        text = path.read_text(encoding="utf-8", errors="replace")
        # Most runs are no rivals and a store may hold thousands: look before parsing.
        if FOREIGN not in text or data not in text:
            continue
        try:
            status = json.loads(text)
        except ValueError:  # damaged: `frame` says so where a study needs the run
            continue
        if status.get("kind") == FOREIGN and (status.get("data") or {}).get("digest") == data:
            found.append(path.parent.name)
    return found


def rows(store: Path, identities: list[str], columns: Collection[str] | None = None) -> pd.DataFrame:
    """Return the scored rows of the runs with a column ``identity`` (schema: `vqseg.evaluate`); empty if none.

    All columns, or those of ``columns`` that there are.
    """
    return bulk.tables(_paths(store, identities, "rows.parquet", only_there=True), columns)


def usage(store: Path, identities: list[str], columns: Collection[str] | None = None) -> pd.DataFrame:
    """Return the codebook usage histograms of the runs with a column ``identity``; empty if none; columns as `rows`."""
    return bulk.tables(_paths(store, identities, "codebook.parquet", only_there=True), columns)


def curves(store: Path, identities: list[str], names: list[str] | None = None) -> pd.DataFrame:
    """Return logged metrics as ``identity``, ``step``, ``name``, ``value``; all names, or those given."""
    import pandas as pd

    parts = list(bulk.metrics(_paths(store, identities, "metrics.csv"), names))
    empty = pd.DataFrame(columns=["step", "name", "value", "identity"])
    return pd.concat(parts, ignore_index=True) if parts else empty


def is_on(study: dict[str, Any], data: str | None, split: str | None) -> bool:
    """Tell whether a study is on this data set (its name or folder) and this split; None: on any."""
    ours = study.get("data", {})
    if data is not None and data != ours.get("name") and Path(data).resolve() != Path(ours.get("root", "?")).resolve():
        return False
    return split is None or study.get("split", {}).get("name") == split


def _nothing(store: Path, name: str | None, known: list[dict[str, Any]], data: str | None, split: str | None) -> str:
    limits = "".join(f" on {what} {value!r}" for what, value in (("data", data), ("split", split)) if value is not None)
    if name is None:
        return f"{store}: no study{limits} with scored runs; 'vqseg study run NAME' makes one"
    names = list(dict.fromkeys(study[key] for study in known for key in ("name", "study")))
    listed = ", ".join(names) or "none; 'vqseg study run NAME' makes one"
    return f"unknown study {name!r}{limits} in {store}{nearest(name, names)}; known: {listed}"


def _paths(store: Path, identities: list[str], name: str, *, only_there: bool = False) -> dict[str, Path]:
    paths = {identity: store / "runs" / identity / name for identity in dict.fromkeys(identities)}
    return {identity: path for identity, path in paths.items() if not only_there or path.is_file()}


def _stamp(store: Path, identity: str) -> str | None:
    """Return what changes whenever status or metrics of a run do, None where there is no run."""
    parts = [VERSION]
    for name in (STATUS, "metrics.csv"):
        try:
            status = os.stat(store / "runs" / identity / name)
        except FileNotFoundError:
            if name == STATUS:
                return None
            parts.append("-")
        else:
            parts.append(f"{status.st_ino}.{status.st_mtime_ns}.{status.st_size}")
    return " ".join(parts)


def _summaries(store: Path, identities: list[str]) -> dict[str, dict[str, Any]]:
    """Return identity -> what the status and the metrics of a run say."""
    found: dict[str, dict[str, Any]] = {}
    for identity in identities:
        try:
            found[identity] = {**_flat(RunFolder(store, identity).status()), "identity": identity}
            found[identity].setdefault("error", None)
        except InputError as error:
            found[identity] = {"identity": identity, "state": "damaged", "error": str(error)}
    readable = [identity for identity in identities if found[identity]["state"] != "damaged"]
    for table in bulk.metrics(_paths(store, readable, "metrics.csv")):
        for identity, name, last, late in _lasts(table):
            found[identity] |= {f"last:{name}": last, f"late:{name}": late}
    return found


def _lasts(table: pd.DataFrame) -> list[tuple[str, str, float, float]]:
    """Return (identity, name, last value, mean over the last quarter of the steps) of every metric of every run."""
    groups = table.groupby(["identity", "name"], sort=True)
    late = table[table["step"] >= LATE * groups["step"].transform("max")]
    means = late.groupby(["identity", "name"], sort=True)["value"].mean()
    lines = table.drop_duplicates(["identity", "name"], keep="last").set_index(["identity", "name"])["value"]
    return [(*key, last, mean) for key, last, mean in zip(means.index, lines[means.index].tolist(), means.tolist())]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and f"{prefix}{key}" != "code":
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _read_cache(store: Path) -> dict[str, tuple[str, str]]:
    """Return identity -> (stamp, record as JSON); nothing where the cache cannot be used."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(store / CACHE, columns=COLUMNS, use_threads=False, page_checksum_verification=True)
        return {identity: (stamp, record) for identity, stamp, record in zip(*table.to_pydict().values(), strict=True)}
    except (OSError, ValueError, KeyError):
        return {}


def _write_cache(store: Path, entries: dict[str, tuple[str, str]]) -> None:
    """Write the cache, without runs that are gone; another process's newer entries that are lost are read again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = [(key, *entry) for key, entry in entries.items() if (store / "runs" / key / STATUS).is_file()]
    columns = {name: [line[place] for line in lines] for place, name in enumerate(COLUMNS)}
    try:
        with replacing(store / CACHE) as temporary:
            pq.write_table(pa.table(columns), temporary, write_page_checksum=True)
    except OSError:  # a store that one may only read still reports
        return
