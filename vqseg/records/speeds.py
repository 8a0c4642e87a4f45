"""Measured speeds: what a study costs on a machine, kept in a store so that a laptop can tell.

STORE/speeds/NAME.json, written by ``vqseg bench step --save NAME``, read by ``vqseg study run --dry-run --on NAME``:

    format    1
    name      NAME, a device as its owner calls it
    presets   preset -> what was measured of it there, the fields of `Speed`

One file is one device; saving another preset of it adds to the file, saving the same one again replaces it. Beside
them, what finished runs and trained priors of the store itself have measured (`runs`, `prior_ms`). Loads no torch.
"""

import math
import statistics
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError

from vqseg.errors import InputError, pick, require_name
from vqseg.files import read_json, write_json
from vqseg.records.run import STATUS, RunFolder

# Label maps that a run makes of every validation scan: last and best, of teacher and student.
NETWORKS = 4


class Speed(BaseModel):
    """What one preset costs on one device; a field that is None was not measured.

    Args:
        device: its name, such as ``NVIDIA H100 80GB HBM3``.
        ms_per_step: of training, the median.
        spread: standard deviation of a run's time per step from run to run, as a share of the median.
        images_per_step: labelled and unlabelled ones.
        validation_s: one validation.
        validation_images: slices that it looked at.
        scoring_s_per_scan: from weights to rows, for one network and one scan.
        start_s: from a worker's claim to its first step.
        prior_ms_per_step: of training the local prior.
        peak_memory_mb: while training.
        config: the settings that were measured, every leaf.
        machine: as `vqseg.bench.machine` describes it.
        date: ISO 8601.
        commit: of vqseg.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = Field(min_length=1)
    ms_per_step: PositiveFloat
    spread: NonNegativeFloat | None = None
    images_per_step: PositiveInt | None = None
    validation_s: NonNegativeFloat | None = None
    validation_images: PositiveInt | None = None
    scoring_s_per_scan: NonNegativeFloat | None = None
    start_s: NonNegativeFloat | None = None
    prior_ms_per_step: PositiveFloat | None = None
    peak_memory_mb: NonNegativeFloat | None = None
    config: dict[str, Any] | None = None
    machine: dict[str, Any] = {}
    date: str
    commit: str | None = None

    def cell_seconds(self, *, steps: int, validations: int, images: int, scans: int) -> dict[str, float]:
        """Return what a cell's time is made of, in seconds; what was not measured is left out.

        Args:
            steps: of training.
            validations: while and after training.
            images: slices of the validation part.
            scans: of the validation part, scored at the end.
        """
        found = {"start": self.start_s, "training": steps * self.ms_per_step / 1000}
        if self.validation_s is not None:
            share = images / self.validation_images if self.validation_images else 1.0
            found["validation"] = validations * self.validation_s * share
        if self.scoring_s_per_scan is not None:
            found["scoring"] = NETWORKS * scans * self.scoring_s_per_scan
        return {part: value for part, value in found.items() if value is not None}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1]
    name: str
    presets: dict[str, Speed] = Field(min_length=1)


# What `Speed` takes from a bench's settings as it stands; the rest is the machine's.
MEASURED = tuple(name for name in Speed.model_fields if name not in ("machine", "date", "commit"))


def save(store: Path, name: str, outcome: Mapping[str, Any]) -> Path:
    """Keep what a bench measured of a preset: from its ``settings`` `MEASURED` and ``preset``, and its ``machine``.

    Raises:
        InputError: the name is none, the bench measured no training step, or the name is another device's.
    """
    require_name(name, "--save")
    settings, machine = outcome["settings"], outcome["machine"]
    if "ms_per_step" not in settings or "preset" not in settings:
        raise InputError(f"--save {name}: bench {outcome['bench']} measures no training step; 'vqseg bench step' does")
    told = {key: settings[key] for key in MEASURED if settings.get(key) is not None}
    # A step bench says cuda or cpu; which one that is stands with the machine.
    told["device"] = machine.get("device") or told.get("device")
    told |= {"machine": dict(machine), "date": machine.get("date"), "commit": machine.get("commit")}
    try:
        speed = Speed.model_validate(told)
    except ValidationError as error:
        raise InputError(f"--save {name}: bench {outcome['bench']} measured no {_first(error)}") from None
    kept = load(store, name) if name in names(store) else {}
    other = next((old.device for old in kept.values() if old.device != speed.device), None)
    if other is not None:
        raise InputError(f"--save {name}: holds the speeds of {other}, this is {speed.device}; choose another name")
    presets = {key: old.model_dump(mode="json") for key, old in kept.items()}
    presets[_preset(settings)] = speed.model_dump(mode="json")
    write_json(_path(store, name), {"format": 1, "name": name, "presets": presets})
    return _path(store, name)


def load(store: Path, name: str) -> dict[str, Speed]:
    """Return preset -> speed as measured on the device called ``name``.

    Raises:
        InputError: nothing of that name was measured (those that were are listed), or the file is damaged.
    """
    known = names(store)
    if not known:
        raise InputError(f"--on {name}: no speeds in {store / 'speeds'}; 'vqseg bench step --save NAME' makes some")
    path = _path(store, pick(name, known, f"device in {store / 'speeds'}"))
    try:
        return _File.model_validate(read_json(path)).presets
    except ValidationError as error:
        raise InputError(f"{path}: damaged: {_first(error)}; delete it and measure again") from None


def names(store: Path) -> list[str]:
    """Return the names of the devices that were measured."""
    return sorted(path.stem for path in (store / "speeds").glob("*.json"))


class Run(NamedTuple):
    """What a finished run measured.

    ``other_s`` is what it took beside the steps (validation, checkpoints, scoring), None where it was resumed.
    """

    preset: str
    labels: str
    steps: int
    ms_per_step: float
    other_s: float | None


def runs(store: Path, preset: str, labels: str | None = None) -> list[Run]:
    """Return what the store's finished runs of a preset (with these labels) measured."""
    found = []
    for path in sorted((store / "runs").glob(f"*/{STATUS}")):
        status = RunFolder(store, path.parent.name).status()
        if status.get("state") != "finished" or status.get("preset") != preset or "cost" not in status:
            continue
        if labels is None or status["labels"] == labels:
            found.append(_run(status))
    return found


