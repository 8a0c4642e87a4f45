"""Scores the cells of a study, several at a time: each worker is a process that scores one cell after another.

``python -m vqseg.study.evaluation`` is such a process: it reads an identity per line and answers with a line of JSON.
A cell's rows lie in its own run folder, so they do not depend on who scores it, or when. A cell that cannot be scored,
or whose process dies over it, is told at the end; the others are scored. Stopped, a cell in hand stays as it was,
or counted and ``unfinished`` (`vqseg.records.run.RunFolder.counted`).
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vqseg import experiment
from vqseg.errors import InputError
from vqseg.processes import as_interrupt, module_command
from vqseg.records.run import RunFolder

STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Task:
    """What every cell is scored on, and how; the arguments of `vqseg.experiment.evaluate`."""

    store: str
    part: str
    protocols: list[str] | None = None
    device: str = "cpu"
    allow_code: bool = False


def score_cells(
    identities: Sequence[str], task: Task, *, workers: int = 1, on_cell: Callable[[], object] = lambda: None
) -> dict[str, str]:
    """Score cells; return identity -> error, in the order given, of those that could not be scored.

    Args:
        identities: of finished runs.
        task: how.
        workers: processes; with one, this process scores.
        on_cell: called whenever a cell is done, from any thread.

    Raises:
        KeyboardInterrupt: stopped; what was scored until then is recorded.
    """
    workers = min(workers, len(identities))
    if workers <= 1:
        found = {identity: _score(identity, task, on_cell) for identity in identities}
    else:
        found = _apart(identities, task, workers, on_cell)
    return {identity: error for identity, error in found.items() if error is not None}


def _apart(identities: Sequence[str], task: Task, workers: int, on_cell: Callable[[], object]) -> dict[str, str | None]:
    idle: queue.SimpleQueue[_Scorer] = queue.SimpleQueue()
    scorers = [_Scorer(task, max((os.cpu_count() or 1) // workers, 1)) for _ in range(workers)]
    for scorer in scorers:
        idle.put(scorer)

    def score(identity: str) -> str | None:
        scorer = idle.get()
        try:
            return scorer.score(identity)
        finally:
            idle.put(scorer)
            on_cell()

    handler = signal.signal(signal.SIGTERM, as_interrupt)
    pool = ThreadPoolExecutor(workers)
    try:
        return dict(zip(identities, pool.map(score, identities), strict=True))
    finally:
        # First the cells that wait, then the processes, or a thread would take the next cell to a new one.
        pool.shutdown(wait=False, cancel_futures=True)
        for scorer in scorers:
            scorer.stop()
        pool.shutdown()
        signal.signal(signal.SIGTERM, handler)


class _Scorer:
    """One process that scores cells, started again where it died."""

    def __init__(self, task: Task, threads: int) -> None:
        self.task, self.threads, self.stopped = task, threads, False
        self.process: subprocess.Popen[str] | None = None
        self.starting = threading.Lock()  # or a stop could miss a process that is just being started

    def score(self, identity: str) -> str | None:
        """Score one cell; return the error, None if it is scored."""
        with self.starting:
            if self.stopped:
                return "stopped"
            if self.process is None or self.process.poll() is not None:
                self.process = self._start()
            process = self.process
        answer = ""
        with suppress(BrokenPipeError):
            assert process.stdin is not None
            assert process.stdout is not None
            print(identity, file=process.stdin, flush=True)
            answer = process.stdout.readline()
        if not answer:
            return f"its process died with status {process.wait()} (killed from outside; out of memory?)"
        error: str | None = json.loads(answer)
        return error

    def stop(self) -> None:
        """End the process: at once, if it has a cell in hand."""
        with self.starting:
            self.stopped = True
            process = self.process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> "subprocess.Popen[str]":
        command = [*module_command("vqseg.study.evaluation"), json.dumps(asdict(self.task))]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        # A session of its own: Ctrl-C reaches the parent alone, which then stops the others in order.
        return subprocess.Popen(
            [*command, str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )


def _score(identity: str, task: Task, on_cell: Callable[[], object] = lambda: None) -> str | None:
    """Score one cell in this process; return the error, None if it is scored."""
    folder = RunFolder(Path(task.store), identity)
    options = {"part": task.part, "protocols": task.protocols, "device": task.device, "allow_code": task.allow_code}
    try:
        experiment.evaluate(folder, **options)  # type: ignore[arg-type]
    except InputError as error:
        return str(error)
    except Exception as error:  # one cell's failure is told; the others are scored
        return " ".join(f"{type(error).__name__}: {error}".split())[:500]
    finally:
        on_cell()
    return None


def main() -> int:
    """Answer until the parent closes the pipe; return the exit status."""
    signal.signal(signal.SIGTERM, as_interrupt)  # so that what is half-written is taken away
    import torch

    torch.set_num_threads(int(sys.argv[2]))
    task = Task(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
    try:
        for line in sys.stdin:
            print(json.dumps(_score(line.strip(), task)), file=answers, flush=True)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
