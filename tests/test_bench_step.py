"""The step bench: it runs, what it compares computes the same, and what it says can be kept."""

import json

import pytest
import torch

from vqseg.bench import step
from vqseg.bench.bare_step import BareStep, OurStep, spread_codes
from vqseg.bench.growth_step import Bench
from vqseg.bench.naive_step import NaiveStep
from vqseg.bench.options import Options
from vqseg.bench.outcome import as_json, table
from vqseg.errors import InputError
from vqseg.records import speeds

TINY = (
    "data.size_px=32",
    "train.precision=fp32",
    "train.labelled_batch=3",
    "train.unlabelled_batch=2",
    "network.quantizer.num_codes=32",
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No weights but those that the bench makes."""
    monkeypatch.setenv("VQSEG_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def build(folder, preset="smoke", *more):
    if preset == "release":
        asked, missing = step.ask(preset, Options(quick=True), folder)
        assert missing == "a tiny ViT"
        return Bench(preset, [*asked.overrides, "train.precision=fp32", *more], folder, CPU)
    return Bench(preset, [*TINY, *more], folder, CPU)


def gradients(network):
    return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}


def test_what_it_measures_of_a_preset_can_be_printed_and_kept(folder, tmp_path):
    found = step.measure(Options(quick=True, repeats=1, extra={"preset": "smoke", "rate": "0.7"}))
    names = [row.what for row in found.rows]
    assert names[:3] == ["step, eps 0.7, fp32", "step, eps 0.7, bf16 autocast", "peak memory, eps 0.7, fp32"]
    assert "views" in names[3] and len(names) == 4
    timed, half, memory = found.rows[:3]
    assert timed.ours > 0 and timed.naive > 0 and timed.limit > 0 and isinstance(timed.met, bool)
    assert timed.target == "<= 1.15 x limit, <= 1/2 of naive"
    assert half.ours > 0 or "not native" in half.note
    assert memory.ours > 50 and memory.naive > 50
    told = found.settings
    assert told["ms_per_step"] >= found.rows[3].ours and told["images_per_step"] == 4 and "weights" not in told
    assert told["validation_s"] > 0 and told["validation_images"] > 0 and told["peak_memory_mb"] > 50
    assert max(map(len, table(found).splitlines())) < 100
    json.dumps(as_json(found), allow_nan=False)
    speeds.save(tmp_path, "here", as_json(found))
    assert speeds.load(tmp_path, "here")["smoke"].ms_per_step == told["ms_per_step"]


def test_random_weights_stand_in_where_none_are_at_hand_and_are_named(folder, tmp_path):
    options = Options(quick=True, repeats=1, profile=tmp_path / "trace.json", extra={"preset": "release"})
    found = step.measure(options)
    assert [row.what for row in found.rows if row.unit == "ms"][::2][:2] == [
        "step, eps 0.1, fp32",
        "step, eps 0.7, fp32",
    ]
    assert found.settings["weights"] == "random, of the shape of a tiny ViT"
    assert (tmp_path / "trace.json").is_file() and len(found.profile.splitlines()) == 11


def test_weights_that_are_there_are_taken(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(step, "locate", lambda weights: tmp_path)
    asked, missing = step.ask("release", Options(), folder)
    assert (asked.overrides, missing) == ((), "")
    assert asked.at(0.3).overrides == ("perturbation.rate=0.3",)
    assert step.ask("cpu", Options(), folder)[1] == ""


def test_what_it_does_not_know_is_refused(folder):
    with pytest.raises(InputError, match="--set rte"):
        step.measure(Options(extra={"rte": "0.1"}))
    with pytest.raises(InputError, match="--set rate=high: expected a number"):
        step.measure(Options(extra={"rate": "high"}))
    with pytest.raises(InputError, match="no image decoder and no prior; take preset release"):
        NaiveStep(build(folder, "smoke", "method.dual_branch=true").trainer)
    with pytest.raises(InputError, match="knows method vqseg alone"):
        NaiveStep(build(folder, "smoke", "method=supervised").trainer)


def test_the_releases_step_computes_what_ours_does(folder):
    """At rate 0 nothing is drawn: loss and gradients agree up to the order of sums, and so does the teacher."""
    ours, plain = (build(folder, "release", "perturbation.rate=0.0").trainer for _ in range(2))
    batch = ours.batches.at(0)
    before = {name: value.clone() for name, value in ours.method.teacher.named_parameters()}
    naive = NaiveStep(plain)
    OurStep(ours, batch, "fp32")()
    total = naive(batch)
    found, expected = gradients(ours.method.student), gradients(naive.student)
    assert set(found) == set(expected) and len(found) > 50
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-7), name
    assert float(total) > 0
    moved = [not torch.equal(value, before[name]) for name, value in ours.method.teacher.named_parameters()]
    assert any(moved)
    pairs = zip(ours.method.teacher.parameters(), naive.teacher.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in pairs)


@pytest.mark.parametrize("preset", ["smoke", "release"])
def test_the_releases_step_trains(preset, folder):
    bench = build(folder, preset, "perturbation.rate=0.7")
    naive, batch = NaiveStep(bench.trainer), bench.trainer.batches.at(0)
    losses = [float(naive(batch)) for _ in range(4)]
    assert naive.step == 4 and min(losses[1:]) < losses[0] and all(loss == loss for loss in losses)


def test_ours_is_the_trainers_own_step(folder):
    one, two = (build(folder).trainer for _ in range(2))
    batch = one.batches.at(0)
    again = OurStep(one, batch, "fp32")
    again()
    two.settings = two.settings.model_copy(update={"steps": 1})
    two.run()
    pairs = zip(one.method.student.parameters(), two.method.student.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    again()
    assert one.step == 2 and one.batches.at(7) is batch


@pytest.mark.parametrize("preset", ["smoke", "release"])
def test_the_limit_leaves_the_networks_as_they_were(preset, folder):
    trainer = build(folder, preset).trainer
    student = trainer.method.student
    before = [value.clone() for value in student.parameters()]
    bare = BareStep(trainer, trainer.batches.at(0), "fp32")
    bare()
    assert all(value.grad is None for value in student.parameters())
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), before, strict=True))
    sizes, places = trainer.settings, {"smoke": 64, "release": 4}[preset]
    assert len(bare.images) == sizes.labelled_batch + 2 * sizes.unlabelled_batch
    assert len(bare.tokens) == len(bare.images) * places and len(bare.rows) <= len(bare.table)


@pytest.mark.parametrize("preset", ["smoke", "release"])
def test_codes_are_laid_where_the_tokens_are(preset, folder):
    trainer = build(folder, preset).trainer
    batch, network = trainer.batches.at(0), trainer.method.student
    fresh = network(batch.labelled.image).quantized.indices.unique().numel()
    taken = spread_codes(trainer, batch)
    assert fresh < taken <= len(network.codes()) and taken > len(network.codes()) // 3
    pairs = zip(network.quantizer.state_dict().values(), trainer.method.teacher.quantizer.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)
    naive, again = NaiveStep(trainer), OurStep(trainer, batch, "fp32")
    losses = [float(naive(batch)) for _ in range(2)]
    again()
    again()
    # Steps leave them there: a few would draw all tokens to a few codes, and the figures would follow.
    seen = network.encode(torch.cat([batch.labelled.image, *(view.image for view in batch.unlabelled.strong)]))
    assert torch.equal(network.codes(), network.quantizer.table)
    assert network.quantize(seen.tokens).indices.unique().numel() > taken // 2
    assert all(loss == loss for loss in losses) and trainer.best["teacher"].weights == {}
