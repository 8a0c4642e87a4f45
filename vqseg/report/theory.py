"""What a perturbation does to the distribution of codes, from theory and from a learned codebook.

    dropout        KL = 1/2 (p/(1-p) + log(1-p)), by Gaussian moment matching; unbounded
    QPM            P uniform on V codes, Q_j = sum_i pi(j|i)/V, KL(P||Q) = sum_j 1/V log(1/(V Q_j))
                   <= -log(1 - eps + eps exp(-(Dmax - Dmin))) <= Dmax - Dmin
    information    I(i;j)/H(i): how much of the code survives; 1 when nothing changes, 0 when all is forgotten

A small KL is not a strength: replacement by a uniform draw has KL 0 at every rate. Hence the information beside it.
Everything about eps is closed form once one pass over pairs of codes gave the sums, so a curve costs one pass.

Source: VQ-Seg, section 3.2 and appendices A and B.
Differs: the usage of the codes may stand for P; distances may be Euclidean or in units of the median distance to the
nearest other code, as the perturbation's options say.

Letters: V codes, C channels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

SAMPLE = 256
"""Codes that the nearest-neighbor unit is estimated from, as in the perturbation itself."""


@dataclass(frozen=True)
class Replacement:
    """Where replaced codes go: ``prior`` P (V,), ``received`` sum_i P_i w_ij (V,), mean row entropy in nats.

    ``distance_range`` is Dmax - Dmin over pairs of different codes, in units of the temperature.
    """

    prior: np.ndarray
    received: np.ndarray
    row_entropy: float
    distance_range: float


def dropout_kl(rate: ArrayLike) -> np.ndarray:
    """Return dropout's KL in nats at ``rate`` in [0, 1)."""
    p = np.asarray(rate, dtype=float)
    return 0.5 * (p / (1 - p) + np.log1p(-p))


def replacement(
    codes: np.ndarray,
    *,
    distance: str = "squared-euclidean",
    temperature: float = 1.0,
    scale: str = "absolute",
    usage: np.ndarray | None = None,
    chunk: int = 512,
) -> Replacement:
    """Sum QPM's replacement weights over all pairs of codes (V, C), ``chunk`` rows at a time.

    Args:
        codes: the learned table.
        distance: ``squared-euclidean`` or ``euclidean``.
        temperature: what distances are divided by, in units of ``scale``.
        scale: ``absolute`` or ``nearest-neighbor``.
        usage: token counts (V,) that stand for P; uniform if absent.
        chunk: rows per block; does not change the result.
    """
    table = np.asarray(codes, dtype=np.float64)
    size = len(table)
    prior = np.full(size, 1 / size) if usage is None else np.asarray(usage, dtype=float) / np.sum(usage)
    unit = temperature * (_nearest(table, distance) if scale == "nearest-neighbor" else 1.0)
    received, entropy, low, high = np.zeros(size), 0.0, np.inf, 0.0
    for start in range(0, size, chunk):
        own = np.arange(start, min(start + chunk, size))
        apart = _distances(table, own, distance) / unit
        local = np.arange(len(own))
        apart[local, own] = np.inf
        nearest = apart.min(axis=1, keepdims=True)
        low, high = min(low, float(nearest.min())), max(high, float(apart[np.isfinite(apart)].max()))
        weights = np.exp(nearest - apart)
        weights /= weights.sum(axis=1, keepdims=True)
        received += prior[own] @ weights
        terms = np.where(weights > 0, weights, 1.0)
        entropy -= float(prior[own] @ (weights * np.log(terms)).sum(axis=1))
    return Replacement(prior, received, entropy, high - low)


def replacement_kl(table: Replacement, rate: ArrayLike) -> np.ndarray:
    """Return KL(P||Q) in nats at every ``rate`` (R,)."""
    eps = np.atleast_1d(np.asarray(rate, dtype=float))[:, None]
    used = table.prior > 0
    after = (1 - eps) * table.prior[used] + eps * table.received[used]
    with np.errstate(divide="ignore"):
        return (table.prior[used] * (np.log(table.prior[used]) - np.log(after))).sum(axis=1)


def replacement_bound(table: Replacement, rate: ArrayLike) -> np.ndarray:
    """Return the bound on KL(P||Q) for uniform P at every ``rate``."""
    eps = np.asarray(rate, dtype=float)
    gap = table.distance_range
    with np.errstate(divide="ignore"):
        inside = np.log1p(-eps * -np.expm1(-gap))
    # exp(-gap) vanishes for large gaps, but at rate 1 the bound is the gap itself.
    return np.minimum(-inside, gap)


def replacement_information(table: Replacement, rate: ArrayLike) -> np.ndarray:
    """Return I(i;j)/H(i) of QPM at every ``rate`` (R,)."""
    eps = np.atleast_1d(np.asarray(rate, dtype=float))
    after = (1 - eps)[:, None] * table.prior + eps[:, None] * table.received
    given = _binary_entropy(eps) + eps * table.row_entropy
    with np.errstate(divide="ignore", invalid="ignore"):  # a single used code carries no information: NaN, not drawn
        return (_entropy(after) - given) / _entropy(table.prior[None])


def uniform_information(size: int, rate: ArrayLike) -> np.ndarray:
    """Return I(i;j)/H(i) of replacement by any other of ``size`` codes, P uniform; its KL is 0 at every rate."""
    eps = np.asarray(rate, dtype=float)
    return 1 - (_binary_entropy(eps) + eps * np.log(size - 1)) / np.log(size)


def _binary_entropy(eps: np.ndarray) -> np.ndarray:
    return _entropy(np.stack([eps, 1 - eps], axis=-1))


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)


def _distances(table: np.ndarray, own: np.ndarray, distance: str) -> np.ndarray:
    squares = (table**2).sum(axis=1)
    squared = np.maximum(squares[own][:, None] + squares - 2 * table[own] @ table.T, 0.0)
    return squared if distance == "squared-euclidean" else np.sqrt(squared)


def _nearest(table: np.ndarray, distance: str) -> float:
    own = np.arange(0, len(table), max(len(table) // SAMPLE, 1))
    apart = _distances(table, own, distance)
    apart[np.arange(len(own)), own] = np.inf
    nearest = np.sort(apart.min(axis=1))
    return max(float(nearest[(len(nearest) - 1) // 2]), 1e-12)  # the lower middle value, as torch's median is
