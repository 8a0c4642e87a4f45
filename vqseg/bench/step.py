"""`vqseg bench step`: a preset's training step beside the release's, and beside the bare networks.

Ours is a run's own step (losses, backward, optimizer, teacher, meter) on one batch of the phantom at the preset's
size, its codes laid where the tokens are, as after training; what making a batch takes is a row of its own. Limit:
`vqseg.bench.bare_step.BareStep`. Memory is the most that a process of its own has resident while it makes steps, or
that the card has allocated. Where the preset's pretrained weights are not at hand, random ones of DINOv2-S's shape
stand in: as fast, and no use else.
Settings: ``preset`` (release), ``rate`` (both .1 and .7), ``steps`` of the projection on a card (2000).
"""

import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vqseg.bench import machine
from vqseg.bench.bare_step import BareStep, OurStep, spread_codes
from vqseg.bench.growth_step import Bench
from vqseg.bench.naive_step import NaiveStep, vqseg_of
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row
from vqseg.bench.timing import drain, interleaved, profiled, seconds
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.manifest import scans_of
from vqseg.plan import plan, resolve_choices
from vqseg.provenance import native_bf16_cpu, pick_precision
from vqseg.train import forget_peak_memory, peak_memory_mb
from vqseg.validation import Validation
from vqseg.weights import locate

RATES = (0.1, 0.7)
PROJECTED = 100_000
MINUTES = 45
# Steps whose memory is looked at.
REMEMBERED = 2
# DINOv2-S, and what --quick takes in its place.
SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14, "image_size": 518}
# What makes DPT as small.
TINY_LAYERS = ("network.encoder.layers=[0,1,2,3]", "network.decoder.features=8", "network.decoder.widths=[4,6,8,10]")
TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 14, "image_size": 28}
QUICK = ("network.quantizer.num_codes=64", "train.labelled_batch=2", "train.unlabelled_batch=2")
# Goals beside the limit by device, and beside the release by device and rate.
LIMITS = {"cpu": "<= 1.15 x limit", "cuda": "<= 1.25 x limit"}
NAIVES = {("cpu", 0.7): "<= 1/2 of naive", ("cuda", 0.1): ">= 3 x naive", ("cuda", 0.7): ">= 8 x naive"}


@dataclass(frozen=True)
class Asked:
    """What is measured: a preset with changes, in full precision, on a device. Travels to other processes."""

    preset: str
    overrides: tuple[str, ...]
    folder: Path
    device: str
    threads: int

    def at(self, rate: float) -> "Asked":
        """The same at another rate of the perturbation."""
        return replace(self, overrides=(*self.overrides, f"perturbation.rate={rate}"))

    def bench(self) -> Bench:
        """Build the step."""
        overrides = (*self.overrides, "train.precision=fp32")
        return Bench(self.preset, overrides, self.folder, torch.device(self.device))


def measure(options: Options) -> Outcome:
    """Time a preset's step at the asked rates, beside the release's and the limit."""
    options.require_known("preset", "rate", "steps")
    preset, profile = options.setting("preset", "release"), ""
    rates = (options.number("rate", RATES[0]),) if "rate" in options.extra else RATES
    with tempfile.TemporaryDirectory(prefix="vqseg-bench-") as name:
        asked, stand_in = ask(preset, options, Path(name))
        precision, usual = _of_runs(asked)
        own = rates[0] if usual is None or usual not in rates else usual
        rows: list[Row] = []
        ms: dict[float, float] = {}
        for rate in rates:
            found, ms[rate], profile = _at_rate(asked.at(rate), rate, precision, options)
            rows += found
        memory = _memory(asked.at(rates[-1]), rates[-1], apart=not options.quick)
        made, told = _rest(asked.at(own), precision, options)
    settings = {
        "preset": preset,
        "ms_per_step": ms[own] + made[0].ours,
        "peak_memory_mb": round(memory.ours),
        **told,
        "device": options.device.type,
        "repeats": options.repeats,
        **({"weights": f"random, of the shape of {stand_in}"} if stand_in else {}),
    }
    return Outcome("step", [*rows, memory, *made], settings, machine.describe(options.device, precision), profile)


def ask(preset: str, options: Options, folder: Path) -> tuple[Asked, str]:
    """Return what to build, and which weights random ones stand in for: none where all are at hand.

    Raises:
        InputError: an unknown preset.
    """
    overrides, missing = list(QUICK if options.quick else ()), ""
    for key, part in resolve_choices(load_config(preset)).items():
        named = part.options.get("weights")
        if isinstance(named, str) and hasattr(part.factory, "digest") and (options.quick or not _there(named)):
            missing = "a tiny ViT" if options.quick else "DINOv2-S"
            overrides.append(f"{key}.weights={_random(folder, TINY if options.quick else SMALL)}")
    if options.quick:
        overrides += ["data.size_px=28", *TINY_LAYERS] if missing else ["data.size_px=32"]
    return Asked(preset, tuple(overrides), folder, str(options.device), torch.get_num_threads()), missing


def _there(weights: str) -> bool:
    try:
        locate(weights)
    except InputError:
        return False
    return True


