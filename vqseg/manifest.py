"""The one data format inside: a prepared folder's manifest and its splits, typed.

A prepared folder holds

    manifest.json            classes; patient, scan, slices and spacing of every scan; source; fingerprint
    images/SCAN.npz          `image`: uint8 or uint16 (S, H, W), or (S, H, W, C) with C channels
    masks/SCAN.npz           `mask`: uint8 (S, H, W), class indices; absent where nobody drew one
    splits/NAME.json         patients of each part

Letters: S slices, H x W pixels, C channels. A scan is one volume (or one 2-D image, S = 1) of one patient.
Masks lie in files of their own so that a semi-supervised run never opens those of unlabelled patients.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vqseg.errors import InputError, pick
from vqseg.files import digest, read_json, replacing, write_json

PARTS = ("labelled", "unlabelled", "val", "test", "devtest")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Grid(_Record):
    """The voxel grid of a volume's source file, kept so that label maps can go back to it (see `vqseg.volumes`).

    ``shape`` is the file's, without channels or time points, and ``affine`` maps its voxels to mm; ``axes`` are the
    file's axes that became slices, rows and columns, ``flips`` those of the three that run backwards. ``resampled``
    holds (rows, columns) where slices were resampled in plane, ``frame`` the volume's place in a file of several time
    points, ``header`` the NIfTI fields that place the grid, copied to files written on it.
    """

    shape: tuple[int, ...]
    affine: list[list[float]]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    resampled: tuple[int, int] | None = None
    frame: int | None = None
    header: dict[str, int | float | list[float]] = {}


class Scan(_Record):
    """One volume of one patient.

    ``slices`` are the source's slice numbers, in order; ``spacing_mm`` is (slice, row, column) or None
    where unknown; ``range`` is the source's intensity range that was mapped to 0-255 (or 0-65535), over all channels.
    ``constant`` marks an image whose pixels are all the same: any two patients may share one.
    """

    scan: str
    patient: str
    slices: list[int]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None = None
    image: str
    image_sha256: str
    range: tuple[float, float]
    constant: bool = False
    mask: str | None = None
    mask_sha256: str | None = None
    class_voxels: list[int] | None = None
    grid: Grid | None = None


class Manifest(_Record):
    """What a prepared folder holds; ``synthetic`` marks a phantom, whose products carry a watermark.

    ``channels`` are those of one slice (windows of a CT, sequences of an MR); ``color`` says that the three of them
    are red, green and blue. ``lesions`` maps the classes that are lesions to the tolerance of their surface Dice in
    mm (pixels where the spacing is unknown); ``attributes`` holds columns of a table by patient, to stratify by;
    ``intake`` is how an importer turned a source image into slices, so that a new image can be treated alike.
    """

    format: Literal[1] = 1
    name: str
    synthetic: bool = False
    classes: list[str]
    channels: Annotated[int, Field(ge=1, le=16)] = 1
    color: bool = False
    lesions: dict[str, float] = {}
    attributes: dict[str, dict[str, str]] = {}
    intake: dict[str, Any] | None = None
    source: dict[str, Any]
    default_split: str
    scans: list[Scan]

    @cached_property
    def digest(self) -> str:
        """Content digest: everything that a number could depend on, but not where the data came from."""
        keys = {"scan", "patient", "slices", "shape", "spacing_mm", "image_sha256", "mask_sha256"}
        scans = [scan.model_dump(mode="json", include=keys) for scan in self.scans]
        # Color decides which augmentations there are. Gray data keep the digest that they had before it was recorded.
        return digest([self.classes, self.channels, scans, *(["color"] if self.color else [])])

    @property
    def patients(self) -> list[str]:
        """Patients in the order of their first scan."""
        return list(dict.fromkeys(scan.patient for scan in self.scans))

    def fingerprint(self) -> dict[str, Any]:
        """Shapes, intensity range, class voxel counts and content digest, for a person to compare."""
        voxels = [scan.class_voxels for scan in self.scans if scan.class_voxels is not None]
        shapes = [scan.shape for scan in self.scans]
        return {
            "digest": self.digest,
            "patients": len(self.patients),
            "scans": len(self.scans),
            "images": sum(len(scan.slices) for scan in self.scans),
            "shape_min": [int(side) for side in np.min(shapes, axis=0)],
            "shape_max": [int(side) for side in np.max(shapes, axis=0)],
            "intensity_range": [min(s.range[0] for s in self.scans), max(s.range[1] for s in self.scans)],
            "class_voxels": [int(count) for count in np.sum(voxels, axis=0)] if voxels else None,
        }


class Split(_Record):
    """Patients of each part; ``data`` is the digest of the manifest that it was made for."""

    format: Literal[1] = 1
    name: str
    data: str
    parts: dict[str, list[str]]
    note: str = ""

    @cached_property
    def digest(self) -> str:
        """Digest of the parts and the data, whatever the split is called."""
        return digest([self.data, {part: sorted(patients) for part, patients in self.parts.items()}])

    @property
    def test_part(self) -> str | None:
        """``test``, else ``devtest``, else None."""
        return next((part for part in ("test", "devtest") if self.parts.get(part)), None)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` with its fingerprint beside it (the last act of an importer)."""
    write_json(root / "manifest.json", {**manifest.model_dump(mode="json"), "fingerprint": manifest.fingerprint()})


