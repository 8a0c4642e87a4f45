"""Trains the local prior, once for all runs that need it: the one loop with a masked auto-encoder in it.

STORE/priors/IDENTITY/ holds a transformers folder, `prior.json` (shape, mean and deviation of the images, what it
was trained on) and, while it is being trained, `checkpoint.pt`. `prior.json` comes last: without it nothing is there.

Letters: B images, C channels, P pixels a side.
Source: masked auto-encoders (He et al. 2022): 75 % of the patches masked, normalized pixels as target.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vqseg import streams
from vqseg.config import Augment, Schedule, Train
from vqseg.dataset import Order, Views
from vqseg.files import write_json
from vqseg.optimizer import adamw
from vqseg.plan import Plan, training_scans
from vqseg.priors.local import SETTINGS, shape_config
from vqseg.records.run import Busy, MetricsFile, hold, now
from vqseg.step import Step
from vqseg.store import TensorStore, open_store
from vqseg.train import Interrupted, Trainer
from vqseg.weights import quiet

# Geometry alone: what a patch looks like must not be washed out. The same for every recipe, so that runs of
# different recipes on the same images share one prior.
AUGMENT = Augment(flip_probability=0.0, rotation_degrees=30.0, scale_range=(0.8, 1.25))
DECODER = {"decoder_hidden_size": 64, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4}
HELD_OUT = 0.1
WAIT_SECONDS = 0.5


class MaskedAutoencoder(nn.Module):
    """What the loop trains: the reconstruction of masked patches."""

    def __init__(self, plan: Plan, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        options = plan.parts["prior"].options
        self.seed, self.patches = options["seed"], (plan.config.data.size_px // options["patch_px"]) ** 2
        more = {**DECODER, "mask_ratio": options["mask_ratio"], "norm_pix_loss": options["normalized_target"]}
        config = ViTMAEConfig(
            **shape_config(shape(plan), plan.config.data.size_px, decoder_intermediate_size=256, **more)
        )
        with torch.random.fork_rng():
            torch.manual_seed(streams.key(self.seed, "init", "prior"))
            self.student: nn.Module = ViTMAEForPreTraining(config)
            _place(self.student)
        self.teacher: nn.Module = nn.Module()  # nobody follows it
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, -1, 1, 1), persistent=False)

    def losses(self, batch: Tensor, step: int) -> Step:
        """Return the loss on images (B, C, P, P)."""
        return Step({"reconstruction": self.loss(batch, "pretraining", step)}, {}, None)

    def loss(self, images: Tensor, *purpose: object) -> Tensor:
        """Return the mean squared error on masked patches; which ones are masked is a function of ``purpose``."""
        generator = streams.generator(self.seed, *purpose)
        noise = torch.rand(len(images), self.patches, generator=generator).to(images.device)
        found: Tensor = self.student((images - self.mean) / self.std, noise=noise).loss  # type: ignore[operator]
        return found

    def after_step(self, step: int) -> None:
        """Nothing follows."""


@torch.no_grad()
def _place(model: Any) -> None:
    """Give both halves their places: sines and cosines of row and column.

    transformers 5.23 leaves the embeddings of a fresh model at zero, and without them every patch is the same place.
    """
    for table in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        side, quarter = int((table.shape[1] - 1) ** 0.5), table.shape[2] // 4
        angle = torch.arange(side)[:, None] / 10_000 ** (torch.arange(quarter) / quarter)
        waves = torch.cat([angle.sin(), angle.cos()], 1)
        rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
        table.zero_()[0, 1:, : 4 * quarter] = torch.cat([rows, columns], 2).flatten(0, 1)
    for token in (model.vit.embeddings.cls_token, model.decoder.mask_token):
        token.normal_(std=0.02)


class Images:
    """Batches of one part's images by step number."""

    unlabelled: Any = None

    def __init__(self, store: TensorStore, rows: np.ndarray, size_px: int, batch: int, seed: int) -> None:
        self.views, self.held, self.batch, self.seed = Views(store, AUGMENT, size_px), rows, batch, seed
        self.order = Order(len(rows), seed, "pretraining")

    def at(self, step: int) -> Tensor:
        """Return the images (B, C, P, P) of a step."""
        rows = self.held[self.order.rows(step, self.batch)]
        generator = streams.generator(self.seed, "augmentation", "pretraining", step)
        return self.views.take(rows, self.views.geometry(rows, generator), masks=False)[0]


def shape(plan: Plan) -> dict[str, Any]:
    """Return what the encoder's shape depends on."""
    options = plan.parts["prior"].options
    return {"channels": plan.manifest.channels, **{key: options[key] for key in ("patch_px", "dim", "depth", "heads")}}


def ensure_prior(
    plan: Plan,
    device: torch.device,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] = lambda step, steps: None,
) -> bool:
    """Train the local prior that a plan needs unless it is there; return whether it was trained now.

    Whoever comes second waits for the first, and takes over if that one is killed.

    Raises:
        Interrupted: asked to stop; a checkpoint was written.
        InputError: the images' side is no multiple of the patch.
    """
    folder = plan.prior_folder
    if folder is None:
        return False
    while not (folder / SETTINGS).is_file():
        try:
            with hold(folder):
                if (folder / SETTINGS).is_file():
                    return False
                _train(plan, folder, device, should_stop, on_progress)
                return True
        except Busy:
            if should_stop():
                raise Interrupted("stopped while another process trains the prior") from None
            time.sleep(WAIT_SECONDS)
    return False


