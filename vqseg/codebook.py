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
    half_norm = torch.linalg.vecdot(table, table).div(2)
    found = torch.empty(len(flat), dtype=torch.long, device=flat.device)
    (room,) = _rooms(1, flat, table)
    for part in _blocks(flat, table):
        distances = torch.addmm(half_norm, flat[part], table.T, alpha=-1, out=room[: len(found[part])])
        torch.argmin(distances, 1, out=found[part])
    return found.view(tokens.shape[:2])


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


class _Usage(torch.autograd.Function):
    """The usage loss of tokens (T, C) and codes (V, C).

    With l = -|z - c|^2 up to a constant per token, p = softmax(l), m = mean p and g = log m + 1:
    dL/dl_tj = p_tj (g_j - l_tj - sum_k p_tk (g_k - l_tk)) / T, whose sum over j is 0, so that the constant has no part.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, codes: Tensor) -> Tensor:
        mean, entropies, kept = codes.new_zeros(len(codes)), flat.new_empty(len(flat)), []
        keep, (room, p_room) = len(flat) * len(codes) <= KEPT_ENTRIES, _rooms(2, flat, codes)
        squares = torch.linalg.vecdot(codes, codes).neg()
        for part in _blocks(flat, codes):
            logits = _logits(flat[part], codes, squares, None if keep else room)
            p = torch.softmax(logits, 1, out=p_room[: len(logits)])
            # The log of the normalizer from the largest entries, which nothing can underflow.
            entropies[part] = logits.amax(1) - p.amax(1).log() - torch.linalg.vecdot(p, logits)
            mean += p.sum(0)
            kept += [logits] if keep else []
        mean /= len(flat)
        ctx.save_for_backward(flat, codes, mean, *kept)
        return entropies.mean() + (mean * _log(mean)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        flat, codes, mean, *kept = ctx.saved_tensors
        slope, squares = _log(mean) + (mean >= FLOOR), torch.linalg.vecdot(codes, codes).neg()
        to_tokens, to_codes = torch.empty_like(flat), torch.zeros_like(codes)
        drawn, (room, p_room) = codes.new_zeros(len(codes)), _rooms(2, flat, codes)
        for number, part in enumerate(_blocks(flat, codes)):
            logits = kept[number] if kept else _logits(flat[part], codes, squares, room)
            p = torch.softmax(logits, 1, out=p_room[: len(logits)])
            change = torch.sub(slope, logits, out=room[: len(logits)])
            change.sub_(torch.linalg.vecdot(p, change)[:, None]).mul_(p)
            torch.mm(change, codes, out=to_tokens[part])
            to_codes.addmm_(change.T, flat[part])
            drawn += change.sum(0)
        scale = 2 * gradient / len(flat)
        # In place: a copy of a large book's gradient is a tenth of a GiB.
        return to_tokens.mul_(scale), to_codes.addcmul_(drawn[:, None], codes, value=-1).mul_(scale)


def _logits(block: Tensor, codes: Tensor, squares: Tensor, room: Tensor | None) -> Tensor:
    """Return -|z - c|^2 + |z|^2 of a block of tokens, (T', V), in ``room`` if there is one."""
    return torch.addmm(squares, block, codes.T, alpha=2, out=None if room is None else room[: len(block)])


def _blocks(flat: Tensor, codes: Tensor) -> Iterator[slice]:
    """Yield the tokens of `block_size` at a time."""
    size = block_size(len(codes))
    yield from (slice(start, start + size) for start in range(0, len(flat), size))


def _rooms(count: int, flat: Tensor, codes: Tensor) -> Tensor:
    """Return so many matrices for a block's products.

    Blocks take turns in them: what is allocated for every block anew does not come back whole, for small results settle
    in its place, and the process grows by a block each time.
    """
    return flat.new_empty(count, min(block_size(len(codes)), len(flat)), len(codes))


def block_size(codes: int) -> int:
    """Return how many tokens, or rows of pi, are looked at together with ``codes`` codes."""
    return max(BLOCK_ENTRIES // codes, LEAST_TOKENS)


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
