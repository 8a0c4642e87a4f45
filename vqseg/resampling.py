"""Resamples slices in plane: images linearly and antialiased, label maps so that they come back as they were.

Both are separable, and pixel areas stay where they are (no corner alignment): pixel i of n lies where pixel
(i + 1/2) m/n - 1/2 of m does.

Letters: S slices, H x W pixels before, h x w after, C channels.
"""

import numpy as np
from scipy.sparse import csr_array


def resample(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return (S, H, W[, C]) on h x w pixels as float32: linear, over a pixel's whole area where pixels get larger."""
    rows, columns = (csr_array(linear(side, target)) for side, target in zip(values.shape[1:3], shape))
    planes = values if values.ndim == 4 else values[..., None]
    done = np.empty((len(values), *shape, planes.shape[-1]), np.float32)
    for number, channel in np.ndindex(done.shape[0], done.shape[3]):
        done[number, ..., channel] = _apply(rows, columns, planes[number, ..., channel])
    return done if values.ndim == 4 else done[..., 0]


def resample_labels(labels: np.ndarray, shape: tuple[int, int], exact: tuple[bool, bool]) -> np.ndarray:
    """Return label maps (S, H, W) on h x w pixels, same type.

    Args:
        shape: h and w.
        exact: for rows and columns, whether the nearest pixel is taken. It is to be taken in both directions along an
            axis that was made finer: then a label map comes back exactly. Along one that was made coarser the
            class with the largest share of the pixel is better than the nearest in both directions.
    """
    if all(exact):
        rows, columns = (nearest(side, target) for side, target in zip(labels.shape[1:3], shape))
        return labels[:, rows][:, :, columns]
    first, second = (
        csr_array(np.eye(side, dtype=np.float32)[nearest(side, target)] if taken else linear(side, target))
        for side, target, taken in zip(labels.shape[1:3], shape, exact)
    )
    done = np.empty((len(labels), *shape), labels.dtype)
    for place, plane in enumerate(labels):
        present = np.unique(plane)
        shares = [_apply(first, second, plane == value) for value in present]
        done[place] = present[np.argmax(shares, axis=0)]
    return done


def nearest(length: int, target: int) -> np.ndarray:
    """Return for each of ``target`` pixels the nearest of ``length``, in whole numbers, so that ties never wobble."""
    return ((2 * np.arange(target) + 1) * length) // (2 * target)


def linear(length: int, target: int) -> np.ndarray:
    """Return weights (target, length), float32, rows summing to 1: a triangle as wide as the larger of two pixels."""
    scale = length / target
    centers = (np.arange(target) + 0.5) * scale - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(length) - centers[:, None]) / max(scale, 1.0))
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def _apply(rows: csr_array, columns: csr_array, plane: np.ndarray) -> np.ndarray:
    """Return the weighted sums (h, w) of a plane (H, W) along both axes; most weights are 0."""
    return np.asarray((columns @ (rows @ plane.astype(np.float32)).T).T)
