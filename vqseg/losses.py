"""Losses on logits. Letters: B images, K classes, H x W pixels.

Source: METHOD of VQ-Seg (CE on argmax pseudo-labels, L1 reconstruction); Dice + CE is the field's usual pair.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# The target of a pixel that no loss counts: padding around a crop.
IGNORE = 255


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of (B, K, H, W) against (B, H, W); pixels whose target is `IGNORE` are absent.

    ``weight`` (B, H, W) multiplies each pixel; the mean stays over all pixels that are there, so that one below the
    confidence threshold counts as loss 0 (UniMatch's convention), not as absent.
    """
    if weight is None:
        return F.cross_entropy(logits.float(), target, ignore_index=IGNORE)
    loss = F.cross_entropy(logits.float(), target, reduction="none", ignore_index=IGNORE)
    return (loss * weight).sum() / (target != IGNORE).sum().clamp_min(1)


def dice_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - soft Dice of softmax probabilities, over the batch, averaged over all classes (background too).

    ``weight`` (B, H, W) multiplies probabilities and truth of each pixel.
    """
    counted = _counted(target, weight)
    return _dice(logits.float().softmax(1), _truth(target, logits.shape[1], counted), counted)


def segmentation_loss(kind: str, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """``ce``, or ``dice_ce``: the mean of Dice loss and cross-entropy, of one softmax."""
    if kind == "ce":
        return cross_entropy(logits, target, weight)
    log_p = F.log_softmax(logits.float(), dim=1)
    counted = _counted(target, weight)
    truth = _truth(target, logits.shape[1], counted)
    total = (target != IGNORE).sum()
    ce = -(log_p * truth).sum() / (total if weight is None else total.clamp_min(1))
    return (ce + _dice(log_p.exp(), truth, counted)) / 2


def _counted(target: Tensor, weight: Tensor | None) -> Tensor:
    """Return what each pixel counts for, float (B, H, W)."""
    there = target != IGNORE
    return there.float() if weight is None else weight.float() * there


def _truth(target: Tensor, classes: int, counted: Tensor) -> Tensor:
    """Return ``counted`` in the plane of each pixel's class, 0 in the others: (B, K, H, W)."""
    own = target[:, None] == torch.arange(classes, device=target.device).view(1, -1, 1, 1)
    return own * counted[:, None]


def _dice(probability: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    axes, counted = (0, 2, 3), counted[:, None]
    weighed = truth * counted
    overlap = (probability * weighed).sum(axes)
    size = (probability.square() * counted.square()).sum(axes) + truth.square().sum(axes)
    return 1 - ((2 * overlap + 1e-5) / (size + 1e-5)).mean()


def ramp(step: int, steps: int) -> float:
    """Sigmoid-shaped ramp-up exp(-5 (1 - step/steps)^2), 1 from ``steps`` on (and always if ``steps`` is 0)."""
    return 1.0 if step >= steps else math.exp(-5 * (1 - step / steps) ** 2)


def pseudo_labels(logits: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find what the teacher is sure of.

    Args:
        logits: the teacher's, (B, K, H, W).
        thresholds: per class (K,), what the probability of a pixel of that class must reach.

    Returns:
        The argmax (B, H, W), its probability, and the 0/1 weight of confident pixels.
    """
    confidence, label = logits.float().softmax(1).max(1)
    return label, confidence, (confidence >= thresholds[label]).to(confidence.dtype)


def class_thresholds(confidence: float, by_class: dict[str, float], classes: Sequence[str]) -> Tensor:
    """Return the confidence threshold of each class (K,): ``confidence``, or what ``by_class`` says.

    Raises:
        ValueError: a threshold outside [0, 1), or a name that is no class.
    """
    for name, value in {"confidence": confidence, **by_class}.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value}")
    unknown = sorted(set(by_class) - set(classes))
    if unknown:
        raise ValueError(f"class_confidence names {unknown[0]!r}; the classes are {', '.join(classes)}")
    return torch.tensor([by_class.get(name, confidence) for name in classes])


def info_nce(tokens: Tensor, features: Tensor, temperature: float) -> Tensor:
    """Contrast each token with the features at all places of its image; the one at its own place is the positive.

    Cross-entropy over the N places of cosine similarity / temperature, averaged over tokens.

    Args:
        tokens: (B, N, C), trained.
        features: (B, N, C), the frozen prior's on the same grid.
        temperature: tau.

    Source: VQ-Seg, section 3.4 (post-VQ feature adapter).
    """
    ours, theirs = F.normalize(tokens.float(), dim=-1), F.normalize(features.float(), dim=-1)
    similarity = ours @ theirs.transpose(1, 2) / temperature
    places = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
    return F.cross_entropy(similarity.flatten(0, 1), places.flatten())
