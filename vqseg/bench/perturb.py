"""`vqseg bench perturb`: one draw of QPM (and of its clustered form) against the release's loop over codes.

Limit: the matrix product of all tokens' codes with the book, from which every row of pi comes. The worst case for
ours: tokens take codes evenly, so that hardly two share a row; a trained network's share many.
Settings: ``codes`` (16384), ``channels`` (384), ``tokens`` (2048).

Letters: T tokens, V codes, C channels.
"""

from functools import partial

import torch
from torch import Tensor

from vqseg.bench import machine
from vqseg.bench.naive import naive_qpm
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row
from vqseg.bench.timing import interleaved, profiled
from vqseg.codebook import Quantized
from vqseg.perturbations.cluster_qpm import ClusterQPM
from vqseg.perturbations.qpm import QPM
from vqseg.step import Perturbation

# Goals by rate: times the product at most, and times the release's loop at least, on a CPU and on a card.
GOALS = {0.1: (2, 8, 8), 0.7: (2, 25, 200)}


def measure(options: Options) -> Outcome:
    """Time draws at the release's rate and the paper's."""
    options.require_known("codes", "channels", "tokens")
    default = (512, 32, 128) if options.quick else (16_384, 384, 2048)
    size, dim, count = (
        int(options.number(name, value)) for name, value in zip(("codes", "channels", "tokens"), default, strict=True)
    )
    device, seed = options.device, torch.Generator().manual_seed(0)
    codes = (torch.randn(size, dim, generator=seed) * dim**-0.5).to(device)
    indices = torch.randint(size, (8, max(count // 8, 1)), generator=seed).to(device)
    quantized = Quantized(codes[indices], indices, {}, codes)
    rows, profile = [], ""
    for rate, goals in GOALS.items():
        run = partial(_draw, QPM(rate=rate), quantized)
        found = interleaved(
            {
                "ours": run,
                "cluster": partial(_draw, ClusterQPM(rate=rate), quantized),
                "limit": partial(_product, codes, indices),
            },
            repeats=options.repeats,
            device=device,
        )
        # Seconds a call: it need not be repeated as often.
        loop = {"naive": partial(_loop, codes, indices, rate)}
        slow = interleaved(loop, repeats=min(options.repeats, 3), warmup=0, device=device)
        own, naive, limit = (1000 * each.median for each in (found["ours"], slow["naive"], found["limit"]))
        near, least, on_card = goals
        goal = f"<= {near} x limit, >= {least if device.type == 'cpu' else on_card} x naive"
        rows.append(Row(f"qpm, eps {rate:g}", "ms", own, naive, limit, goal))
        rows.append(Row(f"cluster-qpm, eps {rate:g}", "ms", 1000 * found["cluster"].median, limit=limit))
    if options.profile:
        profile = profiled(run, options.profile, device)
    settings = {"codes": size, "channels": dim, "tokens": indices.numel(), "repeats": options.repeats}
    return Outcome("perturb", rows, settings, machine.describe(device), profile)


def _draw(arm: Perturbation, quantized: Quantized) -> Tensor:
    return arm.draw(quantized, quantized.table, _stream(quantized.indices.device))


def _loop(codes: Tensor, indices: Tensor, rate: float) -> Tensor:
    return naive_qpm(codes, indices, rate, _stream(indices.device))


def _product(codes: Tensor, indices: Tensor) -> Tensor:
    return codes[indices.flatten()] @ codes.T


def _stream(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(1)
