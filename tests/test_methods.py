"""The methods' formulas, computed once more by hand on one small batch."""

import copy
import math

import pandas as pd
import pytest
import torch
from torch import nn

from vqseg import experiment, streams
from vqseg.augment import CutMix
from vqseg.config import Schedule, load_config
from vqseg.dataset import Batch, Labelled, Unlabelled
from vqseg.decoder import UNetDecoder
from vqseg.encoder import UNetEncoder
from vqseg.methods import Supervised, VQSeg
from vqseg.network import SegmentationNetwork
from vqseg.optimizer import OPTIMIZERS, set_rate
from vqseg.perturbations import PERTURBATIONS, QPM
from vqseg.quantizers import MappedQuantizer
from vqseg.step import Setup

SEED, STEP, CLASSES = 7, 8, 3
WEIGHTS = {"reconstruction_weight": 0.6, "codebook_weight": 0.8, "commitment": 0.3, "usage_weight": 0.2}
SEMI = {"unlabelled_weight": 0.9, "perturbed_weight": 0.7, "strong_weight": 1.3, "warmup_steps": 3, "ramp_steps": 6}


def a_network(dual, skips=True):
    encoder = UNetEncoder(1, "batch", widths=(4, 8, 12), dropout=(0.0, 0.0, 0.0))
    image = UNetDecoder(encoder.dims, 1, "batch", False) if dual else None
    segment = UNetDecoder(encoder.dims, CLASSES, "batch", skips)
    network = SegmentationNetwork(encoder, MappedQuantizer(12, num_codes=20), segment, image)
    streams.initialize(network, SEED)
    network.quantizer.table.mul_(3)
    return network.train()


def a_batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 16, 16, generator=generator)
    box = torch.zeros(3, 16, 16, dtype=torch.bool)
    box[0, :9, 2:14], box[2, 5:, :11] = True, True
    mask = torch.randint(CLASSES, (2, 16, 16), generator=generator)
    mix = CutMix(box, torch.tensor([1, 2, 0]))
    return Batch(Labelled(images[:2], mask), Unlabelled(images[2:5], images[5:], mix))


def a_method(family=VQSeg, *, dual=True, separate=True, kind="ce", perturbation=None, **options):
    perturbation = perturbation or QPM(rate=0.8)
    setup = Setup(SEED, 0.9, separate)
    network = a_network(dual, skips=options.pop("skips", True))
    semi = SEMI if family is VQSeg else {}
    options = {**WEIGHTS, **semi, **options}
    method = family(network, perturbation, setup, segmentation=kind, dual_branch=dual, **options)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in method.teacher.parameters():
            value += 0.1 * torch.randn(value.shape, generator=generator)
        logits = method.teacher(a_batch().unlabelled.weak).logits
        method.teacher.segment_decoder.head.bias -= logits.mean((0, 2, 3))
    if family is VQSeg:
        method.confidence = teach(method, a_batch().unlabelled.weak)[1].median().item()
    return method


def teach(method, images):
    with torch.no_grad():
        confidence, label = method.teacher(images).logits.softmax(1).max(1)
    return label, confidence


def segmentation(kind, logits, target, weight=None):
    weight = torch.ones(target.shape) if weight is None else weight
    own = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    ce = -(own * weight).sum() / target.numel()
    if kind == "ce":
        return ce
    dice = []
    for index in range(CLASSES):
        p, y = logits.softmax(1)[:, index] * weight, (target == index) * weight
        dice.append((2 * (p * y).sum() + 1e-5) / ((p * p).sum() + (y * y).sum() + 1e-5))
    return (ce + 1 - sum(dice) / CLASSES) / 2


def nearest(network, encoded):
    codes = network.codes()
    indices = torch.cdist(encoded.tokens, codes[None]).argmin(-1)
    return indices, straight_through(encoded.tokens, codes[indices])


def straight_through(tokens, chosen):
    return tokens + (chosen - tokens).detach()


def drawn_from_the_steps_stream(method, quantized, step):
    stream = streams.generator(SEED, "perturbation", step)
    return method.perturbation.draw(quantized, method.student.codes().detach(), stream)


