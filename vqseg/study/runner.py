"""Runs a study: fills the queue, starts workers and the mirror's process, watches, and stops all of them cleanly.

The record of a search grows while it runs: what is watched is then the record as it stands.
"""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqseg.errors import InputError
from vqseg.parts import code_in
from vqseg.processes import as_interrupt, module_command
from vqseg.records import sync
from vqseg.study import search, standing
from vqseg.study.cells import StudyFolder, write
from vqseg.study.queue import Queue

POLL_SECONDS = 0.5
# A worker may be in the middle of scoring, where it cannot stop.
STOP_SECONDS = 120.0
# So many workers per wanted one may end badly before they claim anything; then something is wrong with all of them.
MAX_FALSE_STARTS = 3

Watch = Callable[[list[dict[str, Any]]], None]


@dataclass
class Settings:
    """How to run."""

    workers: int = 1
    device: str = "cpu"
    keep: str = "all"
    storage: str | None = None
    tracking: str | None = None
    retry_failed: bool = False
    mirror: bool = True
    allow_code: bool = False
    budget: int | None = None


def run_study(folder: StudyFolder, record: dict[str, Any], settings: Settings, watch: Watch) -> dict[str, str]:
    """Run every cell that is neither finished nor failed, and a search's trials to come; return identity -> state.

    ``watch`` is called about twice a second with one row per cell (see `vqseg.study.standing.progress`).

    Raises:
        InputError: the storage cannot be used, the workers cannot start, there is a budget for what is no search, or a
            search cannot be, or finds nothing new.
        OSError: the disk is full.
        KeyboardInterrupt: stopped; the cells in hand were checkpointed first.
    """
    queue = Queue(folder.path, folder.name, settings.storage)
    settings.allow_code = bool(code_in(record))  # all of it was typed, or admitted by `cells.prepare`
    record = _written(folder, record, settings)
    _fill(queue, folder, record, settings.retry_failed)
    if not (sum(queue.open_cells()) + search.left(record)):
        return standing.states(folder, record)
    mirror = sync.start(folder.store, tracking=settings.tracking) if settings.mirror else None
    workers: dict[int, subprocess.Popen[bytes]] = {}
    handler = signal.signal(signal.SIGTERM, as_interrupt)
    try:
        for number in range(min(settings.workers, sum(queue.open_cells()) + search.left(record))):
            workers[number] = _start_worker(folder, settings, number)
        _watch_workers(folder, record, settings, queue, workers, watch)
        record = _standing_record(folder, record)
        watch(standing.progress(folder, record))
    finally:
        _stop(list(workers.values()))
        if mirror is not None:
            sync.finish(mirror)
        signal.signal(signal.SIGTERM, handler)
    if record.get("exhausted"):
        raise InputError(f"study {folder.name}: the search ends before its budget: {record['exhausted']}")
    return standing.states(folder, record)


def _written(folder: StudyFolder, record: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Write the study's record and return it as it stands then."""
    if record.get("search"):
        return search.begin(folder, record, budget=settings.budget, allow_code=settings.allow_code)
    if settings.budget is not None:
        raise InputError(f"--budget {settings.budget}: study {record['study']!r} does not search; leave it out")
    write(folder, record)
    return record


def _standing_record(folder: StudyFolder, record: dict[str, Any]) -> dict[str, Any]:
    return folder.read() if record.get("search") else record


def _fill(queue: Queue, folder: StudyFolder, record: dict[str, Any], retry_failed: bool) -> None:
    standing.give_back(queue, folder, forgive=True)
    if retry_failed:
        standing.forgive_failures(folder, record["cells"])
    rows = standing.progress(folder, record)
    finished = {row["identity"]: float(row["dice"]) for row in rows if row["state"] == "finished"}
    failed = {row["identity"] for row in rows if row["state"] == "failed"}
    queue.fill(record["cells"], finished, failed)


def _watch_workers(
    folder: StudyFolder,
    record: dict[str, Any],
    settings: Settings,
    queue: Queue,
    workers: dict[int, subprocess.Popen[bytes]],
    watch: Watch,
) -> None:
    false_starts = 0
    while any(worker.poll() is None for worker in workers.values()) or sum(queue.open_cells()) + search.left(record):
        watch(standing.progress(folder, record))
        time.sleep(POLL_SECONDS)
        record = _standing_record(folder, record)
        for number, worker in list(workers.items()):
            if worker.poll() is None:
                continue
            standing.give_back(queue, folder)
            if worker.returncode in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(worker.returncode, os.strerror(worker.returncode), str(folder.store))
            if not (sum(queue.open_cells()) + search.left(record)):
                continue
            false_starts += int(bool(worker.returncode) and not queue.served(worker.pid))
            if false_starts > MAX_FALSE_STARTS * settings.workers:
                raise InputError(f"worker {number} ended with status {worker.returncode}; see {_log(folder, number)}")
            workers[number] = _start_worker(folder, settings, number)


def _start_worker(folder: StudyFolder, settings: Settings, number: int) -> subprocess.Popen[bytes]:
    threads = max((os.cpu_count() or 1) // settings.workers, 1)
    command = [*module_command("vqseg.study.worker"), "--store", str(folder.store), "--study", folder.name]
    command += ["--parent", str(os.getpid())]
    command += ["--device", settings.device, "--threads", str(threads), "--keep", settings.keep]
    command += ["--storage", settings.storage] if settings.storage else []
    command += ["--allow-code"] if settings.allow_code else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    _log(folder, number).parent.mkdir(parents=True, exist_ok=True)
    with _log(folder, number).open("ab") as log:
        # A session of its own: Ctrl-C reaches this process alone, which then stops the workers in order.
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def _log(folder: StudyFolder, number: int) -> Path:
    return folder.path / "logs" / f"worker-{number}.log"


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask them to stop, wait, and only then insist."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
