"""Writes a store of finished runs that nobody trained: real folders of the documented schema, invented numbers.

As large as runs of 1,200 steps on ACDC: two parts, four kept weights, 720 rows, 1,024 codes, 24 flushes of metrics.
The data set is called `fabricated` and marked synthetic, so that every page made of it says so. Arms differ as they
come; or, where effects are planted, by these and by the noise of the field alone, so that it is known what a report
should find.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vqseg.evaluate import COLUMNS
from vqseg.files import digest, write_json, write_yaml
from vqseg.records.run import RunFolder
from vqseg.report.power import FIELD_NOISE

CLASSES = ("RV", "Myo", "LV")
PARTS = {"val": 10, "test": 20}
"""Patients of every part; each has two scans."""
CODES, STEPS, FLUSH = 1024, 1200, 50
FAMILIES = ("qpm", "dropout", "channel-dropout", "uniform", "mask-and-replace")
FLUSHED = (
    *("loss/total", "loss/labelled", "loss/strong", "loss/perturbed", "loss/codebook", "loss/commitment", "lr"),
    *("codebook/utilization", "codebook/ceiling", "codebook/perplexity", "codebook/dead", "codebook/tokens"),
    *("perturbation/distortion", "perturbation/changed", "pseudo/confidence", "speed/images_per_second"),
)
VALIDATED = (
    *("val/dice_teacher", "val/dice_student", *(f"val/dice_teacher_{name}" for name in CLASSES)),
    *("reach/dice_own", "reach/dice_uniform", "reach/flips_own", "reach/flips_uniform"),
)
DATA = {"name": "fabricated", "root": "nowhere", "digest": "f" * 16, "synthetic": True}
SPLIT = {"name": "7", "digest": "s" * 16}
DATE = "2026-01-02T00:00:00+00:00"
PLAIN_DICE = 0.80


class Cell(NamedTuple):
    """One run to be: its arm and that arm's place among all, its seed, its identity.

    ``points``: Dice points that were planted in its arm; None where none were. ``group``: what its arm's patients
    are drawn by.
    """

    arm: str
    place: int
    seed: int
    identity: str
    points: float | None = None
    group: str = "0"


def fabricate(
    store: Path, runs: int, *, seeds: int = 5, name: str = "fabricated", planted: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Write one study of ``runs`` finished runs, ``seeds`` per arm, and return its record.

    The last arm has fewer where ``runs`` is no multiple. With ``planted`` the arms are its, the first of them the
    reference, and their true Dice lies so many points above `PLAIN_DICE`; another ``name`` draws other noise.

    Raises:
        ValueError: no runs are asked for, or more than ``planted`` has arms for.
    """
    if runs < 1 or (planted is not None and runs > len(planted) * seeds):
        raise ValueError(f"runs must be positive and at most those of the planted arms, got {runs}")
    labels = _labels(-(-runs // seeds)) if planted is None else list(planted)[: -(-runs // seeds)]
    points = planted or {}
    cells = [
        Cell(label, place, seed, digest([name, label, seed]), points.get(label), digest([name, label]))
        for place, label in enumerate(labels)
        for seed in range(seeds)
    ][:runs]
    rows, codes = _rows(), _codes()
    for cell in cells:
        write_run(store, cell, rows, codes)
    record = {
        "format": 1, "name": name, "study": name, "question": "How fast are reports? Nothing here was trained.",
        "data": DATA, "split": SPLIT, "preset": "cpu", "supervised": False, "reference": labels[0], "created": DATE,
        "base": "b" * 16, "arms": [_arm(label, points.get(label)) for label in labels], "seeds": list(range(seeds)),
        "cells": [
            {"arm": c.arm, "seed": c.seed, "identity": c.identity, "name": f"{c.arm}, seed {c.seed}"} for c in cells
        ],
    }  # fmt: skip
    write_json(store / "studies" / name / "study.json", record)
    return record


def write_run(store: Path, cell: Cell, rows: pd.DataFrame, codes: pd.DataFrame, *, again: int = 0) -> None:
    """Write one run; ``again`` draws other numbers for it, as if it had been scored anew."""
    folder, draw = RunFolder(store, cell.identity), np.random.default_rng([cell.place, cell.seed, again])
    center = PLAIN_DICE + 0.06 * np.sin(cell.place) + 0.004 * draw.normal()
    center = center if cell.points is None else PLAIN_DICE + cell.points / 100
    folder.path.mkdir(parents=True, exist_ok=True)
    (folder.path / "metrics.csv").write_text(_metrics(center, draw), encoding="utf-8")
    noise = 0.01 * draw.normal(size=len(rows)) if cell.points is None else _field(rows, cell)
    _write_table(folder.path / "rows.parquet", rows.assign(**_scores(rows, center + noise)))
    tokens = np.sort((90_000 / (1 + np.arange(CODES)) ** 1.1 * draw.random(CODES)).astype(int))[::-1]
    _write_table(folder.path / "codebook.parquet", codes.assign(tokens=np.tile(tokens, len(PARTS))))
    write_yaml(folder.path / "config.yaml", {"preset": "cpu", "seed": cell.seed, **_arm(cell.arm)["overrides"]})
    write_json(folder.path / "status.json", _status(cell, center))


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what `write_run` fills in: the rows and the codes of any run, without their numbers."""
    return _rows(), _codes()


def _labels(count: int) -> list[str]:
    rates = np.linspace(0, 1, -(-max(count - 1, 1) // len(FAMILIES)) + 1)[1:]
    return ["none", *(f"{family} rate={rate:.4g}" for family in FAMILIES for rate in rates)][:count]


def _arm(label: str, points: float | None = None) -> dict[str, Any]:
    family, _, rate = label.partition(" rate=")
    knob = float(rate) if rate else None
    perturbation = {"name": family, "rate": knob} if rate else "none"
    own = {"label": label, "family": family, "knob": knob, "overrides": {"perturbation": perturbation}}
    return own if points is None else {**own, "planted": points}


def _status(cell: Cell, center: float) -> dict[str, Any]:
    dice = {"teacher": center, "student": center - 0.01}
    parts = {"labelled": 7, **PARTS}
    return {
        "format": 1, "identity": cell.identity, "created": DATE, "name": f"{cell.arm}, seed {cell.seed}",
        "state": "finished", "step": STEPS, "steps": STEPS, "seed": cell.seed, "preset": "cpu", "started": DATE,
        "finished": DATE, "error": None, "labels": "labelled", "fabricated": True,
        "data": {**DATA, "classes": ["background", *CLASSES]},
        "split": {**SPLIT, "parts": {part: {"patients": n, "images": 19 * n} for part, n in parts.items()}},
        "code": {f"vqseg.module{number}": f"{number:016x}" for number in range(24)}, "scoring": "f" * 16,
        "provenance": {
            "host": "fabricated", "device": "none", "threads": 1, "precision": "fp32", "vqseg": "0", "torch": "0",
            "python": "0", "platform": "none", "commit": "0" * 40, "dirty": False,
        },
        "evaluations": [
            {"part": part, "date": DATE, "protocols": ["scan"], "repeat": 0, "scoring": "f" * 16} for part in PARTS
        ],
        "cost": {"parameters": 470_000, "ms_per_step": 150 + cell.seed, "train_seconds": 180.0, "peak_memory_mb": 900},
        "validation": {"last": dice, "best": {network: {"dice": v, "step": STEPS} for network, v in dice.items()}},
    }  # fmt: skip


def _metrics(center: float, draw: np.random.Generator) -> str:
    lines = ["step,name,value\n"]
    for step in range(FLUSH, STEPS + 1, FLUSH):
        names = FLUSHED + (VALIDATED if step % (3 * FLUSH) == 0 else ())
        values = center * (1 - 0.75 ** (step / FLUSH)) + 0.01 * draw.random(len(names))
        lines += [f"{step},{name},{value!r}\n" for name, value in zip(names, values.tolist(), strict=True)]
    return "".join(lines)


def _rows() -> pd.DataFrame:
    """Return one run's rows without their scores."""
    keys = [
        (part, checkpoint, network, f"p{patient}_{scan}", f"p{patient}", index, name)
        for part, patients in PARTS.items()
        for checkpoint in ("best", "last")
        for network in ("student", "teacher")
        for patient in range(patients)
        for scan in ("ED", "ES")
        for index, name in enumerate(CLASSES, start=1)
    ]
    columns = ["part", "checkpoint", "network", "case", "patient", "class_index", "class_name"]
    shared = {"protocol": "scan", "geometry": "native", "case_unit": "scan", "scoring": "f" * 16, "evaluated": DATE}
    empty = {"empty_prediction": False, "empty_reference": False}
    table = pd.DataFrame(keys, columns=columns).assign(**shared, **empty)
    return table.reindex(columns=COLUMNS).astype({name: float for name in COLUMNS if name not in table})


def _scores(rows: pd.DataFrame, center: np.ndarray) -> dict[str, np.ndarray]:
    patients = np.random.default_rng(0).normal(0, 0.04, max(PARTS.values()))
    shift = patients[_patients(rows)] + 0.03 * (rows["class_index"].to_numpy() - 2)
    dice = np.clip(center + shift, 0, 1)
    spacing = {"voxel": 1.0, "mm": 1.4}
    far = {f"hd95_{unit}": 30 * (1 - dice) * size for unit, size in spacing.items()}
    near = {f"{name}_{unit}": 8 * (1 - dice) * size for name in ("asd", "assd") for unit, size in spacing.items()}
    return {"dice": dice, "jaccard": dice / (2 - dice), **far, **near}


def _field(rows: pd.DataFrame, cell: Cell) -> np.ndarray:
    """Return the noise of one run's rows: of a difference of two arms it is the field's, so an arm has half of that."""
    most, run = max(PARTS.values()), np.random.default_rng(int(cell.identity, 16))
    by_patient = np.random.default_rng(int(cell.group, 16)).normal(0, FIELD_NOISE["patient"], most)
    by_patient += run.normal(0, FIELD_NOISE["seed"]) + run.normal(0, FIELD_NOISE["patient_seed"], most)
    by_scan = by_patient[:, None] + run.normal(0, FIELD_NOISE["scan"], (most, 2))
    scans = rows["case"].str.endswith("ES").to_numpy(dtype=int)
    found: np.ndarray = by_scan[_patients(rows), scans] / 100 / np.sqrt(2)
    return found


def _patients(rows: pd.DataFrame) -> np.ndarray:
    found: np.ndarray = rows["patient"].str[1:].astype(int).to_numpy()
    return found


def _codes() -> pd.DataFrame:
    """Return one run's codes without their usage."""
    columns = {f"class_{name}": 0 for name in ("background", *CLASSES)}
    parts = [pd.DataFrame({"part": part, "network": "teacher", "code": np.arange(CODES)}) for part in PARTS]
    return pd.concat(parts, ignore_index=True).assign(tokens=0, **columns)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path)


def cell_of(record: dict[str, Any], number: int) -> Cell:
    """Return one cell of a record that `fabricate` returned."""
    labels, cell = [arm["label"] for arm in record["arms"]], record["cells"][number]
    place = labels.index(cell["arm"])
    points, group = record["arms"][place].get("planted"), digest([record["name"], cell["arm"]])
    return Cell(cell["arm"], place, cell["seed"], cell["identity"], points, group)
