"""The queue: an Optuna study whose trials are cells, claimed one at a time under a lease.

Optuna's journal file hands each enqueued trial to one worker (plain SQLite under several processes does not, so it
is refused), but has no heartbeat: a lease, renewed by the worker and kept with the trial, tells a killed claim from a
slow one. A lease of this host whose process is gone is stale at once, any other when it was not renewed for
`LEASE_SECONDS`. Trials never come from a sampler: a trial without a cell is refused. The cells of a search are made
one by one (`vqseg.study.search`), and wait here like any other.

A trial ends COMPLETE when its cell is finished, PRUNED when a search gave it up, and then that cell never waits again.
FAIL says only that this claim is over: whether the cell itself failed stands in its run and its study
(`vqseg.study.standing`).
"""

import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from vqseg.errors import InputError
from vqseg.study.journal import KernelLock, alone

LEASE_SECONDS = 120.0
# A claim that has not yet written its lease is believed for this long.
UNLEASED_SECONDS = 20.0
# So many workers may die over one cell without its run getting any further; the next one would die too.
MAX_DEATHS = 3


@dataclass(frozen=True)
class Claim:
    """A cell in this process's hands."""

    trial: optuna.trial.Trial
    cell: dict[str, Any]

    def renew(self) -> None:
        """Say that the worker lives."""
        self.trial.set_user_attr("lease", lease())


