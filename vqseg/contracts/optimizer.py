"""The contract of an optimizer: groups ``{"encoder": [...], "head": [...]}`` -> `torch.optim.Optimizer`."""

import copy

import torch
from torch import Tensor, nn

from vqseg.config import Schedule
from vqseg.contracts.promise import FIRST, expect, same
from vqseg.optimizer import set_rate
from vqseg.parts import Part

STEPS = 10


def is_built(part: Part) -> None:
    """From groups of parameters, all of which it trains."""
    values = _values()
    optimizer = part.build(values)
    kind = isinstance(optimizer, torch.optim.Optimizer)
    expect(kind, "a torch.optim.Optimizer", type(optimizer).__name__, "return one")
    held = {id(value) for group in optimizer.param_groups for value in group["params"]}
    wanted = {id(value) for group in values.values() for value in group}
    expect(held == wanted, "every parameter of every group", f"{len(held)} of {len(wanted)}", "pass all groups on")


def follows_the_schedule(part: Part) -> None:
    """Every group keeps the rate that the schedule scales."""
    optimizer = part.build(_values())
    for group in optimizer.param_groups:
        expect("base_lr" in group, "'base_lr' in every parameter group", sorted(group), "give it beside 'lr'")
    rates = [group["base_lr"] for group in optimizer.param_groups]
    set_rate(optimizer, Schedule(power=1.0), STEPS // 2, STEPS)
    found = [group["lr"] for group in optimizer.param_groups]
    expect(found == [rate / 2 for rate in rates], "half of base_lr half way", found, "let it read group['lr']")


def lowers_a_loss(part: Part) -> None:
    """Of a bowl."""
    values = _values()
    before, after = _descend(values, part.build(values), STEPS)
    expect(
        after < before, f"a lower loss of a bowl after {STEPS} steps", f"{after:.4g} after {before:.4g}", "mend step"
    )


def resumes(part: Part) -> None:
    """Its state dict is all that it knows."""
    values = _values()
    optimizer = part.build(values)
    _descend(values, optimizer, 3)
    again = copy.deepcopy(values)
    resumed = part.build(again)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((values, optimizer), (again, resumed)):
        _descend(each, its, 3)
    for first, second in zip(_all(values), _all(again), strict=True):
        expect(same(first.data, second.data), "the same values after resuming", "others", "keep state in self.state")


def _descend(
    values: dict[str, list[nn.Parameter]], optimizer: torch.optim.Optimizer, steps: int
) -> tuple[float, float]:
    """Return the loss before and after some steps."""
    losses = []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss: Tensor = torch.stack([value.square().sum() for value in _all(values)]).sum()
        losses.append(float(loss.detach()))
        if len(losses) <= steps:
            loss.backward()
            optimizer.step()
    return losses[0], losses[-1]


def _values() -> dict[str, list[nn.Parameter]]:
    return {"encoder": [nn.Parameter(torch.ones(3))], "head": [nn.Parameter(torch.full((2, 2), 2.0))]}


def _all(values: dict[str, list[nn.Parameter]]) -> list[nn.Parameter]:
    return [value for group in values.values() for value in group]


CHECKS = {
    FIRST: is_built,
    "follows the schedule": follows_the_schedule,
    "lowers a loss": lowers_a_loss,
    "resumes where it stopped": resumes,
}
