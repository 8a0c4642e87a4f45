"""The frame of `vqseg bench`, its own four benches, and that every bench runs; no test looks at a clock."""

import json
import math
import sys
import types

import numpy as np
import pytest
import torch

from vqseg import bench, train
from vqseg.bench import machine, score, timing, track
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row, as_json, figure, table
from vqseg.errors import InputError
from vqseg.records.run import MetricsFile, RunFolder


def row(target=None, **figures):
    return Row("what", "s", **{"ours": 2.0, "naive": 10.0, "limit": 1.0, **figures}, target=target)


def test_candidates_are_timed_in_rounds_after_the_warmup():
    said = []
    found = timing.interleaved({"a": lambda: said.append("a"), "b": lambda: said.append("b")}, repeats=3, warmup=2)
    assert "".join(said) == "ab" * 5
    assert set(found) == {"a", "b"} and found["a"].repeats == 3
    assert all(0 < each.low <= each.median <= each.high for each in found.values())
    with pytest.raises(ValueError, match="repeats must be positive"):
        timing.interleaved({"a": list}, repeats=0)


@pytest.mark.skipif(not timing.resident_mb() > 0, reason="needs Linux's /proc")
def test_extra_memory_is_the_peak_above_what_was_in_use():
    kept = torch.ones(8 << 20)
    found = timing.extra_memory_mb(lambda: (kept * 2 + 1).sum())
    if math.isnan(found):
        pytest.skip("the kernel does not let a process forget its peak")
    assert 60 < found < 75  # kept * 2 and its sum with 1, of 32 MiB each
    assert timing.extra_memory_mb(lambda: kept.sum()) < 10


def test_a_profile_is_a_trace_and_the_heaviest_operators(tmp_path):
    one = torch.rand(64, 64)
    said = timing.profiled(lambda: one @ one, tmp_path / "new" / "trace.json")
    assert "aten::mm" in said and "share" in said and said.count("\n") <= timing.HEAVIEST
    assert "traceEvents" in json.loads((tmp_path / "new" / "trace.json").read_text())


def test_ratios_are_ours_over_limit_and_naive_over_ours():
    assert (row().over_limit, row().under_naive) == (2.0, 5.0)
    assert (row(limit=None).over_limit, row(naive=None).under_naive) == (None, None)


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (None, None),
        ("<= 2 x limit", True),
        ("<= 1.9 x limit", False),
        (">= 5 x naive", True),
        (">= 5.1 x naive", False),
        ("<= 1/5 of naive", True),
        ("<= 1/6 of naive", False),
        ("<= 2 x limit, >= 6 x naive", False),
        ("<= 1.15 x limit (the bare networks)", False),
        ("<= 2 s", True),
        ("<= 2e-3 s", False),
        ("<= 3 s of a step", True),
    ],
)
def test_a_goal_is_met_or_not(target, met):
    assert row(target).met is met


def test_a_goal_without_its_figure_is_not_measured():
    assert row("<= 2 x limit", limit=None).met is None
    assert row("<= 2 x limit", ours=math.nan).met is None
    for wrong in ("fast", "<= 2 x light", "<= 2 min"):
        with pytest.raises(ValueError, match="goal"):
            _ = row(wrong).met


def test_figures_have_three_digits_that_count():
    values = (None, math.nan, 0, 1234.5, 12.345, 0.012345, 1.2345e-6)
    assert [figure(value) for value in values] == ["-", "-", "0", "1,234", "12.3", "0.0123", "0.00000123"]


def test_a_table_is_narrow_and_says_what_was_measured_where():
    rows = [row("<= 2 x limit", ours=2.5), Row("memory", "MiB", math.nan, target="<= 512 MiB", note="a word " * 30)]
    outcome = Outcome("perturb", rows, {"codes": 16384}, machine.describe(), profile="share of mm")
    text = table(outcome)
    assert max(map(len, text.splitlines())) < 100
    for part in ("bench perturb", "2.50", "not met", "not measured", "codes 16384", machine.describe()["cpu"], "of mm"):
        assert part in text
    plain = json.loads(json.dumps(as_json(outcome), allow_nan=False))
    assert plain["rows"][0]["met"] is False and plain["rows"][0]["over_limit"] == 2.5
    assert plain["rows"][1]["ours"] is None and plain["machine"]["cores"] == machine.cores()


def test_settings_of_a_bench_are_read_and_strangers_refused():
    options = Options(extra={"steps": "12", "preset": "cpu"})
    assert (
        options.number("steps", 1) == 12 and options.number("other", 3) == 3 and options.setting("preset", "") == "cpu"
    )
    options.require_known("steps", "preset")
    with pytest.raises(InputError, match="did you mean 'preset'"):
        Options(extra={"presett": "cpu"}).require_known("steps", "preset")
    with pytest.raises(InputError, match="steps=many: expected a number"):
        Options(extra={"steps": "many"}).number("steps", 1)


# The command


@pytest.fixture
def invented(monkeypatch):
    """Three benches: one that is well, one that fails, one whose module is not there."""

    def measure(options):
        if options.profile:
            options.profile.write_text("{}")
        return Outcome("good", [row("<= 2 s")], {"word": options.setting("word", "-")}, {"cpu": "x"}, "ops" * 2)

    def fail(options):
        raise RuntimeError("no\nluck")

    monkeypatch.setitem(sys.modules, "good", types.SimpleNamespace(measure=measure))
    monkeypatch.setitem(sys.modules, "bad", types.SimpleNamespace(measure=fail))
    rows = {"bad": "bad", "good": "good", "gone": "vqseg.bench.nowhere"}
    monkeypatch.setattr(bench, "BENCHES", rows)
    monkeypatch.setattr("vqseg.cli.bench.BENCHES", rows)


