"""What the release does around its codebook, as METHOD describes it: the plain way that ours is held against.

Letters: B images, N tokens per image, T = B * N tokens, C channels, V codes.
Source: VQ-Seg's public release of 2026-01 (a loop over distinct codes; token x code matrices kept whole).
Differs: written anew and free of its habits that have nothing to do with the algorithm; a row of distances is one
product of the book with a code here, the cheapest that a loop over codes can have.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vqseg.codebook import Quantized


@torch.no_grad()
def naive_qpm(codes: Tensor, indices: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Draw new codes' indices (B, N) by pi: a row of it for every distinct code whose tokens change, one by one."""
    own, changed = indices.flatten(), torch.rand(indices.numel(), generator=generator, device=indices.device) < rate
    drawn, squares = own.clone(), codes.square().sum(1)
    for code in own[changed].unique().tolist():
        where = (own == code) & changed
        weights = torch.softmax(2 * (codes @ codes[code]) - squares, 0)
        weights[code] = 0
        drawn[where] = torch.multinomial(weights, int(where.sum()), replacement=True, generator=generator)
    return drawn.view_as(indices)


def naive_quantize(tokens: Tensor, codes: Tensor) -> Quantized:
    """Quantize tokens (B, N, C) by the argmin of their whole distance matrix (T, V)."""
    indices = distance_matrix(tokens, codes).argmin(1).view(tokens.shape[:2])
    chosen = F.embedding(indices, codes)
    losses = {"codebook": F.mse_loss(chosen, tokens.detach()), "commitment": F.mse_loss(tokens, chosen.detach())}
    return Quantized(tokens + (chosen - tokens).detach(), indices, losses, codes)


def naive_usage_loss(tokens: Tensor, codes: Tensor) -> Tensor:
    """Return mean_t H(p_t) - H(mean_t p_t) from whole matrices (T, V), which autograd keeps for its backward pass."""
    distance = distance_matrix(tokens, codes)
    p = torch.softmax(-distance, 1)
    log_p = torch.log_softmax(-distance, 1)
    mean = p.mean(0)
    return -(p * log_p).sum(1).mean() + (mean * mean.clamp_min(1e-12).log()).sum()


def distance_matrix(tokens: Tensor, codes: Tensor) -> Tensor:
    """Return squared distances (T, V) of tokens (B, N, C) and codes (V, C)."""
    flat = tokens.flatten(0, 1)
    return flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * flat @ codes.T
