"""What ``vqseg study queue`` does, beyond its options."""

import shlex
from pathlib import Path

import typer


def copy(store: Path, name: str, path: Path) -> None:
    """Copy a study's queue for Optuna's own tools, and say how they open it.

    Raises:
        InputError: no such study, no queue, or a copy that cannot be written.
    """
    from vqseg.records.index import find_study
    from vqseg.study.cells import StudyFolder
    from vqseg.study.snapshot import copy_queue

    record = find_study(store, name, one=True)
    count = copy_queue(StudyFolder(store, record["name"]), record, path)
    place, study = shlex.quote(str(path)), shlex.quote(record["name"])
    typer.echo(f"{record['name']}: {count} trials copied to {path}; the queue itself is as it was")
    typer.echo(
        f"look at it: optuna-dashboard {place}    (pip install 'vqseg[dashboard]'; it has no login: keep it local)"
    )
    typer.echo(f"        or: optuna trials --storage {place} --study-name {study} --format table")
