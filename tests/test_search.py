"""A search: what is proposed, what is pruned, and that no trial is lost or trained twice, whoever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from vqseg import experiment
from vqseg.cli.studies import prepared
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.experiment import Pruned
from vqseg.files import write_json, write_yaml
from vqseg.records import trials as records
from vqseg.records.run import RunFolder
from vqseg.study import search, standing, worker
from vqseg.study.cells import Request, plan_cell, prepare
from vqseg.study.queue import Queue
from vqseg.study.runner import Settings, run_study
from vqseg.study.space import Axis, Search
from vqseg.validation import Validation

STUDY = {
    "question": "Does a tiny search work?",
    "preset": "tiny.yaml",
    "seeds": [0],
    "reference": "trial 0",
    "arms": [{"family": "trial", "label": "trial 0", "set": {}}],
    "search": {
        "budget": 5,
        "startup_trials": 3,
        "pruner": {"startup_trials": 1, "warmup_steps": 8},
        "space": {
            "method.unlabelled_weight": {"symbol": "lambda_u", "low": 0.1, "high": 10, "log": True},
            "method.usage_weight": {"symbol": "lambda_h", "low": 0.001, "high": 1, "log": True},
            "perturbation.rate": {"symbol": "eps", "low": 0.05, "high": 0.95},
        },
    },
}
OWN = {"lambda_u": 1.0, "lambda_h": 0.0, "eps": 0.7}
STEPS = 12
PATIENCE_SECONDS = 300.0


class Desk:
    """A user's folder, where the tiny search may be prepared, fabricated and run."""

    def __init__(self, folder, root, tiny, **changes):
        self.folder, self.root, self.store = folder, root, folder / "vqseg-store"
        tree = load_config("smoke", [*tiny, f"train.steps={changes.pop('steps', STEPS)}"]).plain()
        tree.pop("preset")
        write_yaml(folder / "tiny.yaml", tree)
        self.define(**changes)

    def define(self, **changes):
        definition = {**STUDY, **{key: value for key, value in changes.items() if key in STUDY}}
        definition["search"] = {**STUDY["search"], **{k: v for k, v in changes.items() if k not in STUDY}}
        definition["preset"] = str(self.folder / "tiny.yaml")
        write_yaml(self.folder / "mini.yaml", definition)

    def prepare(self, **options):
        folder, record, _ = prepare(Request(str(self.folder / "mini.yaml"), self.store, self.root, **options))
        return folder, record

    def begin(self, budget=None):
        folder, record = self.prepare()
        return folder, search.begin(folder, record, budget=budget, allow_code=False)

    def start(self, *options):
        command = [sys.executable, "-m", "vqseg", "study", "run", "./mini.yaml", "--data", str(self.root)]
        command += ["--workers", "2", "--device", "cpu", *options]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
        with (self.folder / "said.txt").open("w") as said:
            return subprocess.Popen(
                command, cwd=self.folder, env={**environment, "VQSEG_NO_MIRROR": "1"}, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip


@pytest.fixture
def desk(tmp_path, phantom_root, tiny):
    return Desk(tmp_path, phantom_root, tiny)


def work(folder, monkeypatch):
    """Be a worker of the study until nothing is left."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    words = ["worker", "--store", folder.store, "--study", folder.name, "--parent", os.getppid()]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    try:
        assert worker.main() == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def fabricate(folder, cell, score, state="finished", path=None, **status):
    """Write a run that validated as ``path`` {step: Dice} says, by default with ``score`` all the way."""
    run = RunFolder(folder.store, cell["identity"])
    steps = path or dict.fromkeys((4, 8, 12), score)
    run.create({}, {
        "name": cell["name"], "state": state, "step": max(steps), "steps": STEPS, "error": None,
        "validation": {"last": {"teacher": score, "student": score}} if state == "finished" else None, **status,
    })  # fmt: skip
    lines = [f"{step},val/dice_teacher,{value!r}\n" for step, value in steps.items()]
    (run.path / "metrics.csv").write_text("step,name,value\n" + "".join(lines))


def sampled(folder):
    return {arm["label"]: arm["at"] for arm in folder.read()["arms"]}


def states(folder):
    return [trial.state for trial in records.of_study(folder.store, folder.read())]


def shown(queue):
    return [trial.state.name for trial in queue.study.get_trials(deepcopy=False)]


def measured(self, teacher, student, perturbation):
    """What validation would say if the rate alone mattered, and .3 were the best."""
    dice = 1 - abs(float(perturbation.rate) - 0.3)
    return {"val/dice_teacher": dice, "val/dice_student": dice}


@pytest.mark.parametrize(
    ("axis", "sampled", "kept"),
    [
        ({"low": 1000, "high": 1010, "step": 0.5}, 1000.5, 1000.5),
        ({"low": 0.1, "high": 0.5, "step": 0.1}, 0.1 + 0.2, 0.3),
        ({"low": 10000, "high": 10004}, 10001.23456, 10001.235),
        ({"low": 0, "high": 0.9}, 0.123456, 0.1235),
        ({"low": 1e-5, "high": 1, "log": True}, 1.23456e-5, 1.235e-5),
        ({"low": 1, "high": 9, "step": 1}, 3.0, 3),
        ({"low": 0.001, "high": 0.0012}, 0.0011999999, 0.0012),
    ],
)
def test_a_sampled_number_keeps_digits_of_its_range(axis, sampled, kept):
    assert Axis.model_validate(axis).tidied(sampled) == kept


@pytest.mark.parametrize(
    ("axis", "why"),
    [
        ({"low": 0, "high": 1, "log": True}, "a log scale has no 0; expected low above 0"),
        ({"low": 1, "high": 1}, "expected low below high, found 1 and 1"),
        ({"low": 1}, "expected low and high, or choices"),
        ({"choices": [1]}, "two choices at least"),
        ({"choices": [1, 2], "low": 0, "high": 1}, "choices and a range"),
        ({"low": 1, "high": 9, "step": 0}, "expected step above 0"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "takes no step"),
        ({"low": 1, "high": 9, "lo": 2}, "Extra inputs"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(axis, why):
    with pytest.raises(ValidationError, match=why):
        Search.model_validate({"space": {"method.a": axis}, "budget": 3})


@pytest.mark.parametrize(
    ("space", "budget", "why"),
    [
        (["method.a", "perturbation.a"], 3, "two settings have the symbol 'a'"),
        (["train.steps"], 3, "train.steps cannot be searched"),
        (["method", "method.a"], 3, "method replaces method.a"),
        (["method..a"], 3, "a piece of the key"),
        ([], 3, "at least 1 item"),
        (["method.a"], 0, "greater than or equal to 1"),
    ],
)
def test_a_space_that_cannot_be_is_refused(space, budget, why):
    with pytest.raises(ValidationError, match=why):
        Search.model_validate({"space": {key: {"low": 0, "high": 1} for key in space}, "budget": budget})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"space": {"method.usage_wait": {"low": 0, "high": 1}}}, "'method.usage_wait' .did you mean 'usage_weight'"),
        ({"space": {"network.encoder": {"choices": ["a", "b"]}}}, "network.encoder is no single value"),
        ({"space": {"perturbation.rate": {"low": 0.1, "high": 1.5}}}, "search.space, highest values: .*rate"),
        ({"seeds": [0, 1]}, "a search trains one run per trial"),
        ({"arms": []}, "arms: expected at least one row"),
    ],
)
def test_a_search_that_cannot_be_is_one_line_and_writes_nothing(desk, changes, why):
    desk.define(**changes)
    with pytest.raises(InputError, match=why):  # before it starts, and in a dry run
        prepared([Request(str(desk.folder / "mini.yaml"), desk.store, desk.root)], Settings(mirror=False))
    with pytest.raises(InputError, match=why) as error:
        desk.begin()
    assert "\n" not in str(error.value) and not list(desk.store.rglob("study.json"))


def test_a_budget_is_one_of_a_search_and_at_least_one(desk, tmp_path):
    folder, record = desk.prepare()
    with pytest.raises(InputError, match="--budget 0: expected the number of trials in all, at least 1"):
        run_study(folder, record, Settings(budget=0), lambda rows: None)
    record.pop("search")
    with pytest.raises(InputError, match="--budget 3: study 'mini' does not search"):
        run_study(folder, record, Settings(budget=3), lambda rows: None)
    assert not (folder.path / "study.json").exists()


def test_the_first_trial_is_the_presets_own_point(desk):
    folder, record = desk.begin()
    assert sampled(folder) == {"trial 0": OWN} and record["arms"][0]["overrides"] == {}
    assert search.left(record) == 4


def test_proposals_lie_in_the_space_and_depend_on_nothing_but_seed_and_results(desk):
    folder, _ = desk.begin()
    cells = [search.propose(folder, set()) for _ in range(2)]
    assert [cell["name"] for cell in cells] == ["trial 0, seed 0"] * 2, "what was never queued comes first"
    known = {cells[0]["identity"]}
    for _ in range(3):
        known.add(search.propose(folder, known)["identity"])
    first = sampled(folder)
    assert len({json.dumps(at) for at in first.values()}) == 4, "unfinished trials are not proposed again"
    for at in list(first.values())[1:]:
        assert 0.1 <= at["lambda_u"] <= 10 and 0.001 <= at["lambda_h"] <= 1 and 0.05 <= at["eps"] <= 0.95
        assert all(value == float(f"{value:.4g}") for value in at.values())
    record = folder.read()
    arm, cell = record["arms"][2], record["cells"][2]
    planned = plan_cell(record, folder.store, cell)
    assert (
        planned.identity == cell["identity"] and planned.config.method.options["usage_weight"] == arm["at"]["lambda_h"]
    )

    write_json(folder.path / "study.json", {**record, "arms": record["arms"][:1], "cells": record["cells"][:1]})
    known = {cells[0]["identity"]}
    for _ in range(3):
        known.add(search.propose(folder, known)["identity"])
    assert sampled(folder) == first, "the same history, the same trials"


def test_the_sampler_learns(desk):
    desk.define(budget=60, startup_trials=5)
    folder, _ = desk.begin()
    known = {folder.read()["cells"][0]["identity"]}
    for number in range(24):
        record = folder.read()
        fabricate(folder, record["cells"][-1], 1 - abs(record["arms"][-1]["at"]["eps"] - 0.3))
        if number < 23:
            known.add(search.propose(folder, known)["identity"])
    rates = [at["eps"] for at in sampled(folder).values()]
    early, late = rates[1:7], rates[-6:]
    assert sum(abs(rate - 0.3) for rate in late) < 0.6 * sum(abs(rate - 0.3) for rate in early)


def test_whole_numbers_and_choices_stay_what_they_are(desk):
    desk.define(
        space={
            "network.quantizer.num_codes": {"symbol": "V", "low": 8, "high": 64, "log": True, "step": 1},
            "method.segmentation": {"choices": ["ce", "dice_ce"]},
            "method.confidence": {"low": 0, "high": 0.9, "step": 0.1},
        }
    )
    folder, _ = desk.begin()
    known = {folder.read()["cells"][0]["identity"]}
    for _ in range(3):
        known.add(search.propose(folder, known)["identity"])
    for at in list(sampled(folder).values())[1:]:
        assert type(at["V"]) is int and 8 <= at["V"] <= 64 and at["segmentation"] in ("ce", "dice_ce")
        assert abs(10 * at["confidence"] - round(10 * at["confidence"])) < 1e-9


def test_a_space_that_is_used_up_ends_the_search_and_says_so(desk):
    desk.define(space={"method.segmentation": {"choices": ["ce", "dice_ce"]}}, budget=9)
    folder, record = desk.begin()
    known = {record["cells"][0]["identity"]}
    known.add(search.propose(folder, known)["identity"])
    assert search.propose(folder, known) is None
    record = folder.read()
    assert "proposals were all among its 2 trials" in record["exhausted"] and search.left(record) == 0
    assert [at["segmentation"] for at in sampled(folder).values()] == ["dice_ce", "ce"]


def test_another_space_is_another_study_and_what_grew_meanwhile_stays(desk):
    folder, record = desk.prepare()
    search.begin(folder, record, budget=4, allow_code=False)
    search.propose(folder, {record["cells"][0]["identity"]})
    again = search.begin(folder, record, budget=9, allow_code=False)
    assert [arm["label"] for arm in again["arms"]] == [cell["arm"] for cell in again["cells"]] == ["trial 0", "trial 1"]
    assert again == folder.read() and search.left(again) == 7
    _, prepared = desk.prepare()
    assert [cell["identity"] for cell in prepared["cells"]] == [cell["identity"] for cell in again["cells"]]
    desk.define(space={"perturbation.rate": {"low": 0.1, "high": 0.9}})
    with pytest.raises(InputError, match="another search.space"):
        desk.begin()


def judged(desk, own, finished, number=1, step=8):
    """Judge a trial whose validations are ``own`` {step: Dice} among others that are finished with those scores."""
    folder, record = desk.begin(budget=20)
    known = {record["cells"][0]["identity"]}
    for score in finished:
        cell = search.propose(folder, known)
        known.add(cell["identity"])
        fabricate(folder, cell, score)
    cell = record["cells"][0]
    if number:
        cell = search.propose(folder, known)
    fabricate(folder, cell, 0.0, state="running", path=own)
    search.judge(folder, cell, plan_cell(folder.read(), folder.store, cell))(own[step], step)


def test_a_trial_below_the_median_of_the_finished_is_pruned(desk):
    with pytest.raises(Pruned, match="Dice 0.4500 at best by step 8: below the median of 3 finished trials") as end:
        judged(desk, {8: 0.45}, [0.4, 0.5, 0.9])
    assert end.value.by == "mini-phantom-tiny"


@pytest.mark.parametrize(
    ("own", "finished", "number", "step", "why"),
    [
        ({8: 0.55}, [0.4, 0.5, 0.9], 1, 8, "above the median"),
        ({4: 0.1}, [0.4, 0.5, 0.9], 1, 4, "still warming up"),
        ({8: 0.6, 10: 0.1}, [0.4, 0.5, 0.9], 1, 10, "nothing to compare with at that step"),
        ({8: 0.1, 12: 0.1}, [0.4, 0.5, 0.9], 1, 12, "it is over anyway"),
        ({8: 0.1}, [0.4, 0.5, 0.9], 0, 8, "the preset's own point"),
        ({8: 0.1}, [], 1, 8, "none is finished"),
    ],
)
def test_what_is_not_pruned(desk, own, finished, number, step, why):
    judged(desk, own, finished, number, step)


def test_what_was_before_the_warm_up_does_not_save_a_trial(desk):
    with pytest.raises(Pruned, match=r"0\.1000 at best"):
        judged(desk, {4: 0.99, 8: 0.1}, [0.4, 0.5, 0.9])


def test_without_a_number_a_trial_warms_up_until_the_method_acts(desk):
    desk.define(pruner={"startup_trials": 1})  # its warm-up and ramp are 3 steps each
    judged(desk, {4: 0.1}, [0.5], step=4)


def test_a_search_trains_prunes_reuses_and_does_nothing_twice(desk, monkeypatch):
    monkeypatch.setattr(Validation, "measure", measured)
    folder, record = desk.begin()
    fabricate(folder, record["cells"][0], 0.6)  # an equal run of another study
    queue = Queue(folder.path, folder.name)
    queue.fill(record["cells"], {record["cells"][0]["identity"]: 0.6}, set())
    work(folder, monkeypatch)

    record, rows = folder.read(), records.of_study(folder.store, folder.read())
    assert [arm["label"] for arm in record["arms"]] == [f"trial {n}" for n in range(5)]
    assert {row.state for row in rows} == {"finished", "pruned"} and rows[0].score == 0.6
    assert sorted(shown(queue)) == sorted({"finished": "COMPLETE", "pruned": "PRUNED"}[row.state] for row in rows)
    assert not (folder.store / "runs" / rows[0].identity / "rows.parquet").exists(), "it was reused, not trained"
    for row in rows[1:]:
        run = RunFolder(folder.store, row.identity)
        kept = {path.name for path in run.path.iterdir()}
        if row.state == "finished":
            assert row.score == pytest.approx(1 - abs(row.values["eps"] - 0.3)) and "weights" in kept
            continue
        assert kept == {"config.yaml", "status.json", "metrics.csv", "lock"} and list(row.validations) == [4, 8]
        assert run.status()["pruned"]["by"] == folder.name and "below the median" in run.status()["pruned"]["why"]

    before = {path: path.stat().st_mtime_ns for path in folder.store.rglob("*") if path.is_file()}
    work(folder, monkeypatch)
    assert run_study(folder, desk.prepare()[1], Settings(mirror=False), print) == {r.identity: r.state for r in rows}
    assert states(folder) == [row.state for row in rows] and len(shown(queue)) == 5
    changed = [path for path, when in before.items() if path.stat().st_mtime_ns != when]
    assert not [path for path in changed if "runs" in path.parts]
    assert search.begin(folder, desk.prepare()[1], budget=6, allow_code=False)["cells"] == record["cells"]
    work(folder, monkeypatch)
    assert len(states(folder)) == 6 and folder.read()["cells"][:5] == record["cells"]


def pruned_trial(desk, monkeypatch):
    """Return a search's folder and the cell of a trial that it pruned."""
    monkeypatch.setattr(Validation, "measure", measured)
    desk.define(space={"perturbation.rate": {"symbol": "eps", "low": 0.9, "high": 0.95}}, budget=2)
    folder, record = desk.begin()
    fabricate(folder, record["cells"][0], 0.6)
    work(folder, monkeypatch)
    assert states(folder) == ["finished", "pruned"]
    return folder, folder.read()["cells"][1]


def test_whoever_else_wants_a_pruned_run_trains_it_to_its_end(desk, monkeypatch):
    folder, cell = pruned_trial(desk, monkeypatch)
    planned = plan_cell(folder.read(), folder.store, cell)
    run = experiment.run(planned, name="a cell of a grid")
    assert run.state() == "finished" and run.status()["pruned"] is None and run.status()["error"] is None
    assert list(records.validations(run)) == [4, 8, 12] and (run.path / "rows.parquet").is_file()
    assert states(folder) == ["finished", "finished"], "then the search has its result, too"


def test_a_grid_sees_a_pruned_run_as_one_that_is_still_to_be_trained(desk, monkeypatch):
    folder, cell = pruned_trial(desk, monkeypatch)
    grid = {**folder.read(), "name": "grid"}
    grid.pop("search")
    queue = Queue(folder.store / "studies" / "grid", "grid")
    rows = standing.progress(folder, grid)
    failed = {row["identity"] for row in rows if row["state"] == "failed"}
    finished = {row["identity"]: row["dice"] for row in rows if row["state"] == "finished"}
    queue.fill(grid["cells"], finished, failed)
    assert queue.claim().cell == cell and queue.claim() is None


def test_a_worker_that_died_before_it_could_tell_of_a_pruned_trial(desk, monkeypatch):
    folder, cell = pruned_trial(desk, monkeypatch)
    (folder.path / "queue.journal").unlink()
    queue = Queue(folder.path, folder.name)
    queue.fill(folder.read()["cells"], {}, set())
    before = (folder.store / "runs" / cell["identity"] / "status.json").stat().st_mtime_ns
    work(folder, monkeypatch)
    assert shown(queue) == ["COMPLETE", "PRUNED"]
    assert (folder.store / "runs" / cell["identity"] / "status.json").stat().st_mtime_ns == before


def test_a_failed_trial_counts_and_the_search_goes_on(desk, monkeypatch):
    def broken(self, teacher, student, perturbation):
        if perturbation.rate != 0.7:
            raise RuntimeError("no such luck")
        return measured(self, teacher, student, perturbation)

    monkeypatch.setattr(Validation, "measure", broken)
    folder, _ = desk.begin(budget=3)
    work(folder, monkeypatch)
    assert states(folder) == ["finished", "failed", "failed"] and search.left(folder.read()) == 0


def until(condition, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def all_killed(folder, processes):
    """Kill processes and their children once two trials are in hand and further than their second step."""

    def reached():
        steps = [json.loads(path.read_text())["step"] for path in (folder / "runs").glob("*/status.json")]
        return len(steps) >= 2 and min(steps) > 2

    until(lambda: reached() or processes[0].poll() is not None, "two trials in hand")
    assert processes[0].poll() is None
    family = [one for process in processes for one in psutil.Process(process.pid).children(recursive=True)]
    for process in [*family, *processes]:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait(PATIENCE_SECONDS)


def assert_nothing_lost(folder, before, budget):
    after = folder.read()
    assert len(after["cells"]) == budget and after["cells"][: len(before["cells"])] == before["cells"]
    assert after["arms"][: len(before["arms"])] == before["arms"], "the values of a trial in hand stay"
    found = records.of_study(folder.store, after)
    assert {trial.state for trial in found} <= {"finished", "pruned"} and found[0].state == "finished"
    identities = sorted(trial.identity for trial in found)
    assert sorted(path.name for path in (folder.store / "runs").iterdir()) == identities
    queued = Queue(folder.path, folder.name).study.get_trials()
    assert sorted(t.user_attrs["identity"] for t in queued if t.state.name in ("COMPLETE", "PRUNED")) == identities


def test_killed_with_two_trials_in_hand_none_is_lost_and_none_is_run_twice(tmp_path, phantom_root, tiny, monkeypatch):
    desk = Desk(tmp_path, phantom_root, tiny, steps=24)
    folder, _ = desk.begin(budget=3)
    command = [sys.executable, "-m", "vqseg.study.worker", "--store", str(desk.store), "--study", folder.name]
    workers = [subprocess.Popen([*command, "--parent", str(os.getpid())]) for _ in range(2)]
    all_killed(desk.store, workers)
    before = folder.read()
    assert len(before["cells"]) >= 2
    work(folder, monkeypatch)
    assert_nothing_lost(folder, before, budget=3)


@pytest.mark.slow
def test_the_command_is_killed_and_started_again(tmp_path, phantom_root, tiny):
    desk = Desk(tmp_path, phantom_root, tiny, steps=40, budget=5)
    all_killed(desk.store, [desk.start()])
    folder = desk.prepare()[0]
    before = folder.read()
    assert desk.start().wait(PATIENCE_SECONDS) == 0, (tmp_path / "said.txt").read_text()
    assert_nothing_lost(folder, before, budget=5)
