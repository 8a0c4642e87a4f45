"""Scoring a study's cells several at a time: the same rows, whoever scores them; failures and a stop."""

import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest

from vqseg import experiment
from vqseg.config import load_config
from vqseg.plan import first_status, recorded_config
from vqseg.scoring import write_weights
from vqseg.study import evaluation
from vqseg.study.evaluation import Task, score_cells

CELLS = 3


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch):
    monkeypatch.setattr(evaluation.os, "cpu_count", lambda: 1)


@pytest.fixture
def cells(phantom_root, tiny, tmp_path):
    """Run folders of untrained networks that claim to be finished, and the task of scoring them."""
    made = []
    for seed in range(CELLS):
        config = load_config("smoke", [*tiny, f"seed={seed}"])
        plan = experiment.plan(config, root=phantom_root, split=None, store=tmp_path / "store")
        method = experiment.build_network(plan, experiment.pick_device("cpu"))
        plan.folder.create(recorded_config(plan), first_status(plan, f"cell {seed}", {}))
        write_weights(plan.folder, {("last", "teacher"): method.state_dict()}, keep="last")
        plan.folder.update(state="finished")
        made.append(plan.folder)
    return made, Task(str(tmp_path / "store"), "val")


def rows(folder):
    return pd.read_parquet(folder.path / "rows.parquet").drop(columns="evaluated")


def test_several_workers_give_the_rows_of_one_and_tell_failures_in_order(cells):
    made, task = cells
    assert score_cells([folder.identity for folder in made], task) == {}
    expected = [rows(folder) for folder in made]
    for folder in made:
        (folder.path / "rows.parquet").unlink()
    done = []
    names = [made[0].identity, "nobody", made[1].identity, made[2].identity]
    (made[1].path / "weights" / "last-teacher.safetensors").write_bytes(b"damaged")
    failed = score_cells(names, task, workers=2, on_cell=lambda: done.append(1))
    assert list(failed) == ["nobody", made[1].identity] and len(done) == len(names)
    assert "no such file" in failed["nobody"] and "not readable" in failed[made[1].identity]
    for number in (0, 2):
        pd.testing.assert_frame_equal(rows(made[number]), expected[number], check_exact=True)
        assert [one["repeat"] for one in made[number].status()["evaluations"]] == [0, 1]


def test_one_cell_whose_process_dies_costs_no_other(cells, monkeypatch):
    made, task = cells
    start, killed = evaluation._Scorer._start, []

    def dying(scorer):
        process = start(scorer)
        if not killed:
            killed.append(process.pid)
            process.kill()
            process.wait()
        return process

    monkeypatch.setattr(evaluation._Scorer, "_start", dying)
    failed = score_cells([folder.identity for folder in made], task, workers=2)
    assert len(failed) == 1 and "its process died with status -9" in next(iter(failed.values()))
    scored = [folder for folder in made if (folder.path / "rows.parquet").is_file()]
    assert {folder.identity for folder in scored} == {folder.identity for folder in made} - set(failed)


@pytest.mark.parametrize("while_starting", [False, True], ids=["scoring", "starting"])
def test_an_interrupt_stops_the_processes_and_leaves_nothing_half_written(cells, monkeypatch, while_starting):
    made, task = cells
    started, start, ready = [], evaluation._Scorer._start, threading.Event()

    def slow(scorer):
        if while_starting:
            ready.set()
            time.sleep(0.5)  # the interrupt comes here
        started.append(start(scorer))
        ready.set()
        return started[-1]

    monkeypatch.setattr(evaluation._Scorer, "_start", slow)

    def press():
        ready.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        score_cells([folder.identity for folder in made], task, workers=2)
    assert started and all(process.poll() is not None for process in started)
    assert not [path for folder in made for path in folder.path.rglob("*.tmp")]
    assert not any(folder.locked() for folder in made)


def test_the_process_answers_line_by_line_and_ends_with_its_input(cells):
    made, task = cells
    command = [sys.executable, "-m", "vqseg.study.evaluation", evaluation.json.dumps(evaluation.asdict(task)), "1"]
    asked = f"{made[0].identity}\nnobody\n"
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=300)
    answers = [evaluation.json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and answers[0] is None and "no such file" in answers[1]
