"""Blocks of convolutions that encoders and decoders share.

Source: the U-Net of SSL4MIS (two convolutions per level, dropout between them).
"""

import math

from torch import nn


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
