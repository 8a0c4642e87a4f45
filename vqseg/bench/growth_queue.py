"""The study's queue under load, for real: N processes claim and finish cells without work, all at the same moment.

What it shows is the most that a study's bookkeeping can cost: real workers come to the queue once per cell, minutes
to hours apart, these come again and again. On a local disk; a network file system adds its own locks.
"""

import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

WAIT_S = 120.0


class Load(NamedTuple):
    """Real seconds: of all cells from the first claim on, and of single calls (the claims that found none left out)."""

    workers: int
    cells: int
    wall_s: float
    claim_s: list[float]
    finish_s: list[float]

    @property
    def per_cell_s(self) -> float:
        """Median time that a worker spends in the queue for one cell."""
        return statistics.median(self.claim_s) + statistics.median(self.finish_s)


def load(folder: Path, workers: int, cells: int = 100) -> Load:
    """Let ``workers`` processes empty a queue of ``cells`` in a new ``folder``.

    Raises:
        RuntimeError: a cell was handed out twice or not at all, or a process did not answer.
    """
    from vqseg.study.queue import Queue

    Queue(folder, folder.name).fill([_cell(number) for number in range(cells)], {}, set())
    # From a server without torch and its threads: cheap children, and none that a fork could leave hanging.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vqseg.study.queue"])
    gate, answers = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=_work, args=(folder, gate, answers), daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    try:
        found = [answers.get(timeout=WAIT_S) for _ in processes]
    except Exception:
        raise RuntimeError(f"{workers} processes on one queue: one did not answer in {WAIT_S:.0f} s") from None
    finally:
        for process in processes:
            process.join(1.0)
            process.kill()
    taken = sorted(cell for _, _, own, _, _ in found for cell in own)
    if taken != list(range(cells)):
        raise RuntimeError(f"{workers} processes on one queue: {len(taken)} claims of {cells} cells")
    wall = max(end for *_, end in found) - min(begin for *_, begin, _ in found)
    claims, finishes = ([second for each in found for second in each[place]] for place in (0, 1))
    return Load(workers, cells, wall, claims, finishes)


def _work(folder: Path, gate: Any, answers: Any) -> None:
    from vqseg.study.queue import Queue

    queue = Queue(folder, folder.name)
    claims: list[float] = []
    finishes: list[float] = []
    cells: list[int] = []
    gate.wait(WAIT_S)
    begin = time.monotonic()
    while True:
        since = time.perf_counter()
        claim = queue.claim()
        if claim is None:
            break
        claimed = time.perf_counter()
        queue.finish(claim, 0.5)
        claims.append(claimed - since)
        finishes.append(time.perf_counter() - claimed)
        cells.append(claim.cell["seed"])
    answers.put((claims, finishes, cells, begin, time.monotonic()))


def _cell(number: int) -> dict[str, Any]:
    return {"arm": "empty", "seed": number, "identity": str(number), "name": f"empty, seed {number}"}
