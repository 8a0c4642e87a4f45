"""A study replayed through the real queue, with a fake clock: claims, leases, deaths and finishes happen, training not.

Every simulated worker has a `Queue` of its own on the study's journal and does what `vqseg.study.worker` does: claim,
work, finish; where nothing waits, sweep what the dead held and ask again. Only the clock is not real: the time of a
cell is given. A killed worker's lease is made old after `LEASE_SECONDS`, as if its host were gone; its cell goes on
from its last checkpoint in other hands, and a new worker takes its place.

Differs: the queue's own calls take no time on the fake clock. They are timed for real and told beside, so that the
same seed gives the same course of events on every machine.
"""

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqseg.study.queue import LEASE_SECONDS, Claim, Queue

GONE = {"host": "a host that is gone", "pid": 0, "born": 0.0, "time": 0.0}


class Attempt(NamedTuple):
    """One worker's time with one cell, on the fake clock."""

    worker: int
    cell: int
    begin: float
    end: float
    finished: bool


@dataclass
class Course:
    """How a study went: fake seconds, and the real ones of the queue's calls.

    ``kept_s`` is work that a finished run is made of, ``lost_s`` starts and what was done after the last checkpoint
    of a killed worker; ``failed`` are the cells that the queue gave up.
    """

    workers: int
    makespan_s: float = 0.0
    kept_s: float = 0.0
    lost_s: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    kills: int = 0
    claim_s: list[float] = field(default_factory=list)
    finish_s: list[float] = field(default_factory=list)

    @property
    def utilization(self) -> float:
        """Share of the devices' time, all held until the last cell ends, that went into what was kept."""
        return self.kept_s / (self.workers * self.makespan_s) if self.makespan_s else 0.0


@dataclass
class _Worker:
    """A place for a worker: its view of the queue, and what it has in hand since when."""

    queue: Queue
    claim: Claim | None = None
    begin: float = 0.0


def replay(
    folder: Path,
    seconds: Sequence[float],
    workers: int,
    *,
    start_s: float = 0.0,
    kill: float = 0.0,
    checkpoint_s: float = float("inf"),
    seed: int = 0,
) -> Course:
    """Replay a study of ``len(seconds)`` cells.

    Args:
        folder: for the study's journal; must be new.
        seconds: of work per cell, from its first step to its last row.
        workers: how many work at a time.
        start_s: between a claim and the first step, again at every attempt.
        kill: probability that a worker is killed in an attempt, at any moment of it alike.
        checkpoint_s: work between checkpoints.
        seed: of the deaths.

    Raises:
        ValueError: a number is out of its range.
    """
    if workers < 1 or not 0 <= kill < 1 or checkpoint_s <= 0 or min(seconds, default=1.0) <= 0:
        raise ValueError(f"workers {workers}, kill {kill}, checkpoint_s {checkpoint_s}: out of range")
    return _Replay(folder, seconds, workers, start_s, kill, checkpoint_s, seed).run()


