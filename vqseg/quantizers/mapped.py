"""A frozen Gaussian table seen through one trainable linear map: every code moves whenever one is used.

Source: VQ-Seg, codebook mapping (after SimVQ); the release's table N(0, 1/C) and map Linear(C, C) with bias.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vqseg.codebook import Quantized, quantize
from vqseg.ranges import Count


class MappedQuantizer(nn.Module):
    """codes = W g + b with g frozen; W and b are trained, the same for all codes.

    ``code_dim`` is the width of g, that of the tokens unless given: if narrower, the codes span that many dimensions.
    """

    table: Tensor

    def __init__(self, dim: int, *, num_codes: int = 16_384, code_dim: Count | None = None) -> None:
        super().__init__()
        if num_codes < 2:
            raise ValueError(f"num_codes must be at least 2, got {num_codes}")
        self.register_buffer("table", torch.empty(num_codes, code_dim or dim))
        self.map = nn.Linear(code_dim or dim, dim)

    def initialize(self, generator_for: Callable[[str], torch.Generator]) -> None:
        """Draw the frozen table from N(0, 1/C)."""
        self.table.normal_(0, self.table.shape[1] ** -0.5, generator=generator_for("table"))

    def codes(self) -> Tensor:
        """Return the mapped table (V, C), differentiable in the map."""
        codes: Tensor = self.map(self.table)
        return codes

    def forward(self, tokens: Tensor) -> Quantized:
        """Quantize tokens (B, N, C)."""
        return quantize(tokens, self.codes())
