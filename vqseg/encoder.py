"""Encoders: images (B, C, H, W) in 0-1 -> feature maps, finest first.

An encoder states ``dims`` (channels of each map) and ``stride`` (pixels per token of the last one).
Source: the U-Net of SSL4MIS (widths 16-256, two convolutions per level, dropout .05 to .5, max pooling).
"""

import itertools
import math

from torch import Tensor, nn

from vqseg.errors import InputError


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Return batch norm, or group norm with as many of 8 groups as divide the channels."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)


def double_conv(inside: int, outside: int, norm: str, dropout: float) -> nn.Sequential:
    """Two 3 x 3 convolutions with norm and leaky ReLU, dropout between them where the rate is above 0."""
    layers: list[nn.Module] = []
    for channels in (inside, outside):
        bias = norm != "batch"  # batch norm takes the mean away, a bias before it would never be trained
        layers += [nn.Conv2d(channels, outside, 3, padding=1, bias=bias), norm_layer(norm, outside), nn.LeakyReLU(0.01)]
    if dropout > 0:
        layers.insert(3, nn.Dropout(dropout))
    return nn.Sequential(*layers)


class UNetEncoder(nn.Module):
    """The contracting half of a U-Net."""

    def __init__(
        self,
        channels: int,
        norm: str,
        *,
        widths: tuple[int, ...] = (16, 32, 64, 128, 256),
        dropout: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5),
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"encoder.widths needs two or more positive widths, got {list(widths)}")
        if len(dropout) != len(widths) or not all(0 <= rate < 1 for rate in dropout):
            raise ValueError(f"encoder.dropout needs one rate in [0, 1) per width, got {list(dropout)}")
        self.dims = tuple(widths)
        self.stride = 2 ** (len(widths) - 1)
        pairs = itertools.pairwise((channels, *widths))
        self.levels = nn.ModuleList(double_conv(a, b, norm, rate) for (a, b), rate in zip(pairs, dropout, strict=True))
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return one map per level, finest first.

        Raises:
            InputError: the image's sides are no multiple of the stride.
        """
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise InputError(
                f"image of {height} x {width} px: sides must be multiples of {self.stride} for this encoder"
            )
        features: list[Tensor] = []
        for level in self.levels:
            features.append(level(self.pool(features[-1]) if features else images))
        return features


ENCODERS = {"unet": UNetEncoder}
"""Encoders by name; built with (channels, norm) and their options."""
