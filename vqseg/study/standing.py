"""How the cells of a study stand: their runs' status, and errors of cells that have no run to write them to.

STORE/studies/FULLNAME/errors/IDENTITY.json   why a cell failed: also where its run never began
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqseg.files import read_json, write_json
from vqseg.records.run import FINAL, RunFolder, now
from vqseg.study.cells import StudyFolder

if TYPE_CHECKING:
    from vqseg.study.queue import Queue

NOTHING: dict[str, Any] = {"state": "new", "step": 0, "steps": None, "error": None, "dice": None}


def progress(folder: StudyFolder, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per cell: what the record says of it, and state, step, steps, dice, error.

    States: new, running, interrupted, killed, failed, pruned, finished. A failed cell tells its error. What another
    study's search gave up is new to this one: it is trained to its end here.
    """
    return [{**cell, **_standing(folder, cell["identity"])} for cell in record["cells"]]


def states(folder: StudyFolder, record: dict[str, Any]) -> dict[str, str]:
    """Return identity -> state."""
    return {row["identity"]: row["state"] for row in progress(folder, record)}


def reached(folder: StudyFolder, identity: str) -> int:
    """Return the last step that the run of ``identity`` recorded, -1 before its first record."""
    run = RunFolder(folder.store, identity)
    return int(run.status()["step"]) if run.exists() else -1


def note_failure(folder: StudyFolder, cell: dict[str, Any], error: str) -> None:
    """Record that a cell failed: in the study, and in its run, if that exists and says otherwise."""
    write_json(_note(folder, cell["identity"]), {"cell": cell["name"], "error": error, "date": now()})
    run = RunFolder(folder.store, cell["identity"])
    if run.exists() and run.state() in ("killed", "interrupted"):
        run.update(state="failed", error=error, finished=now())


def forgive_failures(folder: StudyFolder, cells: Iterable[dict[str, Any]]) -> None:
    """Make failed cells such that they are tried again."""
    for cell in cells:
        _note(folder, cell["identity"]).unlink(missing_ok=True)
        run = RunFolder(folder.store, cell["identity"])
        if run.exists() and run.state() == "failed":
            run.update(state="interrupted", error=None, finished=None)


def give_back(queue: "Queue", folder: StudyFolder, *, forgive: bool = False) -> None:
    """Put what dead workers held back into the queue, or record it as failed."""
    for cell, error in queue.sweep(lambda identity: reached(folder, identity), forgive=forgive):
        note_failure(folder, cell, error)


def _note(folder: StudyFolder, identity: str) -> Path:
    return folder.path / "errors" / f"{identity}.json"


def _standing(folder: StudyFolder, identity: str) -> dict[str, Any]:
    run, note, found = RunFolder(folder.store, identity), _note(folder, identity), dict(NOTHING)
    if run.exists():
        status = run.status()
        if status["state"] == "pruned" and (status.get("pruned") or {}).get("by") != folder.name:
            return found
        last = (status.get("validation") or {}).get("last") or {}
        found |= {key: status.get(key) for key in ("step", "steps", "error")}
        found |= {"state": run.state(), "dice": last.get("teacher")}
    # A run can be shared: what another study, or `vqseg train`, has made of it since is newer than our note.
    if found["state"] not in (*FINAL, "running") and note.is_file():
        found |= {"state": "failed", "error": read_json(note)["error"]}
    return found
