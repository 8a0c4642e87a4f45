"""The teacher: an exponential moving average of the student, its batch norm statistics averaged alike.

Source: mean teacher; the decay min(1 - 1/(t + 1), decay) lets it follow the first steps, as SSL4MIS and the release do.
Differs: both of those average parameters only. Here the running statistics are averaged with the weights that they
belong to (copied from the student they fit weights of another age: on ACDC at step 300 the teacher then had a Dice of
.10 beside the student's .51), and the teacher is always in eval mode.
"""

import copy
from collections.abc import Iterator
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def make_teacher(student: Network) -> Network:
    """Return a frozen copy in eval mode."""
    teacher = copy.deepcopy(student).requires_grad_(False)
    return teacher.eval()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, step: int, decay: float) -> None:
    """Move the teacher towards the student after ``step`` (from 0)."""
    weight = 1 - min(1 - 1 / (step + 1), decay)
    pairs = list(zip(_values(teacher), _values(student), strict=True))
    moving = [pair for pair in pairs if pair[0].is_floating_point()]
    counts = [pair for pair in pairs if not pair[0].is_floating_point()]
    torch._foreach_lerp_([kept for kept, _ in moving], [current for _, current in moving], weight)
    if counts:
        torch._foreach_copy_([kept for kept, _ in counts], [current for _, current in counts])


def _values(network: nn.Module) -> Iterator[Tensor]:
    return chain(network.parameters(), network.buffers())
