"""Factorial grids: which arms are which cells of 2^k, and the effects that their scores allow.

An effect of m factors is the mean over the settings of the others of

    A      with - without
    A x B  half of (A where B is on - A where B is off), and so on: each factor more halves a difference of effects

so every effect is a sum of arms with weights, and `statistics.assess` tests it as it tests an arm minus the reference.
Where cells are missing, the mean runs over the settings that are whole; an effect without one cannot be estimated.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import pandas as pd

from vqseg.report import statistics
from vqseg.report.measures import MEASURES


@dataclass(frozen=True)
class Grid:
    """The factors' names, and which arm stands for which set of factors that are on."""

    factors: tuple[str, ...]
    arms: dict[frozenset[str], str]

    def missing(self, scored: Collection[str]) -> list[str]:
        """Name the cells of 2^k that no scored arm stands for."""
        return [self.name(on) for on in subsets(self.factors) if self.arms.get(on) not in scored]

    def name(self, on: frozenset[str]) -> str:
        """Name a cell: its arm, else the factors that are on."""
        return self.arms.get(on) or " + ".join(self.ordered(on)) or "none of them"

    def ordered(self, on: Collection[str]) -> list[str]:
        """Return the factors that are on, in the grid's order."""
        return [factor for factor in self.factors if factor in on]


@dataclass(frozen=True)
class Effect:
    """A main effect or an interaction: the arms' weights, over how many settings of the others, of how many."""

    members: tuple[str, ...]
    weights: dict[str, float]
    settings: int
    of: int

    @property
    def name(self) -> str:
        """The factors that act together."""
        return " × ".join(self.members)


def grid_of(study: dict[str, Any]) -> Grid | None:
    """Return the grid that a study's arms form, None if they have no factors; arms with other ones stay outside."""
    own = [arm for arm in study["arms"] if arm.get("factors")]
    if not own:
        return None
    factors = tuple(own[0]["factors"])
    arms: dict[frozenset[str], str] = {}
    for arm in own:
        if set(arm["factors"]) == set(factors):
            arms.setdefault(frozenset(name for name, on in arm["factors"].items() if on), str(arm["label"]))
    return Grid(factors, arms)


def effects(grid: Grid, scored: Collection[str]) -> tuple[list[Effect], list[str]]:
    """Return the effects that the ``scored`` arms allow, main effects first, and the names of those they do not."""
    found, lost = [], []
    for members in subsets(grid.factors):
        if not members:
            continue
        inside = tuple(grid.ordered(members))
        squares = [_square(grid, inside, setting) for setting in subsets(grid.ordered(set(grid.factors) - members))]
        whole = [square for square in squares if square and set(square) <= set(scored)]
        weights: dict[str, float] = {}
        for arm, sign in chain.from_iterable(square.items() for square in whole):
            weights[arm] = sign / 2 ** (len(inside) - 1) / len(whole)
        effect = Effect(inside, weights, len(whole), len(squares))
        if whole:
            found.append(effect)
        else:
            lost.append(effect.name)
    return found, lost


def assess(scores: pd.DataFrame, wanted: Iterable[Effect], metric: str) -> pd.DataFrame:
    """Estimate and test effects.

    Args:
        scores: the last teacher's rows of the study's arms.
        wanted: of `effects`.
        metric: the score column.

    Returns:
        `statistics.assess`'s columns with ``order`` (how many factors), ``settings``, ``of`` and ``by_seed``; in
        printed units. Effects whose arms share no seed have no row.
    """
    valued = scores.assign(value=scores[metric].astype(float) * MEASURES[metric].scale)
    by_name = {effect.name: effect for effect in wanted}
    table = statistics.assess(valued, {name: effect.weights for name, effect in by_name.items()})
    grids = statistics.grids(valued)
    own = [by_name[name] for name in table["contrast"]]
    return table.assign(
        order=[len(effect.members) for effect in own],
        settings=[effect.settings for effect in own],
        of=[effect.of for effect in own],
        by_seed=pd.Series([statistics.by_run(grids, effect.weights) for effect in own], dtype=object),
    )


def subsets(factors: Iterable[str]) -> list[frozenset[str]]:
    """Return all subsets, the smaller ones first, in the order of ``factors``."""
    names = list(factors)
    return [frozenset(each) for size in range(len(names) + 1) for each in combinations(names, size)]


def _square(grid: Grid, members: tuple[str, ...], setting: frozenset[str]) -> dict[str, float]:
    """Return the sign of every arm of one setting of the other factors, empty if a cell has no arm."""
    cells = {on | setting: -1.0 if (len(members) - len(on)) % 2 else 1.0 for on in subsets(members)}
    return {grid.arms[cell]: sign for cell, sign in cells.items()} if set(cells) <= set(grid.arms) else {}
