"""Uniform replacement: with probability ``rate`` a token takes another code, all others equally likely.

At rate 1 it measures reach: how much the output depends on the codes at all.
"""

import torch
from torch import Tensor

from vqseg.codebook import Quantized
from vqseg.replacement import bernoulli, check_rate, replace_codes


class Uniform:
    """QPM's limit at infinite temperature."""

    def __init__(self, *, rate: float = 0.7) -> None:
        self.rate: float | Tensor = check_rate(rate)

    def draw(self, quantized: Quantized, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the new codes' indices (B, N)."""
        shape, size = quantized.indices.shape, codes.shape[0]
        offset = torch.randint(1, size, shape, generator=generator, device=generator.device)
        return (quantized.indices + offset * bernoulli(shape, self.rate, generator)) % size

    def apply(self, quantized: Quantized, codes: Tensor, drawn: Tensor) -> Tensor:
        """Replace the codes."""
        return replace_codes(quantized, codes, drawn)
