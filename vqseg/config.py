"""The typed tree of settings: YAML, then ``--set a.b=value``, then frozen models. Imports nothing heavy.

A swappable part is a `Choice`: a name and the options of that part's constructor, written
``quantizer: {name: mapped, num_codes: 1024}`` or, without options, ``perturbation: none``.
The constructor's signature is the schema of the options: `vqseg.parts` binds them before anything is built.

A leaf that says ``identity=False`` changes how a run is watched, not what it computes.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError, model_validator
from yaml import YAMLError

from vqseg import presets
from vqseg.errors import InputError, nearest
from vqseg.files import parse_yaml
from vqseg.parts import admit_code, code_in, require_admitted
from vqseg.ranges import Count, Positive, Range, Share, Steps, Weight

WATCHING = {"identity": False}
# Choices that came later, with what every run before had: like a new option at its default, no difference.
LATER = {"prior": {"name": "none"}}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Choice(BaseModel):
    """A part by name, with the options of its constructor."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: StrictStr

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """The options as given."""
        return dict(self.model_extra or {})


class Data(_Section):
    """What the network is shown. ``labels: all`` opens the hidden labels: the fully supervised bound.

    ``geometry``: ``resize`` brings every slice to ``size_px``; ``crop`` trains on random crops of that size from the
    native slice and slides a window of it over a slice in inference. ``context``: that many neighbouring slices
    enter as channels. ``foreground_share``: at least this share of a labelled batch shows foreground, or one of
    ``foreground_classes``; a crop of those slices is drawn around a pixel of it (which a turn can move out of crops
    of images that are smaller than the crop). ``labelled_share``: that share of the split's labelled and unlabelled
    patients is labelled (rounded down, at least one), whatever the split says; where all are, their images are the
    unlabelled ones too. ``draw``: 0 labels the first of them in the manifest's order, any other number is a random
    draw of its own, in which a larger share contains the smaller ones.
    """

    size_px: Count = 256
    geometry: Literal["resize", "crop"] = "resize"
    context: Literal[1, 3, 5] = 1
    foreground_share: Share = 0.0
    foreground_classes: tuple[str, ...] = ()
    labels: Literal["labelled", "all"] = "labelled"
    labelled_share: Annotated[float, Field(gt=0, le=1)] | None = None
    draw: Annotated[int, Field(ge=0)] = 0


class Network(_Section):
    """Encoder -> quantizer -> perturbation -> decoders.

    ``statistics`` says what batch norm does in perturbed passes: ``separate`` normalizes them by their
    own batch and leaves the running statistics alone; ``shared`` lets them move the running statistics
    that validation and the teacher use; with ``norm: group`` there are none.
    """

    encoder: Choice = Choice(name="unet")
    quantizer: Choice = Choice(name="mapped")
    decoder: Choice = Choice(name="unet")
    skips: bool = True
    norm: Literal["batch", "group"] = "batch"
    statistics: Literal["separate", "shared"] = "separate"


class Augment(_Section):
    """Geometry acts on images and masks of every view; intensity and CutMix on strong views only.

    ``flip_probability`` is that of either axis; ``flip_vertical_probability`` gives up-down one of its own.
    Saturation, hue and grey act where the channels are red, green and blue.
    """

    flip_probability: Share = 0.5
    flip_vertical_probability: Share | None = None
    rotate90_probability: Share = 0.0
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 20.0
    scale_range: Range = (0.9, 1.1)
    brightness: Weight = 0.5
    contrast: Share = 0.5
    jitter_probability: Share = 0.8
    blur_probability: Share = 0.5
    blur_sigma_px: Range = (0.1, 2.0)
    saturation: Weight = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    gray_probability: Share = 0.0
    noise_sigma: Weight = 0.0
    noise_probability: Share = 0.0
    cutmix_probability: Share = 0.5
    strong_views: Annotated[int, Field(ge=1, le=4)] = 1
    labelled_strong: bool = False


class Schedule(_Section):
    """Learning rate: ``(1 - step/steps) ** power``; power 0 keeps it constant."""

    power: Weight = 0.9
    warmup_steps: Steps = 0


class Train(_Section):
    """The loop. Durations are steps."""

    steps: Count = 30_000
    labelled_batch: Count = 12
    unlabelled_batch: Annotated[int, Field(ge=0)] = 12
    teacher_decay: Share = 0.99
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    channels_last: bool = True
    clip_norm: Positive | None = None
    validate_steps: Count = 500
    flush_steps: Annotated[Count, Field(json_schema_extra=WATCHING)] = 50
    checkpoint_steps: Annotated[Count, Field(json_schema_extra=WATCHING)] = 500


class Config(_Section):
    """Everything that decides what a run computes, apart from the data and the code."""

    preset: Annotated[str, Field(json_schema_extra=WATCHING)] = "custom"
    seed: Annotated[int, Field(ge=0)] = 0
    data: Data = Data()
    network: Network = Network()
    perturbation: Choice = Choice(name="none")
    prior: Choice = Choice(name="none")
    method: Choice = Choice(name="vqseg")
    augment: Augment = Augment()
    optimizer: Choice = Choice(name="sgd")
    schedule: Schedule = Schedule()
    train: Train = Train()

    def plain(self) -> dict[str, Any]:
        """Return the tree as plain data, every leaf present, options of choices as given."""
        return self.model_dump(mode="json")


