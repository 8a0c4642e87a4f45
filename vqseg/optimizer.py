"""Optimizers by name, and the learning rate as a function of the step.

Each takes parameter groups ``{"encoder": [...], "head": [...]}``; the encoder may learn at its own rate
(the release: AdamW at 5e-6 for the backbone, 40 times that for the rest).
"""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from vqseg.config import Schedule
from vqseg.ranges import Positive, Share, Weight

Groups = Mapping[str, Iterable[nn.Parameter]]


def sgd(
    groups: Groups,
    *,
    lr: Positive = 0.01,
    momentum: Share = 0.9,
    weight_decay: Weight = 1e-4,
    encoder_factor: Weight = 1.0,
) -> torch.optim.Optimizer:
    """SGD with momentum, fused: one kernel for all parameters."""
    rated = _rated(groups, lr, encoder_factor)
    return torch.optim.SGD(rated, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)


def adamw(
    groups: Groups, *, lr: Positive = 1e-3, weight_decay: Weight = 0.01, encoder_factor: Weight = 1.0
) -> torch.optim.Optimizer:
    """AdamW, fused: one kernel for all parameters."""
    return torch.optim.AdamW(_rated(groups, lr, encoder_factor), lr=lr, weight_decay=weight_decay, fused=True)


OPTIMIZERS = {"adamw": adamw, "sgd": sgd}


def set_rate(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, steps: int) -> float:
    """Set every group's learning rate for ``step``; return the last group's."""
    factor = (1 - step / steps) ** schedule.power
    if step < schedule.warmup_steps:
        factor *= (step + 1) / schedule.warmup_steps
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return float(optimizer.param_groups[-1]["lr"])


def _rated(groups: Groups, lr: float, encoder_factor: float) -> list[dict[str, object]]:
    rates = {name: lr * (encoder_factor if name == "encoder" else 1.0) for name in groups}
    return [{"params": list(groups[name]), "lr": rate, "base_lr": rate} for name, rate in rates.items()]
