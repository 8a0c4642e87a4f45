"""SIMULATION: what a study costs on 1, 4 and 64 devices, replayed through the real queue with a fake clock.

Claims, leases, deaths and finishes go through the study's own Optuna journal (`vqseg.bench.growth_study`); how long a
cell takes is drawn from what was measured. Beside it, and no simulation, the queue's own calls under load
(`vqseg.bench.growth_queue`). The same seed replays the same course.

Settings: ``preset``, ``cells``, ``devices`` (numbers by comma), ``steps`` (else the preset's), ``seed``, ``kill``
(probability that a worker is killed in an attempt), ``scans`` (that a run is scored on). Where the times come from:
``ms-per-step`` with ``spread`` (share, of a run's speed) and ``other-s`` (start excepted, all that a run does beside
its steps), or ``on`` (a device that 'vqseg bench step --save NAME' measured), else the store's finished runs, else a
few steps that are measured now. ``start-s`` is the time from a claim to the first step.
"""

import math
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vqseg.bench.growth_queue import load
from vqseg.bench.growth_step import Bench
from vqseg.bench.growth_study import Course, replay
from vqseg.bench.machine import describe
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.records import speeds

SETTINGS = (
    *("preset", "cells", "devices", "steps", "seed", "kill", "scans"),
    *("ms-per-step", "spread", "other-s", "start-s", "on"),
)
# From a claim to the first step, where nobody measured it: imports, images as tensors, networks.
START_S = 10.0


class Cost(NamedTuple):
    """What cells cost: samples of ms per step and of what a run does beside its steps, to draw from; and the rest."""

    ms: list[float]
    other_s: list[float]
    spread: float
    start_s: float
    source: str

    def seconds(self, cells: int, steps: int, seed: int) -> list[float]:
        """Draw how long cells work, in seconds, without their start."""
        found = []
        for cell in range(cells):
            random = np.random.default_rng([seed, 1, cell])
            speed = random.choice(self.ms) * max(1 + self.spread * random.standard_normal(), 0.1)
            found.append(float(steps * speed / 1000 + random.choice(self.other_s)))
        return found


def measure(options: Options) -> Outcome:
    """Replay a study on every number of devices.

    Raises:
        InputError: an unknown setting, preset or device.
    """
    options.require_known(*SETTINGS)
    preset = options.setting("preset", "smoke" if options.quick else "cpu")
    config = load_config(preset)
    cells, seed = _whole(options, "cells", 8 if options.quick else 100), _whole(options, "seed", 0, least=0)
    steps = _whole(options, "steps", config.train.steps)
    devices = [_count(text) for text in options.setting("devices", "1,2" if options.quick else "1,4,64").split(",")]
    kill = options.number("kill", 0.0)
    if not 0 <= kill < 1:
        raise InputError(f"--set kill={kill:g}: expected a probability below 1")
    cost = _cost(options, preset, steps)
    seconds = cost.seconds(cells, steps, seed)
    checkpoint_s = config.train.checkpoint_steps * statistics.median(cost.ms) / 1000
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for count in devices:
            folder = Path(temporary) / f"replay-{count}"
            course = replay(
                folder, seconds, count, start_s=cost.start_s, kill=kill, checkpoint_s=checkpoint_s, seed=seed
            )
            rows += _rows(course, seconds, cost)
            rows.append(_loaded(Path(temporary) / f"load-{count}", count, cells, statistics.median(seconds)))
    settings = {
        "SIMULATION": "durations drawn from measurements, fake clock, real queue",
        "preset": preset, "cells": cells, "steps": steps, "ms_per_step": round(statistics.median(cost.ms), 3),
        "start_s": cost.start_s, "kill": kill, "seed": seed, "times": cost.source,
    }  # fmt: skip
    return Outcome("replay", rows, settings, describe(options.device))


def _cost(options: Options, preset: str, steps: int) -> Cost:
    """Return what cells cost, from the best that is known."""
    start_s, extra = options.number("start-s", START_S), options.extra
    if "ms-per-step" in extra:
        ms = options.number("ms-per-step", 0.0)
        if ms <= 0:
            raise InputError(f"--set ms-per-step={ms:g}: expected a time above 0")
        return Cost([ms], [options.number("other-s", 0.0)], options.number("spread", 0.0), start_s, "as given")
    if "on" in extra:
        return _saved(options, preset, steps)
    runs = speeds.runs(options.store, preset) if options.store else []
    if runs:
        others = [run.other_s for run in runs if run.other_s is not None] or [0.0]
        return Cost([run.ms_per_step for run in runs], others, 0.0, start_s, f"{len(runs)} finished runs of the store")
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(preset, (), Path(temporary), options.device)
        found = bench.time(3 if options.quick else max(options.repeats, 10))
    ms = 1000 * found.median
    return Cost([ms], [0.0], 0.0, start_s, f"{found.repeats} steps measured here; validation and scoring not")


