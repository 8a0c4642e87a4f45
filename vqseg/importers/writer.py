"""Writes a prepared folder so that it is whole or resumable, whatever the source was.

Every scan is one atomic file (two with its mask); splits follow, the manifest comes last. Until then a
marker, ``.importing.json``, says which import the folder belongs to. A second call compares contents and
writes only what is not there, so it resumes an interrupted import and does nothing after a finished one.

Letters: S slices, H x W pixels, C channels.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from vqseg.errors import InputError, require_name
from vqseg.files import digest, read_json, write_json
from vqseg.manifest import (
    Grid,
    Manifest,
    Scan,
    Split,
    array_sha256,
    read_manifest,
    write_array,
    write_manifest,
    write_split,
)
from vqseg.marks import kept_marks
from vqseg.splits import refuse_change, same_split, twins

MARKER = ".importing.json"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Volume:
    """One scan in memory: uint8 or uint16 image (S, H, W) or (S, H, W, C), uint8 mask (S, H, W) or None.

    ``grid`` is the source's, where label maps can be brought back to it.
    """

    image: np.ndarray
    mask: np.ndarray | None
    range: tuple[float, float]
    spacing_mm: tuple[float, float, float] | None = None
    grid: Grid | None = None


@dataclass(frozen=True)
class Pending:
    """One scan that is still to be read."""

    scan: str
    patient: str
    slices: list[int]
    read: Callable[[], Volume]


@dataclass(frozen=True)
class Plan:
    """A whole import before anything is written.

    ``source`` names the importer, the path and the options: a folder belongs to one such source.
    ``state`` changes when a source file does (name, size, time); equal states need no second reading.
    ``color``, ``attributes`` and ``intake`` go into the manifest as they are, ``lesions`` the first time only.
    ``kept`` says that `unchanged` has just been asked, and was true.
    """

    name: str
    classes: list[str]
    source: dict[str, Any]
    state: str
    scans: list[Pending]
    channels: int = 1
    synthetic: bool = False
    color: bool = False
    lesions: dict[str, float] = field(default_factory=dict)
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    intake: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    kept: bool = False


class Imported(NamedTuple):
    """What a call did: scans written and found in place, and the names of the splits that are new."""

    manifest: Manifest
    written: int
    kept: int
    splits: list[str]
    notes: list[str]


def write(out: Path, plan: Plan, splits: Callable[[Manifest], Sequence[Split]]) -> Imported:
    """Write ``plan`` to ``out``; the last of ``splits`` becomes the default one.

    Raises:
        InputError: unusable name, other content in ``out``, a bad source file, or a disk that does not take the files.
    """
    require_name(plan.name)
    try:
        return _write(out, plan, splits)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{out}: cannot be written: {reason}; mend it and run the same command again") from None


def to_bytes(
    values: np.ndarray, where: object, *, window: tuple[float, float] | None = None
) -> tuple[np.ndarray, tuple[float, float]]:
    """Map an array to 0-255 by its own minimum and maximum, or by ``window``; return it with that range.

    Raises:
        InputError: a value is not finite; ``where`` is named.
    """
    if not np.isfinite(values).all():
        raise InputError(f"{where}: holds values that are not finite; clean the image and import again")
    low, high = window or (float(values.min()), float(values.max()))
    scale = 255.0 / (high - low) if high > low else 0.0
    mapped = np.rint((np.clip(values.astype(np.float64), low, high) - low) * scale)
    return mapped.astype(np.uint8), (low, high)


def to_indices(values: np.ndarray, classes: int, where: object) -> np.ndarray:
    """Return a mask as uint8 class indices, same shape.

    Raises:
        InputError: a value is not one of ``0 .. classes - 1``; the value and ``where`` are named.
    """
    inside = np.isin(values, np.arange(classes))
    if not inside.all():
        bad = values[~inside].ravel()[0].item()
        raise InputError(f"{where}: mask value {bad:g} is outside the classes 0 to {classes - 1}; correct the mask")
    return values.astype(np.uint8)


def file_state(paths: Sequence[Path], *extra: Any) -> str:
    """Digest of names, sizes and times of ``paths`` and of ``extra`` options."""
    stats = [(path.name, path.stat()) for path in paths]
    return digest([[[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats], list(extra)])


def _write(out: Path, plan: Plan, splits: Callable[[Manifest], Sequence[Split]]) -> Imported:
    before = _claim(out, plan)
    if before is not None and (plan.kept or unchanged(out, before, plan.state)):
        scans, written = before.scans, 0
    else:
        scans, written = _write_scans(out, plan, before)
    manifest = Manifest(
        name=plan.name,
        synthetic=plan.synthetic,
        classes=plan.classes,
        channels=plan.channels,
        color=plan.color,
        # Marks may have been set or taken away since, with 'vqseg data mark'.
        lesions=before.lesions if before else plan.lesions,
        attributes=plan.attributes,
        intake=plan.intake,
        source={**plan.source, "state": plan.state},
        default_split=before.default_split if before else "",
        scans=scans,
    )
    made = list(splits(manifest))
    new = [split for split in made if not same_split(out, split)]
    for split in new:
        refuse_change(out, split, do="import into another folder, or make it with 'vqseg data split'")
    for split in new:
        write_split(out, split)
    manifest = manifest.model_copy(update={"default_split": made[-1].name})
    if manifest != before:
        write_manifest(out, manifest)
    (out / MARKER).unlink(missing_ok=True)
    names = [split.name for split in new]
    notes = [*plan.notes, *_twin_notes(manifest), *kept_marks(manifest, plan.lesions)]
    return Imported(manifest, written, len(scans) - written, names, notes)


def _twin_notes(manifest: Manifest) -> list[str]:
    pairs = {tuple(sorted({patient, *others})) for patient, others in twins(manifest).items()}
    return [
        f"the same images: patients {' and '.join(pair)}; they must not stand in two parts" for pair in sorted(pairs)
    ]


def held(out: Path, name: str, source: dict[str, Any]) -> Manifest | None:
    """Return the finished manifest of this very import in ``out``, or None where it is new or unfinished.

    Raises:
        InputError: ``out`` holds anything else.
    """
    if (out / "manifest.json").is_file():
        before = read_manifest(out)
        kept = {key: value for key, value in before.source.items() if key != "state"}
        if (before.name, kept) != (name, source):
            what = f"already holds {before.name!r}, made by importer {kept.get('importer')!r} from {_origin(kept)}"
            other = [key for key in {**kept, **source} if kept.get(key) != source.get(key)]
            what += f", of another {', '.join(other)}" if other else ""
            raise InputError(f"{out}: {what}; choose another folder")
        return before
    if (out / MARKER).is_file():
        begun = read_json(out / MARKER)
        if begun != source:
            what = f"holds an unfinished import from {_origin(begun)}"
            raise InputError(f"{out}: {what}; finish that one, choose another folder, or delete this one")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and holds other files; choose a new or empty folder")
    return None


def unchanged(out: Path, before: Manifest | None, state: str) -> bool:
    """Whether a finished import needs no second reading: the sources' state is the same and all files are sound."""
    if before is None or before.source.get("state") != state:
        return False
    images = all(_holds(out / scan.image, "image", scan.image_sha256) for scan in before.scans)
    return images and all(_holds(out / scan.mask, "mask", scan.mask_sha256) for scan in before.scans if scan.mask)


