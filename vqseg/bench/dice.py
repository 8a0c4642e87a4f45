"""Time to Dice: how long a preset trains until the teacher's validation Dice first holds a target.

    vqseg bench time-to-dice --data ROOT --target 0.75:240,0.82:900 --threads 2 --set seeds=0,1,2

Held: a target is reached at the first validation at or above it whose next validation is at or above it too; the
last validation of the schedule needs no next one. So one lucky validation does not count, and resolution is ``every``.

What is trained is a run: the same plan, trainer and validation (Dice of the `scan` protocol on the native grid), the
schedule as long as the preset says, so that the learning rate is that of a run; only the end is cut off once every
target is held. Seconds are those of training, the device drained; beside them stand those with validation and start-up
(opening data and building the network; a local prior is trained before and counts nowhere).

Settings (``--set``), beside dotted keys of the preset (``train.steps=900``), which change it:

    targets   what --target says: Dice by comma, each with the seconds that it should take, if any: 0.75,0.82
    preset    name or YAML file: cpu
    seeds     by comma: 0,1,2
    split     of the data: the data's own
    every     steps between validations: 50
    limit_s   seconds of training after which what is not held counts as not reached: none
    wall_s    seconds after which this call stops, whatever is done: none

Curves lie in STORE/time-to-dice/runs/IDENTITY-MACHINE/metrics.csv, with a checkpoint while their schedule has not
ended: a call that was cut short (``wall_s``, a lease, a kill) goes on where it stopped, the same call again measures
nothing anew, a higher target trains on from where the lower one was held. Other code, settings, data, device or
threads are another curve.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vqseg import experiment
from vqseg.bench import machine
from vqseg.bench.curve import Curve, Point, Target, read_curve
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row
from vqseg.bench.place import prepared
from vqseg.bench.timing import drain
from vqseg.config import Config, load_config
from vqseg.errors import InputError
from vqseg.files import digest
from vqseg.plan import Plan, first_status, recorded_config
from vqseg.provenance import BITWISE, describe, pick_precision
from vqseg.records.run import MetricsFile, RunFolder
from vqseg.train import Diverged, Interrupted

SETTINGS = ("targets", "preset", "seeds", "split", "every", "limit_s", "wall_s")
QUICK = ("train.steps=8", "method.warmup_steps=4", "method.ramp_steps=0")


@dataclass(frozen=True)
class Asked:
    """What is measured: ``every`` steps between validations, ``limit_s`` and ``wall_s`` in seconds."""

    targets: tuple[Target, ...]
    seeds: tuple[int, ...]
    preset: str
    overrides: tuple[str, ...]
    split: str | None
    every: int
    limit_s: float
    wall_s: float


def measure(options: Options) -> Outcome:
    """Train each seed until every target is held, its schedule ends or a limit is reached.

    Raises:
        InputError: no data, an unknown setting, or one that cannot be read.
    """
    asked, started = read_settings(options), time.perf_counter()
    curves, config = {}, _config(asked, asked.seeds[0])
    if options.data is None and not options.quick:
        raise InputError("bench time-to-dice: say --data ROOT, a prepared folder with masks of the part val")
    with prepared(options) as (root, temporary):
        store = options.store or temporary
        for seed in asked.seeds:
            plan = experiment.plan(_config(asked, seed), root=root, split=asked.split, store=store)
            curves[seed] = curve_of(plan, options.device, asked, started + asked.wall_s)
    settings = {
        "data": root.name,
        "split": plan.split.name,
        "preset": asked.preset,
        "changed": " ".join(asked.overrides) or None,
        "steps": config.train.steps,
        "every": asked.every,
        "seeds": " ".join(map(str, asked.seeds)),
        "limit_s": asked.limit_s if math.isfinite(asked.limit_s) else None,
    }
    known = {name: value for name, value in settings.items() if value is not None}
    precision = pick_precision(config.train.precision, options.device)
    return Outcome("time-to-dice", rows(curves, asked), known, machine.describe(options.device, precision))


def read_settings(options: Options) -> Asked:
    """Read what the command line says.

    Raises:
        InputError: a setting that cannot be read, or one that is neither the bench's nor the preset's.
    """
    own = {name: value for name, value in options.extra.items() if "." not in name and name not in Config.model_fields}
    Options(extra=own).require_known(*SETTINGS)
    for name, instead in (("seed", "seeds"), ("train.validate_steps", "every")):
        if name in options.extra:
            raise InputError(f"--set {name}: this bench takes {instead}; say --set {instead}={options.extra[name]}")
    changed = [f"{name}={value}" for name, value in options.extra.items() if name not in SETTINGS]
    every = options.number("every", 4 if options.quick else 50)
    if every < 1 or every != int(every):
        raise InputError(f"--set every={every:g}: expected a whole number of steps, at least 1")
    seeds = options.setting("seeds", "0" if options.quick else "0,1,2").split(",")
    if not all(seed.strip().isdecimal() for seed in seeds):
        raise InputError(f"--set seeds={','.join(seeds)}: expected whole numbers by comma, such as 0,1,2")
    return Asked(
        targets=tuple(map(_target, options.setting("targets", "0" if options.quick else "0.75,0.82").split(","))),
        seeds=tuple(dict.fromkeys(int(seed) for seed in seeds)),
        preset=options.setting("preset", "smoke" if options.quick else "cpu"),
        overrides=(*(QUICK if options.quick else ()), *changed),
        split=options.extra.get("split"),
        every=int(every),
        limit_s=options.number("limit_s", math.inf),
        wall_s=options.number("wall_s", math.inf),
    )


def curve_of(plan: Plan, device: torch.device, asked: Asked, deadline: float) -> Curve:
    """Return a seed's curve, trained as far as is still needed before ``deadline`` (of `time.perf_counter`)."""
    provenance = describe(device, pick_precision(plan.config.train.precision, device))
    place = digest({name: provenance[name] for name in BITWISE})[:8]
    folder = RunFolder(plan.store / "time-to-dice", f"{plan.identity}-{place}")
    with folder.lock():
        if not folder.exists():
            name = f"time to Dice, seed {plan.config.seed}"
            folder.create(recorded_config(plan), first_status(plan, name, provenance))
        curve = read_curve(folder)
        if not curve.done(asked.targets, asked.limit_s) and time.perf_counter() < deadline:
            _train(plan, folder, device, lambda: read_curve(folder).done(asked.targets, asked.limit_s), deadline)
    return read_curve(folder)


