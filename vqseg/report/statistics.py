"""What a table may claim: sums of arms with weights, tested with seeds and patients as crossed random factors.

A contrast is an arm minus the reference arm, or an effect of a factorial grid: any arms, any weights.
The unit is the patient: a patient's scans and classes are averaged first, because they are not independent.
For n_s seeds crossed with n_p patients, D[seed, patient] is the weighted sum of the arms, one number per cell, and the
mean squares of the two-way layout without replication give

    var(mean) = max(MS_seed + MS_patient - MS_residual, MS_residual) / (n_s n_p)

with Satterthwaite's degrees of freedom, a t interval and a p; Holm's correction runs over the contrasts of one table.
Random seeds *and* random patients mean that the interval speaks about new seeds and new patients, where a test
over scans speaks about these weights only.

The degrees of freedom are estimated too, so few seeds make the test approximate: with three, a true null is rejected
in up to 7 % of single tests at .05, and Holm over seven true nulls rejects one in up to 14 %, where seeds differ more
than patients; with five, in up to 7 % (`FEW_SEEDS`; simulated in tests/test_statistics.py).

Letters: S seeds, P patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd
from scipy import stats

LEAST_SEEDS = 3
FEW_SEEDS = 5
"""Below so many the level of a whole table is approximate."""
ALPHA = 0.05
FIELD_NOISE: Mapping[str, float] = {"seed": 0.35, "patient": 0.6, "patient_seed": 0.6, "scan": 0.6}
"""Standard deviations of a difference between two arms, in Dice points, as seen in this field; ``scan``: per scan."""

LAYOUTS = 4000
"""Simulated layouts that a power is averaged over: it is then right to half a percent."""


@dataclass(frozen=True)
class Contrast:
    """Mean difference with its interval; arrays when many layouts were given at once.

    ``low``, ``high`` and ``p`` are NaN where the layout has fewer than two seeds or two patients.
    """

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    df: np.ndarray
    error: np.ndarray


def contrast(differences: np.ndarray, *, alpha: float = ALPHA) -> Contrast:
    """Test whether the mean of ``differences`` (..., S, P) is zero for new seeds and new patients.

    Returns:
        Estimate, interval at ``1 - alpha``, two-sided p, degrees of freedom and standard error, each of shape (...).
    """
    mean, error, df = _spread(differences)
    return _tested(mean, error, df, alpha)


def _spread(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, standard error and degrees of freedom of (..., S, P); the latter NaN where there is no layout."""
    mean = differences.mean((-2, -1))
    if min(differences.shape[-2:]) < 2:
        unknown = np.full_like(mean, np.nan)
        return mean, unknown, unknown
    return mean, *standard_error(*mean_squares(differences))


def _tested(mean: np.ndarray, error: np.ndarray, df: np.ndarray, alpha: float) -> Contrast:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error > 0, np.abs(mean) / error, np.where(mean == 0, 0.0, np.inf))
    margin = stats.t.isf(alpha / 2, df) * error
    return Contrast(mean, mean - margin, mean + margin, 2 * stats.t.sf(ratio, df), df, error)


def mean_squares(differences: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[int, int, int]]:
    """Return (MS_seed, MS_patient, MS_residual) of (..., S, P) and their degrees of freedom; S, P >= 2."""
    seeds, patients = differences.shape[-2:]
    grand = differences.mean((-2, -1), keepdims=True)
    rows, columns = differences.mean(-1, keepdims=True), differences.mean(-2, keepdims=True)
    freedom = (seeds - 1, patients - 1, (seeds - 1) * (patients - 1))
    seed = patients * ((rows - grand) ** 2).sum((-2, -1)) / freedom[0]
    patient = seeds * ((columns - grand) ** 2).sum((-2, -1)) / freedom[1]
    residual = ((differences - rows - columns + grand) ** 2).sum((-2, -1)) / freedom[2]
    return (seed, patient, residual), freedom


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p values; NaN stays NaN and is not counted."""
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted


def grids(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Average rows by patient: columns ``arm``, ``seed``, ``patient``, ``value`` -> per arm, seeds x patients."""
    known = scores[["arm", "seed", "patient", "value"]].dropna(subset=["value"])
    wide = known.groupby(["arm", "seed", "patient"], sort=True)["value"].mean().unstack("patient")
    arms, seeds, values = wide.index.get_level_values("arm"), wide.index.get_level_values("seed"), wide.to_numpy()
    starts = np.flatnonzero(~arms.duplicated())
    found = {}
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(arms)]):
        there = ~np.isnan(values[start:end]).all(axis=0)
        columns = wide.columns if there.all() else wide.columns[there]
        # The order in which numbers lie is that in which they are summed, to the last bit.
        own = np.ascontiguousarray(values[start:end, there])
        found[str(arms[start])] = pd.DataFrame(own, index=seeds[start:end], columns=columns, copy=False)
    return found


