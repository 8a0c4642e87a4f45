"""The queue: every cell once, whoever dies."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from vqseg.cli import queue as command
from vqseg.errors import InputError
from vqseg.files import write_json
from vqseg.records.run import RunFolder
from vqseg.study import queue as module
from vqseg.study.cells import StudyFolder
from vqseg.study.journal import KernelLock
from vqseg.study.queue import MAX_DEATHS, Queue, lease
from vqseg.study.snapshot import copy_queue


def cells(count):
    return [{"arm": "none", "seed": n, "identity": f"id{n}", "name": f"none, seed {n}"} for n in range(count)]


def filled(folder, count):
    queue = Queue(folder, "s")
    queue.fill(cells(count), {}, set())
    return queue


def states(queue):
    return [trial.state.name for trial in queue.study.get_trials(deepcopy=False)]


def no_steps(identity):
    return -1


def take_all(folder, taken):
    queue = Queue(folder, "s")
    while (claim := queue.claim()) is not None:
        with open(taken, "a") as file:
            file.write(claim.cell["identity"] + "\n")
        queue.finish(claim, 0.5)


def dead_lease():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    held = {**lease(), "pid": process.pid}
    process.wait()
    return held


def die(queue, claim):
    """What a worker leaves behind that was killed while it held ``claim``."""
    claim.trial.set_user_attr("lease", dead_lease())


def test_several_processes_claim_every_cell_once(tmp_path):
    queue = filled(tmp_path / "q", 24)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=take_all, args=(tmp_path / "q", tmp_path / "taken")) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    taken = (tmp_path / "taken").read_text().split()
    assert sorted(taken) == sorted(f"id{n}" for n in range(24)) == sorted(queue.completed())
    assert states(queue) == ["COMPLETE"] * 24, "no trial was made up by the sampler"
    assert queue.open_cells() == (0, 0)


def test_fill_is_idempotent_and_notes_what_is_finished_or_failed(tmp_path):
    queue = Queue(tmp_path, "s")
    for _ in range(2):
        queue.fill(cells(4), {"id1": 0.5}, {"id2"})
        assert queue.open_cells() == (2, 0) and queue.completed() == ["id1"]
    claim = queue.claim()
    queue.fill(cells(4), {"id1": 0.5}, {"id2"})
    assert queue.open_cells() == (1, 1), "a cell in hand is not queued again"
    queue.finish(claim, 0.7)
    queue.fill(cells(4), {"id1": 0.5, "id0": 0.7}, set())
    assert queue.open_cells() == (2, 0), "the failed one is tried again once nobody calls it failed"
    assert sorted(queue.completed()) == ["id0", "id1"]


def test_a_released_cell_is_claimed_again_and_a_dropped_one_is_not(tmp_path):
    queue = filled(tmp_path, 1)
    queue.release(queue.claim())
    assert queue.open_cells() == (1, 0)
    again = queue.claim()
    assert again.cell["identity"] == "id0" and queue.claim() is None
    queue.drop(again)
    assert queue.open_cells() == (0, 0) and queue.completed() == []


def test_a_pruned_cell_never_waits_again_unless_it_was_trained_to_its_end(tmp_path):
    queue = filled(tmp_path, 1)
    queue.prune(queue.claim())
    queue.fill(cells(1), {}, set())
    assert states(queue) == ["PRUNED"] and queue.open_cells() == (0, 0)
    queue.fill(cells(1), {"id0": 0.5}, set())
    assert states(queue) == ["PRUNED", "COMPLETE"]


def test_a_queue_grows_by_one_cell_that_nobody_else_makes(tmp_path):
    queue, (cell,), told = filled(tmp_path, 1), cells(2)[1:], []

    def make(known):
        told.append(known)
        return cell if "id1" not in known else None

    assert queue.grow(make) and not told, "one waits already"
    queue.claim()
    assert queue.grow(make) and queue.claim().cell == cell
    assert not queue.grow(make) and told == [{"id0"}, {"id0", "id1"}]


def grow_all(folder, made):
    def make(known):
        time.sleep(0.01)  # long enough for another to come in between
        return cells(len(known) + 1)[-1] if len(known) < 12 else None

    queue = Queue(folder, "s")
    while queue.grow(make):
        if (claim := queue.claim()) is not None:
            with open(made, "a") as file:
                file.write(claim.cell["identity"] + "\n")
            queue.finish(claim, 0.5)


def test_several_processes_make_every_cell_once(tmp_path):
    Queue(tmp_path / "q", "s")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=grow_all, args=(tmp_path / "q", tmp_path / "made")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    made = (tmp_path / "made").read_text().split()
    assert sorted(made) == sorted(f"id{n}" for n in range(12)) == sorted(Queue(tmp_path / "q", "s").completed())


def test_a_claim_that_was_lost_meanwhile_changes_nothing(tmp_path):
    queue = filled(tmp_path, 1)
    slept = queue.claim()
    die(queue, slept)
    assert queue.sweep(no_steps) == []
    queue.finish(queue.claim(), 0.5)
    queue.finish(slept, 0.4)
    queue.release(slept)
    queue.drop(slept)
    assert queue.completed() == ["id0"] and queue.open_cells() == (0, 0)


def test_sweep_leaves_the_living_and_gives_back_what_the_dead_held(tmp_path):
    queue = filled(tmp_path, 2)
    living, dead = queue.claim(), queue.claim()
    die(queue, dead)
    queue.sweep(no_steps)
    assert queue.open_cells() == (1, 1)
    assert queue.claim().cell == dead.cell != living.cell


@pytest.mark.parametrize(("age", "open_cells"), [(0.0, (0, 1)), (module.LEASE_SECONDS + 1, (1, 0))])
def test_a_lease_of_another_host_is_believed_while_it_is_renewed(tmp_path, age, open_cells):
    queue = filled(tmp_path, 1)
    queue.claim().trial.set_user_attr("lease", {"host": "elsewhere", "pid": 1, "born": 0, "time": time.time() - age})
    queue.sweep(no_steps)
    assert queue.open_cells() == open_cells


def test_a_pid_that_was_given_to_another_process_is_no_sign_of_life(tmp_path):
    queue = filled(tmp_path, 1)
    queue.claim().trial.set_user_attr("lease", {**lease(), "born": lease()["born"] - 1000})
    queue.sweep(no_steps)
    assert queue.open_cells() == (1, 0)


def test_a_trial_without_a_cell_holds_nobody_up(tmp_path, monkeypatch):
    queue = filled(tmp_path, 0)
    queue.study.ask()  # a worker that died before it could refuse what the sampler made up
    queue.sweep(no_steps)
    assert queue.open_cells() == (0, 1), "too young to judge"
    monkeypatch.setattr(module, "UNLEASED_SECONDS", -1.0)
    queue.sweep(no_steps)
    assert queue.open_cells() == (0, 0)


def test_a_cell_over_which_workers_die_at_the_same_step_is_given_up(tmp_path):
    queue = filled(tmp_path, 1)
    for _ in range(MAX_DEATHS - 1):
        die(queue, queue.claim())
        assert queue.sweep(lambda identity: 40) == []
    die(queue, queue.claim())
    ((cell, error),) = queue.sweep(lambda identity: 40)
    assert cell["identity"] == "id0" and "3 workers died over it at step 40" in error
    assert queue.open_cells() == (0, 0)


def test_deaths_between_which_the_run_got_further_do_not_count(tmp_path):
    queue = filled(tmp_path, 1)
    for step in range(3 * MAX_DEATHS):
        die(queue, queue.claim())
        assert queue.sweep(lambda identity: step) == []  # noqa: B023
    assert queue.open_cells() == (1, 0)


def test_a_user_who_starts_anew_gets_another_try(tmp_path):
    queue = filled(tmp_path, 1)
    for _ in range(2 * MAX_DEATHS):
        die(queue, queue.claim())
        assert queue.sweep(no_steps, forgive=True) == []
    assert queue.open_cells() == (1, 0)


def test_served_tells_a_worker_that_claimed_from_one_that_never_did(tmp_path):
    queue = filled(tmp_path, 1)
    assert not queue.served(os.getpid())
    queue.claim()
    assert queue.served(os.getpid())


def test_a_writer_that_is_killed_holds_nobody_up(tmp_path):
    queue = filled(tmp_path, 1)
    holder = multiprocessing.get_context("fork").Process(
        target=hold, args=(tmp_path / "queue.journal", tmp_path / "held")
    )
    holder.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    os.kill(holder.pid, signal.SIGKILL)
    assert queue.claim().cell["identity"] == "id0"
    holder.join()


def hold(journal, sign):
    KernelLock(journal).acquire()
    sign.touch()
    time.sleep(600)


@pytest.mark.parametrize("torn", [b'{"op_code":4,"torn', b"x" * 10_000])
def test_a_torn_last_line_is_cut_off_before_the_next_is_written(tmp_path, torn):
    filled(tmp_path, 2)
    with (tmp_path / "queue.journal").open("ab") as file:
        file.write(torn)
    queue = Queue(tmp_path, "s")
    queue.finish(queue.claim(), 0.5)
    assert Queue(tmp_path, "s").open_cells() == (1, 0) and queue.completed() == ["id0"]


def test_an_empty_or_only_torn_journal_is_a_new_one(tmp_path):
    (tmp_path / "queue.journal").write_bytes(b"{")
    assert filled(tmp_path, 1).open_cells() == (1, 0)


def test_another_journal_can_be_named(tmp_path):
    elsewhere = tmp_path / "elsewhere" / "journal"
    Queue(tmp_path / "q", "s", str(elsewhere)).fill(cells(1), {}, set())
    assert elsewhere.is_file() and Queue(tmp_path / "q", "s", str(elsewhere)).open_cells() == (1, 0)


@pytest.mark.parametrize(
    ("storage", "why"), [("sqlite:///x.db", "two workers"), ("oracel://nowhere/x", "cannot be used")]
)
def test_a_storage_that_does_not_do_is_one_line(tmp_path, storage, why):
    with pytest.raises(InputError, match=why) as error:
        Queue(tmp_path / "q", "s", storage)
    assert "\n" not in str(error.value)


def test_a_damaged_journal_is_one_line(tmp_path):
    filled(tmp_path, 1)
    (tmp_path / "queue.journal").write_bytes(b"nonsense\nnonsense\n")
    with pytest.raises(InputError, match=r"queue\.journal cannot be used"):
        Queue(tmp_path, "s")


ARMS = [
    {"label": "none", "at": {}},
    {"label": "V=64", "at": {"V": 64, "statistics": "shared", "rate": 0.5, "on": True}, "factors": {"QPM": True}},
    {"label": "V=4096", "at": {"V": 4096, "statistics": "separate", "rate": 0.9, "on": False}},
]


def studied(store, search=None):
    """Write a study of six cells: two finished, one failed, one in hand; return its folder and record."""
    folder = StudyFolder(store, "grid-acdc-cpu")
    named = [{**cell, "arm": ARMS[n % 3]["label"], "seed": n // 3} for n, cell in enumerate(cells(6))]
    record = {"name": folder.name, "study": "grid", "arms": ARMS, "cells": named, "split": {"name": "7"}, "data": {}}
    record |= {"search": search} if search else {}
    write_json(folder.path / "study.json", record)
    queue = Queue(folder.path, folder.name)
    queue.fill(named, {}, set())
    queue.finish(queue.claim(), 0.5)
    queue.finish(queue.claim(), 0.75)
    queue.drop(queue.claim())
    queue.claim()
    run = RunFolder(store, "id1")
    run.path.mkdir(parents=True)
    (run.path / "metrics.csv").write_text(
        "step,name,value\n4,val/dice_teacher,0.25\n4,lr,1.0\n8,val/dice_teacher,0.75\n8,"
    )
    return folder, record


def copied(path, name="grid-acdc-cpu"):
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(path))))


def test_a_copy_of_the_queue_has_parameters_and_the_queue_is_as_it_was(tmp_path):
    folder, record = studied(tmp_path)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.path.iterdir() if path.is_file()}
    assert copy_queue(folder, record, tmp_path / "away" / "copy") == 6
    assert before == {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.path.iterdir() if path.is_file()
    }
    assert [path.name for path in (tmp_path / "away").iterdir()] == ["copy"]
    study = copied(tmp_path / "away" / "copy")
    trials = study.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2 + ["FAIL", "RUNNING", "WAITING", "WAITING"]
    assert study.best_value == 0.75 and study.best_trial.number == 1
    assert study.best_params == {
        "V": 64, "statistics": "shared", "rate": 0.5, "on": True, "arm": "V=64", "seed": 0, "QPM": True,
    }  # fmt: skip
    assert trials[0].params == {"arm": "none", "seed": 0} and trials[5].params["seed"] == 1
    assert trials[1].intermediate_values == {4: 0.25, 8: 0.75} and trials[0].intermediate_values == {}
    wide, narrow = trials[1].distributions["V"], trials[1].distributions["rate"]
    assert (wide.low, wide.high, wide.log) == (64, 4096, True) and (narrow.low, narrow.high, narrow.log) == (
        0.5,
        0.9,
        False,
    )
    assert {"lease", "cell"}.isdisjoint(trials[3].user_attrs) and trials[3].user_attrs["identity"] == "id3"
    study.tell(study.ask(), 1.0)  # it is a study of its own
    assert sum(Queue(folder.path, folder.name).open_cells()) == 3


def test_a_copy_of_a_searchs_queue_has_what_was_sampled(tmp_path):
    space = {"quantizer.V": {"low": 100, "high": 5000, "log": True}, "perturbation.rate": {"low": 0.1, "high": 1}}
    folder, record = studied(tmp_path, {"space": space, "budget": 9})
    copy_queue(folder, record, tmp_path / "copy")
    trials = copied(tmp_path / "copy").get_trials()
    assert trials[1].params == {"V": 100.0, "rate": 0.5}, "the preset's own point may lie outside"
    assert trials[2].params == {"V": 4096.0, "rate": 0.9} and trials[2].distributions["V"].log


def test_a_copy_leaves_out_what_a_writer_has_not_ended(tmp_path):
    folder, record = studied(tmp_path)
    with (folder.path / "queue.journal").open("ab") as file:
        file.write(b'{"op_code":4,"torn')
    assert copy_queue(folder, record, tmp_path / "copy") == 6
    assert (folder.path / "queue.journal").read_bytes().endswith(b"torn")


def test_the_command_says_how_a_copy_is_opened(tmp_path, capsys):
    studied(tmp_path)
    command.copy(tmp_path, "grid", tmp_path / "my copy")
    said = capsys.readouterr().out
    assert f"optuna-dashboard '{tmp_path}/my copy'" in said and "--study-name grid-acdc-cpu" in said


def test_a_copy_that_cannot_be_is_one_line(tmp_path):
    folder, record = studied(tmp_path)
    (tmp_path / "there").write_text("mine")
    with pytest.raises(InputError, match="there: is there already"):
        copy_queue(folder, record, tmp_path / "there")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        copy_queue(folder, record, tmp_path / "file" / "copy")
    (folder.path / "queue.journal").write_bytes(b"nonsense\nnonsense\n")
    with pytest.raises(InputError, match=r"queue\.journal: is not readable"):
        copy_queue(folder, record, tmp_path / "copy")
    (folder.path / "queue.journal").unlink()
    with pytest.raises(InputError, match="'vqseg study run grid' makes the queue"):
        copy_queue(folder, record, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
