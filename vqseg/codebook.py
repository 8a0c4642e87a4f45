"""What every quantizer and code-replacing perturbation shares: nearest codes, straight-through, losses, usage.

Letters: B images, N tokens per image, T = B * N tokens, C channels, V codes.
Source: VQ-VAE (codebook and commitment losses); VQ-Seg's public release of 2026-01 (usage loss).
Differs: products of tokens and codes run over blocks of tokens; the usage loss keeps them for its backward pass up to a
bound and computes them again beyond it, so that memory does not grow with tokens times codes.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Entries of a block of the token x code product: 16 MiB of floats, and the fewest tokens that a block has.
BLOCK_ENTRIES, LEAST_TOKENS = 2**22, 64
# Entries that the usage loss keeps between its passes: 128 MiB of floats, at 16,384 codes those of 2,048 tokens.
KEPT_ENTRIES = 2**25
# The least probability whose logarithm is taken.
FLOOR = 1e-12


class Quantized(NamedTuple):
    """Quantized tokens.

    ``tokens`` (B, N, C) carry the straight-through gradient to the encoder; ``indices`` (B, N) are the
    codes' numbers; ``losses`` holds unweighted scalars: ``codebook`` and ``commitment``. ``codes`` (V, C) is the
    differentiable table that was used; left out, `SegmentationNetwork.quantize` asks the quantizer for it.
    """

    tokens: Tensor
    indices: Tensor
    losses: dict[str, Tensor]
    codes: Tensor | None = None

    @property
    def table(self) -> Tensor:
        """The codes (V, C), where they are known."""
        assert self.codes is not None
        return self.codes

    def part(self, start: int, stop: int | None = None) -> "Quantized":
        """Return the images ``start:stop`` of the batch, without losses."""
        return Quantized(self.tokens[start:stop], self.indices[start:stop], {}, self.codes)


@torch.no_grad()
def nearest_codes(tokens: Tensor, codes: Tensor) -> Tensor:
    """Return the index of the nearest code (squared Euclidean) of each token: (B, N, C), (V, C) -> (B, N)."""
    flat, table = _centered(tokens.detach(), codes.detach())
    half_norm = table.square().sum(1).div(2)
    found = [torch.addmm(half_norm, block, table.T, alpha=-1).argmin(1) for block in token_blocks(flat, len(table))]
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
    return Quantized(tokens + (chosen - tokens).detach(), indices, losses, codes)


def usage_loss(tokens: Tensor, codes: Tensor) -> Tensor:
    """Return mean_t H(p_t) - H(mean_t p_t) with p_t = softmax(-|z_t - c|^2): low when sure and spread out.

    Tokens (B, N, C) and codes (V, C), both differentiable (once).
    """
    loss: Tensor = _Usage.apply(*_centered(tokens, codes))
    return loss


def token_blocks(flat: Tensor, size: int) -> Iterator[Tensor]:
    """Yield tokens (T, C) in blocks whose product with ``size`` codes has about `BLOCK_ENTRIES` entries."""
    yield from flat.split(max(BLOCK_ENTRIES // size, LEAST_TOKENS))


class _Usage(torch.autograd.Function):
    """The usage loss of tokens (T, C) and codes (V, C).

    With l = -|z - c|^2 up to a constant per token, p = softmax(l), m = mean p and g = log m + 1:
    dL/dl_tj = p_tj (g_j - l_tj - sum_k p_tk (g_k - l_tk)) / T, whose sum over j is 0, so that the constant has no part.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, codes: Tensor) -> Tensor:
        mean, entropies, kept = codes.new_zeros(len(codes)), [], []
        keep = len(flat) * len(codes) <= KEPT_ENTRIES
        for logits in _negative_distances(flat, codes):
            p = logits.softmax(1)
            # The log of the normalizer from the largest entries, which nothing can underflow.
            normalizer = logits.amax(1) - p.amax(1).log()
            entropies.append(normalizer - torch.linalg.vecdot(p, logits))
            mean += p.sum(0)
            kept += [logits] if keep else []
        mean /= len(flat)
        ctx.save_for_backward(flat, codes, mean, *kept)
        return torch.cat(entropies).mean() + (mean * _log(mean)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        flat, codes, mean, *kept = ctx.saved_tensors
        rows = kept or _negative_distances(flat, codes)
        slope = _log(mean) + (mean >= FLOOR)
        to_tokens, to_codes, drawn = [], torch.zeros_like(codes), codes.new_zeros(len(codes))
        for block, logits in zip(token_blocks(flat, len(codes)), rows, strict=True):
            p, change = logits.softmax(1), slope - logits
            change.sub_(torch.linalg.vecdot(p, change)[:, None]).mul_(p)
            to_tokens.append(change @ codes)
            to_codes.addmm_(change.T, block)
            drawn += change.sum(0)
        scale = 2 * gradient / len(flat)
        return torch.cat(to_tokens) * scale, to_codes.sub_(drawn[:, None] * codes) * scale


def _negative_distances(flat: Tensor, codes: Tensor) -> Iterator[Tensor]:
    """Yield -|z - c|^2 + |z|^2 of blocks of tokens, (T', V)."""
    squares = codes.square().sum(1).neg()
    for block in token_blocks(flat, len(codes)):
        yield torch.addmm(squares, block, codes.T, alpha=2)


def _centered(tokens: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens (T, C) and codes in full precision, both less the mean code.

    A shift changes no distance; without it they cancel where a book's mean is far larger than its spread.
    """
    table = codes.float()
    middle = table.detach().mean(0)
    return tokens.float().flatten(0, 1) - middle, table - middle


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(FLOOR).log()


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
