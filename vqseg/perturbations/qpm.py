"""The quantized perturbation module: a token keeps its code or takes another, nearer ones more often.

    pi(i|i) = 1 - eps        pi(j|i) = eps * exp(-d(c_i, c_j)) / Z_i,  j != i

Source: VQ-Seg, section 3.2; its release uses the squared Euclidean distance at temperature 1.
Differs: the paper leaves the metric open, so distance and temperature are options, one of them free of scale
(in units of the median distance to the nearest other code). Sampling is exact, in chunks of tokens, without a
loop over codes and without a V x V matrix: a block of codes is drawn by the sums of its weights, then a code in it.

Letters: T tokens, V codes, C channels.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vqseg.codebook import Quantized, block_size
from vqseg.replacement import bernoulli, check_rate, replace_codes

# Codes per block of the two-level draw.
BLOCK = 128
# Tokens that are drawn for at once: each holds the sums of its code's blocks.
TOKENS = 2048
# Codes that the nearest-neighbor scale and the perplexity are estimated from.
SAMPLE = 256


class QPM:
    """Replaces codes by pi."""

    def __init__(
        self,
        *,
        rate: float = 0.7,
        distance: Literal["squared-euclidean", "euclidean"] = "squared-euclidean",
        temperature: float = 1.0,
        scale: Literal["absolute", "nearest-neighbor"] = "absolute",
        chunk: int = 512,
    ) -> None:
        self.rate: float | Tensor = check_rate(rate)
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1 token, got {chunk}")
        self.distance, self.temperature, self.scale, self.chunk = distance, temperature, scale, chunk

    def draw(self, quantized: Quantized, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the new codes' indices (B, N)."""
        own = quantized.indices.flatten()
        changed = bernoulli(own.shape, self.rate, generator)
        uniform = torch.rand(2, own.numel(), generator=generator, device=generator.device, dtype=torch.float64)
        # On a card the number of changed tokens is not known without waiting for it; a CPU has nothing to wait for.
        drawn = self._draw_changed if own.device.type == "cpu" else self._draw_each
        return drawn(self._book(codes), own, changed, uniform).view_as(quantized.indices)

    def _draw_each(self, book: "Book", own: Tensor, changed: Tensor, uniform: Tensor) -> Tensor:
        """Draw for every token, a row of weights for each, and keep what changes: (T,)."""
        parts = zip(own.split(self.chunk), uniform.split(self.chunk, 1), strict=True)
        found = [_pick(self._logits(book, rows).softmax(1), None, part) for rows, part in parts]
        return torch.where(changed, torch.cat(found), own)

    def _draw_changed(self, book: "Book", own: Tensor, changed: Tensor, uniform: Tensor) -> Tensor:
        """Draw what `_draw_each` draws, for the tokens that change alone, tokens of one code from one row."""
        drawn = own.clone()
        codes, row = torch.unique(own[changed], return_inverse=True)
        # Tokens in the order of their rows, so that each block of rows serves a stretch of them.
        order = row.argsort(stable=True)
        tokens, row = changed.nonzero()[:, 0][order], row[order]
        size = min(self.chunk, block_size(len(book.table)))  # such a block stays in the cache
        blocks = codes.split(size)
        ends = torch.searchsorted(row, torch.arange(len(blocks)) * size + size).tolist()
        for number, (block, first, last) in enumerate(zip(blocks, [0, *ends], ends)):
            weights = self._logits(book, block).softmax(1)
            for part in torch.arange(first, last).split(TOKENS):
                where = tokens[part]
                drawn[where] = _pick(weights, row[part] - number * size, uniform[:, where])
        return drawn

    def apply(self, quantized: Quantized, codes: Tensor, drawn: Tensor) -> Tensor:
        """Replace the codes."""
        return replace_codes(quantized, codes, drawn)

    @torch.no_grad()
    def transitions(self, codes: Tensor, own: Tensor) -> Tensor:
        """Return the rows pi(.|i) of codes ``own`` (T,): (T, V)."""
        rows = self.rate * self._logits(self._book(codes), own).softmax(1)
        return rows.scatter_(1, own[:, None], 1 - self.rate)

    @torch.no_grad()
    def perplexity(self, codes: Tensor) -> Tensor:
        """Return exp of the mean entropy of where a replaced code goes, over an even sample of codes."""
        book = self._book(codes)
        logits = self._logits(book, _sample(book.table))
        log_p = F.log_softmax(logits, dim=1)
        return (-torch.where(logits.isinf(), 0.0, log_p.exp() * log_p).sum(1).mean()).exp()

    def unit(self, codes: Tensor) -> Tensor:
        """Return what a distance is divided by: the temperature, in the chosen scale."""
        return self._book(codes).unit

    @torch.no_grad()
    def _book(self, codes: Tensor) -> "Book":
        table = codes.detach().float()
        table = table - table.mean(0)  # a shift changes no distance, and keeps them from canceling
        book = Book(table, torch.linalg.vecdot(table, table), table.new_full((), self.temperature))
        return book if self.scale == "absolute" else book._replace(unit=book.unit * self._nearest(book))

    def _nearest(self, book: "Book") -> Tensor:
        """Return the median distance to the nearest other code, over an even sample of codes."""
        own = _sample(book.table)
        return self._distances(book, own).scatter_(1, own[:, None], torch.inf).amin(1).median().clamp_min(1e-12)

    def _distances(self, book: "Book", own: Tensor) -> Tensor:
        squared = torch.addmm(book.squares, book.table[own], book.table.T, alpha=-2)
        squared.add_(book.squares[own, None]).clamp_min_(0)
        return squared if self.distance == "squared-euclidean" else squared.sqrt_()

    def _logits(self, book: "Book", own: Tensor) -> Tensor:
        """Return -d(c_i, .) / unit with the own code excluded, up to a constant per row: (T, V)."""
        if self.distance == "squared-euclidean":
            # |c_i|^2 is such a constant, and the unit goes into the smaller factors: the product alone is left.
            logits = torch.addmm(book.squares / -book.unit, book.table[own] * (2 / book.unit), book.table.T)
        else:
            logits = self._distances(book, own).div_(-book.unit)
        return logits.scatter_(1, own[:, None], -torch.inf)