def load_config(preset: str, overrides: Iterable[str] = (), *, allow_code: bool = False) -> Config:
    """Read a preset (built-in name, or path to a YAML file) and apply ``a.b=value`` overrides.

    Code that the overrides name was typed; what the file names takes ``allow_code``.

    Raises:
        InputError: unknown preset, key or value (the nearest names are given), or code that is not allowed.
    """
    path, tree, *_ = presets.read(preset)
    tree = admit_code(tree, str(path), allowed=allow_code)
    changes = parse_overrides(overrides)
    origin = f"{path} with --set {', '.join(changes)}" if changes else str(path)
    return from_tree(with_overrides(tree, changes), origin, allow_code=allow_code, typed=code_in(changes))


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Turn ``a.b=value`` texts into a mapping of dotted keys; values are YAML."""
    parsed: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise InputError(f"--set {text!r}: expected KEY=VALUE, for example train.steps=1000")
        try:
            parsed[key.strip()] = parse_yaml(value) if value else None
        except YAMLError:
            raise InputError(f"--set {text!r}: the value is not readable as YAML") from None
    return parsed


# Settings that have an option of their own.
SHORT = {"--steps": "train.steps", "--context": "data.context"}


def with_option(overrides: Iterable[str], option: str, value: int | None) -> list[str]:
    """Return the overrides with what an option of `SHORT` says among them.

    Raises:
        InputError: ``--set`` says something of it too.
    """
    given, key = list(overrides), SHORT[option]
    if value and any(text.partition("=")[0].strip() == key for text in given):
        raise InputError(f"{option} and --set {key}: both are given; leave one out")
    return [*given, *([f"{key}={value}"] if value else [])]


def with_overrides(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of ``tree`` with dotted keys set.

    Setting a choice (``perturbation: {name: qpm, rate: .7}``) replaces the whole node; setting one of its
    options (``perturbation.rate``) keeps the rest.

    Raises:
        InputError: a key has an empty piece, or leads through a value.
    """
    result = dict(tree)
    for dotted, value in overrides.items():
        if not all(dotted.split(".")):
            raise InputError(f"{dotted!r}: a piece of this key is empty; expected names with one dot between them")
        head, _, rest = dotted.partition(".")
        if not rest:
            result[head] = value
            continue
        node = result.get(head, {})
        node = {"name": node} if isinstance(node, str) else node
        if not isinstance(node, Mapping):
            raise InputError(f"{dotted}: {head} is a value, not a section")
        result[head] = with_overrides(node, {rest: value})
    return result


def from_tree(tree: Mapping[str, Any], origin: str, *, allow_code: bool = False, typed: Collection[str] = ()) -> Config:
    """Validate a tree; of code that its parts name only what is ``typed`` passes without ``allow_code``.

    Raises:
        InputError: names the key, what was found and, for an unknown key, the nearest known one.
    """
    config = _validated(admit_code(tree, origin, allowed=allow_code, typed=typed), origin)
    # What counts is what was built: a tree may name a part in a way that only validation understands.
    for key, choice in choices(config):
        require_admitted(f"{key}.name", choice.name, origin, allowed=allow_code, typed=typed)
    return config


def choices(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Choice]]:
    """Yield every choice of a built config by its dotted key."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Choice):
            yield f"{prefix}{name}", value
        elif isinstance(value, BaseModel):
            yield from choices(value, f"{prefix}{name}.")


def _validated(tree: Mapping[str, Any], origin: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            known = _known_keys(keys[:-1])
            raise InputError(
                f"{origin}: unknown key {'.'.join(keys)!r}{nearest(keys[-1], known)}; known there: {', '.join(known)}"
            ) from None
        message = first["msg"][0].lower() + first["msg"][1:]
        raise InputError(f"{origin}: {'.'.join(keys)}: {message}, got {first['input']!r}") from None


def _known_keys(path: Iterable[str]) -> list[str]:
    model: Any = Config
    for key in path:
        model = model.model_fields[key].annotation
    return list(model.model_fields)


def identity_leaves(config: Config, choices: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the leaves that decide what is computed and differ from what they were when first introduced.

    ``choices`` gives, by dotted key, every choice with all its options resolved (see `vqseg.parts`).
    A leaf whose default was changed since declares its first default as ``was`` (a field's
    ``json_schema_extra``, or the part's ``WAS``), so that the new default counts as a difference and
    a new option at its default does not.
    """
    leaves = dict(_leaves(config, ""))
    for key, resolved in choices.items():
        if LATER.get(key) != resolved:
            leaves[key] = dict(resolved)
    return dict(sorted(leaves.items()))


def _leaves(section: BaseModel, prefix: str) -> Iterable[tuple[str, Any]]:
    for name, field in type(section).model_fields.items():
        value, extra = getattr(section, name), field.json_schema_extra
        extra = extra if isinstance(extra, dict) else {}
        if extra.get("identity", True) is False or isinstance(value, Choice):
            continue
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value != extra.get("was", field.default):
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value
