"""The rows of a study's file and the arms that they mean: one arm, one per value of a knob, one per cell of a grid."""

import math
from collections.abc import Iterable
from itertools import product
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from vqseg.errors import InputError


def _number(value: Any) -> Any:
    """Let finite numbers through as they are: a whole one stays whole."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("expected a number")
    return value


def _plain(value: Any) -> Any:
    """Let through what a table can show."""
    if isinstance(value, (bool, str)):
        return value
    try:
        return _number(value)
    except ValueError:
        raise ValueError("expected a number or a text") from None


Name = Annotated[str, Field(min_length=1)]
Number = Annotated[int | float, BeforeValidator(_number)]
Factors = dict[Name, bool]
Place = dict[Name, Annotated[bool | int | float | str, BeforeValidator(_plain)]]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(_Section):
    """One arm: its label, its family, the knob's value, the settings that it changes, where it stands.

    ``factors`` is its place in a factorial grid, ``at`` its place along named axes, for tables of two of them.
    ``optional``: where its weights are absent, the study goes on without it. ``preset``: it is that preset.
    ``own``: what its row sets, where `vqseg.study.settings.settled` has added to that; None where nothing was added.
    ``carries`` and ``fold`` say what is still to be done with it (see `ArmRow`), and are not recorded.
    """

    label: str
    family: str
    knob: int | float | None
    overrides: dict[str, Any]
    factors: Factors = {}
    at: Place = {}
    optional: bool = False
    preset: str | None = None
    own: dict[str, Any] | None = None
    carries: tuple[str, ...] = Field((), exclude=True)
    fold: bool = Field(False, exclude=True)


class Axis(_Section):
    """One axis of a grid: the key that is set, what it is called in labels and tables, and its values."""

    knob: Name
    symbol: Name
    values: Annotated[list[Number], Field(min_length=1)]


class ArmRow(_Section):
    """One row of the YAML: an arm, with ``values`` one arm per value of ``knob``, with ``grid`` one per combination.

    ``factors`` places the arm in a factorial grid, such as ``{QPM: true, DB: false}``; see `require_grid`. ``at``
    places it along named axes, such as ``{labels: 10 %, method: QPM}``; knobs and grids add their symbols.
    ``preset`` makes the arm a whole preset, but for what the study keeps of its own and what ``set`` changes.
    ``carries`` names parts that ``set`` swaps: they keep those options of the study's part that they have too.
    ``fold``: an arm that turns out to be the very same run as one above is that one, which then stands at both places.
    """

    family: str
    label: str | None = None
    suffix: str = ""
    symbol: str = ""
    knob: str | None = None
    values: list[Number] = []
    grid: list[Axis] = []
    set: dict[str, Any] = {}
    factors: Factors = {}
    at: Place = {}
    preset: str | None = None
    carries: list[str] = []
    optional: bool = False
    fold: bool = False

    @property
    def name(self) -> str:
        """What its labels begin with, and errors call it."""
        return self.label or self.family

    def arms(self) -> list[Arm]:
        """Expand the row.

        Raises:
            InputError: its keys do not go together.
        """
        axes = self._axes()
        self._require_order(axes)
        # A grid's axes say enough, so that its arms need no name before them.
        named = self.label if self.grid else self.name
        arms = []
        for values in product(*(axis.values for axis in axes)):
            placed = dict(zip((axis.symbol for axis in axes), values))
            words = [named or "", *(f"{symbol}={shown(value)}" for symbol, value in placed.items()), self.suffix]
            arms.append(
                Arm(
                    label=" ".join(word for word in words if word),
                    family=self.family,
                    knob=values[0] if len(values) == 1 else None,
                    overrides={**self.set, **dict(zip((axis.knob for axis in axes), values))},
                    factors=self.factors,
                    at={**self.at, **placed},
                    optional=self.optional,
                    preset=self.preset,
                    carries=tuple(self.carries),
                    fold=self.fold,
                )
            )
        return arms

    def _axes(self) -> list[Axis]:
        """Return the axes that the row expands along; none for a row that is one arm."""
        if self.values and self.knob is None:
            raise InputError(f"arm {self.name!r}: has values but no knob; name the key that they set")
        if self.knob is not None and not self.values:
            raise InputError(f"arm {self.name!r}: has a knob but no values; list what {self.knob} is set to")
        if self.knob is not None and self.grid:
            raise InputError(f"arm {self.name!r}: has a knob and a grid; make the knob one more axis of the grid")
        if self.knob is None:
            return self.grid
        return [Axis(knob=self.knob, symbol=self.symbol or "value", values=self.values)]

    def _require_order(self, axes: list[Axis]) -> None:
        for what, names in (("knob", [axis.knob for axis in axes]), ("symbol", [axis.symbol for axis in axes])):
            if double := _double(names):
                raise InputError(f"arm {self.name!r}: {what} {double!r} stands twice in its grid; leave one out")
        placed = next((axis.symbol for axis in axes if axis.symbol in self.at), None)
        if placed is not None:
            raise InputError(f"arm {self.name!r}: at.{placed}: its knob says that; leave it out of at")
        strange = next((key for key in self.carries if key not in self.set), None)
        if strange is not None:
            raise InputError(f"arm {self.name!r}: carries {strange!r}, which it does not set; name a part in its set")
        if not (self.set or axes or self.preset is not None or "set" in self.model_fields_set):
            raise InputError(f"arm {self.name!r}: set is missing; say what the arm changes, or {{}} for nothing")


def shown(value: float | str) -> str:
    """Return a value as labels have it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def require_labels(arms: Iterable[Arm]) -> None:
    """Refuse two arms of one label.

    Raises:
        InputError: so it is.
    """
    if double := _double([arm.label for arm in arms]):
        raise InputError(f"arm {double!r} stands twice in the study")


def require_grid(arms: list[Arm]) -> None:
    """Refuse factors that make no grid: all arms name the same factors, and no two arms are the same cell.

    Raises:
        InputError: names the arms that disagree.
    """
    first, cells = arms[0], dict[frozenset[str], str]()
    for arm in arms:
        if set(arm.factors) != set(first.factors):
            named = [f"{one.label!r} has {', '.join(one.factors) or 'none'}" for one in (first, arm)]
            raise InputError(f"factors: arm {' and arm '.join(named)}; give every arm the same ones, or none")
        on = frozenset(name for name, value in arm.factors.items() if value)
        if first.factors and on in cells:
            raise InputError(f"factors: arms {cells[on]!r} and {arm.label!r} are the same cell; let a factor differ")
        cells[on] = arm.label


def axes_of(arms: Iterable[Arm]) -> dict[str, list[bool | int | float | str]]:
    """Return every named axis with the values that arms stand at, in their order."""
    found: dict[str, list[bool | int | float | str]] = {}
    for arm in arms:
        for axis, value in arm.at.items():
            if value not in found.setdefault(axis, []):
                found[axis].append(value)
    return found


def _double(names: list[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)
