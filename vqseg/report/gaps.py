"""What a store lacks, and what it would cost: cells per study by state, hours from finished runs, commands.

A cell's time is what the finished runs of its arm took (of its study, or of its preset in this store, where there are
none), less the share that an interrupted run has done already. What nothing here measured is *unknown*.
"""

import math
import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from vqseg import assets
from vqseg.files import read_yaml
from vqseg.records import index, speeds
from vqseg.report.table import Cell, Row, Table

STATES = ("finished", "running", "interrupted", "killed", "failed", "pruned", "damaged", "missing")
DONE = ("finished", "pruned")
COLUMNS = ["study", "data", "cells", *STATES, "left", "hours", "unscored", "command"]


def compute(store: Path, studies: list[dict[str, Any]]) -> pd.DataFrame:
    """Count the cells of every study, and estimate what is left.

    Args:
        store: the store.
        studies: records of its studies.

    Returns:
        One row per study: ``study``, ``data``, ``cells``, one column per state, ``left`` (cells to run), ``hours`` that
        they would take one after another (NaN: unknown, 0: nothing), ``unscored`` (finished without scores on what the
        others are scored on is a study's own business; these have no scores at all), ``command`` that does it.
    """
    known = index.frame(store, [cell["identity"] for study in studies for cell in study["cells"]])
    of_run = {str(run["identity"]): run for run in known.to_dict("records")}
    return pd.DataFrame([_study(store, study, of_run) for study in studies], columns=COLUMNS)


def absent(studies: list[dict[str, Any]]) -> dict[str, str]:
    """Return the built-in studies that a store has nothing of: name -> question."""
    there = {str(study["study"]) for study in studies}
    folder = assets.folder("studies")
    return {
        name: " ".join(str(read_yaml(folder / f"{name}.yaml").get("question", "")).split())
        for name in assets.names("studies")
        if name not in there
    }


def tabulate(table: pd.DataFrame) -> Table:
    """Word `compute`: one row per study, its cells by state, what is left, how long it takes, the command."""
    states = [state for state in STATES if state == "finished" or table[state].sum()]
    headers = ["study", "data", "cells", *(_WORDS.get(state, state) for state in states), "time left", "to fill it"]
    rows = []
    for line in table.to_dict("records"):
        counts = [Cell(f"{line[state]:.0f}", "bold" if state == "failed" and line[state] else "") for state in states]
        cells = [Cell(str(line["data"])), Cell(f"{line['cells']:.0f}"), *counts]
        rows.append(Row(str(line["study"]), [*cells, Cell(length(line)), Cell(str(line["command"]) or "—")]))
    caption = (
        "Cells by state. Time left: cells one after another, as long as the finished runs of their arm took (of their "
        "study or preset where there are none); several workers divide it. Failed cells are tried again with --retry "
        "failed. Only finished cells are in any other table."
    )
    tidy = table.rename(columns={"study": "arm", "hours": "value"}).assign(column="hours left", runs="")
    return Table("missing", "Cells of every study", headers, rows, caption, tidy)


_WORDS = {"missing": "not started"}


def sentences(table: pd.DataFrame) -> list[str]:
    """Return one sentence per study that is not whole: how many cells of how many, how long, and the command."""
    lines = []
    for line in table.to_dict("records"):
        if line["left"] or line["unscored"]:
            states = [f"{line[key]:.0f} {_WORDS.get(key, key)}" for key in STATES if key not in DONE and line[key]]
            states += [f"{line['unscored']:.0f} finished without scores"] if line["unscored"] else []
            lines.append(
                f"{line['study']}: {', '.join(states)} of {line['cells']:.0f} cells; {length(line)}: {line['command']}"
            )
    return lines