def _claim(out: Path, plan: Plan) -> Manifest | None:
    before = held(out, plan.name, plan.source)
    if before is None:
        for leftover in out.glob("*/.*.tmp"):
            leftover.unlink()
        write_json(out / MARKER, plan.source)
    return before


def _origin(source: dict[str, Any]) -> str:
    options = {key: value for key, value in source.items() if key not in ("importer", "path")}
    written = ", ".join(f"{key}={value}" for key, value in options.items())
    return str(source.get("path", "nothing")) + (f" ({written})" if written else "")


def _write_scans(out: Path, plan: Plan, before: Manifest | None) -> tuple[list[Scan], int]:
    known = {scan.scan: scan for scan in before.scans} if before else {}
    if before and list(known) != [pending.scan for pending in plan.scans]:
        raise InputError(f"{out}: the scans of the source have changed since it was imported; choose a new folder")
    scans, written = [], 0
    for pending in shown(plan.scans, plan.name, f"preparing {len(plan.scans)} scans"):
        volume = pending.read()
        entry = _entry(pending, volume, len(plan.classes))
        # Manifests of before did not say whether an image is constant.
        if before and entry != known[pending.scan].model_copy(update={"constant": entry.constant}):
            raise InputError(
                f"{out}: scan {pending.scan!r} of the source has changed since it was imported; choose a new folder"
            )
        fresh = _keep_or_write(out / entry.image, "image", volume.image, entry.image_sha256)
        if entry.mask and volume.mask is not None:
            fresh |= _keep_or_write(out / entry.mask, "mask", volume.mask, entry.mask_sha256)
        scans.append(entry)
        written += fresh
    return scans, written


def _entry(pending: Pending, volume: Volume, classes: int) -> Scan:
    mask = volume.mask
    return Scan(
        scan=pending.scan,
        patient=pending.patient,
        slices=pending.slices,
        shape=volume.image.shape[:3],
        spacing_mm=volume.spacing_mm,
        image=f"images/{pending.scan}.npz",
        image_sha256=array_sha256(volume.image),
        range=volume.range,
        constant=bool((volume.image == volume.image[:1, :1, :1]).all()),
        mask=None if mask is None else f"masks/{pending.scan}.npz",
        mask_sha256=None if mask is None else array_sha256(mask),
        class_voxels=None if mask is None else np.bincount(mask.ravel(), minlength=classes).tolist(),
        grid=volume.grid,
    )


def _keep_or_write(path: Path, key: str, array: np.ndarray, sha256: str | None) -> bool:
    """Write ``array`` unless ``path`` already holds it; return whether it was written."""
    if _holds(path, key, sha256):
        return False
    write_array(path, **{key: array})
    return True


def _holds(path: Path, key: str, sha256: str | None) -> bool:
    """Whether a stored file has this content; absent or damaged in whatever way, it has not."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return array_sha256(archive[key]) == sha256
    except Exception:
        return False


def shown(items: Sequence[Item], name: str, doing: str) -> Iterator[Item]:
    """Iterate with a bar on a terminal, with one plain line elsewhere (both on standard error)."""
    if not sys.stderr.isatty():
        print(f"{name}: {doing}", file=sys.stderr)
        return iter(items)
    from rich.console import Console
    from rich.progress import track

    return iter(track(items, description=f"{name}: {doing}", console=Console(stderr=True)))
