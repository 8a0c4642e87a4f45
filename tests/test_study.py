"""The engine as a user meets it: real processes, real signals, the tiny phantom."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from vqseg.config import load_config
from vqseg.files import write_yaml
from vqseg.records.run import RunFolder
from vqseg.records.sync import unsynced
from vqseg.study import standing
from vqseg.study.cells import StudyFolder
from vqseg.study.queue import Queue
from vqseg.study.runner import Settings, run_study

STUDY = """
question: Does a tiny study work?
preset: tiny.yaml
seeds: [0, 1]
reference: none
arms:
  - {family: none, set: {perturbation: none}}
  - {family: qpm, symbol: eps, knob: perturbation.rate, values: [0.5], set: {perturbation: {name: qpm}}}
"""
FAILING = """  - {family: hot, set: {optimizer: {name: sgd, lr: 1e30}}}
"""
STEPS = 60  # enough for a signal to arrive before the end
PATIENCE_SECONDS = 300.0


class Desk:
    """A user's folder: a store, a study file and the command that runs it."""

    def __init__(self, folder, root, tiny, study, steps):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.root, self.store = folder, root, folder / "vqseg-store"
        tree = load_config("smoke", [*tiny, f"train.steps={steps}"]).plain()
        tree.pop("preset")
        write_yaml(folder / "tiny.yaml", tree)
        (folder / "mini.yaml").write_text(study)

    def start(self, *options, mirror=False):
        command = [sys.executable, "-m", "vqseg", "study", "run", "./mini.yaml", "--data", str(self.root)]
        command += ["--workers", "2", "--device", "cpu", *options]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
        environment |= {} if mirror else {"VQSEG_NO_MIRROR": "1"}
        said = (self.folder / "said.txt").open("w")
        with said:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=said, stderr=said, start_new_session=True
            )

    def run(self, *options, mirror=False):
        code = self.start(*options, mirror=mirror).wait(PATIENCE_SECONDS)
        return code, (self.folder / "said.txt").read_text()

    @property
    def study(self):
        return StudyFolder(self.store, next((self.store / "studies").iterdir()).name)

    def rows(self):
        if not list((self.store / "studies").glob("*/study.json")):
            return []
        return standing.progress(self.study, self.study.read())

    def steps(self):
        return sum(row["step"] for row in self.rows())


