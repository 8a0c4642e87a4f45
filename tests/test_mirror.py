"""The MLflow mirror: complete, idempotent, truthful about states, patient with a server that is away."""

import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vqseg.errors import InputError
from vqseg.files import read_json, write_json
from vqseg.records import exhibits, mirror, sync, transfer
from vqseg.records.mirror import Ledger, default_uri, flatten, resolve_uri, sanitized, thin
from vqseg.records.run import RunFolder

CLASSES = ["background", "RV", "Myo", "LV"]
STEPS = 1000
AWAY = "http://127.0.0.1:9"  # the discard port: nobody listens


def fabricate_run(store, identity, *, name="none, seed 0", seed=0, state="finished", step=STEPS, dice=0.7, every=25):
    """Write a run folder as training would have left it."""
    run = RunFolder(store, identity)
    config = {
        "preset": "cpu",
        "steps": STEPS,
        "perturbation": {"name": "qpm", "eps": 0.7},
        "classes": [1, 2],
        "ema": None,
    }
    done = state == "finished"
    run.create(
        config,
        {
            "name": name, "state": state, "step": step, "steps": STEPS, "seed": seed, "preset": "cpu",
            "labels": "labelled",
            "started": "2026-01-02T03:04:05+00:00", "finished": "2026-01-02T03:14:05+00:00" if done else None,
            "error": "loss is not finite at step 12" if state == "failed" else None,
            "data": {"name": "acdc", "root": "/data/acdc", "digest": "d" * 16, "synthetic": False, "classes": CLASSES},
            "split": {"name": "standard", "digest": "s" * 16, "parts": {"val": {"patients": 2, "images": 8}}},
            "code": {"vqseg.train": "0"}, "scoring": "1",
            "provenance": {"host": "box", "device": "cpu", "threads": 1, "precision": "fp32", "vqseg": "0.1",
                           "torch": "2.13.0", "python": "3.11.7", "platform": "Linux", "commit": "c" * 40,
                           "dirty": True},
            "cost": {"parameters": 1000, "ms_per_step": 100.0, "peak_memory_mb": 50.0, "train_seconds": 100.0},
            "validation": {"last": {"teacher": dice, "student": dice - 0.1},
                           "best": {"teacher": {"dice": dice, "step": 900}, "student": {"dice": dice, "step": 900}}},
            "evaluations": [],
        },
    )  # fmt: skip
    fabricate_metrics(run, step, every=every)
    (run.path / "lock").touch()
    if done:
        fabricate_results(run, dice)
    return run


def fabricate_metrics(run, step, *, every=25):
    lines = ["step,name,value\n"]
    for at in range(every, step + 1, every):
        values = {"loss/total": 1 / at, "lr": 0.01, "codebook/utilization": 0.5, "codebook/ceiling": 0.9}
        if at % (4 * every) == 0:
            values |= {"val/dice_teacher": at / STEPS * 0.7, "val/dice_student": at / STEPS * 0.6}
        lines += [f"{at},{name},{value!r}\n" for name, value in values.items()]
    (run.path / "metrics.csv").write_text("".join(lines))


