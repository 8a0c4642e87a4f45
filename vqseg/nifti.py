"""NIfTI files: found by name, read with everything checked that could be wrong with them, written whole.

Files of 3 dimensions hold one volume, those of 2 one slice, those of 4 several volumes: channels or time points.

Letters: X, Y, Z voxels of the file, V volumes of a file, K classes.
"""

import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vqseg.errors import InputError
from vqseg.files import replacing
from vqseg.manifest import Grid

# Two files lie in the same place if no corner is further apart than this share of the smallest voxel side.
PLACE_TOLERANCE = 0.1
# NIfTI's codes of the unit of space: meters, millimeters, microns.
MM = {1: 1000.0, 2: 1.0, 3: 0.001}
SUFFIXES = (".nii", ".nii.gz")
PLACING = (
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


@dataclass(frozen=True)
class Source:
    """A NIfTI file before its voxels are read: (X, Y, Z) or (X, Y), V volumes, affine (4, 4), voxel sides in mm."""

    path: Path
    shape: tuple[int, ...]
    volumes: int
    affine: np.ndarray
    sides_mm: tuple[float, float, float]
    header: dict[str, int | float | list[float]]


# --- reading and writing --------------------------------------------------------------------------


def probe(path: Path) -> Source:
    """Read a NIfTI file's header.

    Raises:
        InputError: not a readable NIfTI file of numbers, or its affine does not place the voxels.
    """
    image = _loaded(path)
    shape = tuple(int(side) for side in image.shape)
    if len(shape) < 2 or 0 in shape or sum(side > 1 for side in shape[3:]) > 1:
        raise InputError(f"{path}: {size(shape)} voxels; expected 2 or 3 dimensions, or 4 (channels or time points)")
    if image.get_data_dtype().kind not in "biuf":
        raise InputError(f"{path}: holds {image.get_data_dtype()}, expected one number per voxel; convert it")
    affine = np.asarray(image.affine, np.float64)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not (sides > 0).all() or abs(np.linalg.det(affine[:3, :3] / sides)) < 1e-3:
        raise InputError(f"{path}: its affine places no volume (zero, flat or not finite); set its sform or qform")
    if not image.header["sform_code"] and not (_raw_pixdim(path, image)[1 : 1 + len(shape[:3])] != 0).all():
        raise InputError(f"{path}: its voxel size is 0 and no sform gives another; set pixdim or the sform")
    millimeters = sides * MM.get(int(image.header["xyzt_units"]) % 8, 1.0)
    sides_mm = (float(millimeters[0]), float(millimeters[1]), float(millimeters[2]))
    volumes = int(np.prod(shape[3:], dtype=np.int64))
    return Source(path, shape[:3], volumes, affine, sides_mm, _placing(image.header))


def voxels(source: Source) -> np.ndarray:
    """Read (X, Y, Z) or, of several volumes, (X, Y, Z, V), scaled by the file's slope and intercept.

    Raises:
        InputError: the file is damaged or cut short.
    """
    image = _loaded(source.path)
    try:
        content = source.path.stat().st_size
        if source.path.suffix.lower() == ".gz":
            # The whole file at once: gzip's checksum stands at its end.
            raw = gzip.decompress(source.path.read_bytes())
            image, content = type(image).from_bytes(raw), len(raw)
        needed = image.dataobj.offset + int(np.prod(image.shape, dtype=np.int64)) * image.get_data_dtype().itemsize
        if content < needed:
            raise ValueError(f"{content} bytes, expected {needed}")
        values = np.asanyarray(image.dataobj)
    except Exception as error:  # gzip, zlib, struct and OS errors: all mean a damaged file
        raise InputError(f"{source.path}: damaged: {' '.join(str(error).split())}; restore the file") from None
    spatial = (*source.shape, 1)[:3]
    return values.reshape(spatial if source.volumes == 1 else (*spatial, source.volumes))


def write_labels(path: Path, labels: np.ndarray, grid: Grid) -> None:
    """Write label maps (X, Y, Z), or (X, Y, Z, V) of V time points, as NIfTI: the source's grid and affine, 8 bits.

    More than 256 classes take 16 bits. ``path`` ends in ``.nii`` or ``.nii.gz``; the file is whole or absent.
    """
    _write(path, labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16), grid)


def write_probabilities(path: Path, probabilities: np.ndarray, grid: Grid) -> None:
    """Write probabilities (X, Y, Z, K) as a NIfTI of K float32 volumes (see `write_labels`)."""
    spatial = (*grid.shape, 1)[:3]
    _write(path, probabilities.reshape(*spatial, probabilities.shape[-1]).astype(np.float32), grid)


