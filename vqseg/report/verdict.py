"""The arithmetic of verdicts: from differences to confirmed, refuted or inconclusive, and to what would settle it.

Differences are signed such that a positive one is as claimed (a null's as it comes). Of one contrast:

    effect        confirmed: the 95 % interval lies above 0 and the estimate is at least the margin
                  refuted: the 95 % interval lies below the margin
    null          confirmed: the 90 % interval lies within +- margin (two one-sided tests at 5 %)
                  refuted: the 95 % interval lies outside of +- margin
    noninferior   confirmed: the 90 % interval lies above -margin; refuted: the 95 % interval lies below it
    best          confirmed: better than every other arm (Holm); refuted: worse than one of them (Holm)

A claim of several contrasts says that each of them holds: it is confirmed where all are, which needs no correction,
and refuted where one of k is at the level .05 / k. Nothing is both: see tests/test_verdict.py, which also simulates
how often either is said wrongly.

What would settle an inconclusive claim is computed as if the estimate and the variance components stayed: the smallest
number of seeds at which the expected interval confirms or refutes. The estimate will move, so at that number it is
about an even chance.

Letters: D draws, S seeds, P patients, k contrasts of a claim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from vqseg.report import anova, statistics
from vqseg.report.statistics import ALPHA

Outcome = Literal["confirmed", "refuted", "inconclusive", "not tested"]
MOST_SEEDS = 200
MOST = {"seed": MOST_SEEDS, "draw": 50, "patient": 2000}
"""So many are tried; of draws and patients where no number of seeds does."""

ENDLESS = 10**7
"""So many seeds that only the patients are left to vary."""


class Estimate(NamedTuple):
    """A mean difference, its standard error and degrees of freedom: numbers, or arrays of one shape.

    ``family_df`` are the degrees of freedom as one of several contrasts (`anova.family_df`); None: the same.
    """

    value: np.ndarray
    error: np.ndarray
    df: np.ndarray
    family_df: np.ndarray | None = None

    def among_several(self) -> "Estimate":
        """Return the estimate as it is tested where Holm is over several contrasts."""
        return self if self.family_df is None else self._replace(df=self.family_df)

    def interval(self, alpha: float = ALPHA) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of the interval at ``1 - alpha``."""
        half = stats.t.isf(alpha / 2, self.df) * self.error
        return self.value - half, self.value + half

    def above(self, bound: float) -> np.ndarray:
        """Return the one-sided p of "the difference is at most ``bound``"."""
        away = np.asarray(self.value - bound, dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(self.error == 0, np.where(away == 0, 0.0, np.sign(away) * np.inf), away / self.error)
        return np.asarray(stats.t.sf(ratio, self.df))

    def below(self, bound: float) -> np.ndarray:
        """Return the one-sided p of "the difference is at least ``bound``"."""
        return Estimate(-self.value, self.error, self.df).above(-bound)


@dataclass(frozen=True)
class Moments:
    """What a layout of differences tells: its mean, the mean square of every term, and how many levels factors have.

    ``sizes`` has ``seed``, ``patient`` unless a run is one number, and ``draw`` where there are several draws of the
    labelled patients (`vqseg.report.anova`).
    """

    mean: np.ndarray
    squares: dict[str, np.ndarray]
    sizes: dict[str, int]

    @property
    def seeds(self) -> int:
        """How many seeds."""
        return self.sizes["seed"]

    @property
    def patients(self) -> int | None:
        """How many patients, None where a run is one number."""
        return self.sizes.get("patient")

    @property
    def draws(self) -> int:
        """How many draws of labelled patients."""
        return self.sizes.get("draw", 1)

    @property
    def observed(self) -> Estimate:
        """The estimate from what there is; no error below two levels of a factor."""
        if min(self.sizes.values()) < 2:
            unknown = np.full_like(self.mean, np.nan)
            return Estimate(self.mean, unknown, unknown)
        return self._estimate(self.squares, self.sizes)

    def expected(self, **sizes: int) -> Estimate:
        """Return the estimate to be expected with other numbers of levels, such as ``seed=9``."""
        other = {**self.sizes, **{factor: count for factor, count in sizes.items() if factor in self.sizes}}
        components = anova.components_of(self.squares, self.sizes)
        return self._estimate(anova.expected_squares(components, other), other)

    def _estimate(self, squares: dict[str, np.ndarray], sizes: dict[str, int]) -> Estimate:
        count = sizes["seed"]
        if len(sizes) > 1:
            error, df = anova.error_of(squares, sizes)
        else:
            error, df = np.sqrt(squares["seed"] / count), np.full_like(self.mean, count - 1.0)
        return Estimate(self.mean, error, df, anova.family_df(df, seeds=count, draws=sizes.get("draw", 1)))


def moments(differences: np.ndarray, *, draws: bool = False, of_runs: bool = False) -> Moments:
    """Return what ``differences`` (..., S, P), with ``draws`` (..., D, S, P), tell; P is 1 where ``of_runs``."""
    names = [name for name in anova.FACTORS if draws or name != "draw"]
    axes = tuple(range(-len(names), 0))
    sizes = dict(zip(names, differences.shape[-len(names) :]))
    mean = np.asarray(differences.mean(axes))
    if of_runs:
        differences = differences[..., 0]
        del sizes["patient"]
    if min(sizes.values()) < 2:
        return Moments(mean, {}, sizes)
    if len(sizes) == 1:
        return Moments(mean, {"seed": differences.var(axis=-1, ddof=1)}, sizes)
    if len(sizes) == 2:
        squares, _ = anova.mean_squares(differences)
        return Moments(mean, dict(zip(anova.terms(list(sizes)), squares)), sizes)
    return Moments(mean, anova.squares_of(differences, draws=True), sizes)


class Ruling(NamedTuple):
    """What estimates say: whether every contrast is as claimed, whether one refutes it, and the p of the former."""

    confirmed: np.ndarray
    refuted: np.ndarray
    p: np.ndarray


def rule(kind: str, estimates: Sequence[Estimate], margin: float) -> Ruling:
    """Judge a claim by the estimates of its contrasts, all of one shape.

    ``p`` is the smallest level at which the claim would be confirmed, 1 where none would do.
    """
    parts = rule_each(kind, estimates, margin)
    confirmed, refuted, p = (np.stack([getattr(part, key) for part in parts]) for key in Ruling._fields)
    return Ruling(np.all(confirmed, axis=0), np.any(refuted, axis=0), np.max(p, axis=0))


def rule_each(kind: str, estimates: Sequence[Estimate], margin: float) -> list[Ruling]:
    """Judge every contrast of a claim, refuting at the level that it has among them."""
    if kind == "best":
        return _best(estimates)
    test = {"effect": _effect, "null": _null, "noninferior": _noninferior}[kind]
    return [test(each, margin, ALPHA / len(estimates)) for each in estimates]


def outcome(ruling: Ruling) -> Outcome:
    """Return a single ruling in one word."""
    return "confirmed" if ruling.confirmed else "refuted" if ruling.refuted else "inconclusive"


def _effect(own: Estimate, margin: float, level: float) -> Ruling:
    confirmed = (own.interval()[0] > 0) & (own.value >= margin)
    p = np.where(own.value >= margin, np.minimum(2 * own.above(0.0), 1.0), 1.0)
    return Ruling(confirmed, own.interval(level)[1] < margin, p)


def _null(own: Estimate, margin: float, level: float) -> Ruling:
    (inner_low, inner_high), (low, high) = own.interval(2 * ALPHA), own.interval(level)
    confirmed = (inner_low > -margin) & (inner_high < margin)
    return Ruling(confirmed, (low > margin) | (high < -margin), np.maximum(own.above(-margin), own.below(margin)))


def _noninferior(own: Estimate, margin: float, level: float) -> Ruling:
    return Ruling(own.interval(2 * ALPHA)[0] > -margin, own.interval(level)[1] < -margin, own.above(-margin))


def _best(estimates: Sequence[Estimate]) -> list[Ruling]:
    tested = [each.among_several() for each in estimates] if len(estimates) > 1 else estimates
    p = np.stack([np.minimum(2 * np.minimum(each.above(0.0), each.below(0.0)), 1.0) for each in tested])
    flat = p.reshape(len(p), -1)
    adjusted = np.stack([statistics.holm(column) for column in flat.T], axis=-1).reshape(p.shape)
    # A p that is not known (one seed) confirms and refutes nothing.
    return [
        Ruling((own.value > 0) & (p < ALPHA), (own.value < 0) & (p < ALPHA), np.where(own.value > 0, p, 1.0))
        for own, p in zip(estimates, adjusted)
    ]


@dataclass(frozen=True)
class Settling:
    """Of what, and how much of it, it would take to settle a claim, all else staying as it is.

    ``factor`` is ``seed`` if seeds alone do, else what does without them; None: nothing alone. ``endless``: ever more
    seeds would do, but more than anyone runs.
    """

    factor: str | None
    count: int = 0
    endless: bool = False

    def words(self, own: Moments) -> str:
        """Say it of a claim whose contrast is ``own``."""
        if self.endless:
            return f"more than {MOST_SEEDS} seeds"
        if self.factor == "seed":
            return f"about {self.count} seeds"
        if self.factor is not None:
            return f"about {self.count} {self.factor}s (not seeds)"
        return f"more {', '.join(f'{name}s' for name in own.sizes if name != 'seed')} and seeds"


def settle(kind: str, given: Sequence[Moments], margin: float) -> Settling:
    """Return what would settle a claim that its contrasts leave open, if estimates and variance components stayed."""

    def settled(factor: str, count: int) -> bool:
        ruling = rule(kind, [each.expected(**{factor: count}) for each in given], margin)
        return bool(ruling.confirmed | ruling.refuted)

    most = {factor: max(each.sizes.get(factor, 0) for each in given) for factor in MOST}
    for factor, limit in MOST.items():
        if factor == "draw" and settled("seed", ENDLESS):
            return Settling(None, endless=True)
        if most[factor] and (count := _first(partial(settled, factor), most[factor], limit)):
            return Settling(factor, count)
    return Settling(None)


def _first(settled: Callable[[int], bool], below: int, limit: int) -> int:
    """Return the smallest number above ``below`` that settles, 0 if ``limit`` does not; more always settle more."""
    low, high = below, max(limit, below + 1)
    if not settled(high):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high
