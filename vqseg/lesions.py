"""What is asked of a class that is a lesion: how many were found, what was invented, volume, surface.

A lesion is a connected component of a mask, diagonal neighbors included (26 in a volume, 8 in an image). One voxel
in common finds a lesion: Dice says how well. Voxels that touch without a common one do not.

Letters: S slices, H x W pixels.
Differs: lesions that touch in the reference are one lesion here; a set that numbers its lesions loses that.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import generate_binary_structure, label

from vqseg.metrics import joint_box, surface_dice

COUNTS = ("lesions", "lesions_found", "lesion_sensitivity", "false_positives")
COLUMNS = (*COUNTS, "surface_dice", "volume_error_ml", "volume_error_voxel")


def lesion_counts(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Count the lesions of two boolean arrays of one shape.

    Returns:
        ``lesions`` of the reference, ``lesions_found`` of them, their share ``lesion_sensitivity`` (NaN where there is
        none), and ``false_positives``: components of the prediction that share no voxel with the reference.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, reference {reference.shape}")
    if not (prediction.any() or reference.any()):
        return dict(zip(COUNTS, (0.0, 0.0, math.nan, 0.0), strict=True))
    box = joint_box(prediction.astype(bool, copy=False), reference.astype(bool, copy=False))
    there, found = _touched(reference[box], prediction[box])
    invented = np.subtract(*_touched(prediction[box], reference[box]))
    values = (float(there), float(found), found / there if there else math.nan, float(invented))
    return dict(zip(COUNTS, values, strict=True))


def lesion_values(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    tolerance: float,
    spacing: Sequence[float] | None,
    empty_surface: float,
) -> dict[str, float]:
    """Return `COLUMNS` for one lesion class of one case.

    Args:
        prediction: boolean (S, H, W) or (H, W), the network's.
        reference: the expert's, of the same shape.
        tolerance: of the surface Dice, in mm, in voxels if no spacing is given.
        spacing: mm per axis; None where unknown.
        empty_surface: the surface Dice where prediction or reference is empty, as the protocol has it.

    Returns:
        `lesion_counts`, ``surface_dice`` (0-1), and the volume of the prediction minus that of the reference in ml
        (NaN without spacing, and for an image, which has no volume) and in voxels.

    Raises:
        ValueError: as `lesion_counts`.
    """
    counts = lesion_counts(prediction, reference)
    surface = empty_surface
    if prediction.any() and reference.any():
        surface = surface_dice(prediction, reference, tolerance, spacing)
    voxels = int(np.count_nonzero(prediction)) - int(np.count_nonzero(reference))
    known = spacing is not None and prediction.ndim == 3
    milliliters = voxels * math.prod(spacing or ()) / 1000 if known else math.nan
    return {**counts, "surface_dice": surface, "volume_error_ml": milliliters, "volume_error_voxel": float(voxels)}


def _touched(mask: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Return how many components a mask has and how many of them share a voxel with the other."""
    components, count = label(mask, structure=generate_binary_structure(mask.ndim, mask.ndim))
    touched = np.unique(components[other.astype(bool, copy=False)])
    return int(count), int(np.count_nonzero(touched))
