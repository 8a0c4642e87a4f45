"""How fast a cost grows: t = a n^b by least squares on logarithms, over the upper half of what was measured.

The lower half is left out because small sizes measure what a call costs at all, not how it grows.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Fit(NamedTuple):
    """t = factor * n ** exponent, with the 95 % interval of the exponent (NaN where two points leave none)."""

    factor: float
    exponent: float
    low: float
    high: float
    points: int

    def at(self, value: float) -> float:
        """Return t at n = ``value``."""
        return self.factor * value**self.exponent

    def reaches(self, cost: float) -> float | None:
        """Return the n whose t is ``cost``, None where it does not grow or starts above nothing."""
        if self.exponent <= 0 or cost <= 0:
            return None
        return float((cost / self.factor) ** (1 / self.exponent))

    def words(self) -> str:
        """Return the exponent with its interval."""
        if math.isnan(self.low):
            return f"n^{self.exponent:.2f} (two points)"
        return f"n^{self.exponent:.2f} ({self.low:.2f} to {self.high:.2f})"


def fit(values: Sequence[float], costs: Sequence[float]) -> Fit | None:
    """Fit the points in the upper half of the range of ``values`` on a logarithmic scale; None for fewer than two.

    Raises:
        ValueError: a value or a cost is not positive, or there are not as many of one as of the other.
    """
    if len(values) != len(costs) or min([*values, *costs], default=1) <= 0:
        raise ValueError("expected as many positive values as positive costs")
    if len(set(values)) < 2:
        return None
    middle = math.sqrt(min(values) * max(values))
    # Rounding must not decide on a point that lies in the middle.
    pairs = [pair for pair in zip(values, costs, strict=True) if pair[0] >= middle * (1 - 1e-9)]
    if len({value for value, _ in pairs}) < 2:
        pairs = sorted(zip(values, costs, strict=True))[-2:]
    found = stats.linregress(*np.log(np.array(pairs, float)).T)
    slope, free = float(found.slope), len(pairs) - 2
    wide = float(stats.t.ppf(0.975, free) * found.stderr) if free > 0 else math.nan
    return Fit(float(np.exp(found.intercept)), slope, slope - wide, slope + wide, len(pairs))