def fabricate_results(run, dice, parts=("val", "devtest")):
    rows = [
        {"part": part, "checkpoint": checkpoint, "network": network, "protocol": "scan", "geometry": "native",
         "case_unit": "scan", "case": f"{patient}-{scan}", "patient": patient, "class_index": index,
         "class_name": CLASSES[index], "dice": dice, "jaccard": dice / (2 - dice), "hd95_voxel": 3.0, "asd_voxel": 1.0,
         "assd_voxel": 1.0, "hd95_mm": math.nan, "asd_mm": math.nan, "assd_mm": math.nan, "empty_prediction": False,
         "empty_reference": False, "scoring": "1", "evaluated": "2026-01-02"}
        for part in parts for checkpoint in ("last", "best") for network in ("student", "teacher")
        for patient, scan in (("p1", "ED"), ("p1", "ES"), ("p2", "ED")) for index in (1, 2, 3)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(run.path / "rows.parquet", index=False)
    tokens = np.arange(64)[::-1]
    usage = {"part": "val", "network": "teacher", "code": np.arange(64), "tokens": tokens, "class_RV": tokens // 2}
    pd.DataFrame(usage).to_parquet(run.path / "codebook.parquet", index=False)
    (run.path / "weights").mkdir(exist_ok=True)
    (run.path / "weights" / "last-teacher.safetensors").write_bytes(b"weights")
    (run.path / "overlays").mkdir(exist_ok=True)
    (run.path / "overlays" / "p1-ED-3.png").write_bytes(b"\x89PNG")


def fabricate_study(store, name, cells, *, created="2026-01-01T00:00:00+00:00"):
    """``cells``: (arm, seed, identity)."""
    arms = list(dict.fromkeys(arm for arm, _, _ in cells))
    study = {
        "format": 1, "name": name, "study": name, "question": "Does the knob matter?",
        "data": {"name": "acdc", "root": "/data/acdc", "digest": "d" * 16, "synthetic": False},
        "split": {"name": "standard", "digest": "s" * 16}, "preset": "cpu", "supervised": False, "reference": "none",
        "created": created, "base": "b" * 16,
        "arms": [{"label": arm, "family": "qpm", "knob": None, "overrides": {}} for arm in arms],
        "cells": [{"arm": a, "seed": s, "identity": i, "name": f"{a}, seed {s}"} for a, s, i in cells],
    }  # fmt: skip
    write_json(store / "studies" / name / "study.json", study)
    return study


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A database with MLflow's schema, made once: making it costs over a second."""
    from vqseg.records.tracking import make_database

    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    make_database(path)
    return path


def stub_picture(_figure, target, **_options):
    Path(target).write_bytes(b"picture")


@pytest.fixture
def store(tmp_path, template, monkeypatch):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", stub_picture)
    monkeypatch.setattr("vqseg.records.tracking.make_database", lambda p: p.exists() or shutil.copyfile(template, p))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "store" / "mlflow").mkdir(parents=True)
    shutil.copyfile(template, tmp_path / "store" / "mlflow" / "mlflow.db")
    return tmp_path / "store"


@pytest.fixture
def sweep(store):
    """A study of two arms: two finished runs, and a killed one."""
    fabricate_run(store, "aaaa", name="qpm eps=0.7, seed 0", dice=0.70)
    fabricate_run(store, "bbbb", name="qpm eps=0.7, seed 1", seed=1, dice=0.74)
    fabricate_run(store, "cccc", name="none, seed 0", state="running", step=500)
    fabricate_study(store, "sweep", [("qpm eps=0.7", 0, "aaaa"), ("qpm eps=0.7", 1, "bbbb"), ("none", 0, "cccc")])
    return store


def client(store):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_uri(store))


def mirrored(store):
    """{tag identity: MLflow run}"""
    ask = client(store)
    experiment = ask.get_experiment_by_name("vqseg").experiment_id
    return {run.data.tags["identity"]: run for run in ask.search_runs([experiment])}