def codebook_terms(network, encoded, indices):
    z, codes = encoded.tokens, network.codes()
    square = (z[:, :, None] - codes).square().sum(-1).flatten(0, 1)
    p = (-square).softmax(1)
    sure, spread = -(p * p.log()).sum(1).mean(), -(p.mean(0) * p.mean(0).log()).sum()
    return {
        "codebook": 0.8 * (codes[indices] - z.detach()).square().mean(),
        "commitment": 0.8 * 0.3 * (codes[indices].detach() - z).square().mean(),
        "usage": 0.2 * (sure - spread),
    }


def labelled_terms(method, kind, batch, logits, tokens, encoded):
    terms = {"labelled": segmentation(kind, logits, batch.labelled.mask)}
    if method.student.image_decoder is not None:
        rebuilt = method.student.reconstruct(tokens, encoded)
        terms["reconstruction"] = 0.6 * (rebuilt - batch.labelled.image).abs().mean()
    return terms


def by_hand(method, batch, step, kind="ce", perturbed=True):
    network, views = method.student, batch.unlabelled
    encoded = network.encode(torch.cat([batch.labelled.image, views.strong, views.weak]))
    indices, tokens = nearest(network, encoded)
    weak = encoded.part(5, 8)
    shaken = tokens[5:]
    if perturbed:
        drawn = drawn_from_the_steps_stream(method, network.quantize(weak.tokens), step)
        shaken = straight_through(weak.tokens, network.codes()[drawn])
    label, confidence = teach(method, views.weak)
    weight = (confidence >= method.confidence).float()
    assert 0.2 < weight.mean() < 0.8
    box, partner = views.mix.box, views.mix.partner
    mixed_label, mixed_weight = label.clone(), weight.clone()
    mixed_label[box], mixed_weight[box] = label[partner][box], weight[partner][box]
    assert not torch.equal(mixed_label, label) and not torch.equal(mixed_weight, weight)
    logits = network.segment(tokens[:5], encoded.part(0, 5))
    scale = 0.9 * math.exp(-5 * (1 - (step - 3) / 6) ** 2)
    terms = {
        **labelled_terms(method, kind, batch, logits[:2], tokens[:2], encoded.part(0, 2)),
        **codebook_terms(network, encoded, indices),
        "strong": scale * 1.3 * segmentation(kind, logits[2:], mixed_label, mixed_weight),
        "perturbed": scale * 0.7 * segmentation(kind, network.segment(shaken, weak), label, weight),
    }
    if network.image_decoder is not None:
        rebuilt = network.reconstruct(shaken, weak)
        terms["reconstruction_perturbed"] = scale * 0.6 * (rebuilt - views.weak).abs().mean()
    return terms


def supervised_by_hand(method, batch, step, kind="ce", perturbed=True):
    network = method.student
    encoded = network.encode(batch.labelled.image)
    indices, tokens = nearest(network, encoded)
    shaken = tokens
    if perturbed:
        drawn = drawn_from_the_steps_stream(method, network.quantize(encoded.tokens), step)
        shaken = straight_through(encoded.tokens, network.codes()[drawn])
    logits = network.segment(shaken, encoded)
    return {
        **labelled_terms(method, kind, batch, logits, tokens, encoded),
        **codebook_terms(network, encoded, indices),
    }


