"""What code-replacing perturbations share: which tokens change, and the change itself."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vqseg.codebook import Quantized


def check_rate(rate: float, *, below_one: bool = False) -> float:
    """Return ``rate``.

    Raises:
        ValueError: outside [0, 1], or 1 where nothing would be left.
    """
    if not 0 <= rate <= 1 or (below_one and rate == 1):
        raise ValueError(f"rate must lie in [0, 1{')' if below_one else ']'}, got {rate}")
    return rate


def bernoulli(shape: torch.Size | tuple[int, ...], rate: float | Tensor, generator: torch.Generator) -> Tensor:
    """Return a boolean tensor, true with probability ``rate`` (never at 0, always at 1)."""
    return torch.rand(shape, generator=generator, device=generator.device) < rate


def replace_codes(quantized: Quantized, codes: Tensor, indices: Tensor) -> Tensor:
    """Return the tokens with codes ``indices`` (B, N) in place of their own; gradients still reach the encoder."""
    table = codes.detach()
    return quantized.tokens + (F.embedding(indices, table) - F.embedding(quantized.indices, table))


def energies(tokens: Tensor, perturbed: Tensor) -> tuple[Tensor, Tensor]:
    """Return E|q' - q|^2 and E|q - mean q|^2 over tokens (B, N, C), detached: distortion is their ratio.

    The two are averaged before they are divided: in the first steps all tokens may share one code, and a mean of
    ratios would be ruled by those.
    """
    tokens, perturbed = tokens.detach().flatten(0, 1), perturbed.detach().flatten(0, 1)
    spread = (tokens - tokens.mean(0)).square().sum(1).mean()
    return (perturbed - tokens).square().sum(1).mean(), spread


def changed_share(tokens: Tensor, perturbed: Tensor) -> Tensor:
    """Return the share of tokens (B, N, C) that moved by more than rounding."""
    tokens, perturbed = tokens.detach(), perturbed.detach()
    return ((perturbed - tokens).abs().amax(-1) > 1e-5 * tokens.abs().amax().clamp_min(1e-12)).float().mean()
