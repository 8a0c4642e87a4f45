"""`vqseg bench quantize`: nearest codes and usage loss, forward and backward, against whole token x code matrices.

Limit: one product of tokens and codes; the algorithm needs five (search, forward, and three in the backward pass, one
of which computes again what was not kept). Memory: the peak above what was there before, each way in its own process.
Settings: ``codes`` (16384), ``channels`` (384), ``tokens`` (2048); for the memory ``large_codes`` (65536) and
``large_tokens`` (4096).

Letters: B images, N tokens per image, T = B * N tokens, C channels, V codes.
"""

import multiprocessing
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vqseg.bench import machine
from vqseg.bench.naive import naive_quantize, naive_usage_loss
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row
from vqseg.bench.timing import extra_memory_mb, interleaved, profiled
from vqseg.codebook import Quantized, nearest_codes, quantize, usage_loss

SIZES = {"codes": 16_384, "channels": 384, "tokens": 2048, "large_codes": 65_536, "large_tokens": 4096}
QUICK = {"codes": 512, "channels": 32, "tokens": 128, "large_codes": 2048, "large_tokens": 256}
IMAGES = 8
# A matrix of floats, and as many of its like as the plain way keeps at once: it is not run where they do not fit.
KEPT = 7

Way = tuple[Callable[[Tensor, Tensor], Quantized], Callable[[Tensor, Tensor], Tensor]]
OURS: Way = (quantize, usage_loss)
NAIVE: Way = (naive_quantize, naive_usage_loss)


def measure(options: Options) -> Outcome:
    """Time the whole, forward and backward, and the search alone; then take the memory."""
    options.require_known(*SIZES)
    size = {name: int(options.number(name, value)) for name, value in (QUICK if options.quick else SIZES).items()}
    device = options.device
    tokens, codes = sample(size["tokens"], size["codes"], size["channels"], device)
    flat = tokens.detach().flatten(0, 1)
    found = interleaved(
        {
            "ours": partial(both_ways, OURS, tokens, codes),
            "naive": partial(both_ways, NAIVE, tokens, codes),
            "search": partial(nearest_codes, tokens, codes),
            "plain search": partial(torch.no_grad()(naive_quantize), tokens, codes),
            "limit": partial(torch.matmul, flat, codes.detach().T),
        },
        repeats=options.repeats,
        device=device,
    )
    ms = {name: 1000 * each.median for name, each in found.items()}
    goal = f"<= {6 if device.type == 'cpu' else 5} x limit"
    rows = [
        Row("quantize + usage loss, both ways", "ms", ms["ours"], ms["naive"], ms["limit"], goal),
        Row("nearest codes alone", "ms", ms["search"], ms["plain search"], ms["limit"]),
        _memory(size, device),
    ]
    profile = profiled(partial(both_ways, OURS, tokens, codes), options.profile, device) if options.profile else ""
    return Outcome("quantize", rows, {**size, "repeats": options.repeats}, machine.describe(device), profile)


def sample(count: int, size: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return tokens (B, N, C) and codes (V, C), both to be trained, as at the start of a training."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(IMAGES, max(count // IMAGES, 1), dim, generator=generator) * dim**-0.5
    codes = torch.randn(size, dim, generator=generator) * dim**-0.5
    return tokens.to(device).requires_grad_(), codes.to(device).requires_grad_()


def both_ways(way: Way, tokens: Tensor, codes: Tensor) -> None:
    """One forward and one backward pass, as in a step."""
    search, loss = way
    found = search(tokens, codes)
    total = found.losses["codebook"] + 0.25 * found.losses["commitment"] + loss(tokens, codes) + found.tokens.sum()
    total.backward()
    tokens.grad = codes.grad = None


def _memory(size: dict[str, int], device: torch.device) -> Row:
    count, codes, dim = size["large_tokens"], size["large_codes"], size["channels"]
    ours = _apart("ours", count, codes, dim, device)
    whole = KEPT * count * codes * 4
    naive = _apart("naive", count, codes, dim, device) if whole < machine.free_bytes(device) else None
    note = "" if naive is not None else f"the plain way was not run: it keeps about {whole / 2**30:.0f} GiB"
    what = f"extra memory, V {codes:,}, {count:,} tokens"
    return Row(what, "MiB", ours, naive, target="<= 512 MiB", note=note)


def _apart(way: str, count: int, size: int, dim: int, device: torch.device) -> float:
    """The extra memory of one way, in a process of its own: what another one left cannot count."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_extra, (way, count, size, dim, str(device), torch.get_num_threads())))


def _extra(way: str, count: int, size: int, dim: int, device: str, threads: int) -> float:
    torch.set_num_threads(threads)
    tokens, codes = sample(count, size, dim, torch.device(device))
    return extra_memory_mb(partial(both_ways, OURS if way == "ours" else NAIVE, tokens, codes), device)