def _run(status: dict[str, Any]) -> Run:
    cost, other = status["cost"], None
    if status.get("started") and status.get("finished") and not status.get("resumes"):
        whole = datetime.fromisoformat(status["finished"]) - datetime.fromisoformat(status["started"])
        other = max(whole.total_seconds() - cost["train_seconds"], 0.0)
    return Run(status["preset"], status["labels"], status["steps"], cost["ms_per_step"], other)


def prior_ms(store: Path, options: Mapping[str, Any], size_px: int) -> float | None:
    """Return the time of a step of training local priors of these options in this store; None: none was trained.

    Options that change how much is trained but not a step's work (``steps``, ``seed``, ``lr``) may differ.
    """
    wanted, found = {key: value for key, value in options.items() if key not in ("steps", "seed", "lr")}, []
    for path in sorted((store / "priors").glob("*/prior.json")):
        told = read_json(path)
        trained, side = told.get("options", {}), read_json(path.with_name("config.json")).get("image_size")
        alike = side == size_px and all(trained.get(key) == value for key, value in wanted.items())
        if alike and "train_seconds" in told:
            found.append(1000 * told["train_seconds"] / trained["steps"])
    return statistics.median(found) if found else None


def makespan(count: int, workers: int, seconds: float) -> float:
    """Return how long ``workers`` take for ``count`` cells of equal length: whole rounds."""
    return math.ceil(count / workers) * seconds


def _preset(settings: Mapping[str, Any]) -> str:
    """Return the preset's name as studies record it: that of a file is its stem."""
    named = str(settings["preset"])
    return Path(named).stem if named.endswith((".yaml", ".yml")) else named


def _path(store: Path, name: str) -> Path:
    return store / "speeds" / f"{name}.json"


def _first(error: ValidationError) -> str:
    """Return the first problem: where and what."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place} ({first['msg'][0].lower()}{first['msg'][1:]})" if place else str(first["msg"])