class Queue:
    """The cells of one study.

    Raises:
        InputError: the storage cannot be used.
    """

    def __init__(self, folder: Path, name: str, storage: str | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder = folder
        try:
            place = _storage(folder, storage)
            self.study = optuna.create_study(study_name=name, storage=place, direction="maximize", load_if_exists=True)
        except (InputError, OSError):
            raise
        except Exception as error:  # every database driver raises its own
            reason = " ".join(str(error).split())[:200]
            where = storage or folder / "queue.journal"
            raise InputError(f"the queue in {where} cannot be used ({type(error).__name__}: {reason})") from None

    def fill(self, cells: list[dict[str, Any]], finished: dict[str, float], failed: set[str]) -> None:
        """Enqueue every cell that is not in hand, finished, pruned or ``failed``; note finished ones as complete."""
        open_states = {TrialState.WAITING, TrialState.RUNNING}
        with self._alone():
            known: dict[str, set[TrialState]] = {}
            for trial in self.study.get_trials(deepcopy=False):
                known.setdefault(trial.user_attrs.get("identity", ""), set()).add(trial.state)
            for cell in cells:
                identity = cell["identity"]
                states = known.get(identity, set())
                if states & open_states:
                    continue
                if identity in finished:
                    if TrialState.COMPLETE not in states:
                        self._add_finished(cell, finished[identity])
                elif identity not in failed and TrialState.PRUNED not in states:
                    self._enqueue(cell, deaths=0, reached=-1)

    def grow(self, make: Callable[[set[str]], dict[str, Any] | None]) -> bool:
        """Enqueue the cell that ``make`` makes, unless one waits; return whether one does.

        ``make`` is told the identities that were ever queued. Nobody else changes the queue meanwhile, so that no two
        workers make the same cell.
        """
        with self._alone():
            trials = self.study.get_trials(deepcopy=False)
            if any(trial.state == TrialState.WAITING for trial in trials):
                return True
            cell = make({trial.user_attrs.get("identity", "") for trial in trials})
            if cell is None:
                return False
            self._enqueue(cell, deaths=0, reached=-1)
            return True

    def sweep(self, step_of: Callable[[str], int], *, forgive: bool = False) -> list[tuple[dict[str, Any], str]]:
        """Give back what dead workers held. Safe to call from anywhere, any time.

        A death counts against a cell only if its run is no further than at the death before, so that work which is
        interrupted again and again goes on, and a run that kills its worker at the same place every time ends.

        Args:
            step_of: identity -> the step that its run has reached.
            forgive: do not count these deaths (a user who starts anew wants another try).

        Returns:
            (cell, error) of those that are given up.
        """
        given_up = []
        with self._alone():
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if not _stale(trial):
                    continue
                self.study.tell(trial.number, state=TrialState.FAIL)
                cell = trial.user_attrs.get("cell")
                if cell is None:  # made up by the sampler for a worker that died before it could refuse it
                    continue
                step, before = step_of(cell["identity"]), int(trial.user_attrs.get("reached", -1))
                deaths = 0 if forgive else 1 if step > before else int(trial.user_attrs.get("deaths", 0)) + 1
                if deaths < MAX_DEATHS:
                    self._enqueue(cell, deaths=deaths, reached=max(step, before))
                else:
                    place = f"at step {step}" if step >= 0 else "before its first step"
                    given_up.append(
                        (cell, f"{deaths} workers died over it {place} (killed from outside; out of memory?)")
                    )
        return given_up

    def claim(self) -> Claim | None:
        """Take the next waiting cell, or None if none waits."""
        with self._alone():
            if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                return None
            trial = self.study.ask()
            cell = trial.user_attrs.get("cell")
            if cell is None:  # a worker that does not see our guard took the last one: the sampler made this up
                self.study.tell(trial, state=TrialState.FAIL)
                return None
            claim = Claim(trial, cell)
            claim.renew()
            return claim

    def finish(self, claim: Claim, value: float) -> None:
        """Record a cell's validation Dice."""
        with self._alone():
            if self._ours(claim):
                self.study.tell(claim.trial, value)

    def prune(self, claim: Claim) -> None:
        """End a claim whose cell a search gave up."""
        with self._alone():
            if self._ours(claim):
                self.study.tell(claim.trial, state=TrialState.PRUNED)

    def drop(self, claim: Claim) -> None:
        """End a claim without a result and without another try: the cell failed, or is no longer asked for."""
        with self._alone():
            if self._ours(claim):
                self.study.tell(claim.trial, state=TrialState.FAIL)

    def release(self, claim: Claim) -> None:
        """Give a cell back, to be resumed later."""
        with self._alone():
            if self._ours(claim):
                attributes = claim.trial.user_attrs
                self.study.tell(claim.trial, state=TrialState.FAIL)
                self._enqueue(claim.cell, deaths=attributes.get("deaths", 0), reached=attributes.get("reached", -1))

    def open_cells(self) -> tuple[int, int]:
        """Return how many cells wait and how many are claimed."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING))
        waiting = sum(trial.state == TrialState.WAITING for trial in trials)
        return waiting, len(trials) - waiting

    def served(self, pid: int) -> bool:
        """Whether process ``pid`` of this host ever claimed a cell."""
        leases = [trial.user_attrs.get("lease") or {} for trial in self.study.get_trials(deepcopy=False)]
        return any(held.get("pid") == pid and held["host"] == socket.gethostname() for held in leases)

    def completed(self) -> list[str]:
        """Return the identity of every complete trial."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial.user_attrs["identity"] for trial in trials]

    def _enqueue(self, cell: dict[str, Any], *, deaths: int, reached: int) -> None:
        attributes = {"cell": cell, "identity": cell["identity"], "deaths": deaths, "reached": reached}
        self.study.enqueue_trial({"seed": cell["seed"]}, user_attrs=attributes)

    def _add_finished(self, cell: dict[str, Any], value: float) -> None:
        attributes = {"cell": cell, "identity": cell["identity"], "deaths": 0, "reached": -1}
        trial = optuna.trial.create_trial(state=TrialState.COMPLETE, value=value, user_attrs=attributes)
        self.study.add_trial(trial)

    def _ours(self, claim: Claim) -> bool:
        """Whether the claim still stands: a worker that slept past its lease may have lost the cell to another."""
        trial = self.study.get_trials(deepcopy=False)[claim.trial.number]
        return trial.state == TrialState.RUNNING

    def _alone(self) -> AbstractContextManager[None]:
        return alone(self._folder)


def lease() -> dict[str, Any]:
    """Return who holds a claim, and when that was last said."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "born": process.create_time(), "time": time.time()}


def _stale(trial: FrozenTrial) -> bool:
    held = trial.user_attrs.get("lease")
    if held is None:
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return time.time() - started > UNLEASED_SECONDS
    if held["host"] == socket.gethostname():
        try:
            process = psutil.Process(held["pid"])
            alive = abs(process.create_time() - held["born"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            alive = False
        return not alive
    return bool(time.time() - held["time"] > LEASE_SECONDS)


def _storage(folder: Path, storage: str | None) -> BaseStorage | str:
    if storage is not None and storage.startswith("sqlite"):
        raise InputError(
            f"--storage {storage}: SQLite hands one cell to two workers; leave the option out (a journal file)"
            " or give a PostgreSQL address"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if storage is not None and "://" in storage:
        return storage
    path = Path(storage) if storage else folder / "queue.journal"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = KernelLock(path)
    return JournalStorage(JournalFileBackend(str(path), lock))  # type: ignore[arg-type]
