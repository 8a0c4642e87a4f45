"""Encoder -> quantizer -> (perturbation) -> decoders.

Letters: B images, C channels, H x W pixels, N = h * w tokens of D channels, K classes.
The coarsest feature map is quantized; with ``skips`` the finer ones pass the codebook by.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqseg.codebook import Quantized


class Encoded(NamedTuple):
    """Tokens (B, N, D) of the coarsest map, its grid (h, w), and the finer maps, finest first."""

    tokens: Tensor
    grid: tuple[int, int]
    finer: list[Tensor]

    def part(self, start: int, stop: int) -> "Encoded":
        """Return the images ``start:stop`` of the batch."""
        return Encoded(self.tokens[start:stop], self.grid, [level[start:stop] for level in self.finer])

    def split(self, first: int) -> tuple["Encoded", "Encoded"]:
        """Return the ``first`` images of the batch, and the others.

        Both are cut in one go: their gradients are then put together, where those of two parts would each be padded
        with zeros to the whole batch and added.
        """
        sizes = (first, len(self.tokens) - first)
        maps = [level.split(sizes) for level in (self.tokens, *self.finer)]
        ours, theirs = ([pair[side] for pair in maps] for side in (0, 1))
        return Encoded(ours[0], self.grid, ours[1:]), Encoded(theirs[0], self.grid, theirs[1:])


class Output(NamedTuple):
    """Logits (B, K, H, W), what was quantized, and the encoder's features."""

    logits: Tensor
    quantized: Quantized
    encoded: Encoded


class SegmentationNetwork(nn.Module):
    """One quantized space and what reads it.

    A decoder segments; for the dual branch another one reconstructs the image; for the alignment with a prior an
    adapter (1 x 1 convolution) brings the tokens to the prior's width.
    """

    def __init__(
        self,
        encoder: nn.Module,
        quantizer: nn.Module,
        segment: nn.Module,
        image: nn.Module | None = None,
        adapter: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.quantizer = encoder, quantizer
        self.segment_decoder, self.image_decoder, self.adapter = segment, image, adapter

    def encode(self, images: Tensor) -> Encoded:
        """(B, C, H, W) -> tokens and finer maps."""
        *finer, coarsest = self.encoder(images)
        return Encoded(coarsest.flatten(2).transpose(1, 2), tuple(coarsest.shape[-2:]), finer)

    def quantize(self, tokens: Tensor) -> Quantized:
        """Quantize in full precision, also under autocast: an argmin over thousands of codes needs it."""
        with torch.autocast(tokens.device.type, enabled=False):
            quantized: Quantized = self.quantizer(tokens.float())
        return quantized if quantized.codes is not None else quantized._replace(codes=self.codes())

    def segment(self, tokens: Tensor, encoded: Encoded) -> Tensor:
        """Tokens (B, N, D) in place of the encoder's -> logits (B, K, H, W)."""
        logits: Tensor = self.segment_decoder(_as_map(tokens, encoded.grid), encoded.finer)
        return logits

    def reconstruct(self, tokens: Tensor, encoded: Encoded) -> Tensor:
        """Tokens (B, N, D) -> image (B, C, H, W); the image decoder sees no skips.

        Raises:
            ValueError: the network was built without the dual branch.
        """
        if self.image_decoder is None:
            raise ValueError("the network has no image decoder; build it with dual_branch")
        image: Tensor = self.image_decoder(_as_map(tokens, encoded.grid), encoded.finer)
        return image

    def adapt(self, tokens: Tensor, grid: tuple[int, int], shape: tuple[int, int]) -> Tensor:
        """Bring tokens (B, N, D) to a prior's width on the coarser of both grids: (B, D', h', w').

        Raises:
            ValueError: the network was built without an adapter.
        """
        if self.adapter is None:
            raise ValueError("the network has no adapter; build it with a prior")
        adapted: Tensor = self.adapter(to_coarser(_as_map(tokens, grid), shape))
        return adapted

    def codes(self) -> Tensor:
        """Return the codebook (V, D), in full precision also under autocast."""
        device = next(chain(self.quantizer.buffers(), self.quantizer.parameters())).device
        with torch.autocast(device.type, enabled=False):
            codes: Tensor = self.quantizer.codes()  # type: ignore[operator]
        return codes

    def forward(self, images: Tensor) -> Output:
        """Segment without perturbation."""
        encoded = self.encode(images)
        quantized = self.quantize(encoded.tokens)
        return Output(self.segment(quantized.tokens, encoded), quantized, encoded)


def to_coarser(maps: Tensor, shape: tuple[int, int]) -> Tensor:
    """Average maps (B, C, h, w) down to ``shape`` where that is coarser; what is coarser already stays."""
    grid = (min(maps.shape[-2], shape[0]), min(maps.shape[-1], shape[1]))
    return maps if grid == tuple(maps.shape[-2:]) else F.adaptive_avg_pool2d(maps, grid)


@contextmanager
def running_statistics_kept(module: nn.Module | None, kept: bool) -> Iterator[None]:
    """While ``kept``, batch norms normalize by their batch and leave their running statistics alone.

    Why: a perturbed pass has other means and variances than the clean passes that validation and the teacher
    make; mixed into the running statistics they can look like a collapse of the perturbed arm.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)] if module is not None and kept else []
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, grid)
