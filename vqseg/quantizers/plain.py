"""A trainable table of codes.

Source: VQ-VAE, equation 3.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vqseg.codebook import Quantized, quantize


class PlainQuantizer(nn.Module):
    """Each code is a parameter; a code that no token chooses gets no gradient and can die."""

    def __init__(self, dim: int, *, num_codes: int = 1024) -> None:
        super().__init__()
        if num_codes < 2:
            raise ValueError(f"num_codes must be at least 2, got {num_codes}")
        self.table = nn.Parameter(torch.empty(num_codes, dim))

    def initialize(self, generator_for: Callable[[str], torch.Generator]) -> None:
        """Draw the table from N(0, 1/C), as the mapped one's."""
        with torch.no_grad():
            self.table.normal_(0, self.table.shape[1] ** -0.5, generator=generator_for("table"))

    def codes(self) -> Tensor:
        """Return the table (V, C)."""
        return self.table

    def forward(self, tokens: Tensor) -> Quantized:
        """Quantize tokens (B, N, C)."""
        return quantize(tokens, self.codes())
