"""Fabricates run folders and studies with known numbers, so that reports are tested without training anything."""

import numpy as np
import pandas as pd

from vqseg.files import write_json
from vqseg.manifest import write_array
from vqseg.records.run import RunFolder

CLASSES = ["RV", "Myo", "LV"]
SMALL = {"none": 84.0, "qpm eps=0.7": 86.0, "dropout p=0.3": 84.2, "dropout p=0.9": 75.0, "shuffle rate=1": 83.0}
FAMILIES = {"shared statistics": "channel-dropout-shared"}
FIELD = 0.5**0.5
"""The noise at which a difference of two arms has the field's (`vqseg.report.power.FIELD_NOISE`)."""

MODULES = ("QPM", "DB", "PFA")
GRID = ("base", "QPM", "DB", "PFA", "QPM+DB", "QPM+PFA", "DB+PFA", "QPM+DB+PFA")
MEMORY_MB = {"QPM": 1.0, "DB": 80.0, "PFA": 200.0}
PARAMETERS = {"QPM": 0, "DB": 110_000, "PFA": 25_000}
MS = {"QPM": 3.0, "DB": 40.0, "PFA": 60.0}


def arm(label):
    if label in GRID:
        return module_arm(label)
    family = "channel-dropout-shared" if label.endswith("shared statistics") else label.split(" ")[0]
    knob = float(label.split("=")[1].split(" ")[0]) if "=" in label else None
    return {
        "label": label,
        "family": family,
        "knob": knob,
        "overrides": {"perturbation": {"name": family, "rate": knob}},
    }


def module_arm(label):
    """One arm of the grid of modules, as `studies/modules.yaml` has it."""
    on = set(label.split("+"))
    qpm = {"name": "qpm", "rate": 0.7} if "QPM" in on else "none"
    overrides = {"perturbation": qpm, "method.dual_branch": "DB" in on, "prior": "local" if "PFA" in on else "none"}
    return {
        "label": label, "family": "none" if label == "base" else label.casefold(), "knob": None,
        "overrides": overrides, "factors": {name: name in on for name in MODULES},
    }  # fmt: skip


def module_study(store, labels, **options):
    """Write a study of modules: ``labels`` gives every arm's Dice."""
    names = {"name": "modules-acdc-cpu", "definition": "modules", "reference": "base"}
    return study(store, labels, **{**names, **options})


def grid(base=70.0, **effects):
    """Return every cell's Dice: an arm's is ``base`` and what each set of modules in it adds, such as ``QPM_DB=1``."""
    return {
        label: base + sum(gain for names, gain in effects.items() if set(names.split("_")) <= set(label.split("+")))
        for label in GRID
    }


def rival(store, name="nnU-Net", *, seed=0, dice=80.0, noise=0.0, patients=10, parts=("devtest",), **status):
    """Write a run that was scored from predictions alone; ``status`` replaces or adds fields."""
    folder = RunFolder(store, f"{hash_of(name, seed, dice, str(status)):016x}")
    own = {
        "kind": "foreign", "name": name, "state": "finished", "step": None, "steps": None, "seed": seed, "preset": None,
        "labels": None, "labelled": None, "pretrained": None, "error": None, "scoring": "sc1",
        "data": {"name": "acdc", "root": "r", "digest": "d" * 16, "synthetic": False, "classes": CLASSES},
        "split": {"name": "7", "digest": "s" * 16},
    }  # fmt: skip
    folder.create({}, {**own, **status})
    settings = {"parts": parts, "patients": patients, "noise": noise, "protocols": ("scan",)}
    rows(folder.path, name, seed, dice, settings, np.random.default_rng(hash_of(name, seed)))
    table = pd.read_parquet(folder.path / "rows.parquet")
    table = table[(table["checkpoint"] == "last") & (table["network"] == "teacher")]
    table.to_parquet(folder.path / "rows.parquet", index=False)
    return folder