def combined(by_arm: Mapping[str, pd.DataFrame], weights: Mapping[str, float]) -> np.ndarray:
    """Return the weighted sum of the arms' grids (S, P): seeds that all have, patients scored in all of them."""
    own = [by_arm[arm] for arm in weights]
    if all(grid.index.equals(own[0].index) and grid.columns.equals(own[0].columns) for grid in own[1:]):
        whole = reduce(np.add, [weight * grid.to_numpy() for weight, grid in zip(weights.values(), own)])
        if not np.isnan(whole).any():
            return np.ascontiguousarray(whole)
    seeds = reduce(pd.Index.intersection, [grid.index for grid in own])
    patients = reduce(pd.Index.intersection, [grid.columns for grid in own])
    parts = [weight * grid.loc[seeds, patients] for weight, grid in zip(weights.values(), own)]
    return reduce(pd.DataFrame.add, parts).dropna(axis=1).to_numpy(dtype=float)


def differences(one: pd.DataFrame, other: pd.DataFrame) -> np.ndarray:
    """Return one grid minus another (S, P) over the seeds that both have and the patients scored in all of them."""
    return combined({"one": one, "other": other}, {"one": 1.0, "other": -1.0})


def assess(scores: pd.DataFrame, contrasts: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Test weighted sums of arms; Holm's correction runs over those that can be computed.

    Args:
        scores: columns ``arm``, ``seed``, ``patient``, ``value``: one row per scored scan and class.
        contrasts: name -> weight of every arm that enters. Without scores of one of them, or without a seed and a
            patient in common, the contrast is left out.

    Returns:
        One row per contrast: ``contrast``, ``estimate``, ``low``, ``high``, ``p``, ``p_holm``, ``df``, ``seeds``,
        ``patients``.
    """
    return assess_grids(grids(scores), contrasts)


def assess_grids(by_arm: Mapping[str, pd.DataFrame], contrasts: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Do what `assess` does, of arms that `grids` averaged."""
    layouts = {
        name: table
        for name, weights in contrasts.items()
        if set(weights) <= set(by_arm) and (table := combined(by_arm, weights)).size
    }
    # One by one, because a sum over many layouts at once may differ in its last bit; the tests are one call.
    found = np.array([_spread(table) for table in layouts.values()], dtype=float).reshape(-1, 3)
    result = _tested(found[:, 0], found[:, 1], found[:, 2], ALPHA)
    return pd.DataFrame(
        {
            "contrast": pd.Series(list(layouts), dtype="str"),
            **{key: getattr(result, key) for key in ("estimate", "low", "high", "p")},
            "p_holm": holm(result.p),
            "df": result.df,
            "seeds": [len(table) for table in layouts.values()],
            "patients": [table.shape[1] for table in layouts.values()],
        }
    )


def compare(scores: pd.DataFrame, reference: str, *, arms: list[str] | None = None) -> pd.DataFrame:
    """Contrast every other arm with ``reference``.

    Args:
        scores: as `assess` takes them.
        reference: the declared reference arm.
        arms: which arms, in order; all by default.

    Returns:
        `assess`'s columns, with ``arm`` for ``contrast``.
    """
    names = arms if arms is not None else list(scores["arm"].unique())
    return compare_grids(grids(scores), reference, names)


def compare_grids(by_arm: Mapping[str, pd.DataFrame], reference: str, arms: list[str]) -> pd.DataFrame:
    """Do what `compare` does, of arms that `grids` averaged."""
    contrasts = {arm: {arm: 1.0, reference: -1.0} for arm in arms if arm != reference}
    return assess_grids(by_arm, contrasts).rename(columns={"contrast": "arm"})


def marks(scores: pd.DataFrame, *, higher_is_better: bool = True) -> dict[str, str]:
    """Say which arms are ``bold`` and which one is ``underline``.

    The best arm is bold and so is every arm that cannot be told from it (Holm over the contrasts with the best);
    the best of the others is underlined. Arms with fewer than three seeds are not ranked.
    """
    by_arm = grids(scores)
    ranked = {arm: float(own.mean(axis=1).mean()) for arm, own in by_arm.items() if len(own) >= LEAST_SEEDS}
    order = sorted(ranked, key=lambda arm: -ranked[arm] if higher_is_better else ranked[arm])
    if len(order) < 2:
        return {}
    table = compare_grids(by_arm, order[0], order)
    table = table[(table["seeds"] >= LEAST_SEEDS) & (table["patients"] >= 2)]
    if table.empty:
        return {}
    worse = set(table.loc[table["p_holm"] < ALPHA, "arm"])
    found = {order[0]: "bold", **{arm: "bold" for arm in table["arm"] if arm not in worse}}
    second = next((arm for arm in order if arm in worse), None)
    return found | ({second: "underline"} if second else {})


def detectable(
    n_seeds: int,
    n_patients: int,
    *,
    scans_per_patient: float = 1.0,
    contrasts: int = 1,
    components: Mapping[str, float] = FIELD_NOISE,
    power: float = 0.8,
    alpha: float = ALPHA,
) -> float:
    """Return the smallest true difference that `contrast` finds with probability ``power``.

    Args:
        n_seeds: seeds per arm.
        n_patients: patients scored.
        scans_per_patient: scans that a patient's score averages; may be a mean over patients.
        contrasts: how many arms are held against the reference (k - 1); Holm's first step asks for alpha over this.
        components: standard deviations of `FIELD_NOISE`'s names.
        power: probability of finding it.
        alpha: two-sided level of the whole table.

    Returns:
        The difference in the unit of ``components`` (Dice points), NaN below two seeds or two patients.
    """
    if n_seeds < 2 or n_patients < 2:
        return float("nan")
    draw = np.random.default_rng(0)
    residual = components["patient_seed"] ** 2 + components["scan"] ** 2 / scans_per_patient
    seed = residual + n_patients * components["seed"] ** 2
    patient = residual + n_seeds * components["patient"] ** 2
    freedom = (n_seeds - 1, n_patients - 1, (n_seeds - 1) * (n_patients - 1))
    # A normal layout's mean squares are independent of each other and of its mean, so they are drawn, not the layout.
    seed_ms, patient_ms, residual_ms = (
        expected * draw.chisquare(degrees, LAYOUTS) / degrees
        for expected, degrees in zip((seed, patient, residual), freedom)
    )
    error, df = standard_error((seed_ms, patient_ms, residual_ms), freedom)
    margin = stats.t.isf(alpha / max(contrasts, 1) / 2, df) * error
    true_error = np.sqrt((seed + patient - residual) / (n_seeds * n_patients))
    low, high = 0.0, float(margin.max() + 10 * true_error)
    while high - low > 1e-3 * true_error:
        middle = (low + high) / 2
        found = stats.norm.sf((margin - middle) / true_error) + stats.norm.cdf((-margin - middle) / true_error)
        low, high = (low, middle) if found.mean() >= power else (middle, high)
    return high


def standard_error(
    squares: tuple[np.ndarray, np.ndarray, np.ndarray], freedom: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard error of the mean and Satterthwaite's degrees of freedom from `mean_squares`."""
    seed, patient, residual = squares
    variance = np.maximum(seed + patient - residual, residual)
    spread = sum(square**2 / degrees for square, degrees in zip(squares, freedom))
    df = np.where(spread > 0, variance**2 / np.where(spread > 0, spread, 1.0), float(min(freedom)))
    return np.sqrt(variance / ((freedom[0] + 1) * (freedom[1] + 1))), df
