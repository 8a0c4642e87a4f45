"""Completes the MLflow mirror from run folders and studies: ``python -m vqseg.records.sync --store S --tracking URI``.

A process of its own, so that training never waits for MLflow. It pushes only what is missing, one pass at a time per
store (a lock in STORE/mlflow), and what it could not push stays in the run folders for the next pass. With
``--follow`` it looks again every few seconds until the process that started it is gone.
"""

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqseg.errors import InputError
from vqseg.processes import module_command
from vqseg.records import mirror
from vqseg.records.mirror import Ledger
from vqseg.records.transfer import Outcome, Pass, Progress

INTERVAL_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 60.0


@contextmanager
def writing(store: Path, *, wait_seconds: float | None = None) -> Iterator[bool]:
    """Hold the store's mirror; yield whether it was to be had within ``wait_seconds`` (None: wait for ever)."""
    path = store / "mlflow" / "sync.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = None if wait_seconds is None else time.monotonic() + wait_seconds
    with path.open("a") as file:
        held = False
        while not held:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if deadline is None else fcntl.LOCK_NB))
                held = True
            except BlockingIOError:
                if deadline is not None and time.monotonic() >= deadline:
                    break
                time.sleep(0.1)
        yield held


def sync(store: Path, *, tracking: str | None = None, progress: Progress | None = None) -> Outcome:
    """Complete the mirror once, after any other process that is at it.

    Raises:
        InputError: the tracking store is away; the run folders keep everything for the next time.
    """
    uri = mirror.require_address(store, tracking)
    if not mirror.runs_of(store) and not mirror.studies_of(store)[0]:
        return Outcome()
    with writing(store):
        return Pass(store, uri).run(progress=progress)


def rebuild(store: Path, *, tracking: str | None = None, progress: Progress | None = None) -> Outcome:
    """Make the mirror anew from the run folders.

    The store's own database is built beside the old one and then swapped; a server keeps all that it has, and gets
    what it lacks after every record was compared with it.

    Raises:
        InputError: the tracking store is away, or a process has the store's own database open.
    """
    uri = mirror.require_address(store, tracking)
    with writing(store):
        if uri != mirror.default_uri(store):
            return Pass(store, uri).run(progress=progress, afresh=True)
        return _rebuild_own(store, uri, progress)


def _rebuild_own(store: Path, uri: str, progress: Progress | None) -> Outcome:
    from vqseg.records.tracking import set_journal

    database = store.absolute() / "mlflow" / "mlflow.db"
    fresh = database.with_name(".rebuilt.db")
    for left in database.parent.glob(".rebuilt.db*"):
        left.unlink()
    if database.exists():
        set_journal(database, "delete")  # a write-ahead log left beside the old file would corrupt the new one
    work = Pass(store, uri, address=f"sqlite:///{fresh}")
    for folder in [run.path for run in mirror.runs_of(store)] + [s["folder"] for s in mirror.studies_of(store)[0]]:
        Ledger(folder, uri).forget()
    outcome = work.run(progress=progress)
    if not fresh.exists():
        return outcome
    os.replace(fresh, database)
    set_journal(database, "wal")
    for folder in (database.parent / "artifacts").glob("*"):
        if folder.name not in work.met:
            shutil.rmtree(folder, ignore_errors=True)
    return outcome


def unsynced(store: Path, *, tracking: str | None = None) -> list[str]:
    """Return the identities of runs of which the mirror does not show everything yet (asks no tracking store)."""
    uri = mirror.resolve_uri(store, tracking)
    studies = mirror.studies_of(store)[0]
    parents = {study["name"]: Ledger(study["folder"], uri).entry.get("run_id") for study in studies}
    members = mirror.members_of(studies)
    found = []
    for run in mirror.runs_of(store):
        own, entry = members.get(run.identity, []), Ledger(run.path, uri).entry
        mark = mirror.fingerprint(run, own, parents[own[0].study] if own else None)
        if entry.get("pending") or entry.get("seen") != mark:
            found.append(run.identity)
    return found


def follow(store: Path, *, tracking: str | None, parent: int, interval: float = INTERVAL_SECONDS) -> None:
    """Complete the mirror again and again until process ``parent`` is gone or SIGTERM comes, then a last time.

    Another process that is at it makes this one skip a turn. A tracking store that is away is tried again later.
    """
    stop, began_under, pause = threading.Event(), os.getppid(), interval
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process in its own time
    os.nice(10)
    work, last_said = Pass(store, mirror.resolve_uri(store, tracking)), ""
    while True:
        last = stop.is_set() or os.getppid() != began_under or not _living(parent)
        said, pause = "", interval
        try:
            with writing(store, wait_seconds=20.0 if last else 0.0) as held:
                said = "; ".join(work.run().problems) if held else ""
        except (InputError, OSError) as error:
            said, pause = str(error), min(LONGEST_PAUSE_SECONDS, 3 * interval)
        if said and said != last_said:
            print(said, file=sys.stderr, flush=True)
        last_said = said
        if last:
            return
        stop.wait(pause)


def start(
    store: Path, *, tracking: str | None = None, follow: bool = True, interval: float = INTERVAL_SECONDS
) -> "subprocess.Popen[bytes]":
    """Start this module in a process of its own; what it has to say goes to STORE/mlflow/sync.log."""
    command = [*module_command("vqseg.records.sync"), "--store", str(store)]
    command += ["--tracking", tracking] if tracking else []
    command += ["--follow", "--parent-pid", str(os.getpid()), "--interval", str(interval)] if follow else []
    log = store / "mlflow" / "sync.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # The child is born with the signal held back, and lets it come once it can answer with a last pass.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with log.open("ab") as file:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def finish(process: "subprocess.Popen[bytes]", *, timeout: float = 120.0) -> bool:
    """Let a following process make its last pass and end; return whether it did within ``timeout`` seconds."""
    process.terminate()
    try:
        return process.wait(timeout) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def _living(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def main(arguments: list[str] | None = None) -> int:
    """Run one pass, or follow; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vqseg.records.sync", description="Complete the MLflow mirror.")
    parser.add_argument("--store", type=Path, required=True, help="folder that holds runs and studies")
    parser.add_argument("--tracking", help="tracking address; default: MLFLOW_TRACKING_URI, else the store's own")
    parser.add_argument("--follow", action="store_true", help="look again and again while the parent lives")
    parser.add_argument("--parent-pid", type=int, default=os.getppid(), help="process to live as long as")
    parser.add_argument("--interval", type=float, default=INTERVAL_SECONDS, help="seconds between looks")
    given = parser.parse_args(arguments)
    try:
        if given.follow:
            follow(given.store, tracking=given.tracking, parent=given.parent_pid, interval=given.interval)
            return 0
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        problems = sync(given.store, tracking=given.tracking).problems
    except InputError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"vqseg: error: {problem}", file=sys.stderr)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
