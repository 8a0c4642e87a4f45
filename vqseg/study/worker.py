"""A worker process: claims cells and runs them until none is left. ``python -m vqseg.study.worker --help``.

It stops at the next step when it is told to (SIGTERM, SIGINT) or when the process that started it is gone;
the cell in hand is checkpointed and given back.
"""

import argparse
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from vqseg.errors import InputError
from vqseg.experiment import Plan, Pruned, run
from vqseg.records.run import RunFolder, now
from vqseg.study import search
from vqseg.study.cells import StudyFolder, plan_cell
from vqseg.study.queue import LEASE_SECONDS, Claim, Queue
from vqseg.study.standing import forgive_failures, give_back, note_failure
from vqseg.train import Interrupted

WAIT_SECONDS = 0.5
# What fails every cell alike is no cell's failure: the worker ends with this status, and the study with it.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


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
    parser.add_argument("--parent", type=int, required=True, help="process to live as long as")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", default="all")
    parser.add_argument("--storage")
    parser.add_argument("--allow-code", action="store_true")
    arguments = parser.parse_args()
    stop = Stop(arguments.parent)
    import torch  # after the signals are caught: it takes seconds

    torch.set_num_threads(arguments.threads)
    folder = StudyFolder(arguments.store, arguments.study)
    queue = Queue(folder.path, folder.name, arguments.storage)
    grows, propose = bool(folder.read().get("search")), partial(search.propose, folder, allow_code=arguments.allow_code)
    while not stop():
        claim = queue.claim()
        if claim is not None:
            _work(queue, claim, folder, arguments, stop)
            continue
        give_back(queue, folder)
        if grows and queue.grow(propose):
            continue
        if not any(queue.open_cells()):
            break
        time.sleep(WAIT_SECONDS)  # somebody else may die over what is left
    return 0


def _work(queue: Queue, claim: Claim, folder: StudyFolder, arguments: argparse.Namespace, stop: Stop) -> None:
    """Run one cell and end its claim."""
    _say(claim, "starts")
    try:
        with _leased(claim):
            end = _attempt(queue, claim, folder, arguments, stop)
    except OSError as error:
        if error.errno in NO_SPACE:
            with suppress(OSError):
                forgive_failures(folder, [claim.cell])
                queue.release(claim)
            _say(claim, f"stopped: {error.strerror}")
            sys.exit(error.errno)
        raise
    end()


def _attempt(
    queue: Queue, claim: Claim, folder: StudyFolder, arguments: argparse.Namespace, stop: Stop
) -> Callable[[], None]:
    """Run one cell; return how its claim ends."""
    if search.gave_up(folder, claim.cell["identity"]):  # by a worker that died before it could say so
        return partial(queue.prune, claim)
    try:
        record = folder.read()
        planned = plan_cell(record, arguments.store, claim.cell, allow_code=arguments.allow_code)
        if planned.identity != claim.cell["identity"]:
            _say(claim, "left out: code, data or settings changed since it was queued")
            return partial(queue.drop, claim)
        judge = search.judge(folder, claim.cell, planned) if record.get("search") else _carry_on
        value = float(_run(planned, claim, arguments, stop, judge).status()["validation"]["last"]["teacher"])
    except Interrupted as error:
        _say(claim, str(error))
        return partial(queue.release, claim)
    except Pruned as error:
        _say(claim, f"pruned: {error}")
        return partial(queue.prune, claim)
    except Exception as error:  # a failed cell is a row with its error; the study goes on
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        if not isinstance(error, InputError):
            traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        note_failure(folder, claim.cell, text)
        _say(claim, f"failed: {text}")
        return partial(queue.drop, claim)
    _say(claim, f"finished, validation Dice {value:.4f}")
    return partial(queue.finish, claim, value)


def _carry_on(dice: float, step: int) -> None:
    """Judge no validation: what is no search trains every cell to its end."""


def _run(
    planned: Plan, claim: Claim, arguments: argparse.Namespace, stop: Stop, judge: Callable[[float, int], None]
) -> RunFolder:
    """Train, after any other process that is at the same run (for another study, or about to stop)."""
    while True:
        while planned.folder.exists() and planned.folder.locked():
            if stop():
                raise Interrupted("stopped while another process trains this run")
            time.sleep(WAIT_SECONDS)
        try:
            name, keep = claim.cell["name"], arguments.keep
            return run(planned, name=name, device=arguments.device, keep=keep, should_stop=stop, on_validation=judge)
        except InputError:
            if not planned.folder.locked():  # otherwise somebody was faster
                raise


@contextmanager
def _leased(claim: Claim) -> Iterator[None]:
    """Renew the lease now and then until the block ends."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE_SECONDS / 4):
            try:
                claim.renew()
            except Exception as error:  # the storage may be away for a while; training goes on
                _say(claim, f"lease not renewed: {error}")

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _say(claim: Claim, text: str) -> None:
    print(f"{now()} {claim.cell['name']}: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
