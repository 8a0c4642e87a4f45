"""What every quantizer and code-replacing perturbation shares: nearest codes, straight-through, losses, usage.

Letters: B images, N tokens per image, T = B * N tokens, C channels, V codes.
Source: VQ-VAE (codebook and commitment losses); VQ-Seg's public release of 2026-01 (usage loss).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Tokens per block of the token x code product: bounds the memory at 1,024 x V floats.
TOKEN_CHUNK = 1024


class Quantized(NamedTuple):
    """Quantized tokens.

    ``tokens`` (B, N, C) carry the straight-through gradient to the encoder; ``indices`` (B, N) are the
    codes' numbers; ``losses`` holds unweighted scalars: ``codebook`` and ``commitment``.
    """

    tokens: Tensor
    indices: Tensor
    losses: dict[str, Tensor]


@torch.no_grad()
def nearest_codes(tokens: Tensor, codes: Tensor) -> Tensor:
    """Return the index of the nearest code (squared Euclidean) of each token: (B, N, C), (V, C) -> (B, N)."""
    table = codes.detach().float()
    # A shift changes no distance; without it they cancel where a book's mean is far larger than its spread.
    middle = table.mean(0)
    flat, table = tokens.detach().float().flatten(0, 1) - middle, table - middle
    half_norm = table.square().sum(1).div(2)
    found = [torch.addmm(half_norm, block, table.T, alpha=-1).argmin(1) for block in flat.split(TOKEN_CHUNK)]
    return torch.cat(found).view(tokens.shape[:2])


def quantize(tokens: Tensor, codes: Tensor) -> Quantized:
    """Replace each token by its nearest code, with the gradient passed straight through.

    Raises:
        ValueError: tokens and codes differ in width.
    """
    if tokens.shape[-1] != codes.shape[-1]:
        raise ValueError(f"tokens have {tokens.shape[-1]} channels, the codes {codes.shape[-1]}")
    tokens = tokens.float()
    indices = nearest_codes(tokens, codes)
    chosen = F.embedding(indices, codes)
    losses = {"codebook": F.mse_loss(chosen, tokens.detach()), "commitment": F.mse_loss(tokens, chosen.detach())}
    return Quantized(tokens + (chosen - tokens).detach(), indices, losses)


def usage_loss(tokens: Tensor, codes: Tensor) -> Tensor:
    """Return mean_t H(p_t) - H(mean_t p_t) with p_t = softmax(-|z_t - c|^2): low when sure and spread out."""
    middle = codes.detach().mean(0)  # as in `nearest_codes`
    flat, codes = tokens.float().flatten(0, 1) - middle, codes - middle
    distance = flat.square().sum(1, keepdim=True) - 2 * flat @ codes.T + codes.square().sum(1)
    log_p = F.log_softmax(-distance, dim=1)
    p = log_p.exp()
    mean = p.mean(0)
    return -(p * log_p).sum(1).mean() + (mean * mean.clamp_min(1e-12).log()).sum()


def usage(counts: Tensor) -> dict[str, Tensor]:
    """Summarize a usage histogram (V,): utilization and its ceiling, perplexity, dead codes, tokens.

    The ceiling 1 - (1 - 1/V)^T is what T uniformly drawn codes would reach on average.
    """
    size = counts.numel()
    total = counts.sum().clamp_min(1).double()
    p = counts.double() / total
    used = (counts > 0).sum()
    return {
        "utilization": used / size,
        "ceiling": 1 - (1 - 1 / size) ** total,
        "perplexity": (-(p * p.clamp_min(1e-300).log()).sum()).exp(),
        "dead": size - used,
        "tokens": total,
    }
