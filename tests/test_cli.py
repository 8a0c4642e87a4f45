import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from vqseg import __version__
from vqseg.cli import app
from vqseg.records.run import RunFolder


def vqseg(*words, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "vqseg", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", **environment},
        timeout=300,
    )


def training(root, overrides):
    sets = [word for override in overrides for word in ("--set", override)]
    return ["train", "--data", root, "--preset", "smoke", "--no-mirror", *sets]


def test_every_command_has_help():
    runner = CliRunner()
    groups = {"data": "check", "study": "run", "records": "sync", "config": "show"}
    for words in [
        [],
        ["train"],
        ["evaluate"],
        ["report"],
        ["ui"],
        ["doctor"],
        ["demo"],
        *([g, c] for g, c in groups.items()),
    ]:
        result = runner.invoke(app, [*words, "--help"])
        assert result.exit_code == 0, result.output
        assert "Usage" in result.output
    assert __version__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study", "run", "epsilon-swep"], "did you mean 'epsilon-sweep'"),
        (["study", "run", "epsilon-sweep", "--data", "nowhere"], "nowhere: not a prepared data folder"),
        (["train", "--data", "nowhere"], "nowhere: not a prepared data folder"),
        (["report", "epsilon"], "study run"),
        (["study", "status", "epsilon-sweep"], "study run"),
        (["config", "show", "cqu"], "did you mean 'cpu'"),
        (["config", "show", "cpu", "--set", "train.stepz=3"], "did you mean 'steps'"),
        (["config", "show", "cpu", "--set", "perturbation=qmp"], "did you mean 'qpm'"),
        (["evaluate", "0123"], "no such run"),
        (["train", "--device", "tpu", "--data", "PHANTOM", "--preset", "smoke"], "--device tpu"),
        (["train", "--keep", "some", "--data", "PHANTOM", "--preset", "smoke"], "--keep some"),
        (["train", "--split", "labeled-1", "--data", "PHANTOM"], "did you mean 'labelled-1'"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(words, message, tmp_path, phantom_root, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*(phantom_root if word == "PHANTOM" else word for word in words))
    assert code == 2, err
    assert message in err
    assert err.startswith("vqseg: error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("status.json"))
    assert not list(tmp_path.rglob("*.npz"))


def test_a_process_tells_bad_input_as_a_command_called_here_does(tmp_path):
    result = vqseg("config", "show", "cqu", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("vqseg: error: ") and "did you mean 'cpu'" in result.stderr


def test_an_unknown_option_exits_2(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("study", "run", "epsilon-sweep", "--preste", "cpu")
    assert code == 2 and "--preste" in err


def test_train_then_evaluate_from_an_empty_folder(tmp_path, phantom_root, tiny, command, monkeypatch):
    train = [*training(phantom_root, tiny), "--keep", "all", "--name", "mine"]
    first = vqseg(*train, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "step 12/12" in first.stdout
    (path,) = (tmp_path / "vqseg-store" / "runs").iterdir()
    folder = RunFolder(tmp_path / "vqseg-store", path.name)
    assert folder.state() == "finished"
    assert folder.status()["name"] == "mine"
    monkeypatch.chdir(tmp_path)
    assert command(*train)[0] == 0
    assert [run.name for run in (tmp_path / "vqseg-store" / "runs").iterdir()] == [path.name]
    code, _, err = command("evaluate", path.name[:6], "--split", "test", "--reference", "medpy")
    assert code == 0, err
    assert [one["part"] for one in folder.status()["evaluations"]] == ["val", "test"]
    code, _, err = command("evaluate", path.name, "--split", "devtest")
    assert code == 2 and "devtest" in err


def test_a_damaged_mask_is_named_before_training(tmp_path, phantom_root, tiny):
    import shutil

    root = tmp_path / "data"
    shutil.copytree(phantom_root, root)
    victim = sorted((root / "masks").iterdir())[0]
    victim.write_bytes(b"broken")
    result = vqseg("train", "--data", root, "--preset", "smoke", "--no-mirror", cwd=tmp_path)
    assert result.returncode == 2
    assert victim.name in result.stderr
    assert not (tmp_path / "vqseg-store" / "runs").exists()


def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_resumes(tmp_path, phantom_root, tiny):
    import signal
    import time

    words = training(phantom_root, (*tiny, "train.steps=4000", "train.validate_steps=4000"))
    command = [sys.executable, "-m", "vqseg", *words]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command resumes" in said
    (path,) = (tmp_path / "vqseg-store" / "runs").iterdir()
    assert RunFolder(tmp_path / "vqseg-store", path.name).state() == "interrupted"
