"""Overlap and surface distances between label arrays, and what a token covers: plain functions of numpy arrays.

The distances are MedPy's: HD95 is the 95th percentile of both directed sets of surface distances pooled, ASD is
one-directional (prediction to reference), ASSD is the mean of the two sets pooled. The surface of a mask is every
voxel with a face neighbor outside the mask; what lies beyond the array is outside.

Letters: K classes with the background as class 0, S slices, H x W pixels, h x w tokens. Arrays may have any number
of axes unless said otherwise.

Source: `medpy.metric.binary` of MedPy 0.5 (`hd95`, `asd`, `assd`, connectivity 1); Nikolov et al. 2018 (arXiv
1809.04430) for the surface Dice at a tolerance.
Differs: works inside the smallest box around both masks, measures slice by slice for all units together, and looks
near a surface first: none changes a value beyond the last bit (in voxels, none at all); an empty mask raises
ValueError in place of RuntimeError. The surface Dice counts surface voxels, each as much as another, where Nikolov et
al. weigh surface elements between voxels by their area in mm: on anisotropic voxels the two are not the same number.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from vqseg.errors import InputError

Spacing = Sequence[float]


# Pixels around a surface in which the nearest voxel of the other is sought at first; it grows where that is not enough.
MARGIN = 8


class Distances(NamedTuple):
    """Surface distances in voxels, or in the unit of the spacing."""

    hd95: float
    asd: float
    assd: float


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Return the Dice overlap (0-1) of two boolean arrays of one shape; two empty ones overlap fully."""
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(np.logical_and(prediction, reference))) / total if total else 1.0


