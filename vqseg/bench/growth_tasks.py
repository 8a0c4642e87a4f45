"""What is measured at growing sizes: the codebook's parts, training steps, scoring, the queue, the report's tables.

Letters: V codes, T tokens, C channels of a token, S slices, H x W pixels.
"""

import importlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from vqseg.bench.growth_queue import load
from vqseg.bench.growth_step import Bench, Shape
from vqseg.bench.quantize import OURS, both_ways, sample
from vqseg.bench.timing import Run, Timing, interleaved, timing
from vqseg.codebook import Quantized
from vqseg.evaluate import case_rows
from vqseg.perturbations.qpm import QPM

CLASSES = ("background", "RV", "Myo", "LV")
SLICES = 10
EMPTY_CELLS = 100
FEW_RUNS = 25


class Probe(NamedTuple):
    """One size: a call whose memory is told (None: no call says it), and the time of one unit of work."""

    run: Run | None
    time: Callable[[int], Timing]


@dataclass(frozen=True)
class Task:
    """One cost against one size.

    Args:
        part: what is measured.
        axis: what grows, with its unit.
        values: the sizes, rising.
        make: size -> what to time.
        memory_power: how memory grows with the size at most, to foresee what will not fit.
        preset: whose shape the rest has, if any.
    """

    part: str
    axis: str
    values: tuple[int, ...]
    make: Callable[[int], Probe]
    memory_power: float = 1.0
    preset: str = ""


CODES = "codes V"
TOKENS = "tokens of a step"
SIDE = "image side (px)"
IMAGES = "images of a step"
VOXELS = "voxels of a volume"
WORKERS = "workers at once"
RUNS = "runs in the study"
QPM_DRAW, QUANTIZE, STEP, SCORING, QUEUE, TABLES = (
    "QPM draw", "quantize + usage loss", "training step", "scoring a volume", "queue, per cell", "report's tables",
)  # fmt: skip


def codebook(shape: Shape, preset: str, device: torch.device, *, quick: bool) -> Iterator[Task]:
    """Yield the codebook's parts against V and against tokens, the rest as a step of the preset has it."""
    sizes = (256, 512, 1024) if quick else tuple(2**power for power in (10, 12, 14, 15, 16, 17, 18))
    many = (64, 128, 256) if quick else tuple(2**power for power in (8, 10, 11, 12, 13, 14))
    for part, make in ((QPM_DRAW, _qpm), (QUANTIZE, _quantize)):
        own = {"memory_power": 1.0, "preset": preset}
        yield Task(part, CODES, sizes, lambda v, make=make: make(shape.tokens, v, shape.channels, device), **own)  # type: ignore[misc, arg-type]
        yield Task(part, TOKENS, many, lambda t, make=make: make(t, shape.codes, shape.channels, device), **own)  # type: ignore[misc, arg-type]


def steps(preset: str, folder: Path, device: torch.device, *, quick: bool, codes: bool) -> Iterator[Task]:
    """Yield a preset's training step against image size, images and (``codes``) V."""

    def probe(*overrides: str) -> Probe:
        bench = Bench(preset, overrides, folder, device)
        return Probe(lambda: bench.steps(1), bench.time)

    def sided(side: int) -> Probe:
        return probe(f"data.size_px={side}")

    def batched(images: int) -> Probe:
        return probe(f"train.labelled_batch={images // 2}", f"train.unlabelled_batch={images // 2}")

    def coded(size: int) -> Probe:
        return probe(f"network.quantizer.num_codes={size}")

    sides = (16, 32) if quick else (64, 128, 192, 256, 384) if preset == "unet" else (32, 64, 96, 128, 192, 256)
    yield Task(STEP, SIDE, sides, sided, memory_power=2.0, preset=preset)
    yield Task(STEP, IMAGES, (2, 4) if quick else (4, 8, 16, 24, 32, 48), batched, preset=preset)
    if codes:
        sizes = (256, 512) if quick else tuple(2**power for power in (10, 12, 14, 15, 16, 17, 18))
        yield Task(STEP, CODES, sizes, coded, preset=preset)


