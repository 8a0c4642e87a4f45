"""Everything between a NIfTI file and slices, and back: for importers, and for predicting on new files.

A file's axes become (slice, row, column) without any interpolation: the axes that lie closest to the patient's are
found from the affine, so that axial slices run from the feet up, rows from front to back (coronal and sagittal: from
the head down) and columns from the patient's right to left (sagittal: from front to back), as radiologists look at
them. Pixels may then be resampled in plane. `Grid` remembers both, and `inverse` undoes them.

Letters: X, Y, Z voxels of the file, V volumes of a file, S slices, H x W pixels, C channels, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from vqseg.errors import InputError
from vqseg.intake import Intake, Range, to_levels
from vqseg.manifest import Grid
from vqseg.nifti import Source, probe, require_same_place, size, voxels, write_labels, write_probabilities
from vqseg.resampling import resample, resample_labels

# For each slice axis (0 sagittal, 1 coronal, 2 axial) the patient's axes of slices, rows and columns, and whether
# they run towards right, front and head (1) or away from there (-1).
VIEWS = {
    0: ((0, -1), (2, -1), (1, -1)),
    1: ((1, -1), (2, -1), (0, -1)),
    2: ((2, 1), (1, -1), (0, -1)),
}
# Spacings that differ by less than this share count as equal.
SPACING_TOLERANCE = 1e-3
MOST_PIXELS = 4096


class Taken(NamedTuple):
    """One scan as a network sees it: uint8 or uint16 (S, H, W[, C]), the range mapped, spacing, and the way back."""

    image: np.ndarray
    range: Range
    spacing_mm: tuple[float, float, float]
    grid: Grid


# --- geometry ------------------------------------------------------------------------------------


def coarsest(source: Source) -> Literal[0, 1, 2]:
    """Return the patient's axis (0 sagittal, 1 coronal, 2 axial) that a volume's slices lie across.

    It is the one with the largest spacing, or the only one of a single voxel; of equals the last.
    """
    order = [axis for axis, _ in _orientation(source)]
    shape = (*source.shape, 1)[:3]
    single = [axis for place, axis in enumerate(order) if shape[place] == 1]
    most = max(source.sides_mm) * (1 - SPACING_TOLERANCE)
    coarse = [axis for place, axis in enumerate(order) if source.sides_mm[place] >= most]
    found: tuple[Literal[0, 1, 2], ...] = (0, 1, 2)
    return found[single[0] if len(single) == 1 else max(coarse)]


def grid_of(
    source: Source,
    axis: int,
    *,
    orientation: Literal["canonical", "file"] = "canonical",
    spacing_mm: float | None = None,
    frame: int | None = None,
) -> Grid:
    """Return how a file's voxels become slices across ``axis``, resampled in plane to ``spacing_mm``.

    ``orientation`` "file" takes the file's own axes, as they lie: ``axis`` is then one of them.

    Raises:
        InputError: slices would have more than 4096 pixels a side.
    """
    axes, flips = [axis, *(other for other in (2, 1, 0) if other != axis)], [False] * 3
    if orientation == "canonical":
        found = {body: (place, sense) for place, (body, sense) in enumerate(_orientation(source))}
        axes = [found[body][0] for body, _ in VIEWS[axis]]
        flips = [found[body][1] != sense for body, sense in VIEWS[axis]]
    shape = (*source.shape, 1)[:3]
    sides = [shape[place] for place in axes[1:]]
    wanted = sides
    if spacing_mm is not None:
        wanted = [max(1, round(side * source.sides_mm[place] / spacing_mm)) for side, place in zip(sides, axes[1:])]
        if max(wanted) > MOST_PIXELS:
            what = f"slices of {size(sides)} would become {size(wanted)} pixels at {spacing_mm:g} mm"
            raise InputError(f"{source.path}: {what}; choose a larger spacing")
    return Grid(
        shape=source.shape,
        affine=source.affine.tolist(),
        axes=(axes[0], axes[1], axes[2]),
        flips=(flips[0], flips[1], flips[2]),
        resampled=(wanted[0], wanted[1]) if wanted != sides else None,
        frame=frame,
        header=source.header,
    )


def spacing_of(source: Source, grid: Grid) -> tuple[float, float, float]:
    """Return the spacing (slice, row, column) in mm of slices on ``grid``, exact to a millionth."""
    shape = (*source.shape, 1)[:3]
    first, *plane = (source.sides_mm[place] for place in grid.axes)
    sides = [shape[place] for place in grid.axes[1:]]
    row, column = (mm * side / new for mm, side, new in zip(plane, sides, grid.resampled or sides))
    return round(first, 6), round(row, 6), round(column, 6)


def forward(values: np.ndarray, grid: Grid, *, labels: bool = False) -> np.ndarray:
    """Turn voxels (X, Y, Z[, V]) into slices (S, H, W[, V]), resampled where the grid says so.

    Resampled images are float32; label maps (``labels``) keep their type, like all that is not resampled.
    """
    turned = np.transpose(values, (*grid.axes, *range(3, values.ndim)))
    turned = np.flip(turned, tuple(place for place, flipped in enumerate(grid.flips) if flipped))
    if grid.resampled is None:
        return np.ascontiguousarray(turned)
    if labels:
        return resample_labels(turned, grid.resampled, _finer(grid))
    return resample(turned, grid.resampled)


def inverse(values: np.ndarray, grid: Grid) -> np.ndarray:
    """Bring label maps (S, H, W), or probabilities (S, H, W, K), back to the source's grid: (X, Y, Z[, K]).

    A file of 2 dimensions gets (X, Y[, K]). Without resampling, or after one to finer pixels, label maps come back
    exactly; probabilities are float32, linear between pixels.
    """
    rows, columns = ((*grid.shape, 1)[:3][place] for place in grid.axes[1:])
    if grid.resampled is not None and values.ndim == 3:
        values = resample_labels(values, (rows, columns), _finer(grid))
    elif grid.resampled is not None:
        values = resample(values, (rows, columns))
    turned = np.flip(values, tuple(place for place, flipped in enumerate(grid.flips) if flipped))
    back = np.transpose(turned, (*np.argsort(grid.axes), *range(3, values.ndim)))
    return np.ascontiguousarray(back.reshape(*grid.shape, *values.shape[3:]))


def write_back(path: Path, maps: Sequence[np.ndarray], grids: Sequence[Grid]) -> None:
    """Write what was found on one case's slices as NIfTI on the source's grid, ``.nii`` or ``.nii.gz``, atomically.

    Args:
        path: the file to write.
        maps: label maps (S, H, W), one per scan of the case (several: its time points, in order); or the
            probabilities (S, H, W, K) of one scan.
        grids: the scans' grids, as `take` or the manifest's scans have them.
    """
    back = [inverse(values, grid) for values, grid in zip(maps, grids, strict=True)]
    if maps[0].ndim == 4:
        (probabilities,) = back
        write_probabilities(path, probabilities, grids[0])
    else:
        write_labels(path, back[0] if grids[0].frame is None else np.stack(back, axis=-1), grids[0])


# --- whole cases ---------------------------------------------------------------------------------


def take(paths: Sequence[Path], intake: Intake, *, frame: int | None = None) -> list[Taken]:
    """Turn the files of one case into scans as ``intake`` says: one, or one per time point (or only ``frame``).

    Raises:
        InputError: a file is unreadable, or has other channels or another place than expected.
    """
    sources = [probe(path) for path in paths]
    for source in sources[1:]:
        require_same_place(source, sources[0], "the case's first channel")
    volumes = sum(source.volumes for source in sources)
    if intake.frames == "channels" and volumes != intake.sources:
        names = ", ".join(dict.fromkeys(channel.name for channel in intake.channels))
        what = f"{volumes} channel{'s' if volumes > 1 else ''}, expected {intake.sources} ({names})"
        raise InputError(f"{paths[0]}: the case has {what}")
    values = stacked(sources)
    timed = intake.frames == "scans" and values.ndim == 4
    wanted = [None] if not timed else list(range(values.shape[3])) if frame is None else [frame]
    return [_one(sources[0], values if number is None else values[..., number], intake, number) for number in wanted]


def stacked(sources: Sequence[Source]) -> np.ndarray:
    """Read the files of a case, one behind the other: (X, Y, Z), or (X, Y, Z, V) of several volumes."""
    parts = [voxels(source) for source in sources]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part[..., None] if part.ndim == 3 else part for part in parts], axis=-1)


def _one(source: Source, values: np.ndarray, intake: Intake, frame: int | None) -> Taken:
    spacing, orientation = intake.spacing_mm, intake.orientation
    grid = grid_of(source, intake.axis, orientation=orientation, spacing_mm=spacing, frame=frame)
    image, span = to_levels(forward(values, grid), intake, source.path)
    return Taken(image, span, spacing_of(source, grid), grid)


# --- within --------------------------------------------------------------------------------------


def _orientation(source: Source) -> list[tuple[int, int]]:
    """Return for each axis of the file the patient's axis closest to it, and whether both run the same way (1, -1)."""
    from nibabel.orientations import io_orientation

    return [(int(axis), int(sense)) for axis, sense in io_orientation(source.affine)]


def _finer(grid: Grid) -> tuple[bool, bool]:
    """Whether the grid's pixels were made finer, or left alone, along rows and columns."""
    rows, columns = ((*grid.shape, 1)[:3][place] for place in grid.axes[1:])
    new = grid.resampled or (rows, columns)
    return new[0] >= rows, new[1] >= columns
