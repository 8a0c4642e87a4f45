"""What a study would do and cost, before it starts."""

import math
import shutil
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer

from vqseg.cli.studies import prepared
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.manifest import read_manifest, read_split, scans_of
from vqseg.parts import code_in
from vqseg.presets import names as preset_names
from vqseg.records import speeds
from vqseg.report.statistics import detectable
from vqseg.study.cells import Request, StudyFolder, cell_config, plan_cell
from vqseg.study.runner import Settings
from vqseg.study.standing import states

# Numbers of workers that a time on another device is told for, beside the one asked for.
WORKERS = (1, 4, 64)
# Settings that change what a step, a validation or a scan costs: measured at others, a time says nothing.
COSTLY = (
    *(f"data.{name}" for name in ("size_px", "geometry", "context")),
    *(f"network.{name}" for name in ("encoder", "quantizer", "decoder", "skips", "norm")),
    *(f"train.{name}" for name in ("labelled_batch", "unlabelled_batch", "channels_last")),
    "method.name",
    "method.dual_branch",
    "augment.strong_views",
)


class Work(NamedTuple):
    """What is left to do: cells, and of each its steps, validations, and slices and scans to validate and score."""

    cells: int
    steps: int
    validations: int
    images: int
    scans: int
    priors: tuple["Prior", ...]


class Prior(NamedTuple):
    """A local prior that cells wait for: the options of its training, and the side of its images."""

    options: dict[str, Any]
    size_px: int


def require_dry(on: str | None, dry_run: bool) -> None:
    """Refuse ``--on`` where the study would run here.

    Raises:
        InputError: so it is.
    """
    if on and not dry_run:
        raise InputError(f"--on {on}: estimates the time of a study; add --dry-run")


def show(requests: Sequence[Request], settings: Settings, on: str | None = None) -> None:
    """Print what requests would do: what is thinned, skipped or idle, then `forecast`; nothing is written.

    Raises:
        InputError: anything unknown or impossible.
    """
    for folder, record, said in prepared(requests, settings):
        if settings.budget is not None:
            record["search"]["budget"] = settings.budget
        lines = forecast(folder, record, settings.workers, retry_failed=settings.retry_failed, on=on)
        typer.echo(f"{said}\n{lines}" if said else lines)


def forecast(
    folder: StudyFolder, record: dict[str, Any], workers: int, *, retry_failed: bool = False, on: str | None = None
) -> str:
    """Return lines: cells by state, disk, time, the difference that can be seen.

    The time is that of runs here (or *unknown*), or with ``on`` that of a device that was measured.

    Raises:
        InputError: nothing was measured on ``on``, or not at these settings.
    """
    store, by_identity = folder.store, states(folder, record)
    counts = {state: list(by_identity.values()).count(state) for state in dict.fromkeys(by_identity.values())}
    settled = {"finished", "running", "pruned"} | (set() if retry_failed else {"failed"})
    todo = [cell for cell in record["cells"] if by_identity[cell["identity"]] not in settled]
    trials = max(record["search"]["budget"] - len(record["cells"]), 0) if "search" in record else 0
    root = Path(record["data"]["root"])
    manifest = read_manifest(root)
    split = read_split(root, manifest, record["split"]["name"])
    patients, seeds = len(split.parts.get("val", [])), len(record["seeds"])
    contrasts = max(len(record["arms"]) - 1, 1)
    scans = scans_of(manifest, split, "val")
    steps, validations = _length_of(record, todo)
    images, cells = sum(len(scan.slices) for scan in scans), len(todo) + trials
    work = Work(cells, steps, validations, images, len(scans), _priors(store, record, todo))
    lines = [
        f"study {record['name']}: {len(by_identity)} cells; "
        + ", ".join(f"{count} {_word(state)}" for state, count in counts.items())
        + (f"; {trials} trials to come, of which some will be pruned" if trials else ""),
        f"disk: {_disk(store, cells)}",
        *(_time_on(store, record, work, workers, on) if on else [f"time: {_time(store, record, work, workers)}"]),
    ]
    if seeds >= 2 and patients >= 2:
        points = detectable(seeds, patients, scans_per_patient=len(scans) / patients, contrasts=contrasts)
        lines.append(
            f"smallest difference seen with 80 % power by {seeds} seeds x {patients} validation patients:"
            f" {points:.1f} Dice points (at the field's usual noise, Holm over {contrasts} contrasts)"
        )
    else:
        lines.append("one seed or one patient cannot tell a difference from noise")
    return "\n".join(lines)


def _length_of(record: dict[str, Any], todo: list[dict[str, Any]]) -> tuple[int, int]:
    """Return steps and validations of a cell, the mean of those that are left where arms train for longer or less."""
    allowed = bool(code_in(record))
    of_arm = {cell["arm"]: cell for cell in todo}  # neither seed nor draw changes how long a run is
    lengths = {arm: cell_config(record, cell, allow_code=allowed).train for arm, cell in of_arm.items()}
    base = record["base_config"]["train"]
    steps = [lengths[cell["arm"]].steps for cell in todo] or [int(base["steps"])]
    every = [lengths[cell["arm"]].validate_steps for cell in todo] or [int(base["validate_steps"])]
    validations = [math.ceil(each / between) for each, between in zip(steps, every)]
    return round(statistics.mean(steps)), round(statistics.mean(validations))


def _word(state: str) -> str:
    return {"finished": "reused"}.get(state, state)


def _disk(store: Path, todo: int) -> str:
    near = next(path for path in (store, *store.absolute().parents) if path.exists())
    free = shutil.disk_usage(near).free / 2**30
    sizes = [path.stat().st_size for path in (store / "runs").rglob("*") if path.is_file()]
    runs = len(list((store / "runs").glob("*/status.json")))
    need = f"about {todo * sum(sizes) / runs / 2**20:.0f} MiB" if runs else "unknown need (no run here yet)"
    return f"{need}, {free:.1f} GiB free"


