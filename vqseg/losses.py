"""Losses on logits. Letters: B images, K classes, H x W pixels.

Source: METHOD of VQ-Seg (CE on argmax pseudo-labels, L1 reconstruction); Dice + CE is the field's usual pair.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of (B, K, H, W) against (B, H, W).

    ``weight`` (B, H, W) multiplies each pixel; the mean stays over all pixels, so that a pixel below the
    confidence threshold counts as loss 0 (UniMatch's convention), not as absent.
    """
    if weight is None:
        return F.cross_entropy(logits.float(), target)
    return (F.cross_entropy(logits.float(), target, reduction="none") * weight).mean()


def dice_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - soft Dice of softmax probabilities, over the batch, averaged over all classes (background too)."""
    probability = logits.float().softmax(1)
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(probability.dtype)
    if weight is not None:
        probability, truth = probability * weight[:, None], truth * weight[:, None]
    axes = (0, 2, 3)
    overlap = (probability * truth).sum(axes)
    size = probability.square().sum(axes) + truth.square().sum(axes)
    return 1 - ((2 * overlap + 1e-5) / (size + 1e-5)).mean()


def segmentation_loss(kind: str, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """``ce``, or ``dice_ce``: the mean of Dice loss and cross-entropy."""
    ce = cross_entropy(logits, target, weight)
    return ce if kind == "ce" else (ce + dice_loss(logits, target, weight)) / 2


def ramp(step: int, steps: int) -> float:
    """Sigmoid-shaped ramp-up exp(-5 (1 - step/steps)^2), 1 from ``steps`` on (and always if ``steps`` is 0)."""
    return 1.0 if step >= steps else math.exp(-5 * (1 - step / steps) ** 2)


def pseudo_labels(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher logits (B, K, H, W) -> argmax (B, H, W), its probability, and the 0/1 weight of confident pixels."""
    confidence, label = logits.float().softmax(1).max(1)
    return (
        label,
        confidence,
        (confidence >= threshold).to(confidence.dtype) if threshold > 0 else torch.ones_like(confidence),
    )
