"""What a study would do and cost, before it starts."""

import shutil
from pathlib import Path
from typing import Any

from vqseg.manifest import read_manifest, read_split, scans_of
from vqseg.records.run import RunFolder
from vqseg.report.statistics import detectable
from vqseg.study.cells import StudyFolder
from vqseg.study.standing import states


def forecast(folder: StudyFolder, record: dict[str, Any], workers: int, *, retry_failed: bool = False) -> str:
    """Return lines: cells by state, disk, time from measured steps (or *unknown*), the difference that can be seen."""
    store, by_identity = folder.store, states(folder, record)
    counts = {state: list(by_identity.values()).count(state) for state in dict.fromkeys(by_identity.values())}
    settled = {"finished", "running"} | (set() if retry_failed else {"failed"})
    todo = sum(count for state, count in counts.items() if state not in settled)
    root = Path(record["data"]["root"])
    manifest = read_manifest(root)
    split = read_split(root, manifest, record["split"]["name"])
    patients, seeds = len(split.parts.get("val", [])), len(record["seeds"])
    contrasts = max(len(record["arms"]) - 1, 1)
    lines = [
        f"study {record['name']}: {len(by_identity)} cells; "
        + ", ".join(f"{count} {_word(state)}" for state, count in counts.items()),
        f"disk: {_disk(store, todo)}",
        f"time: {_time(store, record, todo, workers)}",
    ]
    if seeds >= 2 and patients >= 2:
        scans = len(scans_of(manifest, split, "val")) / patients
        points = detectable(seeds, patients, scans_per_patient=scans, contrasts=contrasts)
        lines.append(
            f"smallest difference seen with 80 % power by {seeds} seeds x {patients} validation patients:"
            f" {points:.1f} Dice points (at the field's usual noise, Holm over {contrasts} contrasts)"
        )
    else:
        lines.append("one seed or one patient cannot tell a difference from noise")
    return "\n".join(lines)


def _word(state: str) -> str:
    return {"finished": "reused"}.get(state, state)


def _alike(store: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the status of finished runs at the same preset with the same labels."""
    found, labels = [], record["base_config"]["data"]["labels"]
    for path in (store / "runs").glob("*/status.json"):
        status = RunFolder(store, path.parent.name).status()
        if status["state"] == "finished" and (status["preset"], status["labels"]) == (record["preset"], labels):
            found.append({**status, "bytes": sum(f.stat().st_size for f in path.parent.rglob("*") if f.is_file())})
    return found


def _disk(store: Path, todo: int) -> str:
    near = next(path for path in (store, *store.absolute().parents) if path.exists())
    free = shutil.disk_usage(near).free / 2**30
    sizes = [path.stat().st_size for path in (store / "runs").rglob("*") if path.is_file()]
    runs = len(list((store / "runs").glob("*/status.json")))
    need = f"about {todo * sum(sizes) / runs / 2**20:.0f} MiB" if runs else "unknown need (no run here yet)"
    return f"{need}, {free:.1f} GiB free"


def _time(store: Path, record: dict[str, Any], todo: int, workers: int) -> str:
    alike = _alike(store, record)
    if not alike:
        return "unknown (no finished run of this preset in the store to measure by)"
    steps = record["base_config"]["train"]["steps"]
    ms = sorted(status["cost"]["ms_per_step"] for status in alike)[len(alike) // 2]
    minutes = todo * steps * ms / 60_000 / workers
    length = f"about {minutes:.0f} min" if minutes >= 1 else "under a minute"
    return f"{length} with {workers} workers ({ms:.0f} ms per step, median of {len(alike)} runs here)"
