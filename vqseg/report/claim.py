"""A claim as a file: one sentence of the paper, the contrast that would show it, and what that contrast needs.

    reports/claims/NAME.yaml   the paper's
    STORE/claims/NAME.yaml     the user's own

What a file may say is the model `Claim`; how a verdict is reached from it is `vqseg.report.verdict`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vqseg import assets
from vqseg.errors import InputError, nearest
from vqseg.files import read_yaml
from vqseg.report.measures import MEASURES, SHORT, Measure

Kind = Annotated[
    Literal["effect", "null", "noninferior", "best"],
    # YAML reads the bare word as no value.
    BeforeValidator(lambda value: "null" if value is None else value),
]
Direction = Literal["higher", "lower"]
LEAST_DICE = 0.5
"""Dice points below which a difference is called none, where a file gives no margin."""

OF_RUNS = {
    "utilization": Measure("Utilization", "%", 100.0, True),
    "utilization_of_ceiling": Measure("Utilization of its ceiling", "%", 100.0, True),
    "perplexity": Measure("Perplexity", "codes", 1.0, True),
}
"""Metrics of the codebook: one number a run, not one a patient."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Value = bool | int | float | str
Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arms(_Section):
    """Which arms of a study are meant: all that match every key; shell patterns where texts are compared.

    ``at`` names places along axes, one value or several (``"*"``: any). With ``best_on: validation`` the one of them
    with the best mean on validation stands for all.
    """

    family: Names = ()
    label: Names = ()
    at: dict[str, Value | Annotated[list[Value], Field(min_length=1)]] = {}
    best_on: Literal["validation"] | None = None

    def values(self, axis: str) -> list[Value]:
        """Return the values that are wanted along an axis."""
        found = self.at[axis]
        return found if isinstance(found, list) else [found]

    def words(self) -> str:
        """Name what is meant."""
        places = [f"{axis}={' or '.join(map(str, self.values(axis)))}" for axis in self.at]
        named = [" or ".join(names) for names in (self.label, self.family) if names]
        best = "the best of " if self.best_on else ""
        return best + (" ".join([*named, *places]) or "all arms")


class Published(_Section):
    """What was printed: pairs (arm, against) in the metric's stored unit, none if it was only drawn; and where."""

    numbers: list[tuple[float, float]] = []
    where: Text


class Held(_Section):
    """A logged ``metric`` that every run must have ``within`` a share of its arm's place along ``axis``."""

    metric: str
    axis: str
    within: Annotated[float, Field(gt=0)]


class Needs(_Section):
    """Without what a contrast says nothing.

    ``reach``: Dice (0-1) that replacing every code costs, at least; ``tokens``: tokens looked at per code, at least;
    ``seeds``: at least, never below 3; ``settings``: key of a run's config -> what it must be; ``held``: see `Held`.
    """

    reach: Annotated[float, Field(ge=0, le=1)] | None = None
    tokens: Annotated[float, Field(gt=0)] | None = None
    seeds: Annotated[int, Field(ge=3)] = 3
    settings: dict[str, Value] = {}
    held: Held | None = None


class Premise(_Section):
    """An effect that must be confirmed first, or the claim is about nothing; ``says`` is that effect in words."""

    says: Text
    arm: Arms
    against: Arms
    direction: Direction = "higher"
    margin: Annotated[float, Field(gt=0)]


