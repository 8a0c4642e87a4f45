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
from vqseg.dataset import Batch, Labelled, Strong, Unlabelled
from vqseg.decoders.unet import UNetDecoder
from vqseg.encoders.unet import UNetEncoder
from vqseg.methods import Supervised, VQSeg
from vqseg.network import SegmentationNetwork
from vqseg.optimizer import OPTIMIZERS, set_rate
from vqseg.perturbations import PERTURBATIONS, QPM
from vqseg.quantizers import MappedQuantizer
from vqseg.step import Setup

SEED, STEP, CLASSES = 7, 8, 3
WEIGHTS = {"reconstruction_weight": 0.6, "codebook_weight": 0.8, "commitment": 0.3, "usage_weight": 0.2}
SEMI = {"unlabelled_weight": 0.9, "perturbed_weight": 0.7, "strong_weight": 1.3, "warmup_steps": 3, "ramp_steps": 6}


def a_network(dual, skips=True, adapter=None):
    encoder = UNetEncoder(1, "batch", widths=(4, 8, 12), dropout=(0.0, 0.0, 0.0))
    image = UNetDecoder(encoder.dims, encoder.strides, 1, "batch", False) if dual else None
    segment = UNetDecoder(encoder.dims, encoder.strides, CLASSES, "batch", skips)
    network = SegmentationNetwork(encoder, MappedQuantizer(12, num_codes=20), segment, image, adapter)
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
    return Batch(Labelled(images[:2], mask), Unlabelled(images[2:5], [Strong(images[5:], mix)]))


def a_method(family=VQSeg, *, dual=True, separate=True, kind="ce", perturbation=None, **options):
    perturbation = perturbation or QPM(rate=0.8)
    prior = options.pop("prior", None)
    setup = Setup(SEED, 0.9, separate, ("background", "a", "b"), prior)
    adapter = nn.Conv2d(12, prior.dim, 1) if prior else None
    network = a_network(dual, options.pop("skips", True), adapter)
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
        method.thresholds.fill_(teach(method, a_batch().unlabelled.weak)[1].median().item())
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
    encoded = network.encode(torch.cat([batch.labelled.image, views.strong[0].image, views.weak]))
    indices, tokens = nearest(network, encoded)
    weak = encoded.part(5, 8)
    shaken = tokens[5:]
    if perturbed:
        drawn = drawn_from_the_steps_stream(method, network.quantize(weak.tokens), step)
        shaken = straight_through(weak.tokens, network.codes()[drawn])
    label, confidence = teach(method, views.weak)
    weight = (confidence >= method.thresholds[0]).float()
    assert 0.2 < weight.mean() < 0.8
    box, partner = views.strong[0].mix.box, views.strong[0].mix.partner
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
    encoded = twin.encode(torch.cat([batch.labelled.image, batch.unlabelled.strong[0].image, batch.unlabelled.weak]))
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
    assert logs["pseudo/coverage"].item() == pytest.approx((confidence >= method.thresholds[0]).float().mean().item())
    assert logs["pseudo/foreground"].item() == pytest.approx((label > 0).float().mean().item())


@pytest.mark.parametrize(("family", "passes"), [(VQSeg, "joint"), (VQSeg, "separate"), (Supervised, None)])
def test_a_step_makes_the_codes_once(family, passes, monkeypatch):
    """A large book is a product of its own, V x C x C, and as much twice in the backward pass."""
    method, calls = a_method(family, **({"codebook_passes": passes} if passes else {})), []
    codes = method.student.quantizer.codes
    monkeypatch.setattr(method.student.quantizer, "codes", lambda: calls.append(1) or codes())
    method.losses(a_batch(), STEP)
    assert len(calls) == 1


class APrior:
    """Says fixed features of an image: what it saw is kept to be looked at."""

    dim = 5

    def __init__(self, grid):
        self.grid, self.seen = grid, []

    def features(self, images, grid, part, rows):
        self.seen.append((images, grid, part, rows))
        generator = torch.Generator().manual_seed(len(images))
        return torch.randn(len(images), self.dim, *self.grid, generator=generator)


def contrast(tokens, features, temperature):
    """InfoNCE, place by place."""
    losses = []
    for ours, theirs in zip(tokens, features, strict=True):
        for place, token in enumerate(ours):
            cosine = torch.stack([torch.cosine_similarity(token, other, dim=0) for other in theirs]) / temperature
            losses.append(-cosine.log_softmax(0)[place])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("grid", [(4, 4), (2, 2), (8, 8)])