def require_same_place(one: Source, other: Source, what: str) -> None:
    """Refuse a file that does not lie where ``other`` does (its image, its first channel: ``what``).

    Raises:
        InputError: another shape, or a corner further away than a tenth of a voxel.
    """
    shapes = [(*source.shape, 1)[:3] for source in (one, other)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{one.path}: {size(shapes[0])} voxels, {what} has {size(shapes[1])}; make them the same")
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [*shapes[0], 1]
    apart = float(np.linalg.norm(corners @ (one.affine - other.affine).T, axis=1).max())
    if apart > PLACE_TOLERANCE * np.linalg.norm(other.affine[:3, :3], axis=0).min():
        what = f"lies up to {apart:.3g} mm away from {what}, {other.path.name}"
        raise InputError(f"{one.path}: {what}; resample it there, or copy the affine if only the header is wrong")


# --- finding --------------------------------------------------------------------------------------


def cases(source: Path, files: Literal["one", "each"] = "one") -> dict[str, list[Path]]:
    """Return the NIfTI files of every case of a folder (with its subfolders), or of one file.

    A case is named by its path below the folder. Where each channel has a file (``files`` "each"), CASE_0000,
    CASE_0001, ... belong to one case, in order; beside a single file lie the others of its case.

    Raises:
        InputError: nothing is there, or two cases have the same name.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; expected NIfTI files (.nii, .nii.gz)")
    root = source if source.is_dir() else source.parent
    paths = nifti_files(root) if source.is_dir() or files == "each" else [source]
    found: dict[str, list[Path]] = {}
    for path in paths:
        name = case_name(path, root)
        channel = re.fullmatch(r"(.+)_\d{4}", name) if files == "each" else None
        members = found.setdefault(channel[1] if channel else name, [])
        if members and channel is None:
            raise InputError(f"{path}: the same case name as {members[0]}; rename one")
        members.append(path)
    if source.is_file():
        found = {name: members for name, members in found.items() if source in members}
    if not found:
        raise InputError(f"{source}: holds no NIfTI file (.nii, .nii.gz)")
    return found


def nifti_files(folder: Path) -> list[Path]:
    """Return the folder's NIfTI files, those of subfolders and behind links too, by name; hidden ones are left out.

    Raises:
        InputError: a link leads nowhere.
    """
    return sorted(path for path in _below(folder, set()) if path.name.lower().endswith(SUFFIXES))


def case_name(path: Path, root: Path) -> str:
    """Return a file's path below ``root`` without suffix, as one word that a file can be called."""
    relative = path.relative_to(root).as_posix()
    return re.sub(r"[^\w.=-]+", "_", re.sub(r"\.nii(\.gz)?$", "", relative, flags=re.IGNORECASE)).lstrip(".")


# --- within ---------------------------------------------------------------------------------------


def _below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield all files below ``folder``; a link to a folder that was ``seen`` is not followed."""
    here = folder.resolve()
    if here in seen:
        return
    seen.add(here)
    # Links come last: a folder is met in its own place, not in that of a link to it.
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path)):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path, seen)
        elif path.is_file():
            yield path
        elif path.is_symlink() and path.name.lower().endswith(SUFFIXES):
            raise InputError(f"{path}: a link to {path.readlink()}, which is not there; restore or remove it")


def size(shape: Sequence[int]) -> str:
    """Return a shape as text: ``4 x 5 x 3``."""
    return " x ".join(str(side) for side in shape)


def _loaded(path: Path) -> Any:
    import nibabel

    try:
        image = nibabel.load(path)
    except Exception:  # nibabel, gzip and OS errors: all mean a damaged file
        raise InputError(f"{path}: not readable as NIfTI (damaged or cut short); restore the file") from None
    if not isinstance(image, nibabel.Nifti1Image):
        raise InputError(f"{path}: is {type(image).__name__}, expected NIfTI; convert it")
    return image


def _raw_pixdim(path: Path, image: Any) -> np.ndarray:
    """Return pixdim as the file has it; a loaded header shows 1 where the file says 0."""
    from nibabel.openers import ImageOpener

    with ImageOpener(path) as file:
        return np.asarray(type(image.header).from_fileobj(file, check=False)["pixdim"])


def _placing(header: Any) -> dict[str, int | float | list[float]]:
    """Return the fields that place the grid; those of an unused form may be no numbers, and are dropped with it."""
    held = {name: np.asarray(header[name]) for name in PLACING}
    odd = any(not np.isfinite(value).all() for value in held.values())
    fields = {name: np.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0).tolist() for name, value in held.items()}
    return {**fields, "qform_code": 0} if odd else fields


def _write(path: Path, values: np.ndarray, grid: Grid) -> None:
    import nibabel

    # NIfTI-1 counts voxels with 15 bits.
    kind = nibabel.Nifti1Image if max(values.shape) < 2**15 else nibabel.Nifti2Image
    image = kind(values, np.array(grid.affine))
    for name, value in grid.header.items():
        image.header[name] = value
    content = image.to_bytes()
    with replacing(path) as temporary:
        packed = path.suffix == ".gz"
        temporary.write_bytes(gzip.compress(content, compresslevel=6, mtime=0) if packed else content)
