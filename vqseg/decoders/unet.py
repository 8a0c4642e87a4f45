"""The expanding half of a U-Net: the (quantized) coarsest map and, with skips, the finer ones -> (B, K, H, W).

Source: SSL4MIS's U-Net (1 x 1 convolution, bilinear upsampling, concatenation, two convolutions).
"""

import itertools

import torch
from torch import Tensor, nn

from vqseg.convolution import double_conv, resize


class UNetDecoder(nn.Module):
    """The expanding half of a U-Net; without skips it sees the codes alone."""

    def __init__(
        self, dims: tuple[int, ...], strides: tuple[int, ...], out_channels: int, norm: str, skips: bool
    ) -> None:
        super().__init__()
        if strides != tuple(2**level for level in range(len(dims))):
            raise ValueError(f"needs maps of strides 1, 2, 4, ...; this encoder's are {strides}; use decoder dpt")
        self.skips = skips
        pairs = list(itertools.pairwise(reversed(dims)))
        self.narrow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for coarse, fine in pairs)
        self.levels = nn.ModuleList(double_conv(fine * (2 if skips else 1), fine, norm, 0.0) for _, fine in pairs)
        self.head = nn.Conv2d(dims[0], out_channels, 3, padding=1)

    def forward(self, coarsest: Tensor, finer: list[Tensor]) -> Tensor:
        """Decode; ``finer`` are the encoder's maps without the coarsest, finest first (sizes are read from them)."""
        x = coarsest
        for narrow, level, skip in zip(self.narrow, self.levels, reversed(finer), strict=True):
            x = resize(narrow(x), (skip.shape[-2], skip.shape[-1]))
            x = level(torch.cat([skip, x], dim=1) if self.skips else x)
        out: Tensor = self.head(x)
        return out
