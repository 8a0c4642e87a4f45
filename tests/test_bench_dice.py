import math

import pytest
import torch

from vqseg.bench import dice
from vqseg.bench.curve import Curve, Point, Target, read_curve
from vqseg.bench.options import Options
from vqseg.errors import InputError
from vqseg.records.run import RunFolder

SMALL = {
    "preset": "smoke",
    "seeds": "0",
    "every": "2",
    "targets": "0.99",
    "train.steps": "6",
    "train.labelled_batch": "2",
    "train.unlabelled_batch": "2",
    "method.warmup_steps": "2",
    "method.ramp_steps": "0",
    "network.encoder.widths": "[4, 8]",
    "network.encoder.dropout": "[0.1, 0.0]",
    "network.quantizer.num_codes": "16",
}


def curve(*dice, over=False, seconds=10.0):
    points = [Point(50 * n, value, 0.1, seconds * n, 1.0 * n, 2.0) for n, value in enumerate(dice, 1)]
    return Curve(tuple(points), over)


def options(root, store, **changed):
    return Options(data=root, store=store, extra={**SMALL, **changed})


def folders(store):
    return [RunFolder(path.parents[1], path.name) for path in sorted((store / "time-to-dice" / "runs").iterdir())]


@pytest.mark.parametrize(
    ("found", "step"),
    [
        (curve(0.7, 0.8, 0.8), 100),
        (curve(0.8, 0.7, 0.8, 0.75), 150),  # one lucky validation does not count
        (curve(0.75, 0.75), 50),  # at the target is enough
        (curve(0.7, 0.8), None),  # the next one is to come
        (curve(0.7, 0.8, over=True), 100),  # no next one comes
        (curve(0.8, 0.7, over=True), None),
        (curve(), None),
    ],
)
def test_a_dice_is_held_from_the_first_of_two_validations_in_a_row(found, step):
    point = found.held(0.75)
    assert (point and point.step) == step


def test_training_ends_when_nothing_is_left_to_learn():
    low, high = Target(0.5), Target(0.8)
    assert curve(0.6, 0.6).done([low], math.inf) and not curve(0.6, 0.6).done([low, high], math.inf)
    assert curve(0.1, over=True).done([low, high], math.inf)
    assert curve(0.1, 0.2).done([low], 20.0) and not curve(0.1, 0.2).done([low], 20.5)
    # What was met within the limit gets the validation that confirms it.
    assert not curve(0.1, 0.6).done([low], 20.0)
    assert not curve().done([low], 0.0)


def test_rows_are_medians_over_seeds_and_say_what_was_not_reached():
    asked = dice.read_settings(Options(extra={"targets": "0.75:30,0.9"}))
    curves = {0: curve(0.8, 0.8), 1: curve(0.1, 0.8, 0.8), 2: curve(0.1, 0.1, 0.1, 0.8, 0.8)}
    seconds, everything, steps, *rest = dice.rows(curves, asked)
    assert (seconds.ours, everything.ours, steps.ours) == (20.0, 24.0, 100)
    assert seconds.met and seconds.target == "<= 30 s" and seconds.note == "10 to 40 over seeds"
    assert rest[0].what == "Dice 0.9: training" and math.isnan(rest[0].ours)
    assert "cut short: seed 0, 1, 2" in rest[0].note
    over = {seed: Curve(each.points, True) for seed, each in curves.items()}
    missed = dice.rows({**over, 1: curve(0.1, over=True), 2: curve(0.1, over=True)}, asked)[0]
    assert missed.ours == math.inf and missed.met is False
    assert missed.note == "10 to 10 over seeds; not reached by 2 of 3 seeds"


def test_a_call_that_is_cut_short_goes_on_and_a_second_one_measures_nothing(phantom_root, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    outcome = dice.measure(options(phantom_root, whole))
    (folder,) = folders(whole)
    expected = read_curve(folder)
    assert [point.step for point in expected.points] == [2, 4, 6] and expected.over
    assert folder.status()["state"] == "finished"
    assert outcome.rows[0].note == "not reached by 1 of 1 seeds" and outcome.rows[0].ours == math.inf

    late, clock, write = [], dice.time.perf_counter, dice.MetricsFile.write

    def written(file, values, step):
        late.extend([step] if "seconds/train" in values else [])
        write(file, values, step)

    monkeypatch.setattr(dice.MetricsFile, "write", written)
    monkeypatch.setattr(dice.time, "perf_counter", lambda: clock() + (1e6 if late else 0))
    outcome = dice.measure(options(phantom_root, cut, wall_s="1000"))
    (folder,) = folders(cut)
    first = read_curve(folder)
    assert [point.step for point in first.points] == [2] and folder.status()["state"] == "interrupted"
    assert "cut short: seed 0" in outcome.rows[0].note
    monkeypatch.undo()

    dice.measure(options(phantom_root, cut))
    found = read_curve(folder)
    assert [(p.step, p.dice, p.reach) for p in found.points] == [(p.step, p.dice, p.reach) for p in expected.points]
    for spent in ("train_s", "validation_s"):
        assert sorted({getattr(point, spent) for point in found.points}) == [getattr(p, spent) for p in found.points]
    assert found.points[0].start_s == first.points[0].start_s < found.points[-1].start_s

    monkeypatch.setattr(dice, "_train", lambda *args: pytest.fail("trained again"))
    again = dice.measure(options(phantom_root, cut))
    assert [row.note for row in again.rows] and read_curve(folder) == found


def test_a_target_that_is_held_ends_training_and_a_higher_one_goes_on(phantom_root, tmp_path):
    outcome = dice.measure(options(phantom_root, tmp_path, targets="0.0:1000"))
    (folder,) = folders(tmp_path)
    assert [point.step for point in read_curve(folder).points] == [2, 4]
    assert outcome.rows[0].met and outcome.rows[2].ours == 2
    assert outcome.settings["seeds"] == "0" and outcome.machine["threads"] == torch.get_num_threads()
    early = read_curve(folder).points
    dice.measure(options(phantom_root, tmp_path, targets="0.0,0.99"))
    (folder,) = folders(tmp_path)
    assert read_curve(folder).points[:2] == early and read_curve(folder).over


def test_the_quick_bench_needs_no_data():
    outcome = dice.measure(Options(quick=True))
    assert [row.what for row in outcome.rows][:3] == [
        "Dice 0: training",
        "Dice 0: with validation and start-up",
        "Dice 0: steps",
    ]
    assert outcome.rows[0].ours > 0 and outcome.rows[2].ours == 4


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"target": "0.7"}, "no such setting.*did you mean 'targets'"),
        ({"targets": "75"}, "expected a Dice below 1"),
        ({"targets": "0.7:soon"}, "expected a Dice below 1"),
        ({"seeds": "0-2"}, "whole numbers by comma"),
        ({"seed": "1"}, "takes seeds"),
        ({"train.validate_steps": "10"}, "takes every"),
        ({"every": "0"}, "at least 1"),
        ({"limit_s": "long"}, "expected a number"),
        ({"train.stepps": "10"}, "unknown key.*steps"),
    ],
)
def test_settings_that_cannot_be_read_are_told_in_one_line(phantom_root, tmp_path, extra, message):
    with pytest.raises(InputError, match=message) as error:
        dice.measure(Options(data=phantom_root, store=tmp_path, extra=extra))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "time-to-dice").exists()


def test_without_data_it_says_what_to_name():
    with pytest.raises(InputError, match="--data ROOT"):
        dice.measure(Options(extra={}))