class Claim(_Section):
    """One claim, as its file has it; ``name`` is the file's.

    Differences are ``arm`` minus ``against``, pair by pair along the axes that are ``matched``; ``combine: each`` asks
    every pair, ``mean`` their mean. A claim of the kind ``best`` holds ``arm`` against every other one ``among`` some.
    """

    name: str
    claim: Text
    source: Text
    study: Text
    kind: Kind
    short: Text
    arm: Arms
    against: Arms | None = None
    among: Arms | None = None
    matched: Names = ()
    combine: Literal["each", "mean"] = "each"
    direction: Direction = "higher"
    metric: str = "dice"
    margin: Annotated[float, Field(gt=0)] | None = None
    form: Literal["semi-supervised", "supervised"] = "semi-supervised"
    headline: bool = False
    published: Published
    needs: Needs = Needs()
    premise: Premise | None = None
    about: Text

    @model_validator(mode="after")
    def _whole(self) -> "Claim":
        known = ranked()
        if self.metric not in known:
            raise ValueError(f"metric: unknown {self.metric!r}{nearest(self.metric, known)}; known: {', '.join(known)}")
        best, given = self.kind == "best", self.model_fields_set
        wanted, other = ("among", "against") if best else ("against", "among")
        if getattr(self, wanted) is None:
            raise ValueError(f"{wanted}: is missing; a claim of kind {self.kind!r} needs it")
        idle = {other} | ({"margin", "matched", "combine"} if best else set())
        idle |= set() if self.kind == "effect" else {"direction"}
        if found := sorted(idle & given):
            raise ValueError(f"{found[0]}: a claim of kind {self.kind!r} takes no such key; leave it out")
        if not best and self.margin is None and self.metric != "dice":
            raise ValueError(f"margin: is missing; only that of dice has a default, this metric is {self.metric}")
        if self.against and self.against == self.arm:
            raise ValueError("against: names the same arms as 'arm'; name others")
        return self

    @property
    def least(self) -> float:
        """The margin, in printed units; 0 for ``best``, which has none."""
        return 0.0 if self.kind == "best" else self.margin if self.margin is not None else LEAST_DICE

    @property
    def measure(self) -> Measure:
        """What the metric is called, its unit and scale."""
        return ranked()[self.metric]

    @property
    def sign(self) -> float:
        """1 where a positive difference is as claimed (for nulls: as it comes), -1 where a negative one is."""
        if self.kind == "effect":
            return 1.0 if self.direction == "higher" else -1.0
        return -1.0 if self.kind != "null" and not self.measure.higher_is_better else 1.0

    @property
    def printed(self) -> list[float]:
        """The published effects, in printed units and as the differences come: arm minus against."""
        return [self.measure.scale * (arm - against) for arm, against in self.published.numbers]


def ranked() -> dict[str, Measure]:
    """Return the metrics that a claim can be about."""
    return {name: own for name, own in {**MEASURES, **OF_RUNS}.items() if own.higher_is_better is not None}


def load(store: Path, files: Iterable[Path] = ()) -> list[Claim]:
    """Return the paper's claims, those of ``STORE/claims``, and those of ``files``, in order of study and name.

    Raises:
        InputError: a file breaks a rule, or takes the name of another.
    """
    paths = [*_in(assets.folder("reports") / "claims"), *_in(store / "claims"), *(Path(path) for path in files)]
    known: dict[str, Path] = {}
    for path in dict.fromkeys(path.absolute() for path in paths):
        if path.stem in known:
            raise InputError(f"{path}: {known[path.stem]} has that name already; rename the file")
        known[path.stem] = path
    return sorted((read(path) for path in known.values()), key=lambda claim: (claim.study, claim.name))


def read(path: Path) -> Claim:
    """Read one claim file.

    Raises:
        InputError: names the file, the key and what was expected.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected keys such as claim, study, kind and arm, got {type(tree).__name__}")
    if "name" in tree:
        raise InputError(f"{path}: name: the file's own name is the claim's; leave it out")
    metric = tree.get("metric")
    own = {"metric": SHORT[metric]} if isinstance(metric, str) and metric in SHORT else {}
    try:
        return Claim.model_validate({**tree, **own, "name": path.stem})
    except ValidationError as error:
        raise InputError(f"{path}: {_broken(error)}") from None


def _in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.yaml"))


def _broken(error: ValidationError) -> str:
    """Say which key breaks which rule, and which key was probably meant."""
    found = error.errors()
    # A misspelled key is also a missing one; the spelling is what helps.
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    keys = [str(part) for part in first["loc"]]
    where = ".".join(keys)
    if first["type"] == "extra_forbidden":
        known = [key for key in _model_of(keys[:-1]).model_fields if key != "name"]
        return f"unknown key {where!r}{nearest(keys[-1], known)}; known there: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where}: is missing"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}"


def _model_of(keys: list[str]) -> type[BaseModel]:
    models: dict[str, type[BaseModel]] = {"arm": Arms, "against": Arms, "among": Arms, "published": Published}
    models |= {"needs": Needs, "held": Held, "premise": Premise}
    return models[keys[-1]] if keys else Claim
