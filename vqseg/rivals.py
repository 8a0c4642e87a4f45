"""Predictions of any other tool become a run in the store, so that a method that nobody rewrote stands in the tables.

A rival's run has rows, label maps and overlays like any other, as checkpoint ``last`` and network ``teacher``, but no
config, curves or weights; in its status ``kind`` is ``foreign``, and what nobody knows is null. Its identity is what
was predicted: name, seed, part, data, split, and the label maps of the part.

Its label maps have one geometry, whichever way they came about: they are scored on the native grid under ``scan`` and
``image``. Under another protocol only if that is asked for; the rows then say ``given`` as their geometry, because no
network of ours saw the protocol's own size.
"""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import vqseg
from vqseg import foreign_maps
from vqseg.errors import InputError, pick
from vqseg.evaluate import label_path, merge_rows, save_label_map, score
from vqseg.files import digest
from vqseg.identity import scoring_hash
from vqseg.inspection import require_sound
from vqseg.manifest import Manifest, Scan, Split, array_sha256, read_manifest, read_mask, read_split, scans_of
from vqseg.metrics import LIBRARIES
from vqseg.overlays import write_overlays
from vqseg.protocols import PROTOCOLS, TRAINING_PARTS, applicable_protocols, require_scorable
from vqseg.records.index import FOREIGN
from vqseg.records.run import RunFolder, latest, now

NATIVE, GIVEN = "native", "given"
STAMP = {"checkpoint": "last", "network": "teacher"}


class Rival(NamedTuple):
    """What the user tells of a method; None: unknown. ``labelled`` are patients, ``pretrained`` whose weights."""

    name: str
    seed: int | None = None
    labelled: int | None = None
    steps: int | None = None
    pretrained: str | None = None


class Scored(NamedTuple):
    """The run, all of its rows, the part, whether anything was scored, and what to know."""

    folder: RunFolder
    rows: pd.DataFrame
    part: str
    new: bool
    notes: list[str]


class _Data(NamedTuple):
    """The data, and the scans to score: those of the part, and of the pool that a protocol may take with them."""

    root: Path
    manifest: Manifest
    split: Split
    part: str
    members: Mapping[str, Sequence[Scan]]


def score_predictions(
    predictions: Path,
    rival: Rival,
    *,
    root: Path,
    store: Path,
    split: str | None = None,
    part: str | None = None,
    protocols: list[str] | None = None,
    library: str = "own",
) -> Scored:
    """Score the label maps of a part and record them as a run; what was scored already stays as it is.

    Args:
        predictions: a folder of label maps (`vqseg.foreign_maps`), or one file.
        rival: whose they are.
        root: the prepared data folder.
        store: the store.
        split: its name; by default the data's own.
        part: test, devtest or val; by default the split's test part, else val.
        protocols: by default scan, or image; ``["all"]``: all that are applicable.
        library: what measures distances, a row of `vqseg.metrics.LIBRARIES`.

    Raises:
        InputError: the data or the part cannot be scored, a protocol is not applicable, or a label map is missing,
            damaged or does not fit. Nothing is written then.
    """
    _require_told(rival)
    pick(library, LIBRARIES, "distance library")
    data, asked, reasons = _asked(root, split, part, protocols)
    asked = _with_pools(predictions, data, asked, reasons, every=protocols == ["all"])
    used = list(dict.fromkeys(own for name in asked for own in PROTOCOLS[name].parts(data.part)))
    require_sound(root, data.manifest, data.split, parts=used, read_masks_of=used)
    scans = [scan for own in used for scan in data.members[own]]
    maps, notes = foreign_maps.read(predictions, data.manifest, scans)
    content = {own: digest({scan.scan: array_sha256(maps[scan.scan]) for scan in data.members[own]}) for own in used}
    known = [rival.name, rival.seed, data.part, data.manifest.digest, data.split.digest, content[data.part]]
    folder = RunFolder(store, digest(known))
    entry = {"part": data.part, "protocols": asked, "library": library, "lesions": data.manifest.lesions}
    entry |= {"scoring": scoring_hash(), "content": content}
    if protocols == ["all"]:
        entry["not_applicable"] = reasons
        notes += [f"not applicable: {name}: {why}" for name, why in reasons.items()]
    with folder.lock():
        status = folder.status() if folder.exists() else _first_status(data, rival, predictions, content[data.part])
        told = {key: value for key, value in rival._asdict().items() if value not in (None, status[key])}
        # Of several runs that could stand in a table, the one asked for last does.
        told["called"] = now()
        new = not _done(folder, status, entry)
        if new:
            _record(folder, data, maps, _score(data, maps, asked, library), {**status, **told}, entry)
        else:
            folder.update(**told)
    return Scored(folder, pd.read_parquet(folder.path / "rows.parquet"), data.part, new, notes)


def _require_told(rival: Rival) -> None:
    name = rival.name
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > 80:
        raise InputError(f"--name {name!r}: expected the method's name, of at most 80 printable characters")
    for option in ("seed", "labelled", "steps"):
        value = getattr(rival, option)
        if value is not None and value < (option != "seed"):
            raise InputError(f"--{option} {value}: expected {0 if option == 'seed' else 1} or more")


