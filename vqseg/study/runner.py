"""Runs a study: fills the queue, starts workers and the mirror's process, watches, and stops all of them cleanly."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqseg.errors import InputError
from vqseg.records import sync
from vqseg.records.run import RunFolder
from vqseg.study.cells import StudyFolder, states, write
from vqseg.study.queue import Queue

POLL_SECONDS = 0.5
STOP_SECONDS = 60.0
MAX_RESTARTS = 3

Watch = Callable[[list[dict[str, Any]]], None]


@dataclass
class Settings:
    """How to run."""

    workers: int = 1
    device: str = "cpu"
    keep: str = "last"
    storage: str | None = None
    tracking: str | None = None
    retry_failed: bool = False
    mirror: bool = True


def run_study(folder: StudyFolder, record: dict[str, Any], settings: Settings, watch: Watch) -> dict[str, str]:
    """Run every cell that is not finished; return identity -> state.

    ``watch`` is called about twice a second with one row per cell: name, state, step, steps.

    Raises:
        InputError: the workers cannot start.
        KeyboardInterrupt: stopped; the cells in hand were checkpointed first.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    write(folder, record)
    queue = Queue(folder.path, folder.name, settings.storage)
    queue.sweep()
    queue.fill(record["cells"], _finished(folder.store, record), settings.retry_failed)
    mirror = sync.start(folder.store, tracking=settings.tracking) if settings.mirror else None
    workers: dict[int, subprocess.Popen[bytes]] = {}
    handler = signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        if sum(queue.open_cells()):
            for number in range(min(settings.workers, sum(queue.open_cells()))):
                workers[number] = _start_worker(folder, settings, number)
            _watch_workers(folder, record, settings, queue, workers, watch)
        watch(progress(folder.store, record))
    finally:
        _stop(list(workers.values()))
        if mirror is not None:
            sync.finish(mirror)
        signal.signal(signal.SIGTERM, handler)
    return states(folder.store, record)


def progress(store: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per cell: name, state, step, steps, error."""
    rows = []
    for cell in record["cells"]:
        run = RunFolder(store, cell["identity"])
        if not run.exists():
            rows.append({**cell, "state": "new", "step": 0, "steps": None, "error": None, "dice": None})
            continue
        status = run.status()
        last = (status.get("validation") or {}).get("last") or {}
        found = {key: status.get(key) for key in ("step", "steps", "error")}
        rows.append({**cell, "state": run.state(), **found, "dice": last.get("teacher")})
    return rows


def _finished(store: Path, record: dict[str, Any]) -> dict[str, float]:
    found = {}
    for row in progress(store, record):
        if row["state"] == "finished":
            found[row["identity"]] = float(row["dice"])
    return found


def _watch_workers(
    folder: StudyFolder,
    record: dict[str, Any],
    settings: Settings,
    queue: Queue,
    workers: dict[int, subprocess.Popen[bytes]],
    watch: Watch,
) -> None:
    restarts = 0
    while any(worker.poll() is None for worker in workers.values()) or sum(queue.open_cells()):
        time.sleep(POLL_SECONDS)
        watch(progress(folder.store, record))
        for number, worker in list(workers.items()):
            if worker.poll() is None or not sum(queue.open_cells()):
                continue
            queue.sweep()
            if worker.returncode and restarts >= MAX_RESTARTS * settings.workers:
                raise InputError(f"worker {number} ended with status {worker.returncode}; see {_log(folder, number)}")
            restarts += bool(worker.returncode)
            if sum(queue.open_cells()):
                workers[number] = _start_worker(folder, settings, number)


def _start_worker(folder: StudyFolder, settings: Settings, number: int) -> subprocess.Popen[bytes]:
    threads = max((os.cpu_count() or 1) // settings.workers, 1)
    command = [sys.executable, "-m", "vqseg.study.worker", "--store", str(folder.store), "--study", folder.name]
    command += ["--device", settings.device, "--threads", str(threads), "--keep", settings.keep]
    command += ["--storage", settings.storage] if settings.storage else []
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


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt
