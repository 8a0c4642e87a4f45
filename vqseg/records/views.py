"""What MLflow shows of a run, and of a study: names, times, status, tags, numbers, files."""

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqseg.files import digest, write_text
from vqseg.records import exhibits, index
from vqseg.records.mirror import (
    Artifact,
    Dataset,
    Member,
    View,
    flatten,
    milliseconds,
    read_metrics,
    sanitized,
    stamp,
    thin,
)
from vqseg.records.run import FINAL, STATUS, RunFolder

STATES = ("finished", "running", "interrupted", "killed", "failed", "pruned", "waiting")
MLFLOW_STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED"}


@dataclass
class Cell:
    """One cell of a study as its table needs it; ``scores`` is {part: mean foreground Dice of the last teacher}."""

    arm: str
    state: str
    ended: int | None = None
    scores: dict[str, float] = field(default_factory=dict)


def run_view(run: RunFolder, members: list[Member], parent: str | None) -> View:
    """Return what MLflow shows of a run; ``parent`` is the MLflow run of its first study."""
    status, state = run.status(), run.state()
    started = milliseconds(status.get("started") or status.get("created")) or 0
    pace = float((status.get("cost") or {}).get("ms_per_step") or 0.0)
    curves = read_metrics(run.path / "metrics.csv")
    kept = {name: thin(rows, int(status.get("steps") or 0), final=state == "finished") for name, rows in curves.items()}
    return View(
        key=run.identity,
        name=members[0].name if members else status.get("name") or run.identity,
        started=started,
        ended=None if state == "running" else milliseconds(status.get("finished")) or _last_sign(run.path),
        status=MLFLOW_STATUS.get(state, "KILLED"),
        tags=_run_tags(run, status, state, members, parent),
        params=dict(flatten(run.config())),
        step=int(status.get("step") or 0),
        points=[
            (sanitized(n), step, value, int(started + step * pace)) for n, rows in kept.items() for step, value in rows
        ],
        totals={f"{part}/dice_teacher": value for part, value in exhibits.scores(run.path).items() if part != "val"},
        artifacts=exhibits.of_run(run, status, state),
        dataset=Dataset(status["data"]["name"], str(status["data"]["digest"])[:36], str(status["data"]["root"])),
    )


def _last_sign(folder: Path) -> int:
    return max((stamp(folder / name) or [0, 0])[1] for name in (STATUS, "metrics.csv")) // 1_000_000


def _run_tags(
    run: RunFolder, status: dict[str, Any], state: str, members: list[Member], parent: str | None
) -> dict[str, str]:
    origin = status.get("provenance") or {}
    name = members[0].name if members else str(status.get("name") or run.identity)
    hardware = [origin.get("host"), origin.get("device"), f"{origin.get('threads')} thread(s)", origin.get("precision")]
    versions = [f"{package} {origin[package]}" for package in ("vqseg", "torch", "python") if origin.get(package)]
    tags = {
        "kind": "run",
        "identity": run.identity,
        "state": state,
        "studies": ", ".join(sorted({member.study for member in members})),
        "arm": members[0].arm if members else name.rpartition(", seed")[0] or name,
        "seed": status.get("seed"),
        "preset": status.get("preset"),
        "data": status["data"]["name"],
        "synthetic": str(bool(status["data"].get("synthetic"))).lower(),
        "split": status["split"]["name"],
        "split_digest": status["split"]["digest"],
        "commit": origin.get("commit"),
        "mlflow.source.git.commit": origin.get("commit"),
        "mlflow.source.name": "vqseg",
        "dirty": None if origin.get("dirty") is None else str(origin["dirty"]).lower(),
        "versions": ", ".join(versions),
        "hardware": ", ".join(str(part) for part in hardware if part),
        "platform": origin.get("platform"),
        "error": status.get("error"),
        "mlflow.parentRunId": parent,
    }
    return {key: str(value)[:5000] for key, value in tags.items() if value not in (None, "")}


def cell_of(store: Path, cell: dict[str, Any], failures: dict[str, str]) -> Cell:
    """Return what the study's table needs of one cell; ``failures`` names those that failed before their run began."""
    run = RunFolder(store, cell["identity"])
    if not run.exists():
        return Cell(cell["arm"], "failed" if run.identity in failures else "waiting")
    status, state = run.status(), run.state()
    teacher = ((status.get("validation") or {}).get("last") or {}).get("teacher")
    found = {part: value for part, value in exhibits.scores(run.path).items() if part != "val"}
    if teacher is not None and state == "finished":
        found = {"val": float(teacher), **found}
    return Cell(cell["arm"], state, milliseconds(status.get("finished")), found)


def study_view(store: Path, study: dict[str, Any]) -> View:
    """Return what MLflow shows of a study: the question, a live table, arm means and standard deviations over seeds."""
    failures = index.failures(store, study)
    cells = [cell_of(store, cell, failures) for cell in study["cells"]]
    header, body, totals = _table(list(dict.fromkeys(cell.arm for cell in cells)), cells)
    counts = {state: count for state in STATES if (count := sum(cell.state == state for cell in cells))}
    progress = ", ".join(f"{count} {state}" for state, count in counts.items()) + f" of {len(cells)} cells"
    status = _study_status(counts)
    started = milliseconds(study.get("created")) or 0
    table = "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *body])
    mark = "\n\n*phantom*: synthetic data" if study["data"].get("synthetic") else ""
    note = f"**{study.get('question', '')}**\n\n{progress}; mean over seeds of foreground Dice in %{mark}\n\n{table}\n"
    lines = "".join(",".join(f'"{text}"' for text in line) + "\n" for line in [header, *body])
    tags = {
        "kind": "study",
        "identity": f"study:{study['name']}",
        "studies": study["name"],
        "cells": progress,
        "data": study["data"]["name"],
        "split": study["split"]["name"],
        "split_digest": study["split"]["digest"],
        "preset": study.get("preset"),
        "reference": study.get("reference"),
        "mlflow.source.name": "vqseg",
        "mlflow.note.content": note if len(note) < 5000 else f"{note[:4900]}\n\n(all of it in table.md)",
    }
    params = {name: str(study.get(name)) for name in ("study", "question", "preset", "supervised", "reference", "base")}
    return View(
        key=tags["identity"],
        name=study["name"],
        started=started,
        ended=None if status in ("RUNNING", "SCHEDULED") else max([cell.ended or 0 for cell in cells] + [started]),
        status=status,
        tags={name: str(value) for name, value in tags.items() if value},
        params={**params, "arms": str(len(study["arms"])), "cells": str(len(cells))},
        step=counts.get("finished", 0),
        totals=totals,
        artifacts=[_text("table.md", note), _text("table.csv", lines)],
        dataset=Dataset(study["data"]["name"], str(study["data"]["digest"])[:36], str(study["data"]["root"])),
    )


def _study_status(counts: dict[str, int]) -> str:
    if counts.get("running"):
        return MLFLOW_STATUS["running"]
    if set(counts) <= set(FINAL):
        return MLFLOW_STATUS["finished" if counts.get("finished") else "failed"]
    return "SCHEDULED" if set(counts) == {"waiting"} else "KILLED"


def _table(arms: list[str], cells: list[Cell]) -> tuple[list[str], list[list[str]], dict[str, float]]:
    parts = list(dict.fromkeys(part for cell in cells for part in cell.scores)) or ["val"]
    body, totals = [], {}
    for arm in arms:
        own = [cell for cell in cells if cell.arm == arm]
        line = [arm, f"{sum(cell.state == 'finished' for cell in own)}/{len(own)}"]
        for part in parts:
            values = [cell.scores[part] for cell in own if not math.isnan(cell.scores.get(part, math.nan))]
            mean = statistics.fmean(values) if values else math.nan
            sd = statistics.stdev(values) if len(values) > 1 else math.nan
            line += [_percent(mean), _percent(sd)]
            for what, value in (("mean", mean), ("sd", sd)):
                if not math.isnan(value):
                    totals[sanitized(f"{part}/dice_teacher {what}/{arm}")] = value
        body.append([*line, str(sum(cell.state == "failed" for cell in own))])
    columns = [name for part in parts for name in (f"{part} Dice", "sd")]
    return ["arm", "finished", *columns, "failed"], body, totals


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f}"


def _text(name: str, text: str) -> Artifact:
    return Artifact(name, digest(text), lambda target: write_text(target, text))
