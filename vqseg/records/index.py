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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqseg.errors import InputError, nearest
from vqseg.files import read_json, replacing
from vqseg.records.run import STATUS, RunFolder

if TYPE_CHECKING:
    import pandas as pd

CACHE = Path("index") / "runs.parquet"
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
    matching = [study for study in known if _is_on(study, data, split)]
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
    records, fresh = [], dict(cached)
    for identity in dict.fromkeys(identities):
        stamp = _stamp(store, identity)
        if stamp is None:
            records.append({"identity": identity, "state": "missing", "error": "never started"})
            continue
        kept = cached.get(identity)
        record = json.loads(kept[1]) if kept is not None and kept[0] == stamp else _summary(store, identity)
        fresh[identity] = (stamp, json.dumps(record))
        if record["state"] == "running":
            record["state"] = RunFolder(store, identity).state()
        records.append(record)
    if fresh != cached:
        _write_cache(store, fresh)
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


def rows(store: Path, identities: list[str]) -> pd.DataFrame:
    """Return the scored rows of the runs with a column ``identity`` (schema: `vqseg.evaluate`); empty if none."""
    return _tables(store, identities, "rows.parquet")


def usage(store: Path, identities: list[str]) -> pd.DataFrame:
    """Return the codebook usage histograms of the runs with a column ``identity``; empty if none."""
    return _tables(store, identities, "codebook.parquet")


def curves(store: Path, identities: list[str], names: list[str] | None = None) -> pd.DataFrame:
    """Return logged metrics as ``identity``, ``step``, ``name``, ``value``; all names, or those given."""
    import pandas as pd

    parts = []
    for identity in dict.fromkeys(identities):
        table = _metrics(store / "runs" / identity / "metrics.csv")
        if names is not None:
            table = table[table["name"].isin(names)]
        parts.append(table.assign(identity=identity))
    empty = pd.DataFrame(columns=["step", "name", "value", "identity"])
    return pd.concat(parts, ignore_index=True) if parts else empty


def _is_on(study: dict[str, Any], data: str | None, split: str | None) -> bool:
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


def _stamp(store: Path, identity: str) -> str | None:
    folder = store / "runs" / identity
    if not (folder / STATUS).is_file():
        return None
    parts = []
    for name in (STATUS, "metrics.csv"):
        try:
            status = (folder / name).stat()
        except FileNotFoundError:
            parts.append("-")
        else:
            parts.append(f"{status.st_ino}.{status.st_mtime_ns}.{status.st_size}")
    return " ".join(parts)


def _summary(store: Path, identity: str) -> dict[str, Any]:
    folder = RunFolder(store, identity)
    try:
        status = folder.status()
    except InputError as error:
        return {"identity": identity, "state": "damaged", "error": str(error)}
    record = {**_flat(status), "identity": identity}
    record.setdefault("error", None)
    table = _metrics(folder.path / "metrics.csv")
    for name, values in table.groupby("name"):
        record[f"last:{name}"] = float(values["value"].iloc[-1])
        late = values[values["step"] >= LATE * values["step"].max()]
        record[f"late:{name}"] = float(late["value"].mean())
    return record


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and f"{prefix}{key}" != "code":
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _metrics(path: Path) -> pd.DataFrame:
    """Read one ``metrics.csv``; a last line that is still being written is left out."""
    import io

    import pandas as pd

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    whole = text[: text.rfind("\n") + 1] or "step,name,value\n"
    table = pd.read_csv(io.StringIO(whole), dtype={"step": "int64", "name": "str", "value": "float64"})
    return table.dropna(subset=["name"])


def _tables(store: Path, identities: list[str], name: str) -> pd.DataFrame:
    import pandas as pd

    parts = []
    for identity in dict.fromkeys(identities):
        path = store / "runs" / identity / name
        if not path.is_file():
            continue
        try:
            parts.append(pd.read_parquet(path).assign(identity=identity))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: not readable: {reason}; score the run again with 'vqseg evaluate'") from None
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"identity": []})


def _read_cache(store: Path) -> dict[str, tuple[str, str]]:
    import pandas as pd

    try:
        table = pd.read_parquet(store / CACHE, columns=["identity", "stamp", "record"])
    except (OSError, ValueError):
        return {}
    return {row[0]: (row[1], row[2]) for row in table.itertuples(index=False, name=None)}


def _write_cache(store: Path, entries: dict[str, tuple[str, str]]) -> None:
    import pandas as pd

    table = pd.DataFrame([(key, *entry) for key, entry in entries.items()], columns=["identity", "stamp", "record"])
    try:
        with replacing(store / CACHE) as temporary:
            table.to_parquet(temporary, index=False)
    except OSError:  # a store that one may only read still reports
        return
