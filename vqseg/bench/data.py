"""`vqseg bench data`: one step's images (weak and strong views, CutMix) against the training step that eats them.

Limit: one memory copy of all views and one interpolation of the images behind them. Naive: what the field's loaders do
for each image by itself, in scipy and numpy; reading it from its file, which they do for each item too, is left out.
Settings: ``preset`` (cpu).

Source: SSL4MIS, `code/dataloaders/dataset.py` (`RandomGenerator`: rotation and zoom of order 0 by scipy, item by item).
Differs: the same changes as ours are made, with numbers drawn by numpy: interpolation of order 1 for images, intensity
and CutMix of a strong view as `vqseg.augment` has them.

Letters: B images, C channels, P pixels a side.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from vqseg import experiment
from vqseg.bench import machine
from vqseg.bench.growth_step import settings
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row
from vqseg.bench.place import prepared
from vqseg.bench.timing import interleaved, profiled
from vqseg.config import Augment
from vqseg.dataset import Batches
from vqseg.plan import plan
from vqseg.provenance import pick_precision
from vqseg.train import Trainer

# The share of a step in percent that its images may take, on a CPU and on a card.
GOAL = {"cpu": 8, "cuda": 5}
SMALL = (
    "data.size_px=16",
    "network.encoder={name: unet, widths: [4, 8], dropout: [0.0, 0.0]}",
    "network.quantizer={name: mapped, num_codes: 16}",
    "train.labelled_batch=2",
    "train.unlabelled_batch=2",
)


def measure(options: Options) -> Outcome:
    """Time a step's images and a whole step, in turns."""
    options.require_known("preset")
    preset = options.setting("preset", "cpu")
    with prepared(options) as (root, store):
        trainer = _trainer(preset, SMALL if options.quick else (), root, store, options.device)
    batches, steps, random = trainer.batches, itertools.count(), np.random.default_rng(0)
    assert isinstance(batches, Batches)
    limit = _Limit(batches)
    found = interleaved(
        {
            "ours": lambda: batches.at(next(steps)),
            "naive": lambda: naive_batch(batches, random),
            "limit": limit.run,
            "step": trainer.one_step,
        },
        repeats=options.repeats,
        device=options.device,
    )
    own, naive, least, step = (1000 * found[name].median for name in ("ours", "naive", "limit", "step"))
    profile = profiled(lambda: batches.at(next(steps)), options.profile, options.device) if options.profile else ""
    goal = f"<= {GOAL[options.device.type]} %"
    rows = [
        Row(f"images of a step, {preset}", "ms", own, naive, least),
        Row(
            "their share of the step",
            "%",
            100 * own / step,
            100 * naive / (step - own + naive),
            100 * least / (step - own + least),
            goal,
            f"a step takes {step:.4g} ms with ours",
        ),
    ]
    labelled, unlabelled = batches.sizes if batches.unlabelled else (batches.sizes[0], 0)
    known = {"preset": preset, "labelled": labelled, "unlabelled": unlabelled, "views": batches.augment.strong_views}
    side = {"size_px": limit.images.shape[-1], "repeats": options.repeats}
    return Outcome("data", rows, {**known, **side}, machine.describe(options.device, trainer.precision), profile)


def _trainer(preset: str, overrides: tuple[str, ...], root: Path, store: Path, device: torch.device) -> Trainer:
    """Return what makes a step of a preset as a run would, past its warm-up."""
    made = plan(settings(preset, overrides), root=root, split=None, store=store)
    precision = pick_precision(made.config.train.precision, device)
    return experiment.assemble(made, made.folder.path / "checkpoint.pt", device, precision)


class _Limit:
    """What no loader gets around: all views are written, and the images behind them are interpolated once."""

    def __init__(self, batches: Batches) -> None:
        batch = batches.at(0)
        behind = [batch.labelled.image]
        written = [batch.labelled.image]
        if batch.unlabelled is not None:
            behind.append(batch.unlabelled.weak)
            written += [batch.unlabelled.weak, *(view.image for view in batch.unlabelled.strong)]
        self.images, self.views = torch.cat(behind), torch.cat(written)
        theta = torch.eye(2, 3, device=self.images.device).expand(len(self.images), 2, 3)
        self.grid = F.affine_grid(theta, list(self.images.shape), align_corners=False)

    def run(self) -> tuple[Tensor, Tensor]:
        """Copy and interpolate."""
        return self.views.clone(), F.grid_sample(self.images, self.grid, align_corners=False)


