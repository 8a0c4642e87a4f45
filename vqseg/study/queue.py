"""The queue: an Optuna study whose trials are cells, claimed one at a time under a lease.

Optuna's journal file hands each enqueued trial to one worker (plain SQLite under several processes does not, so it
is refused), but has no heartbeat: a lease, renewed by the worker and kept with the trial, tells a killed claim from a
slow one. A lease of this host whose process is gone is stale at once, any other when it was not renewed for
`LEASE_SECONDS`. Trials never come from a sampler: a trial without a cell is refused.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from vqseg.errors import InputError

LEASE_SECONDS = 120.0
# A claim that has not yet written its lease is believed for this long.
UNLEASED_SECONDS = 20.0
# How long a writer that died with the journal's lock in hand holds everybody up.
GRACE_SECONDS = 10
MAX_ATTEMPTS = 3


@dataclass
class Claim:
    """A cell in this process's hands."""

    trial: optuna.trial.Trial
    cell: dict[str, Any]
    attempts: int

    def renew(self) -> None:
        """Say that the worker lives."""
        self.trial.set_user_attr("lease", lease())


class Queue:
    """The cells of one study."""

    def __init__(self, folder: Path, name: str, storage: str | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._guard = folder / "sweep.lock"
        self.study = optuna.create_study(
            study_name=name, storage=_storage(folder, storage), direction="maximize", load_if_exists=True
        )

    def fill(self, cells: list[dict[str, Any]], finished: dict[str, float], retry_failed: bool) -> None:
        """Enqueue every cell that has no trial yet; record finished ones as complete without running them."""
        with self._alone():
            known: dict[str, list[FrozenTrial]] = {}
            for trial in self.study.get_trials(deepcopy=False):
                known.setdefault(trial.user_attrs.get("identity", ""), []).append(trial)
            for cell in cells:
                trials = known.get(cell["identity"], [])
                states = {trial.state for trial in trials}
                if cell["identity"] in finished:
                    if not states & {TrialState.COMPLETE, TrialState.WAITING, TrialState.RUNNING}:
                        self._add_finished(cell, finished[cell["identity"]])
                elif states & {TrialState.WAITING, TrialState.RUNNING}:
                    continue
                elif not trials or retry_failed or not _failed(trials):
                    self._enqueue(cell, 0)

    def sweep(self) -> list[str]:
        """Give back what dead workers held; return the names of those cells. Safe to call from anywhere, any time."""
        returned = []
        with self._alone():
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if not _stale(trial):
                    continue
                cell, attempts = trial.user_attrs["cell"], int(trial.user_attrs["attempts"]) + 1
                last = attempts >= MAX_ATTEMPTS
                error = f"its worker died {attempts} times (out of memory?)" if last else None
                self.study.tell(trial.number, state=TrialState.FAIL)
                if error:
                    self.study._storage.set_study_user_attr(
                        self.study._study_id, f"error:{cell['identity']}", error
                    )
                else:
                    self._enqueue(cell, attempts)
                returned.append(str(cell["name"]))
        return returned

    def claim(self) -> Claim | None:
        """Take the next waiting cell, or None if none waits."""
        while self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial = self.study.ask()
            cell = trial.user_attrs.get("cell")
            if cell is None:  # another worker took the last one between the two lines: the sampler made this up
                self.study.tell(trial, state=TrialState.FAIL)
                return None
            claim = Claim(trial, cell, int(trial.user_attrs["attempts"]))
            claim.renew()
            return claim
        return None

    def finish(self, claim: Claim, value: float) -> None:
        """Record a cell's validation Dice."""
        self.study.tell(claim.trial, value)

    def fail(self, claim: Claim, error: str) -> None:
        """Record a cell that failed; it is not tried again unless asked for."""
        claim.trial.set_user_attr("error", error)
        self.study.tell(claim.trial, state=TrialState.FAIL)

    def release(self, claim: Claim) -> None:
        """Give a cell back, to be resumed later."""
        self.study.tell(claim.trial, state=TrialState.FAIL)
        self._enqueue(claim.cell, claim.attempts)

    def open_cells(self) -> tuple[int, int]:
        """Return how many cells wait and how many are claimed."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING))
        waiting = sum(trial.state == TrialState.WAITING for trial in trials)
        return waiting, len(trials) - waiting

    def _enqueue(self, cell: dict[str, Any], attempts: int) -> None:
        attributes = {"cell": cell, "identity": cell["identity"], "attempts": attempts}
        self.study.enqueue_trial({"seed": cell["seed"]}, user_attrs=attributes)

    def _add_finished(self, cell: dict[str, Any], value: float) -> None:
        attributes = {"cell": cell, "identity": cell["identity"], "attempts": 0}
        trial = optuna.trial.create_trial(state=TrialState.COMPLETE, value=value, user_attrs=attributes)
        self.study.add_trial(trial)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._guard.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def lease() -> dict[str, Any]:
    """Return who holds a claim, and when that was last said."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "born": process.create_time(), "time": time.time()}


def _stale(trial: FrozenTrial) -> bool:
    held = trial.user_attrs.get("lease")
    if held is None:
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return "cell" in trial.user_attrs and time.time() - started > UNLEASED_SECONDS
    if held["host"] == socket.gethostname():
        try:
            process = psutil.Process(held["pid"])
            alive = abs(process.create_time() - held["born"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            alive = False
        return not alive
    return bool(time.time() - held["time"] > LEASE_SECONDS)


def _failed(trials: list[FrozenTrial]) -> bool:
    """Whether the cell's last trial failed for a reason of its own (a killed or released one says none)."""
    return "error" in trials[-1].user_attrs


def _storage(folder: Path, storage: str | None) -> BaseStorage | str:
    if storage is None:
        folder.mkdir(parents=True, exist_ok=True)
        path = str(folder / "queue.journal")
        return JournalStorage(JournalFileBackend(path, JournalFileSymlinkLock(path, grace_period=GRACE_SECONDS)))
    if storage.startswith("sqlite"):
        raise InputError(
            f"--storage {storage}: SQLite hands one cell to two workers; leave the option out (a journal file)"
            " or give a PostgreSQL address"
        )
    if "://" not in storage:
        os.makedirs(Path(storage).parent, exist_ok=True)
        return JournalStorage(JournalFileBackend(storage))
    return storage
