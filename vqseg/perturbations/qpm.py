"""The quantized perturbation module: a token keeps its code or takes another, nearer ones more often.

    pi(i|i) = 1 - eps        pi(j|i) = eps * exp(-d(c_i, c_j)) / Z_i,  j != i

Source: VQ-Seg, section 3.2; its release uses the squared Euclidean distance at temperature 1.
Differs: the paper leaves the metric open, so distance and temperature are options, one of them free of scale
(in units of the median distance to the nearest other code). Sampling is exact, in chunks of tokens, without a
loop over codes and without a V x V matrix: a block of codes is drawn by the sums of its weights, then a code in it.

Letters: T tokens, V codes, C channels.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vqseg.codebook import Quantized
from vqseg.replacement import bernoulli, check_rate, replace_codes

# Codes per block of the two-level draw.
BLOCK = 128
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
        self.rate = check_rate(rate)
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
        table = codes.detach().float()
        scale = self.unit(table)
        parts = [
            _pick(self._logits(table, block, scale), uniform[:, start : start + self.chunk])
            for start, block in zip(range(0, own.numel(), self.chunk), own.split(self.chunk), strict=True)
        ]
        return torch.where(changed, torch.cat(parts), own).view_as(quantized.indices)

    def apply(self, quantized: Quantized, codes: Tensor, drawn: Tensor) -> Tensor:
        """Replace the codes."""
        return replace_codes(quantized, codes, drawn)

    @torch.no_grad()
    def transitions(self, codes: Tensor, own: Tensor) -> Tensor:
        """Return the rows pi(.|i) of codes ``own`` (T,): (T, V)."""
        table = codes.detach().float()
        rows = self.rate * F.softmax(self._logits(table, own, self.unit(table)), dim=1)
        return rows.scatter_(1, own[:, None], 1 - self.rate)

    @torch.no_grad()
    def perplexity(self, codes: Tensor) -> Tensor:
        """Return exp of the mean entropy of where a replaced code goes, over an even sample of codes."""
        table = codes.detach().float()
        logits = self._logits(table, _sample(table), self.unit(table))
        log_p = F.log_softmax(logits, dim=1)
        return (-torch.where(logits.isinf(), 0.0, log_p.exp() * log_p).sum(1).mean()).exp()

    @torch.no_grad()
    def unit(self, table: Tensor) -> Tensor:
        """Return what a distance is divided by: the temperature, in the chosen unit."""
        one = table.new_tensor(self.temperature) if table.device.type == "cpu" else table.new_full((), self.temperature)
        if self.scale == "absolute":
            return one
        own = _sample(table)
        return one * self._distances(table, own).scatter_(1, own[:, None], torch.inf).amin(1).median().clamp_min(1e-12)

    def _distances(self, table: Tensor, own: Tensor) -> Tensor:
        table = table - table.mean(0)  # as in `vqseg.codebook.nearest_codes`
        rows = table[own]
        squared = torch.addmm(table.square().sum(1), rows, table.T, alpha=-2).add_(rows.square().sum(1, keepdim=True))
        squared.clamp_min_(0)
        return squared if self.distance == "squared-euclidean" else squared.sqrt_()

    def _logits(self, table: Tensor, own: Tensor, unit: Tensor) -> Tensor:
        """Return -d(c_i, .) / unit with the own code excluded: (T, V)."""
        return self._distances(table, own).div_(-unit).scatter_(1, own[:, None], -torch.inf)


def _sample(table: Tensor) -> Tensor:
    return torch.arange(0, table.shape[0], max(table.shape[0] // SAMPLE, 1), device=table.device)


def _pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw one code per row of unnormalized log weights (T, V) from two uniform numbers (2, T) each."""
    weights = (logits - logits.amax(1, keepdim=True)).exp_()
    padded = F.pad(weights, (0, -weights.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    sums = padded.sum(2).double()
    block = _invert(sums, uniform[0])
    inside = padded.gather(1, block[:, None, None].expand(-1, 1, BLOCK))[:, 0].double()
    return block * BLOCK + _invert(inside, uniform[1])


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the first column whose cumulative weight exceeds uniform * total; never one of weight 0."""
    cumulative = weights.cumsum(1)
    # A uniform number below 1 times the total can round up to the total itself: stay strictly below it.
    target = torch.minimum(uniform * cumulative[:, -1], torch.nextafter(cumulative[:, -1], cumulative.new_zeros(())))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
