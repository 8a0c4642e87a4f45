"""Ranks of arms when patients, seeds, or both are drawn again: weights of a crossed layout, many at once.

A resample draws as many patients (and seeds, and draws of labelled patients) as there are, with replacement; the mean
of every arm is weighed accordingly, all arms by the same draw. This describes how far an order hangs on who happened to
be there. It is no test: it knows no null, and with three seeds no bootstrap is as wide as it should be.

Letters: A arms, D draws, S seeds, P patients, B resamples.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from vqseg.report import layouts

RESAMPLES, SEED = 4000, 0
KINDS = ("patients", "seeds", "both")
MOST_SEEDS = 64
SHARE = 0.95


@dataclass(frozen=True)
class Cube:
    """Scores (A, D, S, P) of the arms that share runs and patients, and the names of all four; ``lost`` arms do not.

    ``left_out``: runs of the arms that are here, because another arm lacks theirs.
    """

    values: np.ndarray
    arms: list[str]
    seeds: list[int]
    draws: int
    patients: int
    lost: list[str]
    left_out: int = 0


def cube(scores: pd.DataFrame, arms: list[str]) -> Cube | None:
    """Return the scores of all arms over runs and patients that all have; None without any.

    Args:
        scores: as `statistics.assess` takes them.
        arms: which, in order. An arm that has fewer than two seeds, or draws, where others have more is ``lost``, not
            their seeds or draws.
    """
    by_arm = layouts.grids(scores)
    there = [arm for arm in arms if arm in by_arm]
    most = max((layouts.seeds_of(by_arm[arm]) for arm in there), default=0)
    draws = max((layouts.draws_of(by_arm[arm]) for arm in there), default=0)
    kept = [
        arm
        for arm in there
        if layouts.seeds_of(by_arm[arm]) >= min(most, layouts.ENOUGH)
        and layouts.draws_of(by_arm[arm]) >= min(draws, layouts.ENOUGH)
    ]
    if not kept:
        return None
    rows, patients = by_arm[kept[0]].index, by_arm[kept[0]].columns
    for arm in kept[1:]:
        rows, patients = rows.intersection(by_arm[arm].index), patients.intersection(by_arm[arm].columns)
    rows = layouts.block(rows)
    values = np.stack([by_arm[arm].loc[rows, patients].to_numpy(dtype=float) for arm in kept])
    values = values[:, :, ~np.isnan(values).any(axis=(0, 1))]
    if not values.size:
        return None
    seeds = list(dict.fromkeys(rows.get_level_values(rows.nlevels - 1)))
    shaped = values.reshape(len(kept), -1, len(seeds), values.shape[-1])
    lost = [arm for arm in arms if arm not in kept]
    left_out = sum(len(by_arm[arm]) - len(rows) for arm in kept)
    return Cube(shaped, kept, seeds, shaped.shape[1], shaped.shape[3], lost, left_out)


def means(own: Cube, kind: str, *, resamples: int = RESAMPLES) -> np.ndarray:
    """Return every arm's mean (B, A) when ``patients``, ``seeds`` (and draws), or ``both`` are drawn again."""
    draw = np.random.default_rng([SEED, KINDS.index(kind)])
    _, draws, seeds, patients = own.values.shape
    again = {"draws": kind != "patients", "seeds": kind != "patients", "patients": kind != "seeds"}
    sizes = {"draws": draws, "seeds": seeds, "patients": patients}
    weights = [_weights(draw, size, resamples, drawn=again[name]) for name, size in sizes.items()]
    runs = np.einsum("bd,bs->bds", weights[0], weights[1])
    # Rounded, so that arms that tie still do after sums in another order.
    found: np.ndarray = np.round(np.einsum("bds,bp,adsp->ba", runs, weights[2], own.values, optimize=True), 9)
    return found


