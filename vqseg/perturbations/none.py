"""No perturbation: the reference arm."""

import torch
from torch import Tensor

from vqseg.codebook import Quantized


class NoPerturbation:
    """The identity."""

    rate = 0.0

    def draw(self, quantized: Quantized, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Draw nothing."""
        return quantized.indices

    def apply(self, quantized: Quantized, codes: Tensor, drawn: Tensor) -> Tensor:
        """Return the tokens as they are."""
        return quantized.tokens
