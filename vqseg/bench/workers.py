"""``vqseg bench workers``: what several one-thread workers do beside one worker with as many threads.

Workers are processes that train real steps of a preset, as a study's workers do, up to the end of a timed round; they
are started once, wait for each other, and every round lets either the one-thread workers or the other one train the
same number of steps. Told as seconds of training per run of the preset; limit is one one-thread worker alone divided
by the workers, as if they took nothing from each other. The time from a worker's start to its first step stands apart.

Settings (``--set``): ``preset``, ``steps`` (of a round). On a card every worker has one thread and the same card.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vqseg import experiment
from vqseg.bench import machine
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row
from vqseg.bench.place import prepared
from vqseg.bench.timing import drain
from vqseg.bench.track import QUICK
from vqseg.config import load_config
from vqseg.processes import module_command
from vqseg.provenance import pick_precision
from vqseg.train import Interrupted

# Steps before the first round: caches fill, and the semi-supervised part of the schedule is reached at once.
WARMUP = 3


class Worker:
    """A process that trains a round of steps whenever it is told to."""

    def __init__(self, asked: dict[str, Any], threads: int) -> None:
        began = time.perf_counter()
        command = [*module_command("vqseg.bench.workers"), json.dumps(asked), str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()
        self.start_s = time.perf_counter() - began

    def round(self) -> float:
        """Train one round; return its seconds."""
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker of the bench ended with status {self.process.wait()}; see its error above")
        return float(line)

    def end(self) -> None:
        """Let the process end."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def measure(options: Options) -> Outcome:
    """Time rounds of steps, several workers and one in turn.

    Raises:
        InputError: an unknown setting or preset, or data that cannot be used.
    """
    options.require_known("preset", "steps")
    preset, steps = options.setting("preset", "cpu"), int(options.number("steps", 2 if options.quick else 20))
    overrides = [*(QUICK if options.quick else ()), "method.warmup_steps=0", "method.ramp_steps=0"]
    config = load_config(preset, overrides)
    planned_steps, count = load_config(preset).train.steps, options.workers
    on_card = options.device.type == "cuda"
    with prepared(options) as (root, store):
        asked = {"preset": preset, "overrides": overrides, "root": str(root), "store": str(store), "steps": steps}
        asked |= {"device": str(options.device)}
        experiment.require_data(experiment.plan(config, root=root, split=None, store=store))
        times, starts = _rounds(asked, count, 1 if on_card else count, 1 if options.quick else options.repeats)
    per_run = {name: planned_steps / steps * seconds for name, seconds in times.items()}
    one = "one worker" if on_card else f"one worker of {count} threads"
    hourly = ", ".join(f"{each}: {3600 / per_run[key]:.2f}" for key, each in (("many", "ours"), ("one", one)))
    rows = [
        Row(
            f"{count} one-thread workers: a run of {planned_steps} steps",
            "s",
            per_run["many"],
            per_run["one"],
            per_run["alone"] / count,
            None if on_card else ">= 1.2 x naive",
            f"training alone; naive is {one}; runs per hour: {hourly}",
        ),
        Row("start of a worker, up to its first steps", "s", starts, note=f"{count} at once; {WARMUP} steps in it"),
    ]
    settings = {"preset": preset, "workers": count, "steps per round": steps, "data": root.name}
    settings |= {"repeats": options.repeats}
    precision = pick_precision(config.train.precision, options.device)
    return Outcome("workers", rows, settings, machine.describe(options.device, precision))


def _rounds(asked: dict[str, Any], count: int, threads: int, repeats: int) -> tuple[dict[str, float], float]:
    """Seconds of a round divided by the runs that it serves, medians, and seconds of start-up."""
    with ThreadPoolExecutor(count) as pool:
        many = list(pool.map(lambda _: Worker(asked, 1), range(count)))
        one = Worker(asked, threads) if threads > 1 else many[0]
        found: dict[str, list[float]] = {"many": [], "one": [], "alone": []}
        try:
            for _ in range(repeats):
                together = list(pool.map(Worker.round, many))
                found["many"].append(1 / sum(1 / each for each in together))
                found["one"].append(one.round())
                found["alone"].append(many[0].round())
        finally:
            for worker in {*many, one}:
                worker.end()
    return {name: statistics.median(values) for name, values in found.items()}, max(w.start_s for w in many)


def _train(asked: dict[str, Any]) -> None:
    """Be a worker: say when it is ready, train a round at every word that comes, end with the pipe."""
    asked = {**asked, "root": Path(asked["root"]), "store": Path(asked["store"]) / str(os.getpid())}
    long = ["train.steps=1000000", "train.validate_steps=1000000", "train.checkpoint_steps=1000000"]
    config = load_config(asked["preset"], [*asked["overrides"], *long])
    plan = experiment.plan(config, root=asked["root"], split=None, store=asked["store"])
    until, since, over = WARMUP, time.perf_counter(), []

    def on_progress(step: int, _: int) -> None:
        nonlocal until, since
        if step < until:
            return
        drain(asked["device"])
        print(time.perf_counter() - since, flush=True)
        if not sys.stdin.readline():
            over.append(step)
        until, since = step + asked["steps"], time.perf_counter()

    try:
        experiment.run(
            plan, name="bench", device=asked["device"], should_stop=lambda: bool(over), on_progress=on_progress
        )
    except (Interrupted, BrokenPipeError):
        return


def main() -> int:
    """Read what to train and with how many threads, and be a worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("asked", help="JSON: preset, overrides, root, store, steps, device")
    parser.add_argument("threads", type=int)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    _train(json.loads(given.asked))
    return 0


if __name__ == "__main__":
    sys.exit(main())
