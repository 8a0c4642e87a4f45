"""Spatial shuffle: a share ``rate`` of an image's tokens change places among themselves.

Source: the wording of VQ-Seg's abstract ("shuffling the spatial locations of codebook indices"), which is
another operation than its equation for pi(j|i); here it is an arm of its own.
"""

import torch
from torch import Tensor

from vqseg.codebook import Quantized
from vqseg.replacement import bernoulli, check_rate


class Shuffle:
    """A uniformly random permutation of the chosen places; the others stay."""

    def __init__(self, *, rate: float = 1.0) -> None:
        self.rate: float | Tensor = check_rate(rate)

    def draw(self, quantized: Quantized, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Draw for each place the place that its token comes from: (B, N)."""
        shape = quantized.indices.shape
        chosen = bernoulli(shape, self.rate, generator)
        place = torch.arange(shape[1], device=chosen.device).expand(shape).double()
        random = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        # Chosen places come first in both orders (by place, by chance), the others after them in equal order.
        by_place = torch.where(chosen, place, shape[1] + place).argsort(1)
        by_chance = torch.where(chosen, random, shape[1] + place).argsort(1)
        return torch.empty_like(by_place).scatter_(1, by_place, by_chance)

    def apply(self, quantized: Quantized, codes: Tensor, drawn: Tensor) -> Tensor:
        """Move the tokens."""
        return quantized.tokens.gather(1, drawn[..., None].expand_as(quantized.tokens))