def _random(folder: Path, shape: dict[str, int]) -> Path:
    """Write a DINOv2 of random weights, once."""
    path = folder / "random-vit"
    if not path.is_dir():
        from transformers import Dinov2Config, Dinov2Model
        from transformers.utils import logging

        logging.disable_progress_bar()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            Dinov2Model(Dinov2Config(**shape)).save_pretrained(path)
    return path


def _of_runs(asked: Asked) -> tuple[str, float | None]:
    """Return the precision and the rate that runs of this preset have here."""
    config = load_config(asked.preset, asked.overrides)
    rate = resolve_choices(config)["perturbation"].options.get("rate")
    return pick_precision(config.train.precision, torch.device(asked.device)), rate


def _at_rate(asked: Asked, rate: float, precision: str, options: Options) -> tuple[list[Row], float, str]:
    """Return the rows of one rate, the milliseconds of a run's step at its precision, and a profile if asked for."""
    device, ours = options.device, asked.bench().trainer
    theirs, batch = asked.bench().trainer, ours.batches.at(0)
    taken, _ = (spread_codes(trainer, batch) for trainer in (ours, theirs))
    naive = NaiveStep(theirs)
    native = device.type == "cuda" or native_bf16_cpu()
    steps: dict[str, Callable[[], object]] = {"naive": partial(naive, batch)}
    for kind in ("fp32", "bf16") if native else ("fp32",):
        steps |= {f"ours {kind}": OurStep(ours, batch, kind), f"limit {kind}": BareStep(ours, batch, kind)}
    found = interleaved(steps, repeats=options.repeats, device=device)
    ms = {name: 1000 * each.median for name, each in found.items()}
    goals = ", ".join(filter(None, (LIMITS.get(device.type), NAIVES.get((device.type, rate)))))
    note = f"its views take {taken:,} distinct codes"
    rows = [Row(f"step, eps {rate:g}, fp32", "ms", ms["ours fp32"], ms["naive"], ms["limit fp32"], goals, note)]
    what = f"step, eps {rate:g}, bf16 autocast"
    if native:
        half = "<= 1/4 of naive" if (device.type, rate) == ("cpu", 0.7) else None
        rows.append(Row(what, "ms", ms["ours bf16"], ms["naive"], ms["limit bf16"], half, "naive is in fp32"))
    else:
        rows.append(Row(what, "ms", float("nan"), note="not native here: emulated, some twenty times slower"))
    profile = profiled(steps["ours fp32"], options.profile, device) if options.profile else ""
    return rows, ms.get(f"ours {precision}", ms["ours fp32"]), profile


def _memory(asked: Asked, rate: float, *, apart: bool) -> Row:
    """What either way takes at most, each in a fresh process: what another one left cannot count."""
    used = []
    for way in ("ours", "naive"):
        if apart:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                used.append(float(pool.apply(_peak, (asked, way))))
        else:
            used.append(_peak(asked, way))
    return Row(f"peak memory, eps {rate:g}, fp32", "MiB", used[0], used[1], target="<= 1/2 of naive")


def _peak(asked: Asked, way: str) -> float:
    torch.set_num_threads(asked.threads)
    device, trainer = torch.device(asked.device), asked.bench().trainer
    batch = trainer.batches.at(0)
    spread_codes(trainer, batch)
    step = OurStep(trainer, batch, "fp32") if way == "ours" else partial(NaiveStep(trainer), batch)
    forget_peak_memory(device)
    for _ in range(REMEMBERED):
        step()
    drain(device)
    return peak_memory_mb(device)


def _rest(asked: Asked, precision: str, options: Options) -> tuple[list[Row], dict[str, Any]]:
    """Return rows of making a batch and, on a card, of a whole training; and what a run costs beside its steps."""
    bench, device = asked.bench(), options.device
    trainer = bench.trainer
    made = interleaved({"batch": partial(trainer.batches.at, 0)}, repeats=max(options.repeats, 5), device=device)
    rows = [Row("one batch: views, CutMix", "ms", 1000 * made["batch"].median)]
    if device.type == "cuda":
        trainer.precision = precision
        count = 3 if options.quick else int(options.number("steps", 2000))
        bench.steps(10)
        minutes = seconds(partial(bench.steps, count), device) / count * PROJECTED / 60
        note = f"from {count:,} real steps, batches included, in {precision}"
        rows.append(Row(f"{PROJECTED:,} steps", "min", minutes, target=f"<= {MINUTES} min", note=note))
    return rows, _validation(bench, options)


def _validation(bench: Bench, options: Options) -> dict[str, Any]:
    config, method = bench.config, vqseg_of(bench.trainer)
    where = bench.plan if options.data is None else plan(config, root=options.data, split=None, store=bench.plan.store)
    scans = scans_of(where.manifest, where.split, "val")
    validation = Validation(
        where.root,
        scans,
        size_px=config.data.size_px,
        geometry=config.data.geometry,
        context=config.data.context,
        classes=where.manifest.classes,
        device=options.device,
        seed=config.seed,
    )
    run = partial(validation.measure, method.teacher, method.student, method.perturbation)
    return {
        "images_per_step": bench.shape.images,
        "validation_s": round(seconds(run, options.device), 3),
        "validation_images": sum(len(scan.slices) for scan in scans),
    }