def _priors(store: Path, record: dict[str, Any], todo: list[dict[str, Any]]) -> tuple[Prior, ...]:
    """Return the local priors that cells need and that are not trained yet, each once."""
    allowed, found = bool(code_in(record)), {}
    for cell in {cell["arm"]: cell for cell in todo}.values():  # a prior does not depend on the run's seed
        if cell_config(record, cell, allow_code=allowed).prior.name == "local":
            plan = plan_cell(record, store, cell, allow_code=allowed)
            if plan.prior_folder is not None and not (plan.prior_folder / "prior.json").is_file():
                found[plan.prior_folder] = Prior(plan.parts["prior"].options, plan.config.data.size_px)
    return tuple(found.values())


def _time(store: Path, record: dict[str, Any], work: Work, workers: int) -> str:
    """Return the time as finished runs of this preset with these labels took here."""
    alike = speeds.runs(store, record["preset"], record["base_config"]["data"]["labels"])
    if not alike:
        return "unknown (no finished run of this preset in the store to measure by; --on NAME takes measured speeds)"
    ms = statistics.median(run.ms_per_step for run in alike)
    others = [run.other_s for run in alike if run.other_s is not None]
    other_s = statistics.median(others) if others else 0.0
    cell_s = work.steps * ms / 1000 + other_s
    prior_s, said = _prior_time(work, [speeds.prior_ms(store, each.options, each.size_px) for each in work.priors])
    length = _length(speeds.makespan(work.cells, workers, cell_s) + prior_s)
    beside = f"; {other_s:.0f} s a run beside the steps" if others else ""
    measured = f"({ms:.0f} ms per step, median of {len(alike)} runs here{beside})"
    return "; ".join([f"{length} with {workers} workers {measured}", *said])


def _time_on(store: Path, record: dict[str, Any], work: Work, workers: int, on: str) -> list[str]:
    """Return lines: the time on a device that was measured, what a cell's is made of, and what is a guess.

    Raises:
        InputError: the device, the preset or these settings were not measured.
    """
    speed = _measured(store, record, on)
    parts = speed.cell_seconds(steps=work.steps, validations=work.validations, images=work.images, scans=work.scans)
    prior_s, said = _prior_time(work, [speed.prior_ms_per_step] * len(work.priors))
    lengths = (
        f"{_length(speeds.makespan(work.cells, each, sum(parts.values())) + prior_s)} with {each}"
        for each in sorted({*WORKERS, workers})
    )
    missing = [part for part in ("start", "validation", "scoring") if part not in parts]
    memory = f"; {speed.peak_memory_mb / 1024:.1f} GiB at most" if speed.peak_memory_mb else ""
    return [
        f"time on {on} ({speed.device}; preset {record['preset']} measured {speed.date[:10]} at commit"
        f" {(speed.commit or 'unknown')[:7]}): {', '.join(lengths)} workers",
        f"  a cell: {work.steps} steps x {_ms(speed.ms_per_step)}; "
        + " + ".join(f"{part} {seconds:.0f} s" for part, seconds in parts.items())
        + (f"; not measured and left out: {', '.join(missing)}" if missing else "")
        + memory,
        *(f"  {line}" for line in said),
        "  extrapolated: every arm taken to cost what the preset costs, every worker to have such a device of its own",
    ]


def _measured(store: Path, record: dict[str, Any], on: str) -> speeds.Speed:
    """Return the speed of the study's preset on a device, if it was measured at what the study's cells share.

    Raises:
        InputError: it was not; the message tells how to measure it.
    """
    presets, preset, base = speeds.load(store, on), record["preset"], record["base_config"]
    if preset not in presets:
        known, there = ", ".join(presets), f"vqseg bench step --set preset={preset} --save {on}"
        raise InputError(f"--on {on}: preset {preset!r} was not measured, only {known}; measure it there: {there}")
    speed = presets[preset]
    # What a bench does not tell it measured as the preset has it.
    tree = speed.config or (load_config(preset).plain() if preset in preset_names() else base)
    pairs = {key: (_leaf(tree, key), _leaf(base, key)) for key in COSTLY}
    asked = base["train"]["precision"]
    pairs["train.precision"] = (asked if asked == "auto" else speed.machine.get("precision", asked), asked)
    for key, (measured, wanted) in pairs.items():
        if measured != wanted:
            raise InputError(
                f"--on {on}: measured at {key} {measured}, the study has {wanted}; write its settings as a preset, for"
                f" the study and, there, for 'vqseg bench step --set preset=FILE.yaml --save {on}'"
            )
    return speed


def _leaf(tree: Any, key: str) -> Any:
    """Return a setting; of a part without the place of its weights, which costs nothing."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return {name: value for name, value in tree.items() if name != "weights"} if isinstance(tree, dict) else tree


def _prior_time(work: Work, ms: Iterable[float | None]) -> tuple[float, list[str]]:
    """Return the seconds that training the local priors takes, and a line on each; cells that need one wait for it."""
    total, said = 0.0, []
    for prior, each in zip(work.priors, ms, strict=True):
        steps = prior.options["steps"]
        if each is None:
            said.append(f"not counted: the local prior's {steps} steps, once, which were not measured")
            continue
        total += steps * each / 1000
        said.append(f"with the local prior's {steps} steps x {_ms(each)}, once: {_length(steps * each / 1000)}")
    return total, said


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _length(seconds: float) -> str:
    if seconds < 60:
        return "under a minute"
    if seconds < 120 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"about {seconds / 86400:.1f} days"
