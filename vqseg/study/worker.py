"""A worker process: claims cells and runs them until none is left. ``python -m vqseg.study.worker --help``.

It stops at the next step when it is told to (SIGTERM, SIGINT) or when the process that started it is gone;
the cell in hand is checkpointed and given back.
"""

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

from vqseg.errors import InputError
from vqseg.records.run import RunFolder, now
from vqseg.study.cells import StudyFolder, plan_cell
from vqseg.study.queue import LEASE_SECONDS, Claim, Queue


class Stop:
    """True once the worker shall stop."""

    def __init__(self, parent: int) -> None:
        self.asked, self.parent = False, parent
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def __call__(self) -> bool:
        """Whether to stop at the next step."""
        return self.asked or os.getppid() != self.parent


def main() -> int:
    """Work; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--study", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", default="last")
    parser.add_argument("--storage")
    arguments = parser.parse_args()
    stop = Stop(os.getppid())
    import torch

    torch.set_num_threads(arguments.threads)
    folder = StudyFolder(arguments.store, arguments.study)
    queue = Queue(folder.path, folder.name, arguments.storage)
    while not stop():
        claim = queue.claim()
        if claim is None:
            queue.sweep()
            waiting, claimed = queue.open_cells()
            if not waiting and not claimed:
                return 0
            if not waiting:
                time.sleep(1)
            continue
        _work(queue, claim, folder, arguments, stop)
    return 0


def _work(queue: Queue, claim: Claim, folder: StudyFolder, arguments: argparse.Namespace, stop: Stop) -> None:
    from vqseg import experiment
    from vqseg.train import Interrupted

    done = threading.Event()
    threading.Thread(target=_renew, args=(claim, done), daemon=True).start()
    print(f"{now()} {claim.cell['name']}: starts", flush=True)
    try:
        planned = plan_cell(folder.read(), arguments.store, claim.cell)
        _wait_for(planned.folder, stop)
        run = experiment.run(
            planned, name=claim.cell["name"], device=arguments.device, keep=arguments.keep, should_stop=stop
        )
        value = run.status()["validation"]["last"]["teacher"]
    except Interrupted as error:
        print(f"{now()} {claim.cell['name']}: {error}", flush=True)
        done.set()
        queue.release(claim)
    except Exception as error:  # a failed cell is a row with its error; the study goes on
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        print(f"{now()} {claim.cell['name']}: failed: {text}", flush=True)
        if not isinstance(error, InputError):
            import traceback

            traceback.print_exc()
        done.set()
        queue.fail(claim, text)
    else:
        done.set()
        queue.finish(claim, value)
        print(f"{now()} {claim.cell['name']}: finished, validation Dice {value:.4f}", flush=True)


def _wait_for(run: RunFolder, stop: Stop) -> None:
    """Let another process that is at the same run (of another study, or about to stop) end first."""
    while run.exists() and run.locked() and not stop():
        time.sleep(0.5)


def _renew(claim: Claim, done: threading.Event) -> None:
    while not done.wait(LEASE_SECONDS / 4):
        claim.renew()


if __name__ == "__main__":
    sys.exit(main())
