"""Label maps of any other tool, checked and brought to the grid of the prepared data.

A scan's label map is, below the folder and in this order (`vqseg.foreign_files` has the names),

    SCAN.nii.gz, SCAN.nii       on the grid of the source file (its affine has to agree), or (S, H, W) as stored; of
                                data without a source grid also (W, H, S), as SimpleITK writes an array (S, H, W)
    SCAN.npz, SCAN.npy          (S, H, W) as stored, or on the grid of the source file; an npz holds one array, or one
                                called `labels`
    SCAN.png                    of a scan of one slice; as stored, or of the picture's size before it was shrunk
    SCAN_slice_K.png, SCAN-K.png, SCAN/K.png     one per slice, K as the manifest counts them

Time points of one file (CASE_t1, CASE_t2 ...) may lie in one file CASE of four dimensions. Values are class indices;
pictures of two classes may hold 255 for class 1. What nnU-Net puts beside a label map (an npz of probabilities) is
passed over.

Letters: S slices, H x W pixels, X, Y, Z voxels of a source file, V volumes of a file, K a slice's number.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqseg.errors import InputError
from vqseg.foreign_files import Shelf, shelve
from vqseg.importers.pictures import opened, shrunk_size
from vqseg.manifest import Grid, Manifest, Scan
from vqseg.nifti import Source, probe, require_same_place, size, voxels
from vqseg.volumes import forward


def read(predictions: Path, manifest: Manifest, scans: Sequence[Scan]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the label map of every scan.

    Args:
        predictions: a folder, or the file of the only scan.
        manifest: of the prepared data.
        scans: those to read.

    Returns:
        scan -> class indices uint8 (S, H, W) on the prepared grid, and what a user should know.

    Raises:
        InputError: a label map is missing, damaged, of another grid, or holds what is no class.
    """
    shelf = shelve(predictions, manifest)
    if missing := _missing(shelf, scans):
        named = f"scan {missing[0]!r}" + (f" and {len(missing) - 1} others of {len(scans)}" if missing[1:] else "")
        forms = f"{missing[0]}.nii.gz, .npz or .npy, or slices {missing[0]}_slice_K.png"
        raise InputError(f"{predictions}: holds no label map of {named}; expected {forms}")
    found: dict[str, np.ndarray] = {}
    used, guessed = set[Path](), []
    for scan in scans:
        whole = shelf.whole(scan)
        slices = {} if whole else shelf.slices[scan.scan]
        used |= {whole} if whole else {path for paths in slices.values() for path in paths}
        found[scan.scan] = _whole(whole, scan, manifest) if whole else _stacked(shelf, slices, scan, manifest)
        if whole and _is_guessed(whole, scan):
            guessed.append(whole.name)
    return found, [*_passed_over(shelf, used), *_read_reversed(guessed)]


def lacking(predictions: Path, manifest: Manifest, scans: Sequence[Scan]) -> list[str]:
    """Return the scans that ``predictions`` has no file of; none is opened.

    Raises:
        InputError: there are no label maps at all, or several of one scan.
    """
    return _missing(shelve(predictions, manifest), scans)


# --- within ---------------------------------------------------------------------------------------


def _missing(shelf: Shelf, scans: Sequence[Scan]) -> list[str]:
    return [scan.scan for scan in scans if shelf.whole(scan) is None and not shelf.slices.get(scan.scan)]


def _passed_over(shelf: Shelf, used: set[Path]) -> list[str]:
    left = [path for path in shelf.files if path not in used]
    what = f"{len(left)} of {len(shelf.files)} files belong to no scan that is scored"
    return [f"{what}, such as {left[0].name}"] if left else []


def _is_guessed(path: Path, scan: Scan) -> bool:
    """Whether a volume could be (W, H, S) or (H, W, S) for all that its shape and the data tell."""
    volume = path.suffix.lower() not in (".npz", ".npy", ".png")
    square = scan.grid is None and scan.shape[1] == scan.shape[2] > 1
    return volume and square and (*probe(path).shape, 1)[:3] == scan.shape[::-1]


