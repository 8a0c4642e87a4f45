"""The teacher: an exponential moving average of the student, its batch norm statistics averaged alike.

Source: mean teacher; the decay min(1 - 1/(t + 1), decay) lets it follow the first steps, as SSL4MIS and the release do.
Differs: both of those average parameters only. Here the running statistics are averaged with the weights that they
belong to (copied from the student they fit weights of another age: on ACDC at step 300 the teacher then had a Dice of
.10 beside the student's .51), and the teacher is always in eval mode.
"""

import copy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def make_teacher(student: Network) -> Network:
    """Return a frozen copy in eval mode."""
    teacher = copy.deepcopy(student).requires_grad_(False)
    return teacher.eval()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, step: int, decay: float) -> None:
    """Move the teacher towards the student after ``step`` (from 0)."""
    weight = 1 - min(1 - 1 / (step + 1), decay)
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), weight)
    pairs = list(zip(teacher.buffers(), student.buffers(), strict=True))
    moving = [(kept, current) for kept, current in pairs if kept.is_floating_point()]
    if moving:
        torch._foreach_lerp_([kept for kept, _ in moving], [current for _, current in moving], weight)
    for kept, current in pairs:
        if not kept.is_floating_point():
            kept.copy_(current)