def _train(
    plan: Plan,
    folder: Path,
    device: torch.device,
    should_stop: Callable[[], bool],
    on_progress: Callable[[int, int], None],
) -> None:
    options, side = plan.parts["prior"].options, plan.config.data.size_px
    store, train, held = _store(plan, device)
    mean, std = _moments(store, train)
    method = MaskedAutoencoder(plan, mean, std).to(device)
    trainer = Trainer(
        method=method,
        batches=Images(store, train, side, options["batch"], options["seed"]),
        optimizer=adamw({"head": list(method.student.parameters())}, lr=options["lr"], weight_decay=0.05),
        settings=Train(
            steps=options["steps"],
            labelled_batch=options["batch"],
            unlabelled_batch=0,
            validate_steps=max(options["steps"] // 10, 1),
            checkpoint_steps=max(options["steps"] // 10, 1),
            clip_norm=1.0,
        ),
        schedule=Schedule(warmup_steps=min(200, options["steps"] // 10)),
        seed=options["seed"],
        num_codes=1,
        device=device,
        precision="fp32",
        identity=folder.name,
        config={"prior": dict(options)},
        validate=lambda step: _validate(method, store, held, side),
        log=lambda values, step: None,
        checkpoint=folder / "checkpoint.pt",
        should_stop=should_stop,
        on_progress=lambda step: on_progress(step, options["steps"]),
        best={},
    )
    trainer.resume()
    metrics = MetricsFile(folder / "metrics.csv", trainer.step)
    trainer.log = metrics.write
    trainer.run()
    told = {
        "format": 1,
        "shape": shape(plan),
        "mean": mean.tolist(),
        "std": std.tolist(),
        "options": dict(options),
        "data": {"name": plan.manifest.name, "digest": plan.manifest.digest, "images": len(train) + len(held)},
        "validation": _validate(method, store, held, side),
        "trained": now(),
        "train_seconds": round(trainer.seconds, 1),
    }
    _publish(method.student, folder, told)


def _store(plan: Plan, device: torch.device) -> tuple[TensorStore, np.ndarray, np.ndarray]:
    """Return the training images, and the rows of those that are trained on and of those held out.

    All in the manifest's order, as `vqseg.plan.prior_identity` counts them: who of them is labelled must not matter.
    Held out are the images of the last tenth of the patients: by their loss the training can be watched.
    """
    scans = training_scans(plan.manifest, plan.chosen or plan.split)
    patients = list(dict.fromkeys(scan.patient for scan in scans))
    watched = set(patients[len(patients) - max(int(len(patients) * HELD_OUT), 1) :]) if len(patients) > 1 else set()
    size = plan.config.data.size_px if plan.config.data.geometry == "resize" else None
    cache = plan.store / "tensors"
    store = open_store(plan.root, plan.manifest, scans, size_px=size, masks=False, cache=cache, device=device)
    owners = np.repeat([scan.patient in watched for scan in scans], [len(scan.slices) for scan in scans])
    train, held = np.flatnonzero(~owners), np.flatnonzero(owners)
    return store, train, held if len(held) else train


def _moments(store: TensorStore, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and deviation per channel (C,) of the images' own pixels, on the CPU."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for chunk in np.array_split(rows, max(len(rows) // 64, 1)):
        images = store.image(chunk).double().cpu()
        # What pads an image to the canvas is zero: it adds to neither sum and must not be counted.
        count += int(store.sizes[chunk].prod(1).sum()) if store.cropped else images[:, 0].numel()
        total, squares = total + images.sum((0, 2, 3)), squares + images.square().sum((0, 2, 3))
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(1e-6).sqrt().float()


@torch.no_grad()
def _validate(method: MaskedAutoencoder, store: TensorStore, rows: np.ndarray, side: int) -> dict[str, float]:
    """Return the reconstruction loss on held-out images, the same masks every time."""
    method.student.eval()
    views = Views(store, AUGMENT, side)
    losses = []
    for number, chunk in enumerate(np.array_split(rows, max(len(rows) // 64, 1))):
        generator = streams.generator(method.seed, "validation", "geometry", number)
        images = views.take(chunk, views.geometry(chunk, generator), masks=False)[0]
        losses.append(float(method.loss(images, "validation", "mask", number)) * len(chunk))
    return {"val/reconstruction": sum(losses) / len(rows)}


def _publish(model: Any, folder: Path, told: dict[str, Any]) -> None:
    """Write the transformers folder, then ``prior.json``; only then is the checkpoint no longer needed."""
    from transformers import ViTConfig, ViTModel

    staged = folder / ".staged"
    shutil.rmtree(staged, ignore_errors=True)
    encoder = ViTModel(ViTConfig(**shape_config(told["shape"], model.config.image_size)), add_pooling_layer=False)
    encoder.load_state_dict(model.vit.state_dict())
    with quiet():
        encoder.save_pretrained(staged)
    for path in staged.iterdir():
        os.replace(path, folder / path.name)
    staged.rmdir()
    write_json(folder / SETTINGS, told)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
