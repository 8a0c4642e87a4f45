import math

import pytest
import torch

from vqseg.losses import IGNORE, cross_entropy, dice_loss, info_nce, pseudo_labels, ramp, segmentation_loss


def logits_for(labels, sure=20.0, classes=3):
    return torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float() * sure


def test_perfect_logits_cost_nothing_and_wrong_ones_do():
    labels = torch.randint(3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    for kind in ("ce", "dice_ce"):
        assert segmentation_loss(kind, logits_for(labels), labels) < 1e-3
        assert segmentation_loss(kind, logits_for((labels + 1) % 3), labels) > 0.9


def test_uniform_logits_cost_log_k():
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    assert cross_entropy(torch.zeros(1, 3, 4, 4), labels) == pytest.approx(math.log(3))


def test_a_pixel_of_weight_zero_counts_as_loss_zero_not_as_absent():
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    weight = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert cross_entropy(torch.zeros(1, 3, 2, 2), labels, weight) == pytest.approx(math.log(3) / 4)


def test_dice_of_half_overlapping_squares_by_hand():
    truth = torch.zeros(1, 4, 8, dtype=torch.long)
    truth[:, :, :4] = 1
    shifted = torch.zeros_like(truth)
    shifted[:, :, 2:6] = 1
    # Both classes overlap in half of their 16 pixels: Dice 1/2 each.
    assert dice_loss(logits_for(shifted, 50.0, 2), truth) == pytest.approx(0.5, abs=1e-4)


def test_the_ramp_starts_low_rises_and_stays_at_one():
    values = [ramp(step, 100) for step in (0, 50, 99, 100, 500)]
    assert values[0] == pytest.approx(math.exp(-5)) and values == sorted(values) and values[-2:] == [1.0, 1.0]
    assert ramp(0, 0) == 1.0


def test_pseudo_labels_below_the_threshold_have_no_weight():
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1, 0, 0] = 5.0
    label, confidence, weight = pseudo_labels(logits, torch.full((2,), 0.9))
    assert label.tolist() == [[[1, 0]]] and weight.tolist() == [[[1.0, 0.0]]]
    assert confidence[0, 0, 1] == 0.5
    assert pseudo_labels(logits, torch.zeros(2))[2].tolist() == [[[1.0, 1.0]]]


def test_each_class_has_its_own_threshold():
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1, 0, 0] = logits[0, 0, 0, 1] = 1.0  # both at .73
    assert pseudo_labels(logits, torch.tensor([0.9, 0.6]))[2].tolist() == [[[1.0, 0.0]]]


@pytest.mark.parametrize("kind", ["ce", "dice_ce"])
def test_ignored_pixels_are_as_if_they_were_not_there(kind):
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 6, generator=generator), torch.randint(3, (2, 4, 6), generator=generator)
    weight = torch.rand(2, 4, 6, generator=generator)
    cut = target.clone()
    cut[:, :, 4:] = IGNORE
    for given in (None, weight):
        small = None if given is None else given[:, :, :4]
        found = segmentation_loss(kind, logits, cut, given)
        assert found == pytest.approx(
            segmentation_loss(kind, logits[..., :4], target[:, :, :4], small).item(), rel=1e-5
        )
    assert torch.isfinite(segmentation_loss(kind, logits, torch.full_like(target, IGNORE), weight))


def test_info_nce_is_the_log_of_the_places_for_equal_features_and_small_for_distinct_ones():
    same = torch.ones(2, 9, 4)
    assert info_nce(torch.randn(2, 9, 4), same, 0.07) == pytest.approx(math.log(9))
    distinct = torch.eye(9)[None].repeat(2, 1, 1)
    assert info_nce(3 * distinct, distinct, 0.07) == pytest.approx(math.log(1 + 8 * math.exp(-1 / 0.07)), abs=1e-6)
    assert info_nce(distinct.roll(1, 1), distinct, 0.07) > 10


def plain_dice_ce(logits, target, weight):
    """Each loss by itself, from its formula, with one plane per class written out."""
    there = target != IGNORE
    counted = there.to(logits.dtype) if weight is None else weight * there
    truth = torch.nn.functional.one_hot(target.where(there, 0), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    p = logits.softmax(1)
    ce = -(logits.log_softmax(1) * truth).sum(1)
    ce = (ce * counted).sum() / there.sum()
    p, truth = p * counted[:, None], truth * counted[:, None]
    axes = (0, 2, 3)
    size = p.square().sum(axes) + truth.square().sum(axes)
    dice = 1 - ((2 * (p * truth).sum(axes) + 1e-5) / (size + 1e-5)).mean()
    return ce, dice


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_one_softmax_gives_both_losses_and_their_gradients(ignored, weighed, layout):
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(3, 4, 6, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (3, 6, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = IGNORE
    weight = torch.rand(target.shape, generator=generator) if weighed else None
    ours = start.float().contiguous(memory_format=layout).requires_grad_()
    plain = start.float().double().requires_grad_()
    found = segmentation_loss("dice_ce", ours, target, weight)
    ce, dice = plain_dice_ce(plain, target, weight)
    assert found.item() == pytest.approx((ce + dice).item() / 2, rel=1e-5)
    assert dice_loss(ours, target, weight).item() == pytest.approx(dice.item(), rel=1e-5)
    found.backward()
    ((ce + dice) / 2).backward()
    assert torch.allclose(ours.grad.double(), plain.grad, rtol=1e-4, atol=1e-7)