def study(
    store, arms=SMALL, *, name="epsilon-sweep-acdc-cpu", seeds=3, patients=10, parts=("val", "devtest"), data="acdc",
    synthetic=False, noise=1.0, reach=0.33, codes=16, created="2026-01-02T00:00:00+00:00", definition="epsilon-sweep",
    labelled=7, protocols=("scan",), steps=2000, reference="none", draws=1, speed=12.0,
):  # fmt: skip
    """Write a study and its runs; an arm's Dice is its number in ``arms`` plus the field's noise, twice its variance.

    ``noise`` scales it; `FIELD` makes it that of the field. ``speed``: of learning; below about 9 it has not ended.
    """
    settings = {
        "name": name, "arms": arms, "patients": patients, "parts": parts, "data": data, "synthetic": synthetic,
        "noise": noise, "reach": reach, "codes": codes, "labelled": labelled, "protocols": protocols, "steps": steps,
        "speed": speed,
    }  # fmt: skip
    cells = []
    for label in arms:
        for draw in range(draws):
            for seed in range(seeds):
                drawn = f", draw {draw}" if draw else ""
                identity = f"{abs(hash_of(name, label, seed, *([draw] if draw else []))):016x}"
                cell = {"arm": label, "seed": seed, "identity": identity, "name": f"{label}, seed {seed}{drawn}"}
                cells.append({**cell, **({"draw": draw} if draws > 1 else {})})
                run(store, identity, label, seed, settings, draw)
    value = {
        "format": 1, "name": name, "study": definition, "question": "Is a high dropout rate what hurts?",
        "data": {"name": data, "root": f"data/{data}", "digest": "d" * 16, "synthetic": synthetic},
        "split": {"name": "7", "digest": "s" * 16}, "preset": "cpu", "supervised": False, "reference": reference,
        "created": created, "base": "b" * 16, "arms": [arm(label) for label in arms], "cells": cells,
        **({"draws": draws} if draws > 1 else {}),
    }  # fmt: skip
    write_json(store / "studies" / name / "study.json", value)
    return value


def hash_of(*parts):
    import hashlib

    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:15], 16)


def run(store, identity, label, seed, settings, number=0):
    """Write one finished run folder, of the ``number``-th draw of labelled patients."""
    folder = RunFolder(store, identity)
    own = arm(label)
    draw = np.random.default_rng(hash_of(identity))
    parts = {"labelled": {"patients": settings["labelled"], "images": 136}}
    parts |= {part: {"patients": settings["patients"], "images": 200} for part in settings["parts"]}
    center, drawn = settings["arms"][label], f", draw {number}" if number else ""
    folder.create(
        {"preset": "cpu", "network": {"encoder": {"name": "unet"}}, "perturbation": own["overrides"]["perturbation"]},
        {
            "name": f"{label}, seed {seed}{drawn}", "state": "finished", "step": settings["steps"],
            "steps": settings["steps"], "seed": seed, "preset": "cpu", "started": "2026-01-02T00:00:00+00:00",
            "finished": "2026-01-02T01:00:00+00:00", "error": None, "labels": "labelled",
            "data": {
                "name": settings["data"], "root": "r", "digest": "d" * 16, "synthetic": settings["synthetic"],
                "classes": CLASSES,
            },
            "split": {"name": "7", "digest": "s" * 16, "parts": parts},
            "code": {"vqseg.train": "t1", f"vqseg.perturbations.{own['family']}": "p1"}, "scoring": "sc1",
            "provenance": {
                "host": "h", "device": "cpu", "threads": 2, "precision": "fp32", "vqseg": "0.1.0", "torch": "2.13.0",
                "python": "3.11", "platform": "linux", "commit": "abc1234", "dirty": False,
            },
            "cost": _cost(label, draw, settings["steps"]),
            "validation": {"last": {"teacher": center / 100, "student": center / 100 - 0.01}},
            "evaluations": [
                {"part": part, "date": "2026-01-03T00:00:00+00:00", "protocols": ["scan"], "repeat": 0}
                for part in settings["parts"]
            ],
        },
    )  # fmt: skip
    _metrics(folder.path / "metrics.csv", own, center, draw, settings)
    rows(folder.path, label, seed, center, settings, draw, number)
    _codebook(folder.path, own, draw, settings)


def rows(path, label, seed, center, settings, draw, number=0):
    """Write ``rows.parquet``: 2 scans x 3 classes per patient, Dice with the field's noise in points."""
    noise = settings["noise"]
    # Draws of the labelled patients differ by as much as twice the seeds; the first is the study's own.
    center += noise * np.random.default_rng(hash_of(label, number)).normal(0, 0.7) if number else 0.0
    records = []
    for part in settings["parts"]:
        shared = np.random.default_rng(hash_of(part)).normal(0, 4, settings["patients"])
        own = np.random.default_rng(hash_of(part, label)).normal(0, 0.6, settings["patients"])
        by_seed = draw.normal(0, 0.35)
        for patient in range(settings["patients"]):
            cell = own[patient] + by_seed + draw.normal(0, 0.6)
            for scan in ("ED", "ES"):
                score = center + shared[patient] * (noise > 0) + noise * (cell + draw.normal(0, 0.6))
                for index, name in enumerate(CLASSES, start=1):
                    for checkpoint, network, shift in (
                        ("last", "teacher", 0.0), ("last", "student", -1.0),
                        ("best", "teacher", 0.5), ("best", "student", -0.5),
                    ):  # fmt: skip
                        dice = min(max((score + shift + 3 * (index - 2)) / 100, 0.0), 1.0)
                        base = {
                            "part": part, "checkpoint": checkpoint, "network": network, "geometry": "native",
                            "case_unit": "scan", "case": f"p{patient}_{scan}", "patient": f"p{patient}",
                            "class_index": index, "class_name": name, "dice": dice, "jaccard": dice / (2 - dice),
                            "hd95_voxel": 30 * (1 - dice), "asd_voxel": 8 * (1 - dice), "assd_voxel": 8 * (1 - dice),
                            "hd95_mm": np.nan, "asd_mm": np.nan, "assd_mm": np.nan, "empty_prediction": False,
                            "empty_reference": False, "scoring": "sc1", "evaluated": "2026-01-03",
                        }  # fmt: skip
                        records += [{**base, "protocol": protocol} for protocol in settings["protocols"]]
    pd.DataFrame(records).to_parquet(path / "rows.parquet", index=False)