class Book(NamedTuple):
    """A codebook as distances are computed from it.

    ``table`` (V, C) is less the mean code, ``squares`` (V,) are its rows' squared lengths, and a distance is divided
    by ``unit``, the temperature in the chosen scale.
    """

    table: Tensor
    squares: Tensor
    unit: Tensor


def _sample(table: Tensor) -> Tensor:
    return torch.arange(0, table.shape[0], max(table.shape[0] // SAMPLE, 1), device=table.device)


def _pick(weights: Tensor, row: Tensor | None, uniform: Tensor) -> Tensor:
    """Draw codes (T,) from rows of weights (R, V) by two uniform numbers (2, T) each.

    ``row`` (T,) is each token's; without it there is one for each.
    """
    padded = F.pad(weights, (0, -weights.shape[1] % BLOCK)) if weights.shape[1] % BLOCK else weights
    padded = padded.unflatten(1, (-1, BLOCK))
    sums = padded.sum(2).double().cumsum(1)
    block = _invert(sums if row is None else sums[row], uniform[0])
    row = torch.arange(len(block), device=block.device) if row is None else row
    return block * BLOCK + _invert(padded[row, block].double().cumsum(1), uniform[1])


def _invert(cumulative: Tensor, uniform: Tensor) -> Tensor:
    """Return the first column whose cumulative weight exceeds uniform * total; never one of weight 0."""
    # A uniform number below 1 times the total can round up to the total itself: stay strictly below it.
    target = torch.minimum(uniform * cumulative[:, -1], torch.nextafter(cumulative[:, -1], cumulative.new_zeros(())))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