def surroundings(folder: Path, *, quick: bool) -> Iterator[Task]:
    """Yield what is around training: scoring, the queue, tables."""
    sides = (32, 48, 64) if quick else (64, 128, 192, 256, 384, 512)
    yield Task(SCORING, VOXELS, tuple(SLICES * side**2 for side in sides), _scoring)
    yield Task(QUEUE, WORKERS, (1, 2) if quick else (1, 2, 4, 8, 16, 32, 64), lambda n: _queue(folder, n, quick=quick))
    yield Task(TABLES, RUNS, (6, 12) if quick else (FEW_RUNS, 50, 100, 200, 400, 800), lambda n: _tables(folder, n))


def plain(run: Run, device: torch.device) -> Probe:
    """Return the probe of a call that is one unit of work."""
    return Probe(run, lambda repeats: interleaved({"": run}, repeats=repeats, warmup=0, device=device)[""])


def _qpm(tokens: int, codes: int, channels: int, device: torch.device) -> Probe:
    batch, table = (each.detach() for each in sample(tokens, codes, channels, device))
    own = torch.randint(codes, batch.shape[:2], generator=torch.Generator().manual_seed(1)).to(device)
    quantized, perturbation = Quantized(batch, own, {}), QPM(rate=0.7)
    random = torch.Generator(device=device).manual_seed(2)
    return plain(lambda: perturbation.draw(quantized, table, random), device)


def _quantize(tokens: int, codes: int, channels: int, device: torch.device) -> Probe:
    return plain(partial(both_ways, OURS, *sample(tokens, codes, channels, device)), device)


def _scoring(voxels: int) -> Probe:
    reference = _hearts(voxels, 0.0)
    prediction = _hearts(voxels, 0.03)

    def run() -> Any:
        return case_rows(prediction, reference, spacing_mm=(10.0, 1.4, 1.4), classes=CLASSES, protocol="scan")

    return plain(run, torch.device("cpu"))


def _hearts(voxels: int, moved: float) -> np.ndarray:
    """Return class indices (S, H, W): rings as in the heart, rough at their edges, ``moved`` by a share of the side."""
    side = round((voxels / SLICES) ** 0.5)
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    radius = np.hypot(rows - moved, columns) + 0.01 * np.random.default_rng(0).normal(size=(SLICES, side, side))
    labels = np.select([radius < 0.15, radius < 0.25, np.abs(radius - 0.35) < 0.08], [3, 2, 1], 0)
    return labels.astype(np.uint8)


def _queue(folder: Path, workers: int, *, quick: bool) -> Probe:
    def run(repeats: int) -> Timing:
        place = folder / f"queue-{workers}"
        found = load(place, workers, 10 if quick else EMPTY_CELLS).per_cell_s  # a median already
        shutil.rmtree(place)
        return timing([found])

    return Probe(None, run)


def _tables(folder: Path, runs: int) -> Probe:
    """All tables of a fabricated study, read anew: without the cache that a second report would find."""
    from vqseg.bench.fabricate import fabricate
    from vqseg.records.index import CACHE
    from vqseg.report import report_of
    from vqseg.report.options import Options
    from vqseg.report.selection import select

    store = folder / f"runs-{runs}"
    study = fabricate(store, runs)
    build = importlib.import_module(f"vqseg.report.{report_of(study)}").build

    def run() -> None:
        (store / CACHE).unlink(missing_ok=True)
        build(select(store, study, Options()))

    def timed(repeats: int) -> Timing:
        if runs <= FEW_RUNS:
            run()  # what the first report of a process loads does not count
        return plain(run, torch.device("cpu")).time(min(repeats, 2))

    return Probe(None, timed)
