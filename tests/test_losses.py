import math

import pytest
import torch

from vqseg.losses import cross_entropy, dice_loss, pseudo_labels, ramp, segmentation_loss


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
    label, confidence, weight = pseudo_labels(logits, 0.9)
    assert label.tolist() == [[[1, 0]]] and weight.tolist() == [[[1.0, 0.0]]]
    assert confidence[0, 0, 1] == 0.5
    assert pseudo_labels(logits, 0.0)[2].tolist() == [[[1.0, 1.0]]]