@pytest.mark.usefixtures("invented")
def test_all_goes_on_after_a_failure_and_ends_with_one(command, tmp_path):
    code, out, err = command("bench", "all", "--set", "word=a=b", "--profile", tmp_path / "t.json")
    assert code == 1 and "bench good" in out and "word a=b" in out and "opsops" in out
    assert "bench bad: failed: RuntimeError: no luck" in err and "bench gone: failed: ModuleNotFoundError" in err
    assert (tmp_path / "t-good.json").is_file()  # a trace of its own
    code, out, _ = command("bench", "all", "--json")
    found = json.loads(out)
    assert (
        code == 1 and [one["bench"] for one in found["benches"]] == ["good"] and set(found["failed"]) == {"bad", "gone"}
    )
    code, out, _ = command("bench", "good", "--json")
    assert code == 0 and json.loads(out)["rows"][0]["met"] is True


@pytest.mark.usefixtures("invented")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["goood"], "did you mean 'good'"),
        (["good", "--set", "word"], "expected KEY=VALUE"),
        (["good", "--save", "laptop"], "keeps what 'vqseg bench step' measures, not good"),
        (["all", "--save", "a/b"], "--save 'a/b'"),
        (["step", "--quick", "--save", "laptop"], "--save laptop: figures of --quick say nothing"),
        (["good", "--device", "tpu"], "--device tpu"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(command, words, message):
    code, out, err = command("bench", *words)
    assert code == 2 and message in err and err.count("\n") == 1 and not out


def test_a_bench_without_a_profile_says_so(command, tmp_path):
    code, _, err = command("bench", "score", "--quick", "--repeats", 1, "--profile", tmp_path / "t.json")
    assert code == 0 and "no trace was written" in err and not list(tmp_path.iterdir())


# Every bench


ELSEWHERE = ("growth", "report")
"""Benches whose own tests run them whole; both take long."""


@pytest.mark.parametrize("name", [name for name in bench.BENCHES if name not in ELSEWHERE])
def test_every_bench_runs_under_quick(name, tmp_path):
    outcome = bench.measure(name, Options(quick=True, repeats=1, workers=1, store=tmp_path / "store"))
    assert outcome.bench == name and outcome.rows
    assert json.dumps(as_json(outcome), allow_nan=False)
    assert max(map(len, table(outcome).splitlines())) < 100
    assert any(each.ours >= 0 for each in outcome.rows)


# Ours against MedPy's


@pytest.mark.parametrize("error", score.ERRORS)
def test_simulated_errors_are_errors_and_score_as_medpy_says(error):
    rng = np.random.default_rng(3)
    mask = score._drawn((5, 60, 50), rng)
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    drawn = score.ERRORS[error](mask, rng)
    assert drawn.shape == mask.shape and drawn.dtype == mask.dtype and (drawn != mask).any()
    volume = score.Volume(error, drawn, mask, score.SPACING)
    ours, naive = score._ours(volume, ["a", "b", "c", "d"]), score._medpy(volume, ["a", "b", "c", "d"])
    assert score.difference(ours, naive) <= score.SAME
    assert len(ours) == 6 * (2 if error == "missing structure" else 3)


def test_a_difference_is_the_largest_and_a_lacking_value_infinite():
    assert score.difference({"a": 1.0, "b": 2.0}, {"a": 1.25, "b": 2.0}) == 0.25
    assert score.difference({"a": 1.0}, {"b": 1.0}) == math.inf


# What records


def test_the_clock_counts_outermost_calls_while_it_is_on(tmp_path):
    clock = track.Clock(torch.device("cpu"))
    before = [getattr(owner, name) for pairs in track.RECORDING.values() for owner, name in pairs]
    with track.watched(clock):
        file = MetricsFile(tmp_path / "metrics.csv", 0)
        assert not any(clock.calls.values())
        clock.on = True
        file.write({"a": 1.0}, 1)
        folder = RunFolder(tmp_path, "x")
        folder.create({}, {"step": 0})
        folder.update(step=1)
    assert clock.calls == {"metrics.csv": 1, "status.json": 2, "meters": 0, "checkpoints": 0}
    assert clock.seconds["metrics.csv"] > 0 and clock.seconds["checkpoints"] == 0
    assert [getattr(owner, name) for pairs in track.RECORDING.values() for owner, name in pairs] == before
    assert folder.status()["step"] == 1 and "1,a,1.0" in (tmp_path / "metrics.csv").read_text()


def test_training_under_the_clock_is_training(phantom_root, tmp_path):
    run = train.Trainer.run
    outcome = track.measure(Options(quick=True, data=phantom_root))
    assert train.Trainer.run is run
    shares = {each.what.strip(): each.ours for each in outcome.rows}
    parts = [shares[kind] for kind in ("metrics.csv", "status.json", "meters")]
    assert shares["all that records, share of training"] == pytest.approx(sum(parts)) and 0 < sum(parts) < 100
