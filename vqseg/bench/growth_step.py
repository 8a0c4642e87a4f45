"""A training step as a run of a preset would make it, built from its config, on a small phantom.

Everything is a run's own (plan, stores, method, optimizer, `vqseg.train.Trainer`); only validation, log and
checkpoints are left out, and the warm-up, whose steps are cheaper.
"""

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from vqseg.bench.timing import Timing, drain, timing
from vqseg.config import Config, load_config
from vqseg.experiment import assemble
from vqseg.importers import phantom
from vqseg.plan import Plan, plan
from vqseg.provenance import pick_precision
from vqseg.train import Trainer

# Steps that are made before any is timed.
WARMUP = 2
PHANTOM_PX, PATIENTS = 48, 6
# What a validation must say; here none is made.
UNSEEN = ("val/dice_teacher", "val/dice_student")


class Shape(NamedTuple):
    """What a step's codebook part works on: tokens, their channels, codes; and the images of a step."""

    tokens: int
    channels: int
    codes: int
    images: int


class Bench:
    """Steps of one config.

    ``folder`` takes the phantom and the images as tensors; several benches may share one.
    """

    def __init__(self, preset: str, overrides: Sequence[str], folder: Path, device: torch.device) -> None:
        self.config, self.device = settings(preset, overrides), device
        root = folder / "phantom"
        if not (root / "manifest.json").is_file():
            phantom.prepare(root, patients=PATIENTS, size=PHANTOM_PX)
        self.plan = plan(self.config, root=root, split=None, store=folder)
        self.trainer = _trainer(self.plan, device, folder / "checkpoint.pt")

    @property
    def shape(self) -> Shape:
        """What the codebook part of a step works on."""
        network, train = self.trainer.method.student, self.config.train
        images = train.labelled_batch + train.unlabelled_batch * (1 + self.config.augment.strong_views)
        side = self.config.data.size_px // int(network.encoder.stride)  # type: ignore[arg-type]
        codes, channels = network.codes().shape  # type: ignore[operator]
        return Shape(images * side**2, channels, codes, train.labelled_batch + train.unlabelled_batch)

    def steps(self, count: int) -> None:
        """Make ``count`` steps."""
        self.trainer.settings = self.trainer.settings.model_copy(update={"steps": count})
        self.trainer.step = 0
        self.trainer.run()

    def time(self, repeats: int) -> Timing:
        """Return the time of a step."""
        marks: list[float] = []

        def mark(step: int) -> None:
            drain(self.device)
            marks.append(time.perf_counter())

        self.trainer.on_progress = mark
        # The last step also ends the training (a flush, the best weights): it does not count.
        self.steps(WARMUP + repeats + 1)
        self.trainer.on_progress = lambda step: None
        timed = marks[WARMUP - 1 : -1]
        return timing([after - before for before, after in pairwise(timed)])


def settings(preset: str, overrides: Sequence[str] = ()) -> Config:
    """Return a preset's settings without warm-up, where its method has one.

    Raises:
        InputError: an unknown preset or setting.
    """
    config = load_config(preset, overrides)
    if config.method.options.get("warmup_steps"):
        return load_config(preset, [*overrides, "method.warmup_steps=0"])
    return config


def _trainer(plan: Plan, device: torch.device, checkpoint: Path) -> Trainer:
    trainer = assemble(plan, checkpoint, device, pick_precision(plan.config.train.precision, device))
    trainer.settings = plan.config.train.model_copy(update={"validate_steps": 10**9, "checkpoint_steps": 10**9})
    trainer.validate = lambda step: dict.fromkeys(UNSEEN, 0.0)
    return trainer