def _train(plan: Plan, folder: RunFolder, device: torch.device, done: Callable[[], bool], deadline: float) -> None:
    """Train on, every validation written to the folder with the seconds so far."""
    experiment.check_parts(plan)
    experiment.require_data(plan)
    experiment.prepare_prior(plan, str(device))
    begin = time.perf_counter()
    precision = pick_precision(plan.config.train.precision, device)
    trainer = experiment.assemble(plan, folder.path / "checkpoint.pt", device, precision)
    trainer.resume()
    before = [point for point in read_curve(folder).points if point.step <= trainer.step]
    file = MetricsFile(folder.path / "metrics.csv", trainer.step)
    spent = {"validation": before[-1].validation_s if before else 0.0, "start": before[-1].start_s if before else 0.0}
    measured, stop = trainer.validate, []

    def validate(step: int) -> dict[str, float]:
        since = time.perf_counter()
        values = measured(step)
        drain(device)
        spent["validation"] += time.perf_counter() - since
        seconds = {"seconds/train": trainer.seconds, **{f"seconds/{name}": value for name, value in spent.items()}}
        return {**values, **seconds}

    def log(values: dict[str, float], step: int) -> None:
        file.write(values, step)
        if "seconds/train" in values and done():
            stop.append(step)

    trainer.validate, trainer.log = validate, log
    trainer.should_stop = lambda: bool(stop) or time.perf_counter() >= deadline
    spent["start"] += time.perf_counter() - begin
    folder.update(state="running", error=None)
    try:
        trainer.run()
    except Interrupted:
        folder.update(state="interrupted", step=trainer.step)
    except Diverged as error:
        folder.update(state="failed", step=trainer.step, error=str(error))
    except BaseException as error:
        folder.update(state="interrupted", step=trainer.step, error=type(error).__name__)
        raise
    else:
        folder.update(state="finished", step=trainer.step)


def rows(curves: dict[int, Curve], asked: Asked) -> list[Row]:
    """Return three rows per target, medians over seeds: seconds of training, seconds in all, steps."""
    found = []
    for target in asked.targets:
        held = {seed: curve.held(target.dice) for seed, curve in curves.items()}
        cut = [s for s, c in curves.items() if held[s] is None and not c.done(asked.targets, asked.limit_s)]
        goal = f"<= {target.goal_s:g} s" if target.goal_s is not None else None
        what = f"Dice {target.dice:g}"
        kinds: tuple[tuple[str, str, str | None, Callable[[Point], float]], ...] = (
            ("training", "s", goal, lambda point: point.train_s),
            ("with validation and start-up", "s", None, lambda point: point.all_s),
            ("steps", "steps", None, lambda point: point.step),
        )
        for kind, unit, wanted, read in kinds:
            values = [math.inf if point is None else read(point) for s, point in held.items() if s not in cut]
            ours = statistics.median(values) if values and not cut else math.nan
            found.append(Row(f"{what}: {kind}", unit, ours, target=wanted, note=_note(values, cut)))
    return [*found, *_ends(curves)]


def _note(values: list[float], cut: list[int]) -> str:
    """Tell the range, and what is not known yet."""
    missed = sum(map(math.isinf, values))
    reached = sorted(value for value in values if not math.isinf(value))
    parts = [f"{reached[0]:,.0f} to {reached[-1]:,.0f} over seeds"] if reached else []
    parts += [f"not reached by {missed} of {len(values) + len(cut)} seeds"] if missed else []
    parts += [f"cut short: seed {', '.join(map(str, cut))}; the same call goes on"] if cut else []
    return "; ".join(parts)


def _ends(curves: dict[int, Curve]) -> list[Row]:
    """Return what a step took, with where each seed's curve ends beside it."""
    ends = {seed: curve.points[-1] for seed, curve in curves.items() if curve.points}
    if not ends:
        return []
    told = [f"seed {s}: {p.dice:.3f} at {p.step} (reach {p.reach:.3f})" for s, p in ends.items()]
    step_ms = statistics.median(1000 * point.train_s / point.step for point in ends.values())
    return [Row("one step", "ms", step_ms, note=f"Dice where measuring ended: {'; '.join(told)}")]


def _config(asked: Asked, seed: int) -> Config:
    steps = f"={asked.every}"
    watched = [f"train.{name}_steps{steps}" for name in ("validate", "flush", "checkpoint")]
    return load_config(asked.preset, [*asked.overrides, *watched, f"seed={seed}"])


def _target(text: str) -> Target:
    dice, _, goal = text.partition(":")
    try:
        found = Target(float(dice), float(goal) if goal else None)
    except ValueError:
        found = Target(math.nan)
    if not 0 <= found.dice < 1 or (found.goal_s is not None and not found.goal_s > 0):
        raise InputError(f"--set targets: {text!r}: expected a Dice below 1, or Dice:SECONDS, such as 0.75:240")
    return found
