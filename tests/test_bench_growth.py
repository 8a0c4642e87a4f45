import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from vqseg.bench import growth, growth_prior, growth_queue, growth_tasks, replay
from vqseg.bench.growth_fit import fit
from vqseg.bench.growth_study import replay as replayed
from vqseg.bench.growth_tasks import Probe, Task
from vqseg.bench.options import Options
from vqseg.bench.outcome import as_json, table
from vqseg.bench.timing import Timing
from vqseg.errors import InputError
from vqseg.records import speeds
from vqseg.records.run import RunFolder
from vqseg.study.queue import MAX_DEATHS, Queue

# Exponents


@pytest.mark.parametrize(("factor", "exponent"), [(0.5, 1.0), (3e-9, 2.3), (7.0, 0.0), (2.0, -0.5)])
def test_an_exponent_is_recovered(factor, exponent):
    values = [2**power for power in range(10, 19)]
    found = fit(values, [factor * value**exponent for value in values])
    assert found.exponent == pytest.approx(exponent, abs=1e-9) and found.factor == pytest.approx(factor, rel=1e-6)
    assert found.points == 5 and found.low == pytest.approx(exponent, abs=1e-6)
    assert found.at(1000) == pytest.approx(factor * 1000**exponent, rel=1e-6)


def test_the_lower_half_does_not_count():
    values = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    found = fit(values, [100.0] * 4 + [value**2 for value in values[4:]])
    assert found.exponent == pytest.approx(2) and found.points == 5


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    random, values, held = np.random.default_rng(0), 2.0 ** np.arange(10, 19), 0
    for _ in range(400):
        found = fit(values.tolist(), (values**1.2 * np.exp(0.1 * random.normal(size=9))).tolist())
        held += found.low <= 1.2 <= found.high
    assert 0.91 <= held / 400 <= 0.985


def test_few_points():
    assert fit([], []) is None and fit([5], [1.0]) is None and fit([5, 5], [1.0, 2.0]) is None
    two = fit([1, 100], [1.0, 10.0])
    assert two.exponent == pytest.approx(0.5) and math.isnan(two.low) and "two points" in two.words()
    with pytest.raises(ValueError, match="positive"):
        fit([1, 2], [0.0, 1.0])


def test_where_a_cost_is_reached():
    found = fit([1, 10, 100, 1000], [2.0, 20.0, 200.0, 2000.0])
    assert found.reaches(50.0) == pytest.approx(25.0)
    assert found.reaches(0.0) is None and fit([1, 10], [5.0, 5.0]).reaches(7.0) is None


# Measuring one cost


def clock(seconds, made):
    """A task whose size n takes ``seconds(n)``, without taking any."""

    def make(value):
        made.append(value)
        return Probe(None, lambda repeats: Timing(seconds(value), seconds(value), seconds(value), repeats))

    return make


def test_a_cost_is_measured_until_patience_ends():
    made = []
    task = Task("part", "size", (10, 20, 40, 80, 160), clock(lambda value: 0.01 * value, made))
    curve = growth.measured(task, Options(extra={"budget-s": "3"}))
    # 3 calls of 20 would take about 3 x .2 s, of 40 about 3 x .4, of 80 about 3 x .8 x 1.1; of 160 more than 3 s
    assert made == [10, 20, 40, 80] and curve.skipped.startswith("160 and above left out: would take about")
    assert curve.fit.exponent == pytest.approx(1) and curve.at(40) == pytest.approx(0.4)


def test_a_size_that_would_not_fit_is_left_out(monkeypatch):
    monkeypatch.setattr(growth, "free_bytes", lambda device: 2**30)
    monkeypatch.setattr(growth, "extra_memory_mb", lambda run, device: 100.0)
    nothing = Probe(lambda: None, lambda repeats: Timing(1e-6, 1e-6, 1e-6, repeats))
    curve = growth.measured(Task("part", "size", (1, 2, 4), lambda value: nothing, memory_power=3.0), Options())
    assert [point.value for point in curve.points] == [1]
    assert curve.skipped == "2 and above left out: would take about 0.8 GiB of memory"


def test_the_bottleneck_of_a_part_is_half_of_the_step():
    task = Task(growth_tasks.QUANTIZE, growth_tasks.CODES, (1000, 2000, 4000), clock(lambda n: 1e-6 * n, []))
    curve = growth.measured(task, Options())
    growth._bound(curve, "cpu", step_s=0.009, steps=10, codes=1000)  # of 9 ms the part takes 1: the rest is 8
    assert curve.bottleneck == pytest.approx(8000)
    assert growth._bottleneck(curve) == "half of a cpu step at 8,000 (extrapolated)"