def same_terms(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


def gradients(network, terms):
    network.zero_grad()
    sum(terms.values()).backward()
    return {name: p.grad for name, p in network.named_parameters()}


def statistics(decoder):
    return [value.clone() for name, value in decoder.named_buffers() if "running" in name]


def equal(ones, others):
    return all(torch.allclose(one, other, atol=1e-6) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize("kind", ["ce", "dice_ce"])
@pytest.mark.parametrize("dual", [True, False])
def test_every_term_of_vqseg_is_its_formula(dual, kind):
    method = a_method(dual=dual, kind=kind)
    twin = copy.deepcopy(method)
    outcome = method.losses(a_batch(), STEP)
    same_terms(outcome.losses, by_hand(twin, a_batch(), STEP, kind))
    found = gradients(method.student, outcome.losses)
    for name, value in gradients(twin.student, by_hand(twin, a_batch(), STEP, kind)).items():
        assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("dual", [True, False])
def test_every_term_of_supervised_training_is_its_formula(dual):
    method = a_method(Supervised, dual=dual)
    twin = copy.deepcopy(method)
    outcome = method.losses(a_batch(), STEP)
    same_terms(outcome.losses, supervised_by_hand(twin, a_batch(), STEP))
    found = gradients(method.student, outcome.losses)
    for name, value in gradients(twin.student, supervised_by_hand(twin, a_batch(), STEP)).items():
        assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(
    ("family", "hand", "term"), [(VQSeg, by_hand, "perturbed"), (Supervised, supervised_by_hand, "labelled")]
)
def test_the_perturbed_pass_is_not_the_clean_one(family, hand, term):
    method = a_method(family)
    clean = hand(copy.deepcopy(method), a_batch(), STEP, perturbed=False)
    outcome = method.losses(a_batch(), STEP)
    assert abs(outcome.losses[term].item() - clean[term].item()) > 1e-3
    assert outcome.logs["perturbation/changed"] > 0.5 and outcome.logs["perturbation/moved"] > 0


def test_after_the_ramp_the_unlabelled_terms_have_their_full_weight():
    early, late = (a_method().losses(a_batch(), step).losses["strong"].item() for step in (3, 9))
    assert late == pytest.approx(early * math.exp(5), rel=1e-4)


@pytest.mark.parametrize("dual", [True, False])
def test_warm_up_trains_on_labelled_images_alone(dual):
    method = a_method(dual=dual)
    twin = copy.deepcopy(method)
    outcome = method.losses(a_batch(), 2)
    same_terms(outcome.losses, supervised_by_hand(twin, a_batch(), 2, perturbed=False))
    assert outcome.indices.shape[0] == 2 and outcome.logs == {}


@pytest.mark.parametrize(("family", "term"), [(VQSeg, "perturbed"), (VQSeg, "labelled"), (Supervised, "labelled")])
@pytest.mark.parametrize("perturbation", ["qpm", "uniform", "shuffle", "dropout"])
def test_the_encoder_learns_through_the_tokens_and_the_teacher_not_at_all(family, term, perturbation):
    method = a_method(family, skips=False, perturbation=PERTURBATIONS[perturbation](rate=0.8))
    method.losses(a_batch(), STEP).losses[term].backward()
    for name, value in method.student.encoder.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, name
    assert not any(value.requires_grad or value.grad is not None for value in method.teacher.parameters())


def test_the_straight_through_gradient_is_the_tokens_own():
    network = a_network(dual=False)
    tokens, weight = torch.randn(2, 5, 12, requires_grad=True), torch.randn(2, 5, 12)
    (network.quantize(tokens).tokens * weight).sum().backward()
    assert torch.equal(tokens.grad, weight)


@pytest.mark.parametrize("separate", [True, False])
def test_separate_statistics_are_those_of_the_clean_decode_alone(separate):
    method = a_method(separate=separate)
    batch, twin = a_batch(), copy.deepcopy(method.student)
    method.losses(batch, STEP)
    encoded = twin.encode(torch.cat([batch.labelled.image, batch.unlabelled.strong, batch.unlabelled.weak]))
    tokens = nearest(twin, encoded)[1]
    twin.segment(tokens[:5], encoded.part(0, 5))
    twin.reconstruct(tokens[:2], encoded.part(0, 2))
    for name in ("segment_decoder", "image_decoder"):
        ours, clean = statistics(getattr(method.student, name)), statistics(getattr(twin, name))
        assert ours and equal(ours, clean) == separate, name


@pytest.mark.parametrize("separate", [True, False])
def test_separate_statistics_of_supervised_training_are_those_of_clean_tokens(separate):
    method = a_method(Supervised, separate=separate)
    twin = copy.deepcopy(method.student)
    method.losses(a_batch(), STEP)
    encoded = twin.encode(a_batch().labelled.image)
    twin.segment(nearest(twin, encoded)[1], encoded)
    assert equal(statistics(method.student.segment_decoder), statistics(twin.segment_decoder)) == separate


def test_after_a_step_the_teacher_has_moved_by_one_minus_the_decay():
    for family in (VQSeg, Supervised):
        method = a_method(family)
        before, goal = (copy.deepcopy(n).state_dict() for n in (method.teacher, method.student))
        method.after_step(500)
        for name, value in method.teacher.named_parameters():
            assert torch.allclose(value, 0.9 * before[name] + 0.1 * goal[name], atol=1e-6), name


def test_the_logged_shares_of_pseudo_labels_are_counted_on_the_teachers_output():
    method = a_method()
    label, confidence = teach(method, a_batch().unlabelled.weak)
    logs = method.losses(a_batch(), STEP).logs
    assert logs["pseudo/confidence"].item() == pytest.approx(confidence.mean().item())
    assert logs["pseudo/coverage"].item() == pytest.approx((confidence >= method.confidence).float().mean().item())
    assert logs["pseudo/foreground"].item() == pytest.approx((label > 0).float().mean().item())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_rate_decays_as_a_power_and_the_encoder_has_its_own(name):
    network = a_network(dual=True)
    groups = VQSeg(network, QPM(), Setup(0, 0.9, True)).groups()
    optimizer = OPTIMIZERS[name](groups, lr=0.2, encoder_factor=0.25, weight_decay=0.03)
    encoder, head = optimizer.param_groups
    assert {id(p) for p in encoder["params"]} == {id(p) for p in network.encoder.parameters()}
    assert len(encoder["params"]) + len(head["params"]) == len(list(network.parameters()))
    assert encoder["weight_decay"] == head["weight_decay"] == 0.03
    for step, expected in ((0, 0.2), (50, 0.2 * 0.5**0.9), (99, 0.2 * 0.01**0.9)):
        assert set_rate(optimizer, Schedule(power=0.9), step, 100) == pytest.approx(expected)
        assert head["lr"] == pytest.approx(expected) and encoder["lr"] == pytest.approx(expected / 4)


def test_the_rate_warms_up_linearly_and_is_constant_at_power_zero():
    optimizer = OPTIMIZERS["sgd"]({"head": [nn.Parameter(torch.zeros(1))]}, lr=1.0)
    rates = [set_rate(optimizer, Schedule(power=0, warmup_steps=4), step, 10) for step in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_a_finished_run_logged_exactly_these_names(phantom_root, tiny, tmp_path):
    overrides = (*tiny, "method.dual_branch=true", "method.usage_weight=0.1")
    plan = experiment.plan(load_config("smoke", overrides), root=phantom_root, split=None, store=tmp_path)
    table = pd.read_csv(experiment.run(plan, name="x", keep="none").path / "metrics.csv")
    terms = {"labelled", "strong", "perturbed", "codebook", "commitment", "usage"}
    terms |= {"reconstruction", "reconstruction_perturbed"}
    expected = {f"loss/{term}" for term in {"total", *terms}} | {"lr", "speed/images_per_second", "memory/peak_mb"}
    expected |= {f"codebook/{name}" for name in ("utilization", "ceiling", "perplexity", "dead", "tokens")}
    expected |= {f"perturbation/{name}" for name in ("distortion", "changed", "pi_perplexity")}
    expected |= {f"pseudo/{name}" for name in ("confidence", "coverage", "foreground")}
    expected |= {f"val/dice_{name}" for name in ("teacher", "student")}
    expected |= {f"val/dice_teacher_{name}" for name in plan.manifest.classes[1:]}
    expected |= {f"reach/{what}_{arm}" for what in ("dice", "flips") for arm in ("own", "uniform")}
    assert set(table["name"]) == expected
    last = table[table["step"] == 12].set_index("name")["value"]
    assert last["loss/total"] == pytest.approx(sum(last[f"loss/{term}"] for term in terms), rel=1e-4)
    assert last["lr"] == pytest.approx(3e-3 * (1 / 12) ** 0.9, rel=1e-4)