def read_manifest(root: Path) -> Manifest:
    """Read a prepared folder's manifest.

    Raises:
        InputError: the folder is not a prepared one, or the manifest is damaged.
    """
    path = root / "manifest.json"
    if not path.is_file():
        raise InputError(f"{root}: not a prepared data folder (no manifest.json); make one with 'vqseg data --help'")
    value = read_json(path)
    if isinstance(value, dict):
        value.pop("fingerprint", None)
    return _validated(Manifest, value, path)


def split_names(root: Path) -> list[str]:
    """Return the names of the splits that the folder holds."""
    return sorted(path.stem for path in (root / "splits").glob("*.json"))


def write_split(root: Path, split: Split) -> None:
    """Write ``splits/NAME.json``."""
    write_json(root / "splits" / f"{split.name}.json", split.model_dump(mode="json"))


def read_split(root: Path, manifest: Manifest, name: str | None = None) -> Split:
    """Read one split, the manifest's default one if no name is given.

    Raises:
        InputError: unknown name, damaged file, or a split that was made for other data.
    """
    chosen = pick(name or manifest.default_split, split_names(root), f"split of {root}")
    path = root / "splits" / f"{chosen}.json"
    split = _validated(Split, read_json(path), path)
    if split.data != manifest.digest:
        raise InputError(f"{path}: made for data {split.data}, but {root} is {manifest.digest}; make the split again")
    unknown = set(split.parts) - set(PARTS)
    if unknown:
        raise InputError(f"{path}: unknown part {sorted(unknown)[0]!r}; known: {', '.join(PARTS)}")
    return split


def scans_of(manifest: Manifest, split: Split, part: str) -> list[Scan]:
    """Return the scans of ``part``, in the order of the split's patients, then of the manifest."""
    by_patient: dict[str, list[Scan]] = {}
    for scan in manifest.scans:
        by_patient.setdefault(scan.patient, []).append(scan)
    missing = [patient for patient in split.parts.get(part, []) if patient not in by_patient]
    if missing:
        raise InputError(f"split {split.name!r}, part {part}: patient {missing[0]!r} is not in the data")
    return [scan for patient in split.parts.get(part, []) for scan in by_patient[patient]]


def looked_at(intake: Mapping[str, Any] | None, parts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return, by part, the patients to be scored or selected on whose volumes the set's percentiles have seen."""
    pooled = set((intake or {}).get("pooled", []))
    seen = {part: [who for who in parts.get(part, []) if who in pooled] for part in ("val", "test", "devtest")}
    return {part: patients for part, patients in seen.items() if patients}


def annotated(note: str, intake: Mapping[str, Any] | None, parts: Mapping[str, Sequence[str]]) -> str:
    """Return a split's note, with what `looked_at` finds in its parts."""
    told = [
        f"the intensity percentiles have seen {named(patients)} of {part}"
        for part, patients in looked_at(intake, parts).items()
    ]
    return "; ".join(filter(None, [note, *(text for text in told if text not in note)]))


def named(patients: Sequence[str]) -> str:
    """Return a few names, and how many more there are: ``p1, p2, p3 and 4 more``."""
    shown, more = ", ".join(patients[:3]), len(patients) - 3
    return f"{shown} and {more} more" if more > 0 else shown


def write_array(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays atomically as a compressed npz."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for its own option


def read_image(root: Path, scan: Scan) -> np.ndarray:
    """Return uint8 or uint16 (S, H, W) or (S, H, W, C)."""
    return _read_array(root / scan.image, "image", scan.shape)


def read_mask(root: Path, scan: Scan) -> np.ndarray:
    """Return uint8 class indices (S, H, W).

    Raises:
        InputError: the scan has no mask, or the file is missing, damaged or of another size.
    """
    if scan.mask is None:
        raise InputError(f"{root}: scan {scan.scan!r} has no mask")
    return _read_array(root / scan.mask, "mask", scan.shape)


def array_sha256(array: np.ndarray) -> str:
    """Content hash of an array: its type, its shape, its bytes."""
    return digest(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes(), 32)


def _read_array(path: Path, key: str, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: np.ndarray = archive[key]
    except FileNotFoundError:
        raise InputError(f"{path}: missing; import the data again") from None
    except Exception as error:  # zipfile, zlib and numpy each raise their own for a damaged archive
        raise InputError(f"{path}: not readable: {' '.join(str(error).split())}; import the data again") from None
    if array.shape[:3] != shape:
        raise InputError(f"{path}: shape {array.shape[:3]}, the manifest says {shape}; import the data again")
    return array


def _validated(model: type[Any], value: Any, path: Path) -> Any:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path}: {where}: {first['msg'].lower()} ({error.error_count()} problems)") from None