def picture(store):
    """All that the mirror shows, without ids and clock times."""
    ask, shown = client(store), {}
    runs = mirrored(store)
    names = {run.info.run_id: key for key, run in runs.items()}
    for key, run in runs.items():
        tags = dict(run.data.tags)
        tags["mlflow.parentRunId"] = names.get(tags.get("mlflow.parentRunId"), "")
        points = {
            name: [(m.step, m.value, m.timestamp) for m in ask.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        inputs = [(data.dataset.name, data.dataset.digest) for data in run.inputs.dataset_inputs]
        info = (run.info.status, run.info.start_time, run.info.end_time, run.info.run_name)
        shown[key] = (info, tags, run.data.params, points, files, inputs)
    return shown


@pytest.fixture
def requests(monkeypatch):
    """Count every writing request."""
    from vqseg.records.tracking import Tracking

    counted = []
    for name in ("create", "log", "retag", "rename", "dataset", "artifact", "finish"):
        before = getattr(Tracking, name)
        monkeypatch.setattr(
            Tracking, name, lambda self, *a, _f=before, _n=name, **k: (counted.append(_n), _f(self, *a, **k))[1]
        )
    return counted


def test_study_and_cells_stand_as_the_record_says(sweep):
    outcome = sync.sync(sweep)
    assert (outcome.created, outcome.problems) == (4, [])
    runs = mirrored(sweep)
    parent, first = runs["study:sweep"], runs["aaaa"]
    assert parent.info.run_name == "sweep"
    assert "Does the knob matter?" in parent.data.tags["mlflow.note.content"]
    assert "| qpm eps=0.7 | 2/2 | 72.00 | 2.83 |" in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["val/dice_teacher mean/qpm eps 0.7"] == pytest.approx(0.72)
    assert parent.data.metrics["devtest/dice_teacher sd/qpm eps 0.7"] == pytest.approx(0.0282843, rel=1e-4)
    assert first.info.run_name == "qpm eps=0.7, seed 0"
    assert {runs[key].data.tags["mlflow.parentRunId"] for key in ("aaaa", "bbbb", "cccc")} == {parent.info.run_id}
    assert first.data.params["perturbation.eps"] == "0.7"
    assert first.data.params["ema"] == "null"
    assert first.data.tags["arm"] == "qpm eps=0.7"
    assert first.data.tags["hardware"] == "box, cpu, 1 thread(s), fp32"
    assert first.data.tags["dirty"] == "true"
    assert (first.info.end_time - first.info.start_time) == 600_000
    assert first.data.metrics["devtest/dice_teacher"] == pytest.approx(0.70)
    assert first.inputs.dataset_inputs[0].dataset.digest == "d" * 16
    folder = Path(first.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(sweep / "mlflow" / "artifacts")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    assert names == {"config.yaml", "metrics.csv", "rows.parquet", "rows-summary.csv", "curves.png", "codebook.png",
                     "weights.txt", "overlays/p1-ED-3.png"}  # fmt: skip
    assert "sha256" in (folder / "weights.txt").read_text()


def test_second_sync_pushes_nothing(sweep, requests):
    sync.sync(sweep)
    assert requests
    requests.clear()
    outcome = sync.sync(sweep)
    assert (outcome.created, outcome.updated, outcome.unchanged, requests) == (0, 0, 4, [])


def test_metrics_arrive_once_while_a_run_grows(store):
    run = fabricate_run(store, "aaaa", state="running", step=300)
    work = transfer.Pass(store, default_uri(store))
    work.run()
    fabricate_metrics(run, 600)
    with (run.path / "metrics.csv").open("a") as file:
        file.write("625,loss/total,0.0")  # still being written
    run.update(step=600)
    work.run()
    history = client(store).get_metric_history(mirrored(store)["aaaa"].info.run_id, "loss/total")
    assert [point.step for point in history] == list(range(25, 601, 25))


def test_a_smaller_score_replaces_a_larger_one(sweep):
    sync.sync(sweep)
    fabricate_results(RunFolder(sweep, "bbbb"), 0.66)
    sync.sync(sweep)
    runs = mirrored(sweep)
    assert runs["bbbb"].data.metrics["devtest/dice_teacher"] == pytest.approx(0.66)
    assert runs["study:sweep"].data.metrics["devtest/dice_teacher mean/qpm eps 0.7"] == pytest.approx(0.68)


def test_interrupted_push_is_completed_without_doubles(sweep, monkeypatch):
    from vqseg.records.tracking import Tracking, TrackingAway

    def break_off(*_args, **_kwargs):
        raise TrackingAway("gone")

    with monkeypatch.context() as patch:
        patch.setattr(Tracking, "finish", break_off)
        with pytest.raises(TrackingAway):
            sync.sync(sweep)
    assert sync.sync(sweep).problems == []
    (sweep / "runs" / "aaaa" / "mirror.json").unlink()  # the memory may be lost too
    (sweep / "runs" / "bbbb" / "mirror.json").write_text("{damaged")
    assert sync.sync(sweep).created == 0
    shown = picture(sweep)
    assert len(shown) == 4
    assert len(shown["aaaa"][3]["loss/total"]) == STEPS // 25
    assert len(shown["study:sweep"][3]["val/dice_teacher mean/qpm eps 0.7"]) == 1


@pytest.mark.parametrize("steps", [1, 499, 500, 501, 30_000])
@pytest.mark.parametrize("every", [1, 25, 77])
def test_thinning_is_bounded_incremental_and_keeps_the_last(steps, every):
    points = [(step, float(step)) for step in range(every, steps + 1, every)]
    whole = thin(points, steps, final=True)
    assert len(whole) <= 500
    assert whole[-1:] == points[-1:]
    assert len(whole) >= min(len(points), 250)
    half = thin(points[: len(points) // 2], steps, final=False)
    assert whole[: len(half)] == half


@pytest.mark.parametrize(("state", "shown", "held"), [
    ("finished", "FINISHED", False), ("failed", "FAILED", False), ("interrupted", "KILLED", False),
    ("running", "KILLED", False), ("running", "RUNNING", True),
])  # fmt: skip
def test_status_is_true(store, state, shown, held):
    run = fabricate_run(store, "aaaa", state=state)
    with (run.path / "lock").open("a") as lock:
        if held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        sync.sync(store)
    found = mirrored(store)["aaaa"]
    assert found.info.status == shown
    assert found.data.tags["state"] == (state if held or state != "running" else "killed")
    assert ("error" in found.data.tags) == (state == "failed")
    assert (found.info.end_time is None) == held


def test_resumed_run_is_running_again_under_the_same_id(store):
    run = fabricate_run(store, "aaaa", state="failed", step=300)
    sync.sync(store)
    before = mirrored(store)["aaaa"]
    run.update(state="running", error=None)
    with run.lock():
        sync.sync(store)
        running = mirrored(store)["aaaa"]
    run.update(state="finished", finished="2026-01-02T04:00:00+00:00", step=STEPS)
    fabricate_metrics(run, STEPS)
    sync.sync(store)
    after = mirrored(store)["aaaa"]
    assert before.info.run_id == running.info.run_id == after.info.run_id
    assert [r.info.status for r in (before, running, after)] == ["FAILED", "RUNNING", "FINISHED"]
    assert "error" not in running.data.tags
    assert after.info.end_time > running.info.start_time
    assert len(client(store).get_metric_history(after.info.run_id, "loss/total")) == STEPS // 25


def test_server_away_costs_seconds_and_loses_nothing(sweep):
    began = time.monotonic()
    with pytest.raises(InputError, match=r"does not answer \(connection refused\).*vqseg records sync"):
        sync.sync(sweep, tracking=AWAY)
    assert time.monotonic() - began < 30
    assert sync.unsynced(sweep) == ["aaaa", "bbbb", "cccc"]
    assert sync.sync(sweep).created == 4
    assert sync.unsynced(sweep) == []


def test_run_deleted_in_mlflow_is_made_anew(sweep):
    sync.sync(sweep)
    runs = mirrored(sweep)
    for key in ("aaaa", "study:sweep"):
        client(sweep).delete_run(runs[key].info.run_id)
    outcome = sync.sync(sweep)
    again = mirrored(sweep)
    assert outcome.created == 2
    assert again["aaaa"].info.run_id != runs["aaaa"].info.run_id
    assert again["bbbb"].info.run_id == runs["bbbb"].info.run_id
    assert again["bbbb"].data.tags["mlflow.parentRunId"] == again["study:sweep"].info.run_id


def test_rebuild_equals_the_mirror(sweep):
    sync.sync(sweep)
    before = picture(sweep)
    (sweep / "mlflow" / "artifacts" / ("0" * 32)).mkdir()
    shutil.rmtree(sweep / "runs" / "cccc" / "weights", ignore_errors=True)
    outcome = sync.rebuild(sweep)
    assert (outcome.created, outcome.problems) == (4, [])
    assert picture(sweep) == before
    assert len(list((sweep / "mlflow" / "artifacts").iterdir())) == 4
    assert sync.sync(sweep).unchanged == 4


def test_rebuild_of_another_store_only_adds(sweep, template, tmp_path):
    other = tmp_path / "other" / "mlflow.db"
    other.parent.mkdir()
    shutil.copyfile(template, other)
    sync.sync(sweep, tracking=f"sqlite:///{other}")
    again = sync.rebuild(sweep, tracking=f"sqlite:///{other}")
    assert (again.created, again.updated, again.problems) == (0, 4, [])
    assert len(read_json(sweep / "runs" / "aaaa" / "mirror.json")["tracking"]) == 1


def test_moved_store_is_told_to_rebuild(sweep):
    sync.sync(sweep)
    moved = sweep.rename(sweep.with_name("moved"))
    assert "records rebuild" in sync.sync(moved).problems[0]
    assert sync.rebuild(moved).created == 4
    assert Path(mirrored(moved)["aaaa"].info.artifact_uri.removeprefix("file://")).is_relative_to(moved)


def test_run_of_two_studies_is_mirrored_once_under_the_older(store):
    fabricate_run(store, "aaaa")
    sync.sync(store)
    assert "mlflow.parentRunId" not in mirrored(store)["aaaa"].data.tags
    fabricate_study(store, "second", [("none", 0, "aaaa"), ("none", 1, "dddd")], created="2026-01-03T00:00:00+00:00")
    fabricate_study(store, "first", [("reference", 0, "aaaa")])
    sync.sync(store)
    runs = mirrored(store)
    assert len(runs) == 3
    assert runs["aaaa"].data.tags["studies"] == "first, second"
    assert runs["aaaa"].info.run_name == "reference, seed 0"
    assert runs["aaaa"].data.tags["mlflow.parentRunId"] == runs["study:first"].info.run_id
    assert runs["study:first"].info.status == "FINISHED"
    assert runs["study:second"].data.tags["cells"] == "1 finished, 1 waiting of 2 cells"
    shutil.rmtree(store / "studies" / "first")
    shutil.rmtree(store / "studies" / "second")
    sync.sync(store)
    assert "mlflow.parentRunId" not in mirrored(store)["aaaa"].data.tags


def test_one_damaged_record_does_not_stop_the_others(store):
    fabricate_run(store, "aaaa")
    (store / "runs" / "aaab").mkdir()
    (store / "runs" / "aaab" / "status.json").write_text("{")
    write_json(store / "studies" / "odd" / "study.json", {"name": "odd"})
    outcome = sync.sync(store)
    assert outcome.created == 1
    assert len(outcome.problems) == 2
    assert all("\n" not in problem for problem in outcome.problems)


def test_follower_lives_as_long_as_its_parent(store):
    run = fabricate_run(store, "aaaa", state="running", step=300)
    script = (
        "import sys, time; from pathlib import Path; from vqseg.records import sync\n"
        f"p = sync.start(Path({str(store)!r}), interval=1.0); print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    deadline = time.monotonic() + 180
    while not (run.path / "mirror.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    fabricate_metrics(run, STEPS)
    run.update(state="interrupted")
    parent.kill()
    parent.wait()
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _alive(child)
    assert mirrored(store)["aaaa"].data.tags["state"] == "interrupted"
    assert (store / "mlflow" / "sync.log").read_text() == ""


def _alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_follower_of_a_server_that_is_away_ends_quietly(sweep):
    process = sync.start(sweep, tracking=AWAY)
    assert sync.finish(process, timeout=60)
    assert (sweep / "mlflow" / "sync.log").read_text().count("\n") <= 1


def test_one_shot_process_exits_2_with_one_line(sweep):
    done = subprocess.run(
        [sys.executable, "-m", "vqseg.records.sync", "--store", sweep, "--tracking", AWAY],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("vqseg: error: tracking store http://127.0.0.1:9 does not answer")
    assert done.stderr.count("\n") == 1


def test_empty_store_makes_nothing(tmp_path):
    assert str(sync.sync(tmp_path / "none")) == "0 new, 0 updated, 0 unchanged"
    assert not (tmp_path / "none").exists()


def test_names_and_params_are_what_mlflow_accepts():
    assert sanitized("qpm eps=0.7") == "qpm eps 0.7"
    assert sanitized("val/dice_teacher_RV (left)") == "val/dice_teacher_RV left"
    flat = dict(flatten({"a": {"b": 1, "c": {}}, "d": "", "e": "x" * 7000, "f": [1, None]}))
    assert flat == {"a.b": "1", "a.c": "{}", "d": '""', "e": "x" * 6000, "f": "[1, null]"}


def test_tracking_address(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@host:5000/")
    assert resolve_uri(tmp_path, None) == "http://user:secret@host:5000"
    assert mirror.shown_uri(resolve_uri(tmp_path, None)) == "http://host:5000"
    assert resolve_uri(tmp_path, "sqlite:///x.db") == f"sqlite:///{Path.cwd() / 'x.db'}"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert resolve_uri(tmp_path, None) == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    with pytest.raises(InputError, match="expected http"):
        resolve_uri(tmp_path, "./mlruns")


def test_scores_average_within_patients_first(tmp_path):
    run = fabricate_run(tmp_path, "aaaa")
    rows = pd.read_parquet(run.path / "rows.parquet")
    rows.loc[rows["patient"] == "p2", "dice"] = 0.1
    rows.to_parquet(run.path / "rows.parquet", index=False)
    assert exhibits.scores(run.path)["devtest"] == pytest.approx((0.7 + 0.1) / 2)


def test_pictures_are_drawn_and_phantoms_marked(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    draw = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), draw(self, *a, **k))[1])
    run = fabricate_run(tmp_path, "aaaa")
    status = run.status()
    for synthetic in (False, True):
        status["data"]["synthetic"] = synthetic
        made = {artifact.name: artifact for artifact in exhibits.of_run(run, status, "finished")}
        for name in ("curves.png", "codebook.png"):
            made[name].write(tmp_path / name)
            assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    assert [[text.get_text() for text in figure.texts] for figure in figures] == [[], [], ["phantom"], ["phantom"]]
    assert [len(axis.lines) for axis in figures[0].axes] == [1, 2, 2, 0]
    made["rows-summary.csv"].write(tmp_path / "summary.csv")
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert len(summary) == 2 * 2 * 2 * 3
    assert set(summary["cases"]) == {3}
    assert not {"curves.png", "metrics.csv"} & {a.name for a in exhibits.of_run(run, status, "running")}


def test_ledger_keeps_stores_apart(tmp_path):
    one, two = Ledger(tmp_path, "http://a"), Ledger(tmp_path, "http://b")
    one.entry = {"run_id": "1"}
    one.save()
    two.entry = {"run_id": "2"}
    two.save()
    assert Ledger(tmp_path, "http://a").entry == {"run_id": "1"}
    assert "http" not in json.dumps(read_json(tmp_path / "mirror.json"))
