"""DPT's head: maps of one size, resized by 4, 2, 1 and 1/2 and fused from coarse to fine -> (B, K, H, W).

Letters: B images, D channels of a feature, h x w the grid, K channels of the output.
Source: dense prediction transformers as UniMatch V2 and VQ-Seg's release have them (for DINOv2-S: 64 ``features``,
``widths`` 48, 96, 192, 384): 1 x 1 projections, transposed and strided convolutions, residual units of two
pre-activated 3 x 3 convolutions, bilinear upsampling with aligned corners, no normalization.
Differs: the release's head has no normalization, so ``norm`` is not used; the residual unit that its coarsest fusion
holds and never runs is left out; a fusion's 1 x 1 convolution runs before its upsampling, on a quarter of the pixels
(both are linear, one in channels and one in space, and bilinear weights sum to 1: the same up to rounding).
Without skips (the image decoder of the dual branch) the coarsest map stands in all four places, each with a projection
of its own, so that the decoder sees codes alone and keeps its shape.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vqseg.ranges import Count

SCALES = (4.0, 2.0, 1.0, 0.5)


class DPTDecoder(nn.Module):
    """Four maps of one stride -> logits at that stride's image size."""

    def __init__(
        self,
        dims: tuple[int, ...],
        strides: tuple[int, ...],
        out_channels: int,
        norm: str,
        skips: bool,
        *,
        features: Count = 64,
        widths: tuple[Count, Count, Count, Count] = (48, 96, 192, 384),
    ) -> None:
        super().__init__()
        if len(dims) != len(SCALES) or len(set(strides)) != 1:
            raise ValueError(
                f"needs four maps of one stride, as encoder vit gives them; this encoder's strides are {list(strides)};"
                " use decoder unet"
            )
        self.skips, self.stride = skips, strides[0]
        sources = dims if skips else (dims[-1],) * len(SCALES)
        self.project = nn.ModuleList(nn.Conv2d(dim, width, 1) for dim, width in zip(sources, widths, strict=True))
        self.resize = nn.ModuleList(_resize(width, scale) for width, scale in zip(widths, SCALES, strict=True))
        self.gather = nn.ModuleList(nn.Conv2d(width, features, 3, padding=1, bias=False) for width in widths)
        self.fuse = nn.ModuleList(Fusion(features, two=index < len(SCALES) - 1) for index in range(len(SCALES)))
        self.head = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(features, out_channels, 1)
        )

    def forward(self, coarsest: Tensor, finer: list[Tensor]) -> Tensor:
        """Decode (B, D, h, w) and, with skips, the three maps of earlier layers -> (B, K, h * stride, w * stride)."""
        maps = [*finer, coarsest] if self.skips else [coarsest] * len(SCALES)
        parts = zip(maps, self.project, self.resize, self.gather, strict=True)
        levels = [gather(resize(project(each))) for each, project, resize, gather in parts]
        x: Tensor | None = None
        for index in reversed(range(len(SCALES))):
            height, width = levels[index].shape[-2:]
            size = levels[index - 1].shape[-2:] if index else (2 * height, 2 * width)
            x = self.fuse[index](levels[index], x, size)
        height, width = coarsest.shape[-2:]
        return _to(self.head(x), (height * self.stride, width * self.stride))


class Fusion(nn.Module):
    """Adds a level to what comes from below, refines and enlarges it."""

    def __init__(self, features: int, two: bool) -> None:
        super().__init__()
        self.enter = Residual(features) if two else None
        self.refine, self.mix = Residual(features), nn.Conv2d(features, features, 1)

    def forward(self, level: Tensor, below: Tensor | None, size: Sequence[int]) -> Tensor:
        """Return a map of ``size``; the coarsest level has nothing below it."""
        x = level if self.enter is None else self.enter(level).add_(below)
        return _to(self.mix(self.refine(x)), size)


class Residual(nn.Module):
    """x + two 3 x 3 convolutions, each after a ReLU."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(features, features, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        # In place where autograd keeps no copy: what a convolution returns is nobody else's.
        out: Tensor = self.second(F.relu_(self.first(F.relu(x)))).add_(x)
        return out


def _resize(width: int, scale: float) -> nn.Module:
    if scale > 1:
        return nn.ConvTranspose2d(width, width, int(scale), stride=int(scale))
    return nn.Identity() if scale == 1 else nn.Conv2d(width, width, 3, stride=round(1 / scale), padding=1)


def _to(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
