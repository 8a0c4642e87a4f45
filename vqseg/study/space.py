"""What a study that searches says in its file: which settings are sampled, within which bounds, how many trials.

Light: the sampler itself stands in `vqseg.study.search`.
"""

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from vqseg.ranges import Count, Steps

# What the sampler may not touch: it would change who is measured, or for how long, and not how well.
FIXED = ("seed", "preset", "data", "train")
# So many digits are kept of a number that is sampled without steps, of its range or, on a log scale, of itself: more
# of them change nothing but the names of runs.
DIGITS = 4

Scalar = bool | int | float | str


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Axis(_Section):
    """What one setting is sampled from: the numbers from ``low`` to ``high``, or one of ``choices``.

    ``log`` samples the number's logarithm. With ``step`` only low, low + step, ... are sampled; a whole ``step``
    between whole bounds samples whole numbers (on a log scale: ``step: 1`` alone). ``symbol`` is what tables and
    figures call the setting.
    """

    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    log: bool = False
    step: FiniteFloat | None = None
    choices: list[Scalar] = []
    symbol: str = ""

    @model_validator(mode="after")
    def _possible(self) -> "Axis":
        if self.choices:
            if self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ValueError("has choices and a range; leave one of them out")
            if len(self.choices) < 2 or len(set(map(repr, self.choices))) < len(self.choices):
                raise ValueError("expected two choices at least, all of them different")
            return self
        if self.low is None or self.high is None:
            raise ValueError("expected low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"expected low below high, found {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale has no {self.low:g}; expected low above 0, or log: false")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"expected step above 0, found {self.step:g}")
        if self.log and self.step is not None and not (self.whole and self.step == 1):
            raise ValueError("a log scale takes no step, but step: 1 for whole numbers; leave step or log out")
        return self

    @property
    def whole(self) -> bool:
        """Whether whole numbers are sampled."""
        return self.step is not None and all(n is not None and n.is_integer() for n in (self.low, self.high, self.step))

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number; there are none of choices."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def ends(self) -> tuple[Any, Any]:
        """Two values that lie furthest apart: the bounds, or the first and the last choice."""
        if self.choices:
            return self.choices[0], self.choices[-1]
        return self.tidied(self.bounds[0]), self.tidied(self.bounds[1])

    def tidied(self, value: Any) -> Any:
        """Return a sampled value with a few digits, within the bounds; a whole number as one."""
        if self.choices:
            return value
        if self.whole:
            return int(value)
        low, high = self.bounds
        if self.step is not None:
            kept = float(f"{value:.12g}")  # .1 + .2 is .3
        elif self.log:
            kept = float(f"{value:.{DIGITS}g}")
        else:
            kept = round(value, DIGITS - 1 - math.floor(math.log10(high - low)))
        return min(max(kept, low), high)


class Pruner(_Section):
    """When a trial is given up: its best validation so far is below the median of the finished ones at the same step.

    Not before ``startup_trials`` trials were trained to their end, and from step ``warmup_steps`` on. Left out, a
    trial is judged once the method's own warm-up and ramp are over, and after a quarter of the steps at least.
    """

    warmup_steps: Steps | None = None
    startup_trials: Count = 5


class Search(_Section):
    """A search: the sampled settings by dotted key, the number of trials in all, the pruner, the sampler's seed.

    ``startup_trials`` trials are drawn at random before the sampler learns from them; the first of all is the
    preset's own point.
    """

    space: Annotated[dict[str, Axis], Field(min_length=1)]
    budget: Count
    pruner: Pruner = Pruner()
    startup_trials: Count = 10
    seed: Steps = 0

    @model_validator(mode="after")
    def _samplable(self) -> "Search":
        for key in self.space:
            if not all(key.split(".")):
                raise ValueError(f"space: a piece of the key {key!r} is empty; expected names with a dot between")
            if key.split(".")[0] in FIXED:
                raise ValueError(f"space: {key} cannot be searched; it is the same in all trials")
            above = next((one for one in self.space if key.startswith(f"{one}.")), None)
            if above is not None:
                raise ValueError(f"space: {above} replaces {key}; sample one of them")
        names = list(self.symbols.values())
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"space: two settings have the symbol {double!r}; give one of them another symbol")
        return self

    @property
    def symbols(self) -> dict[str, str]:
        """Dotted key -> what it is called in tables and figures: its symbol, or its last piece."""
        return {key: one.symbol or key.split(".")[-1] for key, one in self.space.items()}
