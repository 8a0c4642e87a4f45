import pytest
import torch
from torch import nn

from vqseg.optimizer import OPTIMIZERS


@pytest.mark.parametrize(("name", "plain"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_fused_steps_are_the_plain_ones_to_rounding(name, plain):
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((4, 3, 3, 3), (7,), (5, 2))]
    options = {"lr": 0.05, "weight_decay": 0.01, **({"momentum": 0.9} if name == "sgd" else {})}
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    fused = OPTIMIZERS[name]({"encoder": ours[:1], "head": ours[1:]}, **options)
    one_by_one = plain(theirs, foreach=False, fused=False, **options)
    assert all(group["fused"] for group in fused.param_groups)
    for _ in range(6):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        fused.step()
        one_by_one.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-6)