class _Replay:
    """The events of one replay, in the order of the fake clock."""

    def __init__(
        self,
        folder: Path,
        seconds: Sequence[float],
        workers: int,
        start_s: float,
        kill: float,
        checkpoint_s: float,
        seed: int,
    ) -> None:
        self.seconds, self.start_s, self.kill, self.checkpoint_s = seconds, start_s, kill, checkpoint_s
        self.seed, self.course, self.clock = seed, Course(workers), 0.0
        self.done = [0.0] * len(seconds)  # work that is in a checkpoint
        self.tries = [0] * len(seconds)
        cells = [_cell(number) for number in range(len(seconds))]
        Queue(folder, folder.name).fill(cells, {}, set())
        self.workers = [_Worker(Queue(folder, folder.name)) for _ in range(workers)]
        self.idle: list[int] = []
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0

    def run(self) -> Course:
        """Let everything happen."""
        for number in range(len(self.workers)):
            self.after(0.0, lambda number=number: self.ask(number))  # type: ignore[misc]
        while self.events:
            self.clock, _, act = heapq.heappop(self.events)
            act()
        self.course.makespan_s = max((attempt.end for attempt in self.course.attempts), default=0.0)
        return self.course

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Let something happen later; of one moment, what was arranged first comes first."""
        self.count += 1
        heapq.heappush(self.events, (self.clock + seconds, self.count, act))

    def ask(self, number: int) -> None:
        """A worker wants a cell: the next that waits, or one that a dead worker held."""
        worker = self.workers[number]
        worker.claim = self.timed(self.course.claim_s, worker.queue.claim)
        if worker.claim is None and self.sweep(worker.queue):
            worker.claim = self.timed(self.course.claim_s, worker.queue.claim)
        if worker.claim is not None:
            self.begin(number, worker.claim)
        elif any(worker.queue.open_cells()):
            self.idle.append(number)  # somebody else may die over what is left

    def begin(self, number: int, claim: Claim) -> None:
        """A worker takes up a cell where its last checkpoint is; whether it is killed depends on cell and attempt."""
        cell, worker = claim.cell["seed"], self.workers[number]
        worker.begin, whole = self.clock, self.start_s + self.seconds[cell] - self.done[cell]
        draw = np.random.default_rng([self.seed, cell, self.tries[cell]])
        self.tries[cell] += 1
        dies, moment = draw.random() < self.kill, draw.random()
        self.after(whole * moment if dies else whole, lambda: self.die(number) if dies else self.finish(number))

    def finish(self, number: int) -> None:
        """A worker has ended its cell."""
        worker = self.workers[number]
        claim = self.end(worker, number, finished=True)
        cell = claim.cell["seed"]
        self.course.lost_s += self.start_s
        self.course.kept_s += self.seconds[cell] - self.done[cell]
        self.done[cell] = self.seconds[cell]
        self.timed(self.course.finish_s, lambda: worker.queue.finish(claim, 0.5))
        self.course.completed.append(cell)
        self.ask(number)

    def die(self, number: int) -> None:
        """A worker is killed: what its run had in a checkpoint stays, its place is taken at once."""
        worker = self.workers[number]
        claim = self.end(worker, number, finished=False)
        cell, spent = claim.cell["seed"], self.clock - worker.begin
        worked = self.done[cell] + max(spent - self.start_s, 0.0)
        # Nothing is in a checkpoint before the first one; without this, zero times infinity.
        whole = worked // self.checkpoint_s * self.checkpoint_s if worked >= self.checkpoint_s else 0.0
        kept = max(whole, self.done[cell])
        self.course.kept_s += kept - self.done[cell]
        self.course.lost_s += spent - (kept - self.done[cell])
        self.done[cell] = kept
        self.course.kills += 1
        self.after(LEASE_SECONDS, lambda: self.lapse(claim))
        self.after(0.0, lambda: self.ask(number))

    def lapse(self, claim: Claim) -> None:
        """A dead worker's lease is old: whoever has nothing to do finds its cell."""
        claim.trial.set_user_attr("lease", GONE)
        if self.idle:
            waiting, self.idle = self.idle, []
            for number in waiting:
                self.ask(number)

    def end(self, worker: _Worker, number: int, *, finished: bool) -> Claim:
        """A worker has nothing in hand any more; return what it had."""
        claim, worker.claim = worker.claim, None
        assert claim is not None
        cell = claim.cell["seed"]
        self.course.attempts.append(Attempt(number, cell, worker.begin, self.clock, finished))
        return claim

    def sweep(self, queue: Queue) -> bool:
        """Give back what dead workers held; return whether anything may wait now."""
        before = queue.open_cells()
        given_up = queue.sweep(lambda identity: int(self.done[int(identity)] or -1))
        self.course.failed += [cell["seed"] for cell, _ in given_up]
        return queue.open_cells()[0] > before[0]

    @staticmethod
    def timed(found: list[float], call: Callable[[], Any]) -> Any:
        """Return what a call returns, and note how long it really took."""
        since = time.perf_counter()
        value = call()
        found.append(time.perf_counter() - since)
        return value


def _cell(number: int) -> dict[str, Any]:
    return {"arm": "replayed", "seed": number, "identity": str(number), "name": f"replayed, seed {number}"}
