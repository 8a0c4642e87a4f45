"""``vqseg records`` and ``vqseg ui``: what they print, and that they leave no process behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import typer
from test_mirror import AWAY, fabricate_run, fabricate_study, mirrored, store, sweep, template  # noqa: F401 - fixtures
from typer.testing import CliRunner

from vqseg.cli import records
from vqseg.cli import ui as ui_module
from vqseg.errors import InputError
from vqseg.records.run import resolve

cli = CliRunner()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A store that is only read."""
    shelf = tmp_path_factory.mktemp("shelf")
    fabricate_run(shelf, "aaaa", name="none, seed 0")
    fabricate_run(shelf, "1234", name="qpm eps=0.7, seed 0", state="running", step=500)
    (shelf / "runs" / "bad").mkdir()
    (shelf / "runs" / "bad" / "status.json").write_text("{")
    fabricate_study(shelf, "sweep", [("none", 0, "aaaa"), ("qpm eps=0.7", 0, "1234")])
    return shelf


def ask(*words):
    return cli.invoke(records.app, [str(word) for word in words])


def test_list_shows_every_run_and_its_state(shelf):
    rows = {row["identity"]: row for row in json.loads(ask("list", "--store", shelf, "--json").stdout)}
    assert rows["aaaa"]["state"] == "finished"
    assert rows["aaaa"]["studies"] == ["sweep"]
    assert rows["aaaa"]["val_dice"] == pytest.approx(0.7)
    assert (rows["1234"]["state"], rows["1234"]["steps"]) == ("killed", "500/1000")
    assert rows["bad"]["state"] == "damaged"
    table = ask("list", "--store", shelf).stdout
    assert "qpm eps=0.7, seed 0" in table
    assert "1234" in table


def test_show_answers_to_a_beginning_and_names_the_nearest_command_otherwise(shelf):
    shown = json.loads(ask("show", "aa", "--store", shelf, "--json").stdout)
    assert shown["studies"] == ["sweep: none, seed 0"]
    assert shown["dice_of_last_teacher"]["devtest"] == pytest.approx(0.7)
    assert "weights/" in shown["files"]
    assert "state: killed" in ask("show", "12", "--store", shelf).stdout
    assert isinstance(ask("show", "zz", "--store", shelf).exception, InputError)


def test_a_run_is_found_by_its_folder_and_never_by_one_that_is_called_alike(shelf, tmp_path, monkeypatch):
    found = resolve(shelf, str(shelf / "runs" / "aaaa"))
    assert (found.path, found.store) == (shelf / "runs" / "aaaa", shelf)
    monkeypatch.chdir(tmp_path)
    fabricate_run(tmp_path / "other", "aaaa")
    shutil.copytree(tmp_path / "other" / "runs" / "aaaa", tmp_path / "aaaa")
    assert resolve(shelf, "aaaa").path == shelf / "runs" / "aaaa"
    for reference in ("./aaaa", str(tmp_path / "aaaa")):
        with pytest.raises(
            InputError, match="aaaa: no run of a store; a run lies in STORE/runs/IDENTITY, put it there"
        ):
            resolve(shelf, reference)
    monkeypatch.chdir(tmp_path / "other" / "runs")
    assert resolve(tmp_path / "none", "aaaa").path.resolve() == tmp_path / "other" / "runs" / "aaaa"
    monkeypatch.chdir(tmp_path / "other" / "runs" / "aaaa")
    assert resolve(tmp_path / "none", ".").identity == "aaaa"
    with pytest.raises(InputError, match="run 'bbbb': no such run among 0"):
        resolve(tmp_path / "none", "bbbb")


def test_empty_store_says_what_to_run(tmp_path):
    for command in ("list", "sync"):
        result = ask(command, "--store", tmp_path)
        assert result.exit_code == 0
        assert "vqseg study run" in result.stdout
    app = typer.Typer()
    app.command()(ui_module.ui)
    result = cli.invoke(app, ["--store", str(tmp_path)])
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
    assert "vqseg study run" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_sync_then_rebuild(sweep):  # noqa: F811
    assert "MLflow mirror: 4 new, 0 updated, 0 unchanged" in ask("sync", "--store", sweep).stdout
    assert "MLflow mirror: 4 new" in ask("rebuild", "--store", sweep).stdout
    assert len(mirrored(sweep)) == 4
    (sweep / "runs" / "bad").mkdir()
    (sweep / "runs" / "bad" / "status.json").write_text("{")
    result = ask("sync", "--store", sweep)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_ports(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: taken"):
            ui_module._free_port(port)
    assert ui_module._free_port(port) == port
    assert ui_module._free_port(None) > 0


def test_ssh_line_only_over_ssh(monkeypatch, capsys):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 5000 10.0.0.2 22")
    ui_module._announce("http://127.0.0.1:5001", 5001, no_open=False)
    assert "ssh -L 5001:127.0.0.1:5001 " in capsys.readouterr().out
    monkeypatch.delenv("SSH_CONNECTION")
    ui_module._announce("http://127.0.0.1:5001", 5001, no_open=False)
    assert capsys.readouterr().out == "MLflow UI: http://127.0.0.1:5001 (Ctrl-C stops it)\n"


@pytest.mark.slow
def test_ui_serves_and_leaves_no_process_behind(sweep):  # noqa: F811
    port = ui_module._free_port(None)
    script = "import typer; from vqseg.cli.ui import ui; typer.run(ui)"
    words = [sys.executable, "-c", script, "--store", str(sweep), "--port", str(port), "--no-open"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert (
        process.stdout.readline()
        == f"MLflow UI: http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning (Ctrl-C stops it)\n"
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=vqseg") as reply:
        assert json.load(reply)["experiment"]["name"] == "vqseg"
    import psutil

    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    os.kill(process.pid, signal.SIGINT)
    assert process.stdout.read() == "stopped\n"
    assert process.wait(30) == 0
    time.sleep(0.2)
    assert [child for child in family if child.is_running() and child.status() != "zombie"] == []
