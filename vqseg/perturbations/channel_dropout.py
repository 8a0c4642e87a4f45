"""Channel dropout on q: whole channels of an image are zeroed, the rest scaled by 1 / (1 - rate).

Source: UniMatch's feature perturbation (rate .5 there).
"""

import torch
from torch import Tensor

from vqseg.codebook import Quantized
from vqseg.replacement import bernoulli, check_rate


class ChannelDropout:
    """Independent for every image and channel, the same for all its tokens."""

    def __init__(self, *, rate: float = 0.5) -> None:
        self.rate: float | Tensor = check_rate(rate, below_one=True)

    def draw(self, quantized: Quantized, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the factor of each channel: (B, 1, C), 0 or 1 / (1 - rate)."""
        images, _, channels = quantized.tokens.shape
        return (~bernoulli((images, 1, channels), self.rate, generator)).float() / (1 - self.rate)

    def apply(self, quantized: Quantized, codes: Tensor, drawn: Tensor) -> Tensor:
        """Multiply."""
        return quantized.tokens * drawn