def _read_reversed(files: Sequence[str]) -> list[str]:
    what = "volumes of square slices were" if files[1:] else "volume of square slices was"
    note = f"{len(files)} {what} read as (W, H, S), such as {files[0]}" if files else ""
    return [f"{note}; if rows come first, write them as npz (S, H, W)"] if files else []


def _whole(path: Path, scan: Scan, manifest: Manifest) -> np.ndarray:
    kind = path.suffix.lower()
    if kind == ".png":
        return _shrunk(_png(path, manifest), path, scan, manifest)[None]
    if kind in (".npz", ".npy"):
        return _array(_indices(_numbers(path), manifest, path), path, scan)
    return _volume(path, scan, manifest)


def _stacked(shelf: Shelf, slices: dict[int, list[Path]], scan: Scan, manifest: Manifest) -> np.ndarray:
    span = f"slices {scan.slices[0]} to {scan.slices[-1]}"
    absent = next((number for number in scan.slices if number not in slices), None)
    if absent is not None:
        what = f"scan {scan.scan!r} has no label map of slice {absent}, {len(slices)} of {span}"
        raise InputError(f"{shelf.root}: {what}; add {scan.scan}_slice_{absent}.png")
    odd = next((number for number in sorted(slices) if number not in scan.slices), None)
    if odd is not None:
        raise InputError(f"{slices[odd][0]}: scan {scan.scan!r} has no slice {odd}, but {span}; correct the names")
    for paths in slices.values():
        if len(paths) > 1:
            raise InputError(f"{paths[0]}: the same slice as {paths[1]}; keep one of them")
    planes = []
    for number in scan.slices:
        path = slices[number][0]
        planes.append(_shrunk(_png(path, manifest), path, scan, manifest))
    return np.stack(planes)


def _png(path: Path, manifest: Manifest) -> np.ndarray:
    try:
        values = np.asarray(opened(path))
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not readable as an image: {reason}; restore the file") from None
    if values.ndim != 2:
        raise InputError(f"{path}: is a color picture; expected one class index per pixel")
    if len(manifest.classes) == 2 and values.max(initial=0) == 255 and set(np.unique(values)) <= {0, 255}:
        values = values // 255
    return _indices(values, manifest, path)


def _shrunk(labels: np.ndarray, path: Path, scan: Scan, manifest: Manifest) -> np.ndarray:
    """Return a picture's label map on the stored grid, shrunk as the importer shrank the masks."""
    if labels.shape == scan.shape[1:]:
        return labels
    side = (manifest.intake or {}).get("max_side")
    if side is None or shrunk_size((labels.shape[0], labels.shape[1]), side) != scan.shape[1:]:
        raise InputError(f"{path}: {size(labels.shape)} pixels, scan {scan.scan!r} has {size(scan.shape[1:])}")
    from PIL import Image

    _, rows, columns = scan.shape
    return np.asarray(Image.fromarray(labels).resize((columns, rows), Image.Resampling.NEAREST))


