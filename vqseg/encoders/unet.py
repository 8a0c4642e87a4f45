"""The contracting half of a U-Net: images (B, C, H, W) in 0-1 -> one feature map per level, finest first.

Source: the U-Net of SSL4MIS (widths 16-256, two convolutions per level, dropout .05 to .5, max pooling).
"""

import itertools

from torch import Tensor, nn

from vqseg.convolution import double_conv
from vqseg.errors import InputError


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
        self.strides = tuple(2**level for level in range(len(widths)))
        self.stride = self.strides[-1]
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