def _cost(label, draw, steps):
    on = [name for name in MODULES if name in label.split("+")]
    ms = 150 + sum(MS[name] for name in on) + 10 * draw.random() * (label not in GRID)
    return {
        "parameters": 470_000 + sum(PARAMETERS[name] for name in on), "ms_per_step": ms,
        "peak_memory_mb": 900.0 + sum(MEMORY_MB[name] for name in on), "train_seconds": ms * steps / 1000,
    }  # fmt: skip


def _metrics(path, own, center, draw, settings):
    knob = 1.0 if own["knob"] is None else own["knob"]
    dropped = own["family"].startswith(("dropout", "channel"))
    distortion = 0.0 if own["family"] == "none" else knob / max(1 - knob, 0.05) if dropped else 1.8 * knob
    lines = ["step,name,value"]
    steps = settings["steps"]
    for step in range(steps // 10, steps + 1, steps // 10):
        share = step / steps
        values = {
            "val/dice_teacher": center / 100 * (1 - np.exp(-settings["speed"] * share)) + draw.normal(0, 0.01),
            "loss/total": 1.5 * np.exp(-2 * share) + 0.2,
            "codebook/utilization": 0.9 - 0.5 * share * (own["family"] == "dropout") + draw.normal(0, 0.01),
            "codebook/ceiling": 0.99,
            "codebook/perplexity": settings["codes"] * (0.5 + 0.2 * share + draw.normal(0, 0.01)),
            "codebook/dead": 2, "perturbation/distortion": distortion * (1 + 0.05 * draw.normal()),
            "reach/dice_own": settings["reach"] * min(distortion / 3, 1) + abs(draw.normal(0, 0.01)),
            "reach/flips_own": 0.05 * min(distortion, 3) + abs(draw.normal(0, 0.005)),
            "reach/dice_uniform": settings["reach"] + draw.normal(0, 0.004),
            "reach/flips_uniform": 0.12 + draw.normal(0, 0.01),
        }  # fmt: skip
        lines += [f"{step},{name},{float(value)!r}" for name, value in values.items()]
    path.write_text("\n".join(lines) + "\n")


def _codebook(path, own, draw, settings):
    count = settings["codes"]
    tokens = np.sort((4000 / (1 + np.arange(count)) ** 1.1 * draw.random(count)).astype(int))[::-1]
    histogram = pd.DataFrame(
        {"part": settings["parts"][-1], "network": "teacher", "code": np.arange(count), "tokens": tokens}
    )
    shares = draw.dirichlet(np.ones(len(CLASSES) + 1), count)
    whole = np.diff(np.floor(np.cumsum(shares, axis=1) * tokens[:, None] + 1e-6), axis=1, prepend=0).astype(int)
    for place, name in enumerate(("background", *CLASSES)):
        histogram[f"class_{name}"] = whole[:, place]
    histogram.to_parquet(path / "codebook.parquet", index=False)
    if own["family"] == "qpm":
        write_array(path / "codes.npz", codes=draw.normal(0, 0.8, (count, 8)).astype(np.float32))


def full_sweep():
    """Arms of the whole epsilon sweep with plausible numbers."""
    arms = {"none": 84.0}
    arms |= {f"qpm eps={eps}": 84 + gain for eps, gain in zip((0.1, 0.3, 0.5, 0.7, 0.9), (0.2, 0.8, 1.3, 1.9, 0.4))}
    rates = (0.1, 0.3, 0.5, 0.7, 0.9)
    arms |= {f"dropout p={p}": 84 + gain for p, gain in zip(rates, (0.1, 0.3, 0.2, -2.5, -9.0))}
    arms |= {f"channel-dropout p={p}": 84 + gain for p, gain in zip(rates, (0.1, 0.5, 0.6, -1.0, -6.0))}
    return arms | {"channel-dropout p=0.9 shared statistics": 66.0, "shuffle rate=1": 82.0}
