"""How cost grows: time and memory against codes, tokens, image size, images, voxels, workers and runs.

Each cost gets an exponent, fitted over the upper half of its range (`vqseg.bench.growth_fit`), and the size at which
it becomes the bottleneck: for parts of a step, where they take half of it, the rest being as the preset has it; for
scoring, where a run's takes as long as its training; for the queue, where a cell's bookkeeping takes as long as the
cell; for tables, a minute.

Settings: ``preset`` (its shape is the parts' shape), ``steps`` (presets whose steps are measured, by comma),
``budget-s`` (seconds per cost; sizes that would take longer are left out), ``figure`` (PNG or PDF to draw).
"""

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vqseg.bench import growth_tasks as tasks
from vqseg.bench.growth_fit import Fit, fit
from vqseg.bench.growth_step import Bench
from vqseg.bench.growth_tasks import Task
from vqseg.bench.machine import describe, free_bytes
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row, figure
from vqseg.bench.timing import Timing, drain, extra_memory_mb
from vqseg.records.speeds import NETWORKS

# Share of the free memory that a size may be expected to take; how much faster than its memory a time may grow.
MEMORY_SHARE, STEEPER = 0.5, 1.15
PATIENCE_S, SCANS = 60.0, 20


class Point(NamedTuple):
    """One size: seconds, and the most memory in MiB above what was in use (NaN where it cannot be told)."""

    value: int
    time: Timing
    memory_mb: float


@dataclass
class Curve:
    """One cost against one size; ``bound_s`` is the time from which on it is the bottleneck, ``bound`` says why."""

    task: Task
    points: list[Point] = field(default_factory=list)
    skipped: str = ""
    bound_s: float | None = None
    bound: str = ""

    @property
    def fit(self) -> Fit | None:
        """The exponent."""
        found = [(point.value, point.time.median) for point in self.points if point.time.median > 0]
        return fit([value for value, _ in found], [seconds for _, seconds in found])

    @property
    def bottleneck(self) -> float | None:
        """The size from which on it is the bottleneck."""
        found = self.fit
        return found.reaches(self.bound_s) if found and self.bound_s else None

    def at(self, value: int) -> float | None:
        """Return the seconds measured at ``value``."""
        return next((point.time.median for point in self.points if point.value == value), None)


def measure(options: Options) -> Outcome:
    """Measure every cost; draw it where a figure was asked for.

    Raises:
        InputError: an unknown setting or preset.
    """
    options.require_known("preset", "steps", "budget-s", "figure")
    preset = options.setting("preset", "smoke" if options.quick else "cpu")
    stepped = options.setting("steps", preset if options.quick else "cpu,unet").split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bench = Bench(preset, (), folder, options.device)
        shape, step_s, steps = bench.shape, bench.time(3).median, bench.config.train.steps
        todo: list[Task] = list(tasks.codebook(shape, preset, options.device, quick=options.quick))
        for name in stepped:
            todo += tasks.steps(name, folder, options.device, quick=options.quick, codes=name == preset)
        todo += tasks.surroundings(folder, quick=options.quick)
        del bench
        curves = [measured(task, options) for task in todo]
    for curve in curves:
        _bound(curve, preset, step_s, steps, shape.codes)
    if "figure" in options.extra:
        from vqseg.bench.growth_figure import write

        write(curves, Path(options.extra["figure"]))
    settings = {"preset": preset, "step_ms": round(1000 * step_s, 1), **shape._asdict(), "curves": _plain(curves)}
    return Outcome("growth", list(_rows(curves)), settings, describe(options.device))


def measured(task: Task, options: Options) -> Curve:
    """Measure a cost at rising sizes, as far as memory and patience reach."""
    curve, spent = Curve(task), 0.0
    budget = options.number("budget-s", 3.0 if options.quick else 40.0)
    for value in task.values:
        curve.skipped = _too_much(curve, value, budget - spent, options.device)
        if curve.skipped:
            break
        since = time.perf_counter()
        probe = task.make(value)
        began = time.perf_counter()
        # Two calls that count for the memory alone: they are the warm-up, too.
        memory = extra_memory_mb(probe.run, options.device) if probe.run else math.nan
        drain(options.device)
        once = (time.perf_counter() - began) / 2
        share = budget / len(task.values)
        repeats = options.repeats if once == 0 else max(min(int(share / max(once, 1e-6)), options.repeats), 1)
        curve.points.append(Point(value, probe.time(repeats), memory))
        spent += time.perf_counter() - since
    return curve


