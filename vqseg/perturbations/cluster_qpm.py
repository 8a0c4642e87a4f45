"""QPM within coarse clusters: a token keeps its code or takes another of the same cluster, nearer ones more often.

    pi(i|i) = 1 - eps        pi(j|i) = eps * exp(-d(c_i, c_j)) / Z_i,  j != i in i's cluster; alone in it, i stays

Source: VQ-Seg's pi (see `vqseg.perturbations.qpm`, whose distances, unit and exact sampling are used: with one
cluster the draws are QPM's own), with the coarse quantizer of an inverted file index in front.
Differs: the clusters are found anew at every draw, because the codes move in training: a few rounds of Lloyd's
algorithm over all codes, started from an even sample of them. Nothing is drawn for it, so the arm takes the draws that
QPM takes; sums are matrix products, which give the same result every time; no shape depends on the clusters' sizes,
so nothing waits for the device. Farthest-point starts put outliers into clusters of their own, where tokens cannot
change. Halving the codes along principal directions makes clusters of one size, but kept the nearest neighbor of a
code in its cluster for a third of the codes of trained books (1,024 codes, 32 clusters), Lloyd's for half of them.
By default there are as many clusters as codes in each, sqrt(V). The share of tokens that change is ``rate`` less
what lies alone in its cluster.

Letters: T tokens, V codes, C channels, K clusters.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vqseg.codebook import Quantized
from vqseg.errors import InputError
from vqseg.perturbations.qpm import QPM, Book
from vqseg.replacement import replace_codes

# The most clusters that a book gets by itself: the search for them costs V * K * C.
MOST = 256
# Rounds of Lloyd's algorithm: a few do, as any coarse partition of near codes serves.
ROUNDS = 3


class ClusterQPM:
    """Replaces codes by pi within clusters: ``clusters`` of them, by default the root of the number of codes."""

    uses: ClassVar[tuple[str, ...]] = ("vqseg.perturbations.qpm",)

    def __init__(
        self,
        *,
        rate: float = 0.7,
        clusters: int | None = None,
        distance: Literal["squared-euclidean", "euclidean"] = "squared-euclidean",
        temperature: float = 1.0,
        scale: Literal["absolute", "nearest-neighbor"] = "absolute",
        chunk: int = 512,
    ) -> None:
        if clusters is not None and clusters < 1:
            raise ValueError(f"clusters must be at least 1, got {clusters}")
        self.clusters = clusters
        self.qpm = QPM(rate=rate, distance=distance, temperature=temperature, scale=scale, chunk=chunk)

    @property
    def rate(self) -> float | Tensor:
        """The share of tokens that change, but for those alone in their cluster."""
        return self.qpm.rate

    @rate.setter
    def rate(self, rate: float | Tensor) -> None:
        self.qpm.rate = rate

    def draw(self, quantized: Quantized, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the new codes' indices (B, N).

        Raises:
            InputError: more clusters are asked for than there are codes.
        """
        return self._within(codes).draw(quantized, codes, generator)

    def apply(self, quantized: Quantized, codes: Tensor, drawn: Tensor) -> Tensor:
        """Replace the codes."""
        return replace_codes(quantized, codes, drawn)

    @torch.no_grad()
    def transitions(self, codes: Tensor, own: Tensor) -> Tensor:
        """Return the rows pi(.|i) of codes ``own`` (T,): (T, V)."""
        rows = self._within(codes).transitions(codes, own)
        # What a code alone in its cluster cannot give to others stays with it.
        return rows.scatter_add_(1, own[:, None], 1 - rows.sum(1, keepdim=True))

    @torch.no_grad()
    def perplexity(self, codes: Tensor) -> Tensor:
        """Return exp of the mean entropy of where a replaced code goes, over an even sample of codes."""
        return self._within(codes).perplexity(codes)

    def _within(self, codes: Tensor) -> "_Within":
        size = codes.shape[0]
        clusters = self.clusters or min(math.isqrt(size), MOST)
        if clusters > size:
            raise InputError(
                f"perturbation.clusters: {clusters}, but the codebook has {size} codes; give at most as many, or none"
            )
        return _Within(coarse_clusters(codes, clusters), clusters, self.qpm)


@torch.no_grad()
def coarse_clusters(codes: Tensor, clusters: int) -> Tensor:
    """Return the cluster (0 to K - 1) of each code: (V, C) -> (V,), by Lloyd's algorithm. A cluster may be empty."""
    table = codes.detach().float()
    table = table - table.mean(0)  # as in `vqseg.codebook.nearest_codes`
    number = torch.arange(clusters, device=table.device)
    centers = table[number * len(table) // clusters]
    for _ in range(ROUNDS):
        member = (_nearest(table, centers)[:, None] == number).float()
        count = member.sum(0)[:, None]
        centers = torch.where(count > 0, member.T @ table / count.clamp_min(1), centers)
    return _nearest(table, centers)


def _nearest(table: Tensor, centers: Tensor) -> Tensor:
    return torch.addmm(centers.square().sum(1).div(2), table, centers.T, alpha=-1).argmin(1)


class _Within(QPM):
    """QPM whose candidates are those of the own cluster; ``home`` (V,) is each code's."""

    def __init__(self, home: Tensor, clusters: int, like: QPM) -> None:
        super().__init__(
            distance=like.distance,
            temperature=like.temperature,
            scale=like.scale,
            chunk=like.chunk,
        )
        self.rate = like.rate  # unchecked: while a controller holds it, it is a number of the device
        self.home = home
        self.outside = home != torch.arange(clusters, device=home.device)[:, None]
        alone = ((~self.outside).sum(1) == 1).float()
        # log 1 where a code is its own only candidate, log 0 where there are others.
        self.own_logit = alone.log()

    def _logits(self, book: Book, own: Tensor) -> Tensor:
        home = self.home[own]
        logits = super()._logits(book, own).masked_fill_(self.outside[home], -torch.inf)
        return logits.scatter_(1, own[:, None], self.own_logit[home, None])