def until(condition, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def workers_of(parent):
    try:
        children = psutil.Process(parent.pid).children()
        return [child for child in children if "vqseg.study.worker" in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


def kill(kind, parent, rng):
    """Kill -9 the parent, one worker, or all of them; return the workers."""
    workers = workers_of(parent)
    chosen = {"parent": [], "worker": [rng.choice(workers)] if workers else [], "all": workers}[kind]
    for process in [*chosen, *([parent] if kind != "worker" else [])]:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    if kind != "worker":
        parent.wait(PATIENCE_SECONDS)
    return workers


def gone(processes):
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def numbers(desk):
    """Everything that a study measured, by cell name: logged values and scored rows, without clocks."""
    found = {}
    for cell in (row for row in desk.rows() if row["state"] == "finished"):
        path = RunFolder(desk.store, cell["identity"]).path
        logged = pd.read_csv(path / "metrics.csv")
        logged = logged[~logged["name"].str.startswith(("speed/", "memory/"))].reset_index(drop=True)
        rows = pd.read_parquet(path / "rows.parquet").drop(columns="evaluated")
        usage = pd.read_parquet(path / "codebook.parquet")
        found[cell["name"]] = (logged, rows, usage)
    return found


def assert_whole_and_equal(desk, other):
    record = desk.study.read()
    identities = sorted(cell["identity"] for cell in record["cells"])
    assert {row["state"] for row in desk.rows()} == {"finished"}
    assert sorted(path.name for path in (desk.store / "runs").iterdir()) == identities
    assert sorted(Queue(desk.study.path, record["name"]).completed()) == identities
    ours, theirs = numbers(desk), numbers(other)
    for name, tables in ours.items():
        for mine, expected in zip(tables, theirs[name], strict=True):
            pd.testing.assert_frame_equal(mine, expected, check_exact=True, obj=name)


@pytest.fixture(scope="module")
def whole(phantom_root, tiny, tmp_path_factory):
    """A study of four good cells and an arm that fails, run undisturbed by two workers, mirrored."""
    desk = Desk(tmp_path_factory.mktemp("whole"), phantom_root, tiny, STUDY + FAILING, steps=STEPS)
    desk.code, desk.said = desk.run(mirror=True)
    return desk


def test_two_workers_run_every_cell_once_and_mlflow_shows_them(whole):
    rows = {row["name"]: row for row in whole.rows()}
    finished = {name: row for name, row in rows.items() if row["state"] == "finished"}
    assert list(finished) == [f"{arm}, seed {seed}" for seed in (0, 1) for arm in ("none", "qpm eps=0.5")], whole.said
    assert {row["step"] for row in finished.values()} == {STEPS}
    queue = Queue(whole.study.path, whole.study.name)
    assert sorted(queue.completed()) == sorted(row["identity"] for row in finished.values())
    assert unsynced(whole.store) == []
    logs = "".join(path.read_text() for path in (whole.study.path / "logs").glob("*.log"))
    assert logs.count(": starts") == 6 and logs.count(": finished") == 4


def test_a_failing_cell_is_a_row_and_the_study_goes_on(whole):
    assert whole.code == 1
    assert "4 finished, 2 failed" in whole.said or "2 failed, 4 finished" in whole.said
    assert "study status mini-phantom-tiny' says why, '--retry failed' tries them again" in whole.said
    errors = {row["name"]: row["error"] for row in whole.rows() if row["state"] == "failed"}
    assert set(errors) == {f"{arm}, seed {seed}" for seed in (0, 1) for arm in ("hot",)}
    assert "loss is" in errors["hot, seed 0"]


def test_run_again_does_nothing_twice(whole, monkeypatch):
    monkeypatch.chdir(whole.folder)
    before = {path: path.stat().st_mtime_ns for path in (whole.store / "runs").rglob("*") if path.is_file()}
    record, said = whole.study.read(), []
    states = run_study(whole.study, record, Settings(workers=2), said.append)
    assert set(states.values()) == {"finished", "failed"} and not said
    assert before == {path: path.stat().st_mtime_ns for path in (whole.store / "runs").rglob("*") if path.is_file()}
    assert len(Queue(whole.study.path, record["name"]).completed()) == 4


def test_stopped_and_killed_it_equals_an_undisturbed_one(whole, phantom_root, tiny, tmp_path):
    desk, rng = Desk(tmp_path, phantom_root, tiny, STUDY, steps=STEPS), random.Random(0)
    parent = desk.start()
    until(lambda: desk.steps() > 2, "the first steps")
    workers = workers_of(parent)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(PATIENCE_SECONDS) == 130
    assert "the same command resumes" in (tmp_path / "said.txt").read_text()
    assert gone(workers) and {row["state"] for row in desk.rows()} <= {"interrupted", "new", "finished"}
    parent, before = desk.start(), desk.steps()
    until(lambda: desk.steps() > before or parent.poll() is not None, "further steps")
    workers = kill("worker", parent, rng)
    time.sleep(1)
    workers = kill("parent", parent, rng)
    until(lambda: gone(workers), "workers without a parent end")
    code, said = desk.run()
    assert code == 0, said
    assert_whole_and_equal(desk, whole)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_number(phantom_root, tiny, tmp_path):
    study = STUDY.replace("[0, 1]", "[0, 1, 2]")
    steps = 5 * STEPS
    undisturbed, desk = (Desk(tmp_path / name, phantom_root, tiny, study, steps) for name in ("calm", "rough"))
    seed = int(os.environ.get("VQSEG_TEST_SEED", "0"))
    rng, killed, parent = random.Random(seed), [], desk.start()
    while len(killed) < 10:
        if rng.random() < 0.5:  # anywhere: in imports, while claiming, in training, in scoring
            until(lambda: workers_of(parent), "workers")  # noqa: B023
            time.sleep(rng.uniform(0, 8))
        else:  # in training
            wanted = desk.steps() + rng.randint(1, 25)
            until(lambda: desk.steps() >= wanted or parent.poll() is not None, "further steps")  # noqa: B023
            time.sleep(rng.uniform(0, 0.3))
        assert parent.poll() is None, f"over after {killed}: {(desk.folder / 'said.txt').read_text()}"
        killed.append((rng.choice(["parent", "worker", "all"]), desk.steps()))
        kill(killed[-1][0], parent, rng)
        if parent.poll() is not None:
            parent = desk.start()
    print(killed)
    if parent.wait(PATIENCE_SECONDS):
        pytest.fail((desk.folder / "said.txt").read_text())
    code, said = desk.run()
    assert code == 0, said
    assert undisturbed.run()[0] == 0
    assert_whole_and_equal(desk, undisturbed)