def test_alignment_is_info_nce_of_clean_tokens_on_the_coarser_grid(grid):
    prior = APrior(grid)
    method = a_method(prior=prior, align_weight=1.7, align_temperature=0.2)
    batch, network = a_batch(), method.student
    found = method.losses(batch, STEP).losses["align"]
    assert [(part, rows) for _, _, part, rows in prior.seen] == [("labelled", None), ("unlabelled", None)]
    assert torch.equal(prior.seen[0][0], batch.labelled.image) and torch.equal(prior.seen[1][0], batch.unlabelled.weak)
    encoded = network.encode(torch.cat([batch.labelled.image, batch.unlabelled.strong[0].image, batch.unlabelled.weak]))
    _, tokens = nearest(network, encoded)
    tokens = torch.cat([tokens[:2], tokens[5:]]).transpose(1, 2).unflatten(2, encoded.grid)
    features = torch.cat(
        [prior.features(batch.labelled.image, 0, 0, 0), prior.features(batch.unlabelled.weak, 0, 0, 0)]
    )
    coarse = (min(4, grid[0]), min(4, grid[1]))
    halve = nn.functional.avg_pool2d
    tokens = tokens if coarse == (4, 4) else halve(tokens, 2)
    features = halve(features, grid[0] // coarse[0])
    adapted = network.adapter(tokens).flatten(2).transpose(1, 2)
    expected = 1.7 * contrast(adapted, features.flatten(2).transpose(1, 2), 0.2)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    found.backward()
    assert network.adapter.weight.grad.abs().sum() > 0
    assert all(value.grad.abs().sum() > 0 for value in network.encoder.parameters())


def test_the_warm_up_and_supervised_training_align_labelled_images():
    for family, step in ((VQSeg, 2), (Supervised, STEP)):
        prior = APrior((4, 4))
        assert "align" in a_method(family, prior=prior).losses(a_batch(), step).losses
        assert [part for _, _, part, _ in prior.seen] == ["labelled"]


def two_views():
    batch = a_batch()
    view = batch.unlabelled.strong[0]
    other = Strong(view.image.flip(3), CutMix(view.mix.box.flip(1), torch.tensor([2, 0, 1])))
    return Batch(batch.labelled, Unlabelled(batch.unlabelled.weak, [view, other]))


def test_the_releases_form_perturbs_both_strong_views_and_sees_no_weak_one():
    options = {"perturb": "strong", "codebook_passes": "separate", "labelled_weight": 2.5, "dual": False}
    method = a_method(**options)
    twin, batch = copy.deepcopy(method), two_views()
    outcome = method.losses(batch, STEP)
    views, network = batch.unlabelled, twin.student
    encoded = network.encode(torch.cat([batch.labelled.image, *(view.image for view in views.strong)]))
    indices, tokens = nearest(network, encoded)
    strong = encoded.part(2, 8)
    drawn = drawn_from_the_steps_stream(twin, network.quantize(strong.tokens), STEP)
    clean = network.segment(tokens[:2], encoded.part(0, 2))
    with torch.no_grad():
        for norm in (m for m in network.segment_decoder.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.track_running_stats = False
    logits = network.segment(straight_through(strong.tokens, network.codes()[drawn]), strong)
    label, confidence = teach(twin, views.weak)
    weight = (confidence >= method.thresholds[0]).float()
    losses = [
        segmentation("ce", logits[3 * k : 3 * k + 3], view.mix.mix(label), view.mix.mix(weight))
        for k, view in enumerate(views.strong)
    ]
    parts = [codebook_terms(network, encoded.part(a, b), indices[a:b]) for a, b in ((0, 2), (2, 8))]
    scale = 0.9 * math.exp(-5 * (1 - (STEP - 3) / 6) ** 2)
    expected = {
        "labelled": 2.5 * segmentation("ce", clean, batch.labelled.mask),
        "strong": scale * 1.3 * (losses[0] + losses[1]) / 2,
        **{name: parts[0][name] + parts[1][name] for name in parts[0]},
    }
    same_terms(outcome.losses, expected)
    assert outcome.indices.shape[0] == 8


def test_pixels_outside_of_the_image_count_in_no_loss():
    there = torch.ones(3, 16, 16, dtype=torch.bool)
    there[:, 10:] = False
    method, batch = a_method(), a_batch()
    cut = Unlabelled(batch.unlabelled.weak, batch.unlabelled.strong, there)
    mask = batch.labelled.mask.clone()
    mask[:, :, 12:] = 255
    outcome = copy.deepcopy(method).losses(Batch(Labelled(batch.labelled.image, mask), cut), STEP)
    whole = method.losses(batch, STEP)
    assert outcome.losses["labelled"] != whole.losses["labelled"]
    assert outcome.losses["perturbed"] != whole.losses["perturbed"]
    assert all(torch.isfinite(value) for value in outcome.losses.values())


def test_thresholds_may_differ_by_class():
    method = a_method(class_confidence={"b": 0.25}, confidence=0.9)
    assert method.thresholds.shape == (3,)
    fresh = VQSeg(
        a_network(False),
        QPM(),
        Setup(0, 0.9, True, ("background", "a", "b")),
        dual_branch=False,
        confidence=0.9,
        class_confidence={"b": 0.25},
    )
    assert fresh.thresholds.tolist() == pytest.approx([0.9, 0.9, 0.25])
    with pytest.raises(ValueError, match="'c'; the classes are background, a, b"):
        a_method(class_confidence={"c": 0.25})
    with pytest.raises(ValueError, match="b must lie in"):
        a_method(class_confidence={"b": 1.0})


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_rate_decays_as_a_power_and_the_encoder_has_its_own(name):
    network = a_network(dual=True)
    groups = VQSeg(network, QPM(), Setup(0, 0.9, True, ("background", "a", "b"))).groups()
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
