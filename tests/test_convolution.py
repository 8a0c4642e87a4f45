import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vqseg.convolution import resize
from vqseg.decoders.unet import UNetDecoder
from vqseg.encoders.unet import UNetEncoder


def plain(maps, size):
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (2, 2), (3, 4), (8, 8)])
def test_doubling_and_its_gradient_are_torch_s_own(grid, layout):
    generator = torch.Generator().manual_seed(sum(grid))
    maps = torch.randn(2, 3, *grid, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    size = (2 * grid[0], 2 * grid[1])
    above = torch.randn(2, 6, *size, generator=generator, dtype=torch.float64)
    above = above.contiguous(memory_format=layout)[:, 2:5]  # as a concatenation hands it down
    found = []
    for run in (resize, plain):
        ours = maps.clone().requires_grad_()
        out = run(ours, size)
        out.backward(above)
        found.append((out.detach(), ours.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-12, atol=1e-12)


def test_other_sizes_are_resized_by_torch():
    maps = torch.rand(1, 2, 4, 6, requires_grad=True)
    for size in ((8, 6), (9, 12), (4, 6), (16, 24)):
        assert torch.equal(resize(maps, size), plain(maps, size))


def test_activations_in_place_change_no_bit():
    encoder = UNetEncoder(1, "batch", widths=(4, 8, 12), dropout=(0.3, 0.0, 0.2))
    decoder = UNetDecoder(encoder.dims, encoder.strides, 3, "group", True)
    both = nn.ModuleList([encoder, decoder]).train()
    twin = copy.deepcopy(both)
    assert any(m.inplace for m in both.modules() if isinstance(m, nn.LeakyReLU))
    for module in twin.modules():
        if isinstance(module, nn.LeakyReLU):
            module.inplace = False
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    outs = []
    for pair in (both, twin):
        torch.manual_seed(5)  # for dropout
        *finer, coarsest = pair[0](images)
        out = pair[1](coarsest, finer)
        (out.square().mean() + sum(level.square().mean() for level in finer)).backward()
        outs.append(out)
    assert torch.equal(*outs)
    for (name, ours), theirs in zip(both.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