def length(line: Mapping[Any, Any]) -> str:
    """Return how long the rest of a study takes, in words."""
    hours = float(line["hours"])
    if not line["left"]:
        return "—"
    if math.isnan(hours):
        return "time unknown"
    if hours < 1 / 60:
        return "under a minute"
    return f"about {60 * hours:.0f} min" if hours < 2 else f"about {hours:.0f} h" if hours < 72 else _days(hours)


def _days(hours: float) -> str:
    return f"about {hours / 24:.0f} days"


def command(study: Mapping[str, Any], *, retry: bool = False) -> str:
    """Return the command that goes on with a study; one of a user's own is found by its file."""
    file = str(study["study"]) if study["study"] in assets.names("studies") else f"{study['study']}.yaml"
    words = ["vqseg", "study", "run", file]
    if study.get("of"):  # it only scores the runs of another one
        return shlex.join([*words, "--of", str(study["of"])])
    words += ["--data", str(study["data"].get("root", "?")), "--split", str(study["split"]["name"])]
    words += ["--preset", str(study["preset"]), "--name", str(study["name"])]
    words += ["--supervised"] if study.get("supervised") else []
    words += ["--draws", str(study["draws"])] if int(study.get("draws") or 1) > 1 else []
    for key, value in (study.get("overrides") or {}).items():
        words += ["--set", f"{key}={value}"]
    return shlex.join([*words, *(["--retry", "failed"] if retry else [])])


def _study(store: Path, study: dict[str, Any], of_run: Mapping[str, Mapping[Any, Any]]) -> dict[str, Any]:
    failed = index.failures(store, study)
    runs = [{**of_run[cell["identity"]], "arm": cell["arm"]} for cell in study["cells"]]
    for run in runs:
        if run["state"] == "missing" and run["identity"] in failed:  # it failed before its run began
            run["state"] = "failed"
    counts = {state: sum(run["state"] == state for run in runs) for state in STATES}
    left = [run for run in runs if run["state"] not in DONE]
    finished = [run["identity"] for run in runs if run["state"] == "finished"]
    unscored = sum(not (store / "runs" / identity / "rows.parquet").is_file() for identity in finished)
    hours = sum(_seconds(store, study, run, runs) for run in left) / 3600
    wanted = command(study, retry=bool(counts["failed"])) if left else ""
    evaluate = shlex.join(["vqseg", "study", "evaluate", study["name"], "--part", "val"]) if unscored else ""
    return {
        **{"study": study["name"], "data": study["data"]["name"], "cells": len(runs), **counts, "left": len(left)},
        **{"hours": hours, "unscored": unscored, "command": "; ".join(each for each in (wanted, evaluate) if each)},
    }


def _seconds(store: Path, study: Mapping[str, Any], run: Mapping[Any, Any], runs: list[dict[Any, Any]]) -> float:
    """Return how long a cell still takes, NaN if nothing tells."""
    done = [one for one in runs if one["state"] == "finished"]
    alike = [took(one) for one in done if one["arm"] == run["arm"]] or [took(one) for one in done]
    known = [value for value in alike if not math.isnan(value)]
    if known:
        whole = sum(known) / len(known)
    else:
        others = speeds.runs(store, str(study["preset"]))
        whole = sum(one.steps * one.ms_per_step / 1000 + (one.other_s or 0) for one in others) / len(others or [0])
        whole = whole if others else math.nan
    step, steps = (_number(run.get(key)) for key in ("step", "steps"))
    share = step / steps if steps > 0 and run["state"] in ("running", "interrupted", "killed") else 0.0
    return whole * (1 - (share if share == share else 0.0))


def took(run: Mapping[Any, Any]) -> float:
    """Return the seconds that a finished run took with all about it; of one that was resumed its training's."""
    train = _number(run.get("cost.train_seconds"))
    started, ended = run.get("started"), run.get("finished")
    if isinstance(started, str) and isinstance(ended, str) and not _number(run.get("resumes")) > 0:
        whole = (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
        return max(whole, train) if train == train else whole
    return train


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and value is not None else math.nan
