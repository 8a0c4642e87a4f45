"""Element dropout on q: each number is zeroed with probability ``rate``, the rest scaled by 1 / (1 - rate).

Source: the perturbation that VQ-Seg's Fig. 1 and appendix A argue against.
"""

import torch
from torch import Tensor

from vqseg.codebook import Quantized
from vqseg.replacement import bernoulli, check_rate


class Dropout:
    """Independent for every token and channel."""

    def __init__(self, *, rate: float = 0.5) -> None:
        self.rate: float | Tensor = check_rate(rate, below_one=True)

    def draw(self, quantized: Quantized, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the factor of each number: (B, N, C), 0 or 1 / (1 - rate)."""
        return (~bernoulli(quantized.tokens.shape, self.rate, generator)).float() / (1 - self.rate)

    def apply(self, quantized: Quantized, codes: Tensor, drawn: Tensor) -> Tensor:
        """Multiply."""
        return quantized.tokens * drawn