def summarize(own: Cube, *, higher_is_better: bool, share: float = SHARE) -> pd.DataFrame:
    """Return how arms rank in resamples.

    Returns:
        One row per arm: ``arm``, ``mean``, ``rank``, and for every kind of resampling ``first_KIND`` (share of
        resamples in which it is first; a tie is shared), ``low_KIND`` and ``high_KIND`` (ends of the central ``share``
        of its ranks).
    """
    sign = 1.0 if higher_is_better else -1.0
    seen = own.values.mean(axis=(1, 2, 3))
    table = pd.DataFrame({"arm": own.arms, "mean": seen, "rank": stats.rankdata(-sign * seen, method="min")})
    for kind in KINDS:
        drawn = sign * means(own, kind)
        ranks = stats.rankdata(-drawn, axis=1, method="average")
        table[f"first_{kind}"] = first(drawn)
        table[f"low_{kind}"], table[f"high_{kind}"] = np.quantile(
            ranks, [(1 - share) / 2, (1 + share) / 2], axis=0, method="inverted_cdf"
        )
    return table


def first(drawn: np.ndarray) -> np.ndarray:
    """Return the share of resamples (B, A) in which every arm is first; a tie is shared among those who tie."""
    top = drawn == drawn.max(axis=1, keepdims=True)
    shares: np.ndarray = (top / top.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares


def beats(own: Cube, kind: str, *, higher_is_better: bool) -> np.ndarray:
    """Return the share of resamples in which the row's arm beats the column's (A, A); ties count half, NaN alone."""
    drawn = means(own, kind) * (1.0 if higher_is_better else -1.0)
    found = np.full((len(own.arms),) * 2, np.nan)
    for one in range(len(own.arms)):
        ahead = drawn[:, one : one + 1] - drawn
        found[one] = np.where(ahead == 0, 0.5, ahead > 0).mean(axis=0)
    np.fill_diagonal(found, np.nan)
    return found


def without(own: Cube, *, higher_is_better: bool) -> pd.DataFrame:
    """Return the order of the arms when one seed is left out: ``seed``, ``best``, ``moved`` (arms of another rank)."""
    sign = 1.0 if higher_is_better else -1.0
    whole = stats.rankdata(-sign * own.values.mean(axis=(1, 2, 3)), method="min")
    records = []
    for place, seed in enumerate(own.seeds):
        left = np.delete(own.values, place, axis=2)
        if left.shape[2]:
            seen = sign * left.mean(axis=(1, 2, 3))
            moved = int((stats.rankdata(-seen, method="min") != whole).sum())
            records.append({"seed": seed, "best": own.arms[int(seen.argmax())], "moved": moved})
    return pd.DataFrame(records, columns=["seed", "best", "moved"])


def by_seeds(own: Cube, *, higher_is_better: bool, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Return how often the arm that is best now would be best in a study of other numbers of seeds.

    What seeds add to the arms is taken as normal, with the covariance that these seeds show; patients and draws stay.

    Returns:
        ``seeds`` (1, 2, 3 ... up to `MOST_SEEDS`), ``share``, which never falls; empty below two seeds or two arms.
    """
    count = len(own.seeds)
    if count < 2 or len(own.arms) < 2:
        return pd.DataFrame(columns=["seeds", "share"])
    per_seed = (1.0 if higher_is_better else -1.0) * own.values.mean(axis=(1, 3))
    center = per_seed.mean(axis=1, keepdims=True)
    best = int(center.argmax())
    normal = np.random.default_rng([SEED, len(KINDS)]).normal(size=(resamples, count)) / np.sqrt(count - 1)
    noise = normal @ (per_seed - center).T
    ahead, against = center[best, 0] - center[:, 0], np.maximum(noise - noise[:, best : best + 1], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Noise falls with the root of the seeds, so every draw has a number from which on the best is ahead of an arm.
        needed = np.nan_to_num((against / ahead) ** 2, nan=0.0, posinf=np.inf).max(axis=1)
    sizes = [*range(1, 17), *range(20, MOST_SEEDS + 1, 4)]
    return pd.DataFrame({"seeds": sizes, "share": [float((needed <= size).mean()) for size in sizes]})


def enough(table: pd.DataFrame, share: float = SHARE) -> int | None:
    """Return the number of seeds at which the best arm stays best in at least ``share``; None: more than are known."""
    reached = table.loc[table["share"] >= share, "seeds"]
    return int(reached.min()) if len(reached) else None


def _weights(draw: np.random.Generator, size: int, resamples: int, *, drawn: bool) -> np.ndarray:
    """Return weights (B, size) that sum to 1: how often each was drawn, or all alike."""
    if not drawn or size == 1:
        return np.full((resamples, size), 1 / size)
    return draw.multinomial(size, np.full(size, 1 / size), resamples) / size
