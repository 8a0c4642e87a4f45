"""From scored rows to numbers by run and patient, and from those of several arms to one layout of differences.

The unit is the patient: a patient's scans and classes are averaged first, because they are not independent.
An arm's grid has one row per seed and one column per patient; where a study has several draws of labelled patients,
one row per draw and seed. Arms are subtracted run by run: what one of them lacks leaves all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

ENOUGH = 2
"""Below so many seeds nothing can be tested, so a block of one is the last choice."""


@dataclass(frozen=True)
class Layout:
    """A weighted sum of arms: ``values`` (S, P), or (D, S, P) where there are several draws.

    ``left_out``: runs of these arms that have no place in it, because another arm or another draw lacks theirs.
    """

    values: np.ndarray
    left_out: int

    @property
    def draws(self) -> int:
        """Draws of labelled patients."""
        return self.values.shape[0] if self.values.ndim > 2 else 1


def run_keys(scores: pd.DataFrame) -> list[str]:
    """Return the columns that tell runs apart: ``arm``, ``seed``, and ``draw`` where there are several draws."""
    several = "draw" in scores and scores["draw"].nunique() > 1
    return ["arm", "draw", "seed"] if several else ["arm", "seed"]


def grids(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Average rows by patient.

    Args:
        scores: columns ``arm``, ``seed``, ``patient``, ``value``, and perhaps ``draw``.

    Returns:
        arm -> seeds x patients; rows are (draw, seed) where ``scores`` has several draws.
    """
    keys = run_keys(scores)
    known = scores[[*keys, "patient", "value"]].dropna(subset=["value"])
    wide = known.groupby([*keys, "patient"], sort=True)["value"].mean().unstack("patient")
    arms, values = wide.index.get_level_values("arm"), wide.to_numpy()
    rows = wide.droplevel("arm").index
    starts = np.flatnonzero(~arms.duplicated())
    found = {}
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(arms)]):
        there = ~np.isnan(values[start:end]).all(axis=0)
        columns = wide.columns if there.all() else wide.columns[there]
        # The order in which numbers lie is that in which they are summed, to the last bit.
        own = np.ascontiguousarray(values[start:end, there])
        found[str(arms[start])] = pd.DataFrame(own, index=rows[start:end], columns=columns, copy=False)
    return found


def seeds_of(grid: pd.DataFrame) -> int:
    """Return how many seeds a grid has."""
    return grid.index.get_level_values("seed").nunique() if grid.index.nlevels > 1 else len(grid)


def draws_of(grid: pd.DataFrame) -> int:
    """Return how many draws of the labelled patients a grid has."""
    return grid.index.get_level_values("draw").nunique() if grid.index.nlevels > 1 else 1


def combined(by_arm: Mapping[str, pd.DataFrame], weights: Mapping[str, float]) -> np.ndarray:
    """Return the weighted sum of the arms' grids, (S, P) or (D, S, P): see `layout`."""
    return layout(by_arm, weights).values


def differences(one: pd.DataFrame, other: pd.DataFrame) -> np.ndarray:
    """Return one grid minus another over the runs that both have and the patients scored in all of them."""
    return combined({"one": one, "other": other}, {"one": 1.0, "other": -1.0})


def by_run(by_arm: Mapping[str, pd.DataFrame], weights: Mapping[str, float]) -> list[float]:
    """Return the weighted sum's mean over patients for every seed, or every draw and seed, that all arms have."""
    means: list[float] = combined(by_arm, weights).mean(axis=-1).ravel().tolist()
    return means


def layout(by_arm: Mapping[str, pd.DataFrame], weights: Mapping[str, float]) -> Layout:
    """Return the weighted sum of the arms' grids over the runs that all have and the patients scored in all of them.

    Of several draws the largest complete block: draws and seeds of which every pair is there.
    """
    own = [by_arm[arm] for arm in weights]
    if all(grid.index.equals(own[0].index) and grid.columns.equals(own[0].columns) for grid in own[1:]):
        whole = reduce(np.add, [weight * grid.to_numpy() for weight, grid in zip(weights.values(), own)])
        sizes = _sizes(own[0].index)
        if not np.isnan(whole).any() and len(whole) == np.prod(sizes):
            return Layout(_shaped(np.ascontiguousarray(whole), sizes), 0)
    rows = block(reduce(pd.Index.intersection, [grid.index for grid in own]))
    patients = reduce(pd.Index.intersection, [grid.columns for grid in own])
    parts = [weight * grid.loc[rows, patients] for weight, grid in zip(weights.values(), own)]
    values = reduce(pd.DataFrame.add, parts).dropna(axis=1).to_numpy(dtype=float)
    return Layout(_shaped(values, _sizes(rows)), sum(len(grid) for grid in own) - len(own) * len(rows))


def block(runs: pd.Index) -> pd.Index:
    """Return the largest complete block of runs, in order; seeds without draws are one.

    Of (draw, seed) the draws and seeds of which every pair is among ``runs``: most runs, then most seeds, but two
    seeds at least if there are any such.
    """
    if runs.nlevels < 2 or not len(runs):
        return runs
    seeds: dict[int, frozenset[int]] = {}
    for draw, seed in runs:
        seeds[draw] = seeds.get(draw, frozenset()) | {seed}
    candidates = set(seeds.values())
    while smaller := {one & other for one in candidates for other in candidates} - candidates - {frozenset()}:
        candidates |= smaller

    def size(wanted: frozenset[int]) -> tuple[bool, int, int, list[int]]:
        draws = sum(wanted <= own for own in seeds.values())
        return len(wanted) >= ENOUGH, draws * len(wanted), len(wanted), [-seed for seed in sorted(wanted)]

    best = max(candidates, key=size)
    pairs = [(draw, seed) for draw in sorted(seeds) if best <= seeds[draw] for seed in sorted(best)]
    return pd.MultiIndex.from_tuples(pairs, names=["draw", "seed"])


def _sizes(rows: pd.Index) -> tuple[int, ...]:
    return (len(rows),) if rows.nlevels < 2 else tuple(rows.get_level_values(level).nunique() for level in range(2))


def _shaped(values: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Give several draws an axis of their own; one draw has none."""
    several = len(sizes) > 1 and sizes[0] > 1
    return values.reshape(*sizes, values.shape[1]) if several and values.size else values