def naive_batch(batches: Batches, random: np.random.Generator) -> list[Tensor]:
    """Return images, masks, weak views and strong views of a step, made item by item on the CPU, on the device."""
    settings, store = batches.augment, batches.labelled
    rows = random.choice(len(store), batches.sizes[0])
    images, masks = store.image(rows).cpu().numpy(), store.mask(rows).cpu().numpy()
    pairs = [_moved(image, mask, settings, random) for image, mask in zip(images, masks, strict=True)]
    shown = [_changed(image, settings, random) if settings.labelled_strong else image for image, _ in pairs]
    made = [np.stack(shown), np.stack([mask for _, mask in pairs])]
    if batches.unlabelled is not None:
        rows = random.choice(len(batches.unlabelled), batches.sizes[1])
        weak = [_moved(image, None, settings, random)[0] for image in batches.unlabelled.image(rows).cpu().numpy()]
        made.append(np.stack(weak))
        for _ in range(settings.strong_views):
            strong = [_changed(image, settings, random) for image in weak]
            made.append(np.stack(_mixed(strong, settings, random)))
    return [torch.from_numpy(array).to(store.device) for array in made]


def _moved(
    image: np.ndarray, mask: np.ndarray | None, settings: Augment, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Turn, scale and flip one image (C, P, P) and its mask (P, P)."""
    angle = random.uniform(-settings.rotation_degrees, settings.rotation_degrees)
    scale = random.uniform(*settings.scale_range)
    flips = tuple(axis for axis in (-1, -2) if random.random() < settings.flip_probability)
    quarter = int(random.integers(4)) if random.random() < settings.rotate90_probability else 0
    planes = [*image] if mask is None else [*image, mask]
    found = []
    for number, plane in enumerate(planes):
        order = 1 if number < len(image) else 0
        turned = ndimage.rotate(plane, angle, reshape=False, order=order)
        sized = _fitted(ndimage.zoom(turned, scale, order=order), plane.shape)
        found.append(np.rot90(np.flip(sized, flips), quarter).copy())
    return np.stack(found[: len(image)]), found[-1]


def _fitted(plane: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Cut or pad a plane to ``shape`` about its middle."""
    for axis, target in enumerate(shape):
        surplus = plane.shape[axis] - target
        if surplus > 0:
            plane = np.take(plane, range(surplus // 2, surplus // 2 + target), axis)
        elif surplus < 0:
            before = -surplus // 2
            plane = np.pad(plane, [(before, -surplus - before) if each == axis else (0, 0) for each in range(2)])
    return plane


def _changed(image: np.ndarray, settings: Augment, random: np.random.Generator) -> np.ndarray:
    """Change the intensities of one image (C, P, P)."""
    if random.random() < settings.jitter_probability:
        image = image * (1 + random.uniform(-settings.brightness, settings.brightness))
        mean = image.mean()
        image = (image - mean) * (1 + random.uniform(-settings.contrast, settings.contrast)) + mean
    if random.random() < settings.blur_probability:
        sigma = random.uniform(*settings.blur_sigma_px)
        image = np.stack([ndimage.gaussian_filter(plane, sigma, mode="nearest", truncate=2.5) for plane in image])
    return np.clip(image, 0, 1).astype(np.float32)


def _mixed(images: list[np.ndarray], settings: Augment, random: np.random.Generator) -> list[np.ndarray]:
    """Paste a box from a partner into images (C, P, P), where it is drawn."""
    mixed = [image.copy() for image in images]
    for image, partner in zip(mixed, random.permutation(len(images)), strict=True):
        if random.random() < settings.cutmix_probability:
            height, width = image.shape[-2:]
            area, aspect = random.uniform(0.02, 0.4) * height * width, np.exp(random.uniform(-1.2, 1.2))
            box_h = min(int(np.sqrt(area * aspect)), height)
            box_w = min(int(np.sqrt(area / aspect)), width)
            top, left = random.integers(height - box_h + 1), random.integers(width - box_w + 1)
            box = np.s_[:, top : top + box_h, left : left + box_w]
            image[box] = images[int(partner)][box]
    return mixed