def _asked(
    root: Path, split_name: str | None, part: str | None, protocols: list[str] | None
) -> tuple[_Data, list[str], dict[str, str]]:
    """Return the data, the protocols to score under, and for those that are not applicable the reason."""
    manifest = read_manifest(root)
    split = read_split(root, manifest, split_name)
    require_scorable(part or "")
    chosen = pick(part or split.test_part or "val", _scorable(split), "part")
    members = {name: scans_of(manifest, split, name) for name in dict.fromkeys(["val", chosen])}
    able, reasons = applicable_protocols(members[chosen], chosen, members["val"])
    usual = [name for name in able if PROTOCOLS[name].geometry == NATIVE]
    asked = able if protocols == ["all"] else list(dict.fromkeys(protocols or usual))
    refused = next((name for name in asked if pick(name, PROTOCOLS, "protocol") in reasons), None)
    if refused or not asked:
        why = f"protocol {refused!r} is not applicable" if refused else "no protocol is applicable"
        raise InputError(f"{why} to {chosen}: {reasons[refused or next(iter(reasons))]}")
    return _Data(root, manifest, split, chosen, members), asked, reasons


def _scorable(split: Split) -> list[str]:
    return [name for name, patients in split.parts.items() if patients and name not in TRAINING_PARTS]


def _with_pools(predictions: Path, data: _Data, asked: list[str], reasons: dict[str, str], *, every: bool) -> list[str]:
    """Return the protocols of whose pools there are label maps; of ``every`` one that is not, note the reason."""
    for name in asked:
        pool = [own for own in PROTOCOLS[name].parts(data.part) if own != data.part]
        if not pool:
            continue
        absent = foreign_maps.lacking(predictions, data.manifest, [scan for own in pool for scan in data.members[own]])
        if not absent:
            continue
        lacks = f"{predictions} holds no label map of scan {absent[0]!r} of {pool[0]}"
        if not every:
            what = f"protocol {name!r} scores {pool[0]} and {data.part} scans together"
            raise InputError(f"{what}, but {lacks}; add those of {pool[0]}, or name other protocols")
        reasons[name] = f"{pool[0]} and {data.part} scans together, but {lacks}"
    return [name for name in asked if name not in reasons]


def _done(folder: RunFolder, status: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Whether every protocol's rows are of these label maps, by this code, library and lesion marks."""
    last = latest(status["evaluations"], entry["part"])

    def same(name: str) -> bool:
        # Entries of before marks were noted are of none.
        held = {"lesions": {}, **last.get(name, {"unfinished": True})}
        if held.get("unfinished") or any(held.get(key) != entry[key] for key in ("library", "scoring", "lesions")):
            return False
        parts = PROTOCOLS[name].parts(entry["part"])
        return all(held["content"].get(own) == entry["content"][own] for own in parts)

    return (folder.path / "rows.parquet").is_file() and all(map(same, entry["protocols"]))


def _score(data: _Data, maps: Mapping[str, np.ndarray], asked: list[str], library: str) -> pd.DataFrame:
    read = dict.fromkeys(own for name in asked for own in PROTOCOLS[name].parts(data.part))
    rows = score(
        {PROTOCOLS[name].geometry: maps for name in asked},
        {scan.scan: read_mask(data.root, scan) for own in read for scan in data.members[own]},
        data.members[data.part],
        protocols=asked,
        classes=data.manifest.classes,
        part=data.part,
        library=library,
        pool=data.members["val"],
        lesions=data.manifest.lesions,
        **STAMP,
    )
    return rows.assign(geometry=rows["geometry"].where(rows["geometry"] == NATIVE, GIVEN))


def _record(
    folder: RunFolder,
    data: _Data,
    maps: Mapping[str, np.ndarray],
    rows: pd.DataFrame,
    status: dict[str, Any],
    entry: dict[str, Any],
) -> None:
    """Write label maps, overlays and rows, and last the status, without which there is no run."""
    for own, scans in data.members.items():
        for scan in scans:
            if scan.scan in maps:
                keys = {"part": own, **STAMP, "geometry": NATIVE}
                save_label_map(label_path(folder.path, scan=scan.scan, **keys), maps[scan.scan])
    write_overlays(
        folder.path / "overlays",
        root=data.root,
        scans=data.members[data.part],
        label_maps=maps,
        classes=data.manifest.classes,
        synthetic=data.manifest.synthetic,
        name=status["name"],
    )
    path, done = folder.path / "rows.parquet", status["evaluations"]
    entry = {"date": now(), "repeat": len(done), **entry}
    status = {**status, "evaluations": [*done, entry], "scoring": entry["scoring"], "finished": now()}
    if folder.exists():
        with folder.counted(entry):
            merge_rows(path, rows)
        folder.update(**status)
    else:
        path.unlink(missing_ok=True)  # of a call that was killed before there was a run
        merge_rows(path, rows)
        folder.create({}, status)


def _first_status(data: _Data, rival: Rival, predictions: Path, content: str) -> dict[str, Any]:
    """Return the status of a rival (`vqseg.plan.first_status`); null is what nobody knows."""
    manifest, split = data.manifest, data.split
    members = {part: scans_of(manifest, split, part) for part in split.parts}
    unknown = ("step", "preset", "started", "error", "labels", "cost", "validation")
    return {
        "kind": FOREIGN,
        **rival._asdict(),
        "state": "finished",
        **dict.fromkeys(unknown),
        "data": {
            "name": manifest.name,
            "root": str(data.root.resolve()),
            "digest": manifest.digest,
            "synthetic": manifest.synthetic,
            "classes": manifest.classes,
            "channels": manifest.channels,
            "color": manifest.color,
            "intake": manifest.intake,
        },
        "split": {
            "name": split.name,
            "digest": split.digest,
            "parts": {
                part: {"patients": len(split.parts[part]), "images": sum(len(scan.slices) for scan in scans)}
                for part, scans in members.items()
            },
        },
        "predictions": {"path": str(predictions.resolve()), "part": data.part, "digest": content},
        "code": {},
        "provenance": {"vqseg": vqseg.__version__, "python": platform.python_version()},
        "evaluations": [],
    }
