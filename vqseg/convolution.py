"""Blocks of convolutions that encoders and decoders share.

Source: the U-Net of SSL4MIS (two convolutions per level, dropout between them).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

# What a pixel gives to the output pixels within it and beside it when sides double, per axis.
NEAR, FAR = 0.75, 0.25


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Return batch norm, or group norm with as many of 8 groups as divide the channels."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)


def double_conv(inside: int, outside: int, norm: str, dropout: float) -> nn.Sequential:
    """Two 3 x 3 convolutions with norm and leaky ReLU, dropout between them where the rate is above 0."""
    layers: list[nn.Module] = []
    for channels in (inside, outside):
        bias = norm != "batch"  # batch norm takes the mean away, a bias before it would never be trained
        # In place: neither norm needs its output for the gradient, so that a map is written and kept once.
        act = nn.LeakyReLU(0.01, inplace=True)
        layers += [nn.Conv2d(channels, outside, 3, padding=1, bias=bias), norm_layer(norm, outside), act]
    if dropout > 0:
        layers.insert(3, nn.Dropout(dropout))
    return nn.Sequential(*layers)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (B, C, h, w) bilinearly to ``size`` (H, W), as `torch.nn.functional.interpolate` does.

    Where both sides double on a CPU, the gradient is gathered by slices: torch scatters it, at a third of the speed.
    """
    height, width = maps.shape[-2:]
    if maps.device.type == "cpu" and maps.requires_grad and size == (2 * height, 2 * width):
        doubled: Tensor = _Doubled.apply(maps)
        return doubled
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class _Doubled(torch.autograd.Function):
    """Bilinear doubling of both sides."""

    @staticmethod
    def forward(ctx: FunctionCtx, maps: Tensor) -> Tensor:
        size = (2 * maps.shape[-2], 2 * maps.shape[-1])
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        return _halved(_halved(gradient, 2), 3)


def _halved(gradient: Tensor, axis: int) -> Tensor:
    """Gather the gradient of a doubling along ``axis``; what would come from beyond an edge is the edge's own."""
    even, odd = (gradient[:, :, first::2] if axis == 2 else gradient[..., first::2] for first in (0, 1))
    length = even.shape[axis]
    total = (even + odd).mul_(NEAR)
    total.narrow(axis, 1, length - 1).add_(odd.narrow(axis, 0, length - 1), alpha=FAR)
    total.narrow(axis, 0, length - 1).add_(even.narrow(axis, 1, length - 1), alpha=FAR)
    total.narrow(axis, 0, 1).add_(even.narrow(axis, 0, 1), alpha=FAR)
    total.narrow(axis, length - 1, 1).add_(odd.narrow(axis, length - 1, 1), alpha=FAR)
    return total