@pytest.mark.slow
def test_growth_runs_and_draws(tmp_path):
    options = Options(quick=True, repeats=1, extra={"figure": str(tmp_path / "growth.png"), "budget-s": "0.3"})
    outcome = growth.measure(options)
    parts = {curve["part"] for curve in outcome.settings["curves"]}
    assert parts == {
        growth_tasks.QPM_DRAW, growth_tasks.QUANTIZE, growth_tasks.STEP, growth_tasks.SCORING,
        growth_tasks.QUEUE, growth_tasks.TABLES,
    }  # fmt: skip
    assert all(curve["points"] for curve in outcome.settings["curves"]) and len(outcome.rows) == 10
    assert json.dumps(as_json(outcome), allow_nan=False) and max(map(len, table(outcome).splitlines())) < 100
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_growth_refuses_what_it_cannot_draw_or_does_not_know():
    with pytest.raises(InputError, match=r"expected a .png or .pdf file"):
        growth.measure(Options(quick=True, extra={"figure": "growth.txt"}))
    with pytest.raises(InputError, match="did you mean 'figure'"):
        growth.measure(Options(quick=True, extra={"figur": "growth.png"}))


def test_the_volume_to_score_holds_what_it_shall():
    labels = growth_tasks._hearts(10 * 64**2, 0.03)
    assert labels.shape == (10, 64, 64) and set(np.unique(labels)) == {0, 1, 2, 3}


# The replay


@pytest.mark.parametrize(
    ("seconds", "workers", "makespan"),
    [
        ([10.0] * 5, 2, 30.0),  # three rounds
        ([10.0] * 5, 1, 50.0),
        ([10.0] * 5, 8, 10.0),
        ([4.0, 3.0, 2.0, 1.0, 6.0], 2, 11.0),  # 0-4 4-5 5-11 | 0-3 3-5
        ([4.0, 3.0, 2.0, 1.0, 6.0], 3, 9.0),  # 0-4 | 0-3 3-9 | 0-2 2-3, and then nothing is left at 3: 4th of them
    ],
)
def test_a_study_takes_as_long_as_worked_out_by_hand(tmp_path, seconds, workers, makespan):
    course = replayed(tmp_path / "study", seconds, workers)
    assert course.makespan_s == makespan and sorted(course.completed) == list(range(len(seconds)))
    assert course.kept_s == sum(seconds) and course.lost_s == 0 and course.kills == 0
    assert course.utilization == pytest.approx(sum(seconds) / (workers * makespan))
    assert len(course.finish_s) == len(seconds) <= len(course.claim_s)
    assert sorted(Queue(tmp_path / "study", "study").completed()) == [str(cell) for cell in range(len(seconds))]


def test_every_attempt_starts_anew(tmp_path):
    course = replayed(tmp_path / "study", [10.0] * 4, 2, start_s=3.0)
    assert course.makespan_s == 26.0 and course.lost_s == 12.0 and course.kept_s == 40.0


def check(course, seconds):
    """What holds of every course: all time is told of, nothing runs in two places, nothing finishes twice."""
    spent = sum(attempt.end - attempt.begin for attempt in course.attempts)
    assert spent == pytest.approx(course.kept_s + course.lost_s)
    for cell in range(len(seconds)):
        own = [attempt for attempt in course.attempts if attempt.cell == cell]
        assert sum(attempt.finished for attempt in own) == (cell not in course.failed)
        assert all(before.end <= after.begin for before, after in pairwise(own))
    for worker in range(course.workers):
        own = [attempt for attempt in course.attempts if attempt.worker == worker]
        assert all(before.end <= after.begin for before, after in pairwise(own))
    assert sorted([*course.completed, *course.failed]) == list(range(len(seconds)))


def test_killed_workers_cells_are_resumed_once(tmp_path):
    seconds = [100.0] * 20
    course = replayed(tmp_path / "study", seconds, 4, start_s=2.0, kill=0.3, checkpoint_s=10.0, seed=1)
    check(course, seconds)
    assert course.kills > 2 and not course.failed
    assert course.kept_s == pytest.approx(sum(seconds))
    # Of every death at most a start and what lies between two checkpoints is lost, beside the other starts.
    assert course.lost_s <= 2.0 * 20 + 12.0 * course.kills
    killed = next(attempt for attempt in course.attempts if not attempt.finished)
    after = next(each for each in course.attempts if each.cell == killed.cell and each.begin > killed.begin)
    assert after.begin >= killed.end + 120.0  # the lease has to lapse first


def test_what_is_never_checkpointed_and_always_killed_is_given_up(tmp_path):
    seconds = [10.0] * 3
    course = replayed(tmp_path / "study", seconds, 2, kill=0.999, seed=0)
    check(course, seconds)
    assert sorted(course.failed) == [0, 1, 2] and course.kills >= 3 * MAX_DEATHS and course.utilization == 0


def test_a_seed_replays_the_same_course(tmp_path):
    def events(name, seed):
        return replayed(tmp_path / name, [50.0] * 12, 3, kill=0.3, checkpoint_s=5.0, seed=seed).attempts

    first = events("a", 7)
    assert events("b", 7) == first and events("c", 8) != first


