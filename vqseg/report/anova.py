"""Crossed random factors: mean squares, variance components and the standard error of a mean.

Seeds are crossed with patients, and with draws of labelled patients where a study has several. ``D[draw, seed,
patient]`` is one number per cell, without replication; the patients are those of the scored part, the same for every
draw. With two factors

    var(mean) = max(MS_seed + MS_patient - MS_residual, MS_residual) / (n_s n_p)

With three,

    var(mean) = (MS_d + MS_s + MS_p - MS_ds - MS_dp - MS_sp + MS_dsp) / (n_d n_s n_p)

and never below MS_dsp, nor below what the two-way rule says of any two of them: their differences are estimated from
few draws and seeds and may come out too small, even negative. So an interval that covers draws is never based on a
smaller variance than the one over the same runs that does not. Degrees of freedom are Satterthwaite's.

Level at a nominal 5 % and power for +1 and +2 Dice points, 8,000 simulated layouts each; standard deviations of draw,
seed, patient, draw x seed, draw x patient, seed x patient and the rest (tests/test_statistics.py simulates them again):

    layout       noise                             level   +1    +2
    3 x 3 x 20   .5  .25 .6 .25 .3 .3 .6           .041   .49   .92
    3 x 3 x 20   .0  .35 .6 .0  .0 .0 .73 (field)  .056   .80  1.00
    3 x 3 x 20   .7  .0  .6 .0  .0 .0 .73          .070   .38   .77
    3 x 3 x 20   1.  .35 .6 .35 .3 .3 .6           .046   .19   .52
    2 x 3 x 20   .5  .25 .6 .25 .3 .3 .6           .044   .31   .59
    5 x 3 x 20   .5  .25 .6 .25 .3 .3 .6           .044   .76  1.00
    5 x 5 x 20   .7  .0  .6 .0  .0 .0 .73          .052   .67   .99

Where nothing but three draws varies, the level is that of three seeds in the two-way rule, .07; two draws alone are too
few (.10).

Letters: D draws, S seeds, P patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

ALPHA = 0.05
FACTORS = ("draw", "seed", "patient")
"""In the order of a layout's axes; a layout of two has no draws."""

JOINED = " x "
FAMILY_DF = 2
"""So many times the degrees of freedom of seeds, or of draws if they are fewer, are the most in a table's Holm."""


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


def contrast(differences: np.ndarray, *, draws: bool = False, alpha: float = ALPHA) -> Contrast:
    """Test whether the mean of ``differences`` is zero for new seeds and new patients, and new draws.

    Args:
        differences: (..., S, P), or with ``draws`` (..., D, S, P); D = 1 is the same as none.
        draws: whether the third axis from the end are draws.
        alpha: one minus the level of the interval.

    Returns:
        Estimate, interval at ``1 - alpha``, two-sided p, degrees of freedom and standard error, each of shape (...).
    """
    return tested(*spread(differences, draws=draws), alpha)