def _too_much(curve: Curve, value: int, left_s: float, device: torch.device) -> str:
    """Return why ``value`` is left out, judging by the size before it; empty if it is not."""
    if not curve.points:
        return ""
    last, name = curve.points[-1], f"{value:,} and above left out"
    growth = (value / last.value) ** curve.task.memory_power
    if last.memory_mb * growth > MEMORY_SHARE * free_bytes(device) / 2**20:  # false where the memory is not known
        return f"{name}: would take about {last.memory_mb * growth / 1024:.1f} GiB of memory"
    calls = 3 if curve.task.axis not in (tasks.WORKERS, tasks.RUNS) else 1
    expected = calls * last.time.median * growth**STEEPER
    return f"{name}: would take about {expected:.0f} s more" if expected > left_s else ""


def _bound(curve: Curve, preset: str, step_s: float, steps: int, codes: int) -> None:
    """Say from when on a cost is the bottleneck."""
    task = curve.task
    if task.part in (tasks.QPM_DRAW, tasks.QUANTIZE) and task.axis == tasks.CODES:
        own = curve.at(codes)
        curve.bound_s = max(step_s - own, 0.0) if own else None
        curve.bound = f"half of a {preset} step"
    elif task.part == tasks.SCORING:
        curve.bound_s = steps * step_s / (NETWORKS * SCANS)
        curve.bound = f"scoring {SCANS} scans with {NETWORKS} networks takes as long as training {preset}"
    elif task.part == tasks.QUEUE:
        curve.bound_s, curve.bound = steps * step_s, f"claiming a cell takes as long as a {preset} run"
    elif task.part == tasks.TABLES:
        curve.bound_s, curve.bound = PATIENCE_S, "the tables take a minute"


def _rows(curves: list[Curve]) -> Iterator[Row]:
    for curve in curves:
        task, found = curve.task, curve.fit
        preset = f", {task.preset}" if task.part == tasks.STEP else ""
        notes = [_series(curve)]
        if found:
            notes.insert(0, f"{found.words()} over the last {found.points} points")
        if found and curve.bound_s:
            notes.append(_bottleneck(curve))
        notes += [curve.skipped] if curve.skipped else []
        yield Row(
            f"{task.part}{preset} / {task.axis}",
            "exponent",
            found.exponent if found else math.nan,
            note="; ".join(notes),
        )


def _series(curve: Curve) -> str:
    return ", ".join(
        f"{point.value:,}: {figure(1000 * point.time.median)} ms"
        + ("" if math.isnan(point.memory_mb) else f" {point.memory_mb:,.0f} MiB")
        for point in curve.points
    )


def _bottleneck(curve: Curve) -> str:
    value = curve.bottleneck
    if value is None:
        return f"{curve.bound}: never, as it grows"
    beyond = " (extrapolated)" if value > curve.points[-1].value else ""
    return f"{curve.bound} at {float(f'{value:.2g}'):,.0f}{beyond}"


def _plain(curves: list[Curve]) -> list[dict[str, Any]]:
    """Return the curves for JSON."""
    return [
        {
            "part": curve.task.part,
            "axis": curve.task.axis,
            "preset": curve.task.preset,
            "points": [
                {
                    "value": p.value,
                    **{f"{k}_s": v for k, v in p.time._asdict().items() if k != "repeats"},
                    "repeats": p.time.repeats,
                    "memory_mb": p.memory_mb,
                }
                for p in curve.points
            ],
            "fit": curve.fit._asdict() if curve.fit else None,
            "bottleneck": curve.bottleneck,
            "bottleneck_means": curve.bound,
            "left_out": curve.skipped,
        }
        for curve in curves
    ]