def _numbers(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            content: Any = np.load(file, allow_pickle=False)
            held = {"": content} if isinstance(content, np.ndarray) else {key: content[key] for key in content.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own for a damaged file
        reason = " ".join(str(error).split())
        if "pickle" in reason:  # numpy's words are advice to load it unsafely
            reason = "damaged, or Python objects instead of numbers"
        raise InputError(f"{path}: not readable: {reason}; restore the file") from None
    key = "labels" if "labels" in held else next(iter(held), None)
    if key is None or (len(held) > 1 and key != "labels"):
        what = f"holds {', '.join(held) or 'nothing'}"
        raise InputError(f"{path}: {what}; expected one array of class indices, or one called labels")
    return held[key]


def _array(values: np.ndarray, path: Path, scan: Scan) -> np.ndarray:
    """Return an array on the stored grid: it lies there, or on the grid of the source file."""
    single = scan.shape[0] == 1 and values.shape == scan.shape[1:]
    stored, grid = single or values.shape == scan.shape, scan.grid
    original = grid is not None and values.shape == grid.shape
    if grid is not None and original and not (stored and _same(grid)):
        if stored:
            do = "write it as NIfTI with the source's affine"
            raise InputError(f"{path}: {size(values.shape)} fits both the stored slices and the source file; {do}")
        return forward(values.reshape(_file_shape(grid)), grid, labels=True)
    if not stored:
        raise InputError(f"{path}: {_shapes(values.shape, scan)}")
    return values.reshape(scan.shape)


def _volume(path: Path, scan: Scan, manifest: Manifest) -> np.ndarray:
    source, grid = probe(path), scan.grid
    shape = (*source.shape, 1)[:3]
    if grid is not None and shape == _file_shape(grid):
        require_same_place(source, _place(scan, grid), "the file that the scan was made of")
        values = voxels(source)
        if source.volumes > 1:
            if grid.frame is None or grid.frame >= source.volumes:
                expected = "1" if grid.frame is None else f"at least {grid.frame + 1}"
                raise InputError(f"{path}: holds {source.volumes} volumes; expected {expected}")
            values = values[..., grid.frame]
        return forward(_indices(values, manifest, path), grid, labels=True)
    if source.volumes > 1 or not (shape == scan.shape or (grid is None and shape == scan.shape[::-1])):
        whole = shape if source.volumes == 1 else (*shape, source.volumes)
        raise InputError(f"{path}: {_shapes(whole, scan)}")
    if grid is None and scan.shape[0] == scan.shape[2] > 1:
        what = f"{size(shape)} voxels may be (S, H, W) or (W, H, S)"
        raise InputError(f"{path}: {what}, and the data keep no source grid to tell; write it as npz (S, H, W)")
    values = _indices(voxels(source), manifest, path)
    return np.ascontiguousarray(values if shape == scan.shape else values.transpose())


def _indices(values: np.ndarray, manifest: Manifest, path: Path) -> np.ndarray:
    """Return values as uint8 class indices."""
    last = len(manifest.classes) - 1
    if values.dtype.kind not in "biuf":
        raise InputError(f"{path}: holds {values.dtype}; expected class indices 0 to {last}")
    values = values.astype(np.uint8) if values.dtype == bool else values
    # A slope leaves 2.9999998 where 3 was meant.
    whole = np.rint(values) if values.dtype.kind == "f" else values
    with np.errstate(invalid="ignore"):
        bad = ~((np.abs(values - whole) < 1e-3) & (whole >= 0) & (whole <= last))
    if bad.any():
        value = float(values[bad].ravel()[0])
        hint = "; take the class of the largest probability first" if 0 < value < 1 else ""
        raise InputError(f"{path}: value {value:g} is no class; expected whole numbers 0 to {last}{hint}")
    return whole.astype(np.uint8)


def _same(grid: Grid) -> bool:
    """Whether slices lie as the file's voxels do, so that it makes no difference which of them is meant."""
    return grid.axes == (0, 1, 2) and not any(grid.flips) and grid.resampled is None


def _place(scan: Scan, grid: Grid) -> Source:
    affine = np.array(grid.affine)
    first, second, third = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return Source(Path(scan.scan), grid.shape, 1, affine, (first, second, third), {})


def _file_shape(grid: Grid) -> tuple[int, int, int]:
    first, second, third = (*grid.shape, 1)[:3]
    return first, second, third


def _shapes(shape: Sequence[int], scan: Scan) -> str:
    source = f", or {size(scan.grid.shape)} as its source file has" if scan.grid else ""
    return f"shape {size(shape)}; scan {scan.scan!r} has {size(scan.shape)} (slices, rows, columns){source}"
