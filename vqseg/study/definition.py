"""A study's YAML file: the question, the arms, the seeds, the reference; typed, without torch."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vqseg import assets
from vqseg.errors import InputError, nearest
from vqseg.files import read_yaml
from vqseg.parts import admit_code

MOST_SEEDS = 1000

Factors = dict[Annotated[str, Field(min_length=1)], bool]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(_Section):
    """One arm: its label, its family, the knob's value, the settings that it changes, its place in a factorial grid."""

    label: str
    family: str
    knob: float | None
    overrides: dict[str, Any]
    factors: Factors = {}


class ArmRow(_Section):
    """One row of the YAML: an arm, or with ``values`` one arm per value of ``knob``.

    ``factors`` places the arm in a factorial grid, such as ``{QPM: true, DB: false}``; see `require_grid`.
    """

    family: str
    label: str | None = None
    suffix: str = ""
    symbol: str = ""
    knob: str | None = None
    values: list[float] = []
    set: dict[str, Any]
    factors: Factors = {}

    def arms(self) -> list[Arm]:
        """Expand the row."""
        name, tail = self.label or self.family, f" {self.suffix}" if self.suffix else ""
        if not self.values:
            return [Arm(label=name + tail, family=self.family, knob=None, overrides=self.set, factors=self.factors)]
        if self.knob is None:
            raise InputError(f"arm {name!r}: has values but no knob; name the key that they set")
        return [
            Arm(
                label=f"{name} {self.symbol or 'value'}={value:g}{tail}",
                family=self.family,
                knob=value,
                overrides={**self.set, self.knob: value},
                factors=self.factors,
            )
            for value in self.values
        ]


class Thinning(_Section):
    """What a preset runs instead of the whole grid."""

    arms: list[str]
    seeds: list[int]


class Definition(_Section):
    """A study as its file has it."""

    question: str
    preset: str
    seeds: list[int] = Field(min_length=1)
    reference: str
    arms: list[ArmRow] = Field(min_length=1)
    supervised: dict[str, Any] | None = None
    thinned: dict[str, Thinning] = {}

    def expand(self) -> list[Arm]:
        """Return every arm.

        Raises:
            InputError: two arms share a label, the reference is none of them, or the factors make no grid.
        """
        arms = [arm for row in self.arms for arm in row.arms()]
        labels = [arm.label for arm in arms]
        double = next((label for label in labels if labels.count(label) > 1), None)
        if double:
            raise InputError(f"arm {double!r} stands twice in the study")
        if self.reference not in labels:
            raise InputError(f"reference {self.reference!r} is no arm{nearest(self.reference, labels)}")
        require_grid(arms)
        return arms


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


def read_definition(name: str, *, allow_code: bool = False) -> tuple[str, Definition]:
    """Return a study's name and definition; ``name`` is a built-in one or a path to a YAML file.

    Raises:
        InputError: unknown, or the file breaks a rule (which key, what was expected).
    """
    path = assets.find("studies", name, "study")
    try:
        definition = Definition.model_validate(admit_code(read_yaml(path), str(path), allowed=allow_code))
        definition.expand()
    except ValidationError as error:
        raise InputError(f"{path}: {_broken(error)}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
    return Path(path).stem, definition


def _broken(error: ValidationError) -> str:
    """Say which key breaks which rule, and which key was probably meant."""
    found = error.errors()
    # A misspelled key is also a missing one; the spelling is what helps.
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    keys = [str(part) for part in first["loc"]]
    where = ".".join(keys) or "the file"
    if first["type"] == "extra_forbidden":
        model = ArmRow if keys[0] == "arms" else Thinning if keys[0] == "thinned" else Definition
        known = list(model.model_fields)
        return f"unknown key {where!r}{nearest(keys[-1], known)}; known there: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where}: is missing"
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}"


def select(arms: list[Arm], wanted: Iterable[str], reference: str) -> list[Arm]:
    """Return the arms whose label or family matches one of ``wanted`` (shell patterns); the reference always.

    Raises:
        InputError: a pattern matches nothing; the nearest labels are given.
    """
    patterns = list(wanted)
    labels = [name for arm in arms for name in (arm.label, arm.family)]
    for pattern in patterns:
        if not any(fnmatchcase(label, pattern) for label in labels):
            known = ", ".join(arm.label for arm in arms)
            raise InputError(
                f"--arms {pattern!r}: no such arm{nearest(pattern, dict.fromkeys(labels))}; known: {known}"
            )
    return [
        arm
        for arm in arms
        if arm.label == reference or any(fnmatchcase(name, p) for p in patterns for name in (arm.label, arm.family))
    ]


def parse_seeds(text: str, option: str = "--seeds") -> list[int]:
    """Read ``0-2``, ``0,3,5`` or ``4``.

    Raises:
        InputError: anything else.
    """
    seeds: list[int] = []
    try:
        for piece in text.split(","):
            low, dash, high = piece.strip().partition("-")
            several = range(int(low), int(high) + 1) if dash else [int(low)]
            if len(several) > MOST_SEEDS:
                raise InputError(f"{option} {text!r}: {len(several):,} seeds; expected {MOST_SEEDS} at most")
            seeds += several
    except InputError:
        raise
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise InputError(f"{option} {text!r}: expected numbers such as 0-2 or 0,3,5")
    return list(dict.fromkeys(seeds))