def test_nonsense_is_no_replay(tmp_path):
    for options in ({"workers": 0}, {"workers": 1, "kill": 1.0}, {"workers": 1, "checkpoint_s": 0.0}):
        with pytest.raises(ValueError, match="out of range"):
            replayed(tmp_path / "study", [1.0], **options)


def test_the_bench_tells_that_it_is_a_simulation_and_what_it_was_made_of():
    extra = {"ms-per-step": "100", "steps": "1000", "cells": "5", "devices": "2", "start-s": "0", "other-s": "20"}
    outcome = replay.measure(Options(extra=extra))
    figures = {row.what: row.ours for row in outcome.rows}
    assert figures["simulated, 2 devices: last cell ends"] == pytest.approx(3 * 120 / 3600)
    assert figures["simulated, 2 devices: held"] == pytest.approx(2 * 3 * 120 / 3600)
    assert figures["simulated, 2 devices: idle, starts, lost"] == pytest.approx(100 / 6)
    assert "SIMULATION" in outcome.settings and outcome.settings["times"] == "as given"
    assert outcome.rows[0].limit == pytest.approx(2.5 * 120 / 3600)


def test_times_come_from_a_device_that_was_measured_or_from_finished_runs(tmp_path):
    machine = {"device": "NVIDIA H100", "date": "2026-05-04T03:02:01+00:00"}
    settings = {"preset": "smoke", "ms_per_step": 10.0, "start_s": 1.0, "validation_s": 2.0, "scoring_s_per_scan": 0.5}
    speeds.save(tmp_path, "h100", {"bench": "step", "settings": settings, "machine": machine})
    options = Options(store=tmp_path, extra={"on": "h100", "scans": "3"})
    cost = replay._cost(options, "smoke", 400)
    # 400 steps, validated every 100 and once more: 5 x 2 s, and 4 networks x 3 scans x .5 s
    assert cost.seconds(2, 400, 0) == [4.0 + 10.0 + 6.0] * 2 and cost.start_s == 1.0
    with pytest.raises(InputError, match="preset 'cpu' was not measured there, only smoke"):
        replay._cost(options, "cpu", 400)
    for name, ms in (("a", 10.0), ("b", 20.0)):
        dates = {"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:00+00:00"}
        status = {"state": "finished", "preset": "smoke", "labels": "labelled", "steps": 400, **dates}
        RunFolder(tmp_path, name).create({}, {**status, "cost": {"ms_per_step": ms, "train_seconds": 50.0}})
    cost = replay._cost(Options(store=tmp_path), "smoke", 400)
    assert set(cost.seconds(50, 400, 0)) == {14.0, 18.0} and cost.source == "2 finished runs of the store"
    assert cost.seconds(9, 400, 3) == cost.seconds(9, 400, 3)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"kill": "1"}, "kill=1: expected a probability"),
        ({"cells": "0"}, "cells=0: expected a whole number of at least 1"),
        ({"devices": "1,x"}, "expected numbers of devices by comma"),
        ({"ms-per-step": "-1"}, "ms-per-step=-1: expected a time above 0"),
        ({"device": "1"}, "did you mean 'devices'"),
        ({"on": "h100"}, "speeds lie in a store"),
    ],
)
def test_bad_settings_are_one_line(extra, message):
    with pytest.raises(InputError, match=message):
        replay.measure(Options(extra=extra))


def test_real_processes_empty_a_queue_once(tmp_path):
    found = growth_queue.load(tmp_path / "study", 3, 7)
    assert (found.workers, found.cells) == (3, 7) and len(found.claim_s) == len(found.finish_s) == 7
    assert 0 < found.per_cell_s <= found.wall_s
    assert len(Queue(tmp_path / "study", "study").completed()) == 7


def test_the_command_prints_it(command, tmp_path):
    words = ("bench", "replay", "--store", tmp_path, "--json", "--set", "ms-per-step=100")
    code, out, err = command(*words, "--set", "devices=2", "--set", "cells=3")
    found = json.loads(out)
    assert (code, err, found["bench"]) == (0, "", "replay") and found["rows"][0]["unit"] == "h"


@pytest.mark.parametrize("preset", ["smoke", "release"])
def test_a_step_of_the_local_prior_has_a_time_at_any_preset(tmp_path, preset, monkeypatch):
    whole = growth_prior.load_config  # release's 224 px take seconds
    small = ["data.size_px=28", "prior.batch=2", "prior.dim=8", "prior.depth=1"]
    monkeypatch.setattr(growth_prior, "load_config", lambda name, changes: whole(name, [*changes, *small]))
    ms = growth_prior.prior_ms(preset, tmp_path, torch.device("cpu"), repeats=1)
    assert 0 < ms < math.inf