def _saved(options: Options, preset: str, steps: int) -> Cost:
    """Return what cells cost on a device whose speeds were kept."""
    name = options.extra["on"]
    if options.store is None:
        raise InputError(f"--set on={name}: speeds lie in a store; name it with --store")
    presets = speeds.load(options.store, name)
    if preset not in presets:
        known = ", ".join(presets)
        raise InputError(f"--set on={name}: preset {preset!r} was not measured there, only {known}; --set preset=NAME")
    speed, config = presets[preset], load_config(preset)
    parts = speed.cell_seconds(
        steps=steps,
        validations=math.ceil(steps / config.train.validate_steps) + 1,
        images=speed.validation_images or 1,
        scans=_whole(options, "scans", 20),
    )
    other_s = sum(value for part, value in parts.items() if part in ("validation", "scoring"))
    missing = [part for part in ("validation", "scoring") if part not in parts]
    source = f"{name} ({speed.device}), measured {speed.date[:10]}"
    source += f"; not measured there: {', '.join(missing)}" if missing else ""
    start_s = options.number("start-s", START_S if speed.start_s is None else speed.start_s)
    return Cost([speed.ms_per_step], [other_s], options.number("spread", speed.spread or 0.0), start_s, source)


def _rows(course: Course, seconds: list[float], cost: Cost) -> Iterator[Row]:
    """Tell how the study went on some devices; the limit is the work itself, spread evenly, or the longest cell."""
    on = f"{course.workers} device{'s' * (course.workers > 1)}"
    limit = max(sum(seconds) / course.workers, max(seconds))
    failed = f"; {len(course.failed)} cells given up" if course.failed else ""
    again = f"{course.kills} workers killed, their cells resumed{failed}" if course.kills else ""
    yield Row(f"simulated, {on}: last cell ends", "h", course.makespan_s / 3600, limit=limit / 3600, note=again)
    held = course.workers * course.makespan_s / 3600
    yield Row(f"simulated, {on}: held", "device-h", held, limit=sum(seconds) / 3600)
    idle = max(held - (course.kept_s + course.lost_s) / 3600, 0.0)  # rounding may fall below 0
    note = f"waiting for the last cells {idle:.3g} h; starts, and work lost to kills, {course.lost_s / 3600:.3g} h"
    yield Row(f"simulated, {on}: idle, starts, lost", "%", 100 * (1 - course.utilization), note=note)
    calls = [*course.claim_s, *course.finish_s]
    yield Row(
        f"{on}: in the queue's calls (real)", "s", sum(calls),
        note=f"{len(calls)} calls, a claim {_ms(course.claim_s)}, a finish {_ms(course.finish_s)};"
        f" {100 * sum(calls) / max(course.kept_s, 1e-9):.2g} % of the cells' time",
    )  # fmt: skip


def _loaded(folder: Path, workers: int, cells: int, cell_s: float) -> Row:
    """Tell what the queue costs a cell when as many real processes come to it all at once, again and again."""
    found = load(folder, workers, cells)
    busy = f"{cell_s / (found.wall_s / cells):,.0f} workers with cells of {cell_s / 60:.3g} min would keep it busy"
    note = f"no simulation: {cells} empty cells in {found.wall_s:.2f} s; {busy}"
    return Row(f"{workers} real processes at once: claim + finish", "ms", 1000 * found.per_cell_s, note=note)


def _ms(values: list[float]) -> str:
    return f"{1000 * statistics.median(values):.1f} ms" if values else "none"


def _whole(options: Options, name: str, default: int, least: int = 1) -> int:
    value = options.number(name, default)
    if value != int(value) or value < least:
        raise InputError(f"--set {name}={options.extra[name]}: expected a whole number of at least {least}")
    return int(value)


def _count(text: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise InputError(f"--set devices: expected numbers of devices by comma, such as 1,4,64, got {text!r}")
    return int(text)
