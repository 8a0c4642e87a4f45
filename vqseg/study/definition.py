"""A study's YAML file: the question, the arms, the seeds, the reference; typed, without torch."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vqseg import assets
from vqseg.config import Choice, Config
from vqseg.errors import InputError, nearest
from vqseg.files import read_yaml
from vqseg.parts import admit_code
from vqseg.ranges import Count
from vqseg.study.rows import Arm, ArmRow, require_grid, require_labels
from vqseg.study.space import Search

MOST_SEEDS = 1000
# What every study has that trains; one that scores another study again has none of it.
TRAINS = ("preset", "seeds", "reference", "arms")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Thinning(_Section):
    """What a preset runs instead of the whole grid; ``reference``: what it compares with instead."""

    arms: list[str]
    seeds: Annotated[list[int], Field(min_length=1)] | None = None
    reference: str | None = None


def _listed(value: Any) -> Any:
    return ["all"] if value == "all" else value


class Rescore(_Section):
    """Under which protocols a study is scored again: ``all`` that apply, or those named."""

    protocols: Annotated[list[str], Field(min_length=1), BeforeValidator(_listed)]


class Definition(_Section):
    """A study as its file has it.

    ``draws``: so many draws of the labelled patients. ``keeps``: the settings that arms which are presets take from
    the study's own. ``search``: its trials are sampled; ``rescore``: it trains nothing, and scores another study again.
    """

    question: str
    preset: str = ""
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    reference: str = ""
    arms: list[ArmRow] = []
    supervised: dict[str, Any] | None = None
    thinned: dict[str, Thinning] = {}
    draws: Count = 1
    keeps: list[str] = []
    search: Search | None = None
    rescore: Rescore | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Definition":
        given = self.model_fields_set
        if self.rescore:
            surplus = next((key for key in type(self).model_fields if key in given - {"question", "rescore"}), None)
            if surplus:
                raise ValueError(f"{surplus}: a study that scores another one again takes that one's; leave it out")
            return self
        missing = next((key for key in TRAINS if key not in given), None)
        if missing:
            raise ValueError(f"{missing}: is missing")
        if not self.arms:
            raise ValueError("arms: expected at least one row")
        return self

    def expand(self) -> list[Arm]:
        """Return every arm, presets not yet resolved.

        Raises:
            InputError: the arms do not go together: two share a label, the reference is none of them, the factors make
                no grid, a preset is unknown, or nothing is kept for want of an arm that is a preset.
        """
        arms = [arm for row in self.arms for arm in row.arms()]
        if not arms:
            return []
        labels = [arm.label for arm in arms]
        require_labels(arms)
        if self.reference not in labels:
            raise InputError(f"reference {self.reference!r} is no arm{nearest(self.reference, labels)}")
        require_grid(arms)
        presets = [arm for arm in arms if arm.preset is not None]
        for arm in presets:
            assets.find("configs", arm.preset or "", "preset")
        if presets and self.supervised is not None:
            raise InputError(f"supervised: arm {presets[0].label!r} is a whole preset, without a supervised form")
        if self.keeps and not presets:
            raise InputError("keeps: no arm is a preset; leave keeps out, or give an arm a preset")
        for key in self.keeps:
            require_setting(key)
        self._require_thinned(arms, labels)
        return arms

    def _require_thinned(self, arms: list[Arm], labels: list[str]) -> None:
        for preset, thinning in self.thinned.items():
            reference = thinning.reference or self.reference
            if reference not in labels:
                raise InputError(f"thinned.{preset}.reference {reference!r} is no arm{nearest(reference, labels)}")
            select(arms, thinning.arms, reference, f"thinned.{preset}.arms")


def require_setting(key: str) -> None:
    """Refuse a key of ``keeps`` that is no section, part, setting or option of a part.

    Raises:
        InputError: with the nearest that there is.
    """
    section: type[BaseModel] | None = Config
    pieces = key.split(".")
    for place, piece in enumerate(pieces):
        known = [name for name in section.model_fields if name not in ("seed", "preset")] if section else []
        if piece not in known:
            where = ".".join(pieces[:place]) or "a config"
            told = f"known in {where}: {', '.join(known)}" if known else f"{where} is one value"
            raise InputError(f"keeps: unknown setting {key!r}{nearest(piece, known)}; {told}")
        found = section.model_fields[piece].annotation if section else None
        if found is Choice and place + 2 >= len(pieces):
            return  # which options a part has is known once it is looked up
        section = found if isinstance(found, type) and issubclass(found, BaseModel) and found is not Choice else None


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
        known = list(_model_of(keys[:-1]).model_fields)
        return f"unknown key {where!r}{nearest(keys[-1], known)}; known there: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where}: is missing"
    if first["type"] == "value_error":  # one of our own
        told, value = str(first["ctx"]["error"]), first["input"]
        whole = isinstance(value, (dict, list, BaseModel)) or not keys  # too much to repeat
        return f"{where}: {told}, got {value!r}" if not whole else f"{where}: {told}" if keys else told
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}"


def _model_of(keys: list[str]) -> type[BaseModel]:
    """Return the model of the mapping at ``keys``, of which some are numbers of rows or names."""
    model: type[BaseModel] = Definition
    for key in keys:
        inner = model.model_fields.get(key)
        model = next(_models(inner.annotation), model) if inner else model
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def select(arms: list[Arm], wanted: Iterable[str], reference: str, option: str = "--arms") -> list[Arm]:
    """Return the arms whose label or family matches one of ``wanted`` (shell patterns); the reference always.

    Raises:
        InputError: a pattern matches nothing; the nearest labels are given, after what ``option`` calls it.
    """
    patterns = list(wanted)
    labels = [name for arm in arms for name in (arm.label, arm.family)]
    for pattern in patterns:
        if not any(fnmatchcase(label, pattern) for label in labels):
            known = ", ".join(arm.label for arm in arms)
            raise InputError(
                f"{option} {pattern!r}: no such arm{nearest(pattern, dict.fromkeys(labels))}; known: {known}"
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
