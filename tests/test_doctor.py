"""``vqseg doctor``: says what is wrong, and exits 2 only when something is broken."""

import importlib
import importlib.metadata
import json
import os
import time

import pytest
import typer
from test_mirror import fabricate_run
from typer.testing import CliRunner

from vqseg import doctor
from vqseg.cli.doctor import doctor as command


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("HF_HUB_CACHE", "VQSEG_WEIGHTS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def named(findings, name):
    return next(finding for finding in findings if finding.name == name)


def test_command_prints_text_and_json(tmp_path):
    app = typer.Typer()
    app.command()(command)
    text = CliRunner().invoke(app, ["--store", str(tmp_path / "none")])
    assert text.exit_code == 0, text.output
    assert "versions" in text.stdout
    assert not (tmp_path / "none").exists()
    shown = json.loads(CliRunner().invoke(app, ["--store", str(tmp_path), "--json"]).stdout)
    assert {row["section"] for row in shown} == {"versions", "devices", "weights", "disk", "store"}
    assert {"torch", "mlflow", "optuna", "transformers", "python"} <= {row["name"] for row in shown}


def test_missing_and_old_packages_are_errors(monkeypatch):
    def version(name):
        if name == "optuna":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "mlflow" else "999"

    monkeypatch.setattr(importlib.metadata, "version", version)
    findings = doctor.versions()
    assert named(findings, "optuna").advice.startswith("pip install 'optuna")
    assert named(findings, "mlflow").value == "0.1, expected <4,>=3.17"
    assert named(findings, "numpy").level == "ok"
    assert doctor.broken(findings)


def test_torch_that_does_not_load_is_reported(monkeypatch):
    def fail(name):
        raise ImportError("libcudart.so.12: cannot open\nshared object")

    monkeypatch.setattr(importlib, "import_module", fail)
    finding = named(doctor.devices(), "torch")
    assert finding.level == "error"
    assert "\n" not in finding.value


@pytest.mark.parametrize(("flags", "chosen"), [("fpu amx_bf16", "bf16"), ("fpu avx512f", "fp32")])
def test_bf16_only_where_the_cpu_multiplies_it(monkeypatch, flags, chosen):
    monkeypatch.setattr(doctor, "_cpu_info", lambda: {"flags": flags, "model name": "cpu"})
    assert f"takes {chosen}" in named(doctor.devices(), "bf16").value


def test_weights_are_found(monkeypatch, tmp_path):
    hub = tmp_path / "hub" / "hub" / "models--microsoft--rad-dino" / "snapshots" / "abcdef0123456789"
    own = tmp_path / "own" / "mae"
    for folder in (hub, own):
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
        (folder / "model.safetensors").touch()
    (tmp_path / "own" / "empty").mkdir()
    monkeypatch.setenv("VQSEG_WEIGHTS", str(tmp_path / "own"))
    names = [finding.name for finding in doctor.weights()]
    assert names == ["hub cache", "microsoft/rad-dino", "mae"]
    monkeypatch.setenv("VQSEG_WEIGHTS", str(tmp_path / "nowhere"))
    assert named(doctor.weights(), "VQSEG_WEIGHTS").level == "warning"


def test_store_is_counted_and_leftovers_are_named(tmp_path):
    fabricate_run(tmp_path, "aaaa")
    fabricate_run(tmp_path, "bbbb", state="running", step=100)
    fabricate_run(tmp_path, "cccc", state="failed", step=100)
    lock = tmp_path / "studies" / "sweep" / "queue.journal.lock"
    lock.parent.mkdir(parents=True)
    lock.symlink_to("queue.journal")
    old = time.time() - 600
    os.utime(lock, (old, old), follow_symlinks=False)
    findings = doctor.records(tmp_path)
    assert named(findings, "runs").value.endswith("1 failed, 1 finished, 1 killed")
    assert named(findings, "to resume").value == "1"
    assert "10 min old" in named(findings, "stale lock").value
    assert named(findings, "MLflow mirror").value.startswith("3 runs not yet complete")
    assert not doctor.broken(findings)
    (tmp_path / "runs" / "aaaa" / "status.json").write_text("{")
    assert doctor.broken(doctor.records(tmp_path))


def test_disk_and_file_system(tmp_path, monkeypatch):
    findings = doctor.disk(tmp_path / "not" / "there" / "yet")
    assert [finding.name for finding in findings] == ["free", "symbolic links", "file locks"]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1024})())
    assert named(doctor.disk(tmp_path), "free").level == "error"


def test_text_ends_with_what_to_do():
    findings = [doctor.Finding("store", "failed", "2", "warning", "try again")]
    assert doctor.text_of(findings).endswith("warning: failed: 2; try again")
    assert doctor.text_of([doctor.Finding("store", "runs", "2")]).endswith("nothing is wrong")