def spread(differences: np.ndarray, *, draws: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, standard error and degrees of freedom; the latter two NaN below two seeds or two patients."""
    if draws and differences.shape[-3] == 1:
        return spread(differences[..., 0, :, :])
    mean = differences.mean((-3, -2, -1) if draws else (-2, -1))
    if min(differences.shape[-2:]) < 2:
        unknown = np.full_like(mean, np.nan)
        return mean, unknown, unknown
    if not draws:
        return mean, *standard_error(*mean_squares(differences))
    sizes = dict(zip(FACTORS, differences.shape[-3:]))
    return mean, *error_of(squares_of(differences, draws=True), sizes)


def tested(mean: np.ndarray, error: np.ndarray, df: np.ndarray, alpha: float) -> Contrast:
    """Return the t test and interval of means with their errors and degrees of freedom, all of one shape."""
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


def standard_error(
    squares: tuple[np.ndarray, np.ndarray, np.ndarray], freedom: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard error of the mean and Satterthwaite's degrees of freedom from `mean_squares`."""
    seed, patient, residual = squares
    variance = np.maximum(seed + patient - residual, residual)
    return _error(variance, squares, freedom, (freedom[0] + 1) * (freedom[1] + 1))


def squares_of(differences: np.ndarray, *, draws: bool = False) -> dict[str, np.ndarray]:
    """Return the mean square of every term (``seed``, ``draw x seed`` ...) of (..., S, P) or (..., D, S, P), all >= 2.

    The term of all factors is the residual.
    """
    if not draws:
        return dict(zip(terms(FACTORS[1:]), mean_squares(differences)[0]))
    sizes = dict(zip(FACTORS, differences.shape[-3:]))
    axes = {name: place - len(FACTORS) for place, name in enumerate(FACTORS)}
    effects: dict[str, np.ndarray] = {"": differences.mean((-3, -2, -1), keepdims=True)}
    squares = {}
    for term in terms(FACTORS):
        inside = term.split(JOINED)
        outside = tuple(axes[name] for name in FACTORS if name not in inside)
        means = differences.mean(outside, keepdims=True) if outside else differences
        smaller = ["", *(each for each in terms(inside) if each != term)]
        effects[term] = means - sum(effects[each] for each in smaller)
        repeated = np.prod([sizes[name] for name in FACTORS if name not in inside])
        squares[term] = repeated * (effects[term] ** 2).sum((-3, -2, -1)) / _freedom(term, sizes)
    return squares


def error_of(squares: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard error of the mean and its degrees of freedom.

    Args:
        squares: of `squares_of`, or expected ones (`expected_squares`).
        sizes: how many levels every factor has, in the order of `FACTORS`.
    """
    freedom = [_freedom(term, sizes) for term in squares]
    if len(sizes) == 2:
        seed, patient, residual = squares.values()
        return standard_error((seed, patient, residual), (freedom[0], freedom[1], freedom[2]))
    whole = JOINED.join(sizes)
    # Main terms count once, those of two factors are taken off again, that of all three is added.
    parts = [(-1) ** term.count(JOINED) * square for term, square in squares.items()]
    least = [squares[whole]]
    for one, other in combinations(sizes, 2):
        both = squares[f"{one}{JOINED}{other}"]
        least += [both, squares[one] + squares[other] - both]
    variance = np.maximum(sum(parts), np.maximum.reduce(least))
    return _error(variance, tuple(squares.values()), tuple(freedom), int(np.prod(list(sizes.values()))))


def family_df(df: np.ndarray, *, seeds: int | np.ndarray, draws: int | np.ndarray = 1) -> np.ndarray:
    """Return the degrees of freedom of a contrast that is one of several: at most `FAMILY_DF` times (n_s - 1).

    Holm asks for small p, and a small p of few seeds mostly comes of degrees of freedom that were estimated too high;
    `vqseg.report.statistics` says what this does to level and power.
    """
    few = np.where(np.asarray(draws) > 1, np.minimum(seeds, draws), seeds)
    held: np.ndarray = np.minimum(df, FAMILY_DF * (few - 1))
    return held


def components_of(squares: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the variance that every term adds to a single cell; estimates, so they may be negative."""
    found: dict[str, np.ndarray] = {}
    for term in sorted(squares, key=lambda each: -each.count(JOINED)):
        outside = [name for name in sizes if name not in term.split(JOINED)]
        signed = squares[term] * 1.0
        for extra in terms(outside):
            larger = _ordered([*term.split(JOINED), *extra.split(JOINED)])
            signed = signed + (-1) ** (extra.count(JOINED) + 1) * squares[larger]
        found[term] = signed / np.prod([sizes[name] for name in outside])
    return {term: found[term] for term in squares}


def expected_squares(components: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the mean squares to be expected of a layout of other ``sizes``, negative components counted as none."""
    found = {}
    for term in components:
        inside = set(term.split(JOINED))
        found[term] = sum(
            np.prod([sizes[name] for name in sizes if name not in other.split(JOINED)]) * np.maximum(value, 0.0)
            for other, value in components.items()
            if inside <= set(other.split(JOINED))
        )
    return found


def terms(names: tuple[str, ...] | list[str]) -> list[str]:
    """Return all terms of some factors, main ones first: ``seed``, ``patient``, ``seed x patient``."""
    return [JOINED.join(each) for size in range(1, len(names) + 1) for each in combinations(names, size)]


def _ordered(names: list[str]) -> str:
    return JOINED.join(name for name in FACTORS if name in names)


def _freedom(term: str, sizes: Mapping[str, int]) -> int:
    return int(np.prod([sizes[name] - 1 for name in term.split(JOINED)]))


def _error(
    variance: np.ndarray, squares: tuple[np.ndarray, ...], freedom: tuple[int, ...], cells: int
) -> tuple[np.ndarray, np.ndarray]:
    spread_of = sum(square**2 / degrees for square, degrees in zip(squares, freedom))
    df = np.where(spread_of > 0, variance**2 / np.where(spread_of > 0, spread_of, 1.0), float(min(freedom)))
    return np.sqrt(variance / cells), df
