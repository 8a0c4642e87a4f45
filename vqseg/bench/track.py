"""``vqseg bench track``: the share of training that goes into recording it.

A run of the preset `cpu` is trained as `vqseg train` does it, with a clock around everything that records:
metrics.csv, status.json, the meters (means and the codebook's histogram). Checkpoints count apart, as does the mirror,
a process of its own to which training hands nothing over: it reads the run folder.

Settings (``--set``): ``preset``, ``steps``.
"""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch

from vqseg import experiment, train
from vqseg.bench import machine
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row
from vqseg.bench.place import prepared
from vqseg.bench.timing import drain
from vqseg.config import load_config
from vqseg.meter import Meter
from vqseg.provenance import pick_precision
from vqseg.records.run import MetricsFile, RunFolder
from vqseg.records.sync import finish, start

QUICK = (
    "data.size_px=16",
    "network.encoder={name: unet, widths: [4, 8], dropout: [0.0, 0.0]}",
    "network.quantizer={name: mapped, num_codes: 16}",
    "train.labelled_batch=2",
    "train.unlabelled_batch=2",
    "method.warmup_steps=2",
    "method.ramp_steps=2",
)
RECORDING: dict[str, list[tuple[type, str]]] = {
    "metrics.csv": [(MetricsFile, "__init__"), (MetricsFile, "write")],
    "status.json": [(RunFolder, "create"), (RunFolder, "update")],
    "meters": [(Meter, "add"), (Meter, "flush")],
    "checkpoints": [(train.Trainer, "save")],
}


@dataclass
class Clock:
    """Seconds inside what is watched, by kind, outermost calls alone; nothing counts while it is not ``on``."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(RECORDING, 0.0))
    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RECORDING, 0))
    on: bool = False
    inside: bool = False

    def around(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` with a clock; a flush first waits for the steps before it, which is not recording."""

        @wraps(function)
        def timed(*given: Any, **named: Any) -> Any:
            if self.inside or not self.on:
                return function(*given, **named)
            if function.__name__ == "flush":
                drain(self.device)
            self.inside, since = True, time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self.seconds[kind] += time.perf_counter() - since
                self.calls[kind] += 1
                self.inside = False

        return timed


def measure(options: Options) -> Outcome:
    """Train, and tell what share of the loop's time recording took.

    Raises:
        InputError: an unknown setting or preset, or data that cannot be used.
    """
    options.require_known("preset", "steps")
    preset, steps = options.setting("preset", "cpu"), int(options.number("steps", 12 if options.quick else 300))
    pace = max(steps // 6, 1)  # a run of some hundred steps is validated and kept as often as one of 1,200
    changed = [f"train.steps={steps}", f"train.validate_steps={pace}", f"train.checkpoint_steps={3 * pace}"]
    config = load_config(preset, [*(QUICK if options.quick else ()), *changed])
    clock, loop = Clock(options.device), [0.0]
    with prepared(options) as (root, store):
        store.mkdir(parents=True)
        mirror = None if options.quick else start(store)
        with watched(clock), _timed_loop(clock, loop):
            plan = experiment.plan(config, root=root, split=None, store=store)
            experiment.run(plan, name="bench track", device=str(options.device), keep="none")
        mirrored = _cpu_of(mirror)
    settings = {"preset": preset, "steps": steps, "flush_steps": config.train.flush_steps, "data": root.name}
    precision = pick_precision(config.train.precision, options.device)
    described = machine.describe(options.device, precision)
    return Outcome("track", _rows(clock, loop[0], steps, mirrored), settings, described)


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Put the clock around everything that records until the block ends."""
    kept = [(owner, name, getattr(owner, name)) for pairs in RECORDING.values() for owner, name in pairs]
    for kind, pairs in RECORDING.items():
        for owner, name in pairs:
            setattr(owner, name, clock.around(kind, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


@contextmanager
def _timed_loop(clock: Clock, loop: list[float]) -> Iterator[None]:
    """Let the clock run during the training loop alone, and note in ``loop`` how long that is."""
    run = train.Trainer.run

    def timed(trainer: train.Trainer) -> None:
        clock.on, since = True, time.perf_counter()
        try:
            run(trainer)
        finally:
            drain(clock.device)
            clock.on = False
            loop[0] += time.perf_counter() - since

    train.Trainer.run = timed  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        train.Trainer.run = run  # type: ignore[method-assign]


def _cpu_of(mirror: Any) -> float | None:
    """Seconds of processor that the mirror's process took, once it is done."""
    if mirror is None:
        return None
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finish(mirror)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _rows(clock: Clock, loop_s: float, steps: int, mirrored: float | None) -> list[Row]:
    recorded = {kind: clock.seconds[kind] for kind in RECORDING if kind != "checkpoints"}
    rows = [
        Row("all that records, share of training", "%", 100 * sum(recorded.values()) / loop_s, target="<= 1 %"),
        *(
            Row(f"  {kind}", "%", 100 * spent / loop_s, note=f"{clock.calls[kind]} calls, {1000 * spent:.1f} ms")
            for kind, spent in recorded.items()
        ),
        Row("checkpoints, share of training", "%", 100 * clock.seconds["checkpoints"] / loop_s),
        Row("training, with validation: a step", "ms", 1000 * loop_s / steps),
    ]
    if mirrored is not None:
        note = "of processor, a process of its own at low priority; mostly its start"
        rows.append(Row("mirror of this run", "s", mirrored, note=note))
    return rows