def jaccard(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Return the Jaccard overlap (0-1) of two boolean arrays of one shape; two empty ones overlap fully."""
    union = int(np.count_nonzero(np.logical_or(prediction, reference)))
    return int(np.count_nonzero(np.logical_and(prediction, reference))) / union if union else 1.0


def confusion(prediction: np.ndarray, reference: np.ndarray, num_classes: int) -> np.ndarray:
    """Return voxel counts int64 (K, K), reference class by predicted class, in one pass.

    Raises:
        ValueError: the shapes differ, or a value is no class.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, reference {reference.shape}")
    for name, array in (("prediction", prediction), ("reference", reference)):
        if array.size and not 0 <= int(array.min()) <= int(array.max()) < num_classes:
            raise ValueError(
                f"{name} holds {int(array.min())} ... {int(array.max())}, classes are 0 ... {num_classes - 1}"
            )
    pairs = reference.astype(np.intp).ravel() * num_classes + prediction.ravel()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_dice(prediction: np.ndarray, reference: np.ndarray, num_classes: int) -> np.ndarray:
    """Return float64 (K - 1,), the Dice of every foreground class of two label arrays of one shape.

    A class that neither holds scores 1, one that only one of them holds 0.
    """
    return overlaps(confusion(prediction, reference, num_classes))[0]


def overlaps(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Dice and Jaccard, each (K - 1,), of the foreground classes from a confusion matrix (K, K)."""
    both = np.diag(counts)[1:].astype(float)
    total = (counts.sum(axis=0) + counts.sum(axis=1))[1:].astype(float)
    empty = total == 0
    return (
        np.where(empty, 1.0, 2 * both / np.where(empty, 1.0, total)),
        np.where(empty, 1.0, both / np.where(empty, 1.0, total - both)),
    )


def distances(prediction: np.ndarray, reference: np.ndarray, spacing: Spacing | None = None) -> Distances:
    """Return the surface distances of two boolean arrays of one shape, neither of them empty.

    ``spacing`` is one length per axis; without it the unit is the voxel.

    Raises:
        ValueError: the shapes differ, an array is empty, or the spacing does not fit.
    """
    return distances_in_units(prediction, reference, [spacing])[0]


def distances_in_units(
    prediction: np.ndarray, reference: np.ndarray, spacings: Sequence[Spacing | None]
) -> list[Distances]:
    """Return `distances` for each of ``spacings``; the surfaces are found once for all of them.

    Raises:
        ValueError: as `distances`.
    """
    ours, theirs = _surfaces(prediction, reference, spacings)
    return [_summary(*both) for both in zip(_directed(ours, theirs, spacings), _directed(theirs, ours, spacings))]


def surface_dice(
    prediction: np.ndarray, reference: np.ndarray, tolerance: float, spacing: Spacing | None = None
) -> float:
    """Return the share (0-1) of both surfaces' voxels that lie within ``tolerance`` of the other surface.

    Tolerance and spacing have one unit, without spacing the voxel; a distance equal to the tolerance is within.

    Raises:
        ValueError: as `distances`.
    """
    sides = 1.0 if spacing is None else np.asarray(spacing, float)
    ours, theirs = (np.argwhere(surface) * sides for surface in _surfaces(prediction, reference, [spacing]))
    # Trees: surfaces of lesions are few voxels in a large box. The slack: three voxels of .1 mm are .3 mm.
    reach = tolerance * (1 + 1e-9) + 1e-12
    there, _ = KDTree(theirs).query(ours, distance_upper_bound=reach)
    back, _ = KDTree(ours).query(theirs, distance_upper_bound=reach)
    return float(np.isfinite(np.concatenate((there, back))).mean())  # infinite: none in reach


def slice_consistency(mask: np.ndarray) -> float:
    """Return the mean Dice between adjacent slices of a boolean volume (S, H, W): how smoothly it runs through them.

    Over the pairs from the first slice that holds anything to the last, of which at least one holds something;
    NaN where that is no pair.
    """
    voxels = np.count_nonzero(mask, axis=(1, 2))
    held = np.flatnonzero(voxels)
    if not len(held):
        return math.nan
    first, last = int(held[0]), int(held[-1])
    both = np.count_nonzero(mask[first:last] & mask[first + 1 : last + 1], axis=(1, 2))
    total = voxels[first:last] + voxels[first + 1 : last + 1]
    return float(np.mean(2 * both[total > 0] / total[total > 0])) if last > first else math.nan


def medpy_binary() -> ModuleType:
    """Return `medpy.metric.binary`, what own distances are compared with; nothing else imports it.

    Raises:
        InputError: MedPy is not installed.
    """
    try:
        from medpy.metric import binary
    except ImportError:
        raise InputError("medpy, the reference for distances, is not installed: 'pip install medpy'") from None
    return binary


def _medpy(prediction: np.ndarray, reference: np.ndarray, spacings: Sequence[Spacing | None]) -> list[Distances]:
    """What `distances_in_units` returns, by MedPy: some thirty times slower, and the reference."""
    binary = medpy_binary()
    masks, measures = (prediction, reference), (binary.hd95, binary.asd, binary.assd)
    return [Distances(*(float(each(*masks, sides)) for each in measures)) for sides in spacings]


Measure = Callable[[np.ndarray, np.ndarray, Sequence[Spacing | None]], list[Distances]]
LIBRARIES: Mapping[str, Measure] = {"own": distances_in_units, "medpy": _medpy}


def diagonal(shape: Sequence[int], spacing: Spacing | None = None) -> float:
    """Return the diagonal of an array of ``shape``, in voxels or in the unit of the spacing."""
    sides = np.asarray(shape, float) * (1.0 if spacing is None else np.asarray(spacing, float))
    return float(np.sqrt(np.sum(sides**2)))


def joint_box(one: np.ndarray, other: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box around two boolean arrays, not both empty; cutting there moves no surface."""
    union = one | other
    box: list[slice] = []
    for axis in range(union.ndim):
        hits = np.flatnonzero(union.any(axis=tuple(a for a in range(union.ndim) if a != axis)))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
        union = union[(slice(None),) * axis + (box[-1],)]
    return tuple(box)


def token_classes(mask: np.ndarray, grid: tuple[int, int], num_classes: int) -> np.ndarray:
    """Return uint8 (S, h, w): the class that covers most of each token's cell of a mask (S, H, W).

    Cells are the h x w equal rectangles of the image; a pixel across a border counts in each cell by its share.
    The lower class wins a tie.
    """
    rows, columns = (_coverage(cells, pixels) for cells, pixels in zip(grid, mask.shape[1:]))
    area = np.stack([rows @ (mask == index).astype(float) @ columns.T for index in range(num_classes)])
    return area.argmax(0).astype(np.uint8)


def jaccard_plausible(dice_mean: float, jaccard_mean: float, tolerance: float = 1e-6) -> bool:
    """Whether two means (0-1) can come from the same cases.

    Per case J = D / (2 - D), which is convex, so a mean Jaccard cannot lie below that of the mean Dice;
    and since J <= D, it cannot lie above the mean Dice either. For printed numbers, ``tolerance`` is
    half of the last printed digit.
    """
    floor = (dice_mean - tolerance) / (2 - dice_mean + tolerance)
    return bool(floor - tolerance <= jaccard_mean <= dice_mean + 2 * tolerance)


def _surfaces(
    prediction: np.ndarray, reference: np.ndarray, spacings: Sequence[Spacing | None]
) -> tuple[np.ndarray, np.ndarray]:
    """The surfaces of both, in the smallest box around them; ValueError where they have none or a spacing is off."""
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, reference {reference.shape}")
    prediction, reference = prediction.astype(bool, copy=False), reference.astype(bool, copy=False)
    for spacing in spacings:
        if spacing is not None and (len(spacing) != prediction.ndim or not min(spacing) > 0):
            raise ValueError(f"spacing must be {prediction.ndim} positive lengths, got {tuple(spacing)}")
    for name, array in (("prediction", prediction), ("reference", reference)):
        if not array.any():
            raise ValueError(f"{name} is empty: it has no surface to measure from")
    box = joint_box(prediction, reference)
    return _surface(prediction[box]), _surface(reference[box])


def _surface(mask: np.ndarray) -> np.ndarray:
    """Boolean, same shape: voxels of the mask with at least one face neighbor that is not in it."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        inside, source = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        inside[1:] &= source[:-1]
        inside[:-1] &= source[1:]
        inside[[0, -1]] = False
    return mask & ~inner


def _directed(start: np.ndarray, goal: np.ndarray, spacings: Sequence[Spacing | None]) -> list[np.ndarray]:
    """Distances (n,) from each of the n voxels of the surface ``start`` to the nearest of ``goal``, for each spacing.

    The goal is sought near the start first; a voxel whose nearest one may lie beyond is looked at again, further off.
    """
    shape = (1,) * (3 - start.ndim) + start.shape
    sides = [np.array([1.0] * (3 - start.ndim) + list(each or (1.0,) * start.ndim)) for each in spacings]
    points, goal = np.stack(np.unravel_index(np.flatnonzero(start), shape)), goal.reshape(shape)
    found, left, margin = np.empty((len(sides), points.shape[1])), np.arange(points.shape[1]), MARGIN
    while len(left):
        seen = points[:, left]
        low = np.maximum(seen[1:].min(1) - margin, 0)
        high = np.minimum(seen[1:].max(1) + margin + 1, shape[1:])
        values = _nearest(seen - [[0], *low[:, None]], goal[:, low[0] : high[0], low[1] : high[1]], sides)
        found[:, left] = values
        # The first pixels that were cut away, as far from each voxel as their row or column is.
        cuts = [(axis, low[axis] - 1) for axis in (0, 1) if low[axis] > 0]
        cuts += [(axis, high[axis]) for axis in (0, 1) if high[axis] < shape[1 + axis]]
        unsure = np.zeros(len(left), bool)
        for each, side in zip(values, sides):
            for axis, cut in cuts:
                unsure |= each > np.abs(seen[1 + axis] - cut) * side[1 + axis]
        left, margin = left[unsure], 4 * margin
    return list(found)


def _nearest(points: np.ndarray, goal: np.ndarray, sides: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Distances (n,) of ``points`` (3, n) to a mask (S, H, W), for each lengths of a voxel's sides (3,).

    Infinite where the mask is empty. Slice by slice of the mask: how far a pixel is in its plane is one for all slices
    that look there, and for all units in which pixels have the same proportions.
    """
    squares = [np.full(points.shape[1], np.inf) for _ in sides]
    pixels = points[1] * goal.shape[2] + points[2]
    for z in np.flatnonzero(goal.any((1, 2))):
        planes: dict[float, np.ndarray] = {}
        for side, best in zip(sides, squares):
            proportion = float(side[1] / side[2])
            if proportion not in planes:
                planes[proportion] = _in_plane(goal[z], proportion).ravel()[pixels]
            across = ((np.arange(points[0].max() + 1) - z) * side[0]) ** 2
            np.minimum(best, planes[proportion] * side[2] ** 2 + across[points[0]], out=best)
    return [np.sqrt(best) for best in squares]


def _in_plane(goal: np.ndarray, proportion: float) -> np.ndarray:
    """Squared distances (H, W), in widths of a pixel, to the nearest pixel of a mask (H, W) that has some."""
    near = distance_transform_edt(~goal, sampling=(proportion, 1.0), return_distances=False, return_indices=True)
    down, right = near[0] - np.arange(goal.shape[0])[:, None], near[1] - np.arange(goal.shape[1])
    return (down * proportion) ** 2 + right**2


def _summary(there: np.ndarray, back: np.ndarray) -> Distances:
    pooled = np.concatenate((there, back))
    return Distances(float(np.percentile(pooled, 95)), float(there.mean()), float(pooled.mean()))


def _coverage(cells: int, pixels: int) -> np.ndarray:
    """Float64 (cells, pixels): the overlap of cell and pixel, in whole units of 1 / (cells x pixels)."""
    cell, pixel = np.arange(cells)[:, None] * pixels, np.arange(pixels)[None] * cells
    return (np.minimum(cell + pixels, pixel + cells) - np.maximum(cell, pixel)).clip(0).astype(float)
