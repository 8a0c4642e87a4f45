"""From a prepared folder to batches: one tensor store per part, sampled by a stateless order, augmented whole.

Letters: M images of a part, B images of a batch, C channels, P = size_px pixels a side.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from vqseg import streams
from vqseg.augment import (
    CutMix,
    apply_geometry,
    apply_intensity,
    draw_cutmix,
    draw_geometry,
    draw_intensity,
)
from vqseg.config import Augment
from vqseg.files import digest, replacing
from vqseg.identity import module_hash
from vqseg.manifest import Manifest, Scan, read_image, read_mask
from vqseg.upload import upload

# Share of the free memory that a store may take before it stays on disk, memory-mapped.
MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class Labelled:
    """Images (B, C, P, P) in 0-1 and their masks (B, P, P)."""

    image: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Unlabelled:
    """Weak views, strong views of the same crops (CutMix done), and the mix to repeat on their pseudo-labels."""

    weak: Tensor
    strong: Tensor
    mix: CutMix


@dataclass(frozen=True)
class Batch:
    """One step's images; ``unlabelled`` is None where a method asks for none."""

    labelled: Labelled
    unlabelled: Unlabelled | None


def to_input(volume: np.ndarray, size_px: int) -> Tensor:
    """Slices uint8 (S, H, W[, 3]) -> (S, C, P, P) float in 0-1, bilinear with antialiasing."""
    slices = torch.from_numpy(np.ascontiguousarray(volume)).float().div_(255)
    slices = slices[:, None] if slices.ndim == 3 else slices.movedim(-1, 1)
    return F.interpolate(slices, size=(size_px, size_px), mode="bilinear", antialias=True, align_corners=False)


def mask_to_input(mask: np.ndarray, size_px: int) -> Tensor:
    """Masks uint8 (S, H, W) -> (S, P, P), nearest pixel centre."""
    slices = torch.from_numpy(np.ascontiguousarray(mask))[:, None]
    return F.interpolate(slices, size=(size_px, size_px), mode="nearest-exact")[:, 0]


class TensorStore:
    """All images of some scans at the input size, uint8, on ``device`` or memory-mapped where they do not fit."""

    def __init__(self, images: np.ndarray, masks: np.ndarray | None, device: torch.device) -> None:
        self.device, self.count = device, len(images)
        held = _fits(images.nbytes + (0 if masks is None else masks.nbytes), device)
        self.images: Tensor | np.ndarray = torch.from_numpy(np.array(images)).to(device) if held else images
        self.masks: Tensor | np.ndarray | None = masks
        if held and masks is not None:
            self.masks = torch.from_numpy(np.array(masks)).to(device)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.count

    def image(self, rows: np.ndarray) -> Tensor:
        """Return images (B, C, P, P) in 0-1 on the device."""
        return self._take(self.images, rows).float().div_(255)

    def mask(self, rows: np.ndarray) -> Tensor:
        """Return masks (B, P, P) on the device.

        Raises:
            ValueError: the store was made without masks.
        """
        if self.masks is None:
            raise ValueError("this store was made without masks")
        return self._take(self.masks, rows).long()

    def _take(self, source: Tensor | np.ndarray, rows: np.ndarray) -> Tensor:
        if isinstance(source, np.ndarray):
            return upload(torch.from_numpy(source[rows]), self.device)
        return source[upload(torch.from_numpy(rows), self.device)]


def open_store(
    root: Path,
    manifest: Manifest,
    scans: Sequence[Scan],
    *,
    size_px: int,
    masks: bool,
    cache: Path,
    device: torch.device,
) -> TensorStore:
    """Open the store of ``scans``, made once below ``cache`` (memory-mappable .npy files, written atomically)."""
    content = [[scan.image_sha256, scan.mask_sha256 if masks else None] for scan in scans]
    folder = cache / digest([content, size_px, manifest.channels, module_hash(__name__)])
    _make(folder / "images.npy", lambda scan: (to_input(read_image(root, scan), size_px) * 255).round().byte(), scans)
    if masks:
        _make(folder / "masks.npy", lambda scan: mask_to_input(read_mask(root, scan), size_px), scans)
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return TensorStore(images, np.load(folder / "masks.npy", mmap_mode="r") if masks else None, device)


class Order:
    """An endless sequence of epochs, each a permutation of ``count`` rows: a function of (seed, purpose, position)."""

    def __init__(self, count: int, seed: int, purpose: str) -> None:
        self.count, self.seed, self.purpose = count, seed, purpose
        self._epochs: dict[int, np.ndarray] = {}

    def rows(self, step: int, batch: int) -> np.ndarray:
        """Return the rows (B,) of a step."""
        positions = np.arange(step * batch, (step + 1) * batch)
        epochs = positions // self.count
        self._epochs = {epoch: self._epoch(epoch) for epoch in np.unique(epochs).tolist()}
        return np.array([self._epochs[int(epoch)][p % self.count] for epoch, p in zip(epochs, positions, strict=True)])

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch in self._epochs:
            return self._epochs[epoch]
        generator = streams.generator(self.seed, "data", self.purpose, epoch)
        return torch.randperm(self.count, generator=generator).numpy()


class Batches:
    """Batches by step number: the same (seed, step) gives the same batch, whatever came before."""

    def __init__(
        self,
        labelled: TensorStore,
        unlabelled: TensorStore | None,
        *,
        augment: Augment,
        sizes: tuple[int, int],
        seed: int,
    ) -> None:
        self.labelled, self.unlabelled, self.augment, self.sizes, self.seed = labelled, unlabelled, augment, sizes, seed
        self._labelled_order = Order(len(labelled), seed, "labelled")
        self._unlabelled_order = Order(len(unlabelled), seed, "unlabelled") if unlabelled is not None else None

    def at(self, step: int) -> Batch:
        """Return the batch of a step."""
        labelled = self._labelled(self._labelled_order.rows(step, self.sizes[0]), step)
        if self.unlabelled is None or self._unlabelled_order is None:
            return Batch(labelled, None)
        rows = self._unlabelled_order.rows(step, self.sizes[1])
        return Batch(labelled, self._unlabelled(self.unlabelled.image(rows), step))

    def _labelled(self, rows: np.ndarray, step: int) -> Labelled:
        generator = streams.generator(self.seed, "augmentation", "labelled", step)
        theta = draw_geometry(self.augment, len(rows), generator)
        image, mask = apply_geometry(theta, self.labelled.image(rows), self.labelled.mask(rows))
        if self.augment.labelled_strong:
            image = apply_intensity(draw_intensity(self.augment, len(rows), generator), image)
        assert mask is not None
        return Labelled(image, mask)

    def _unlabelled(self, images: Tensor, step: int) -> Unlabelled:
        generator = streams.generator(self.seed, "augmentation", "unlabelled", step)
        count, (height, width) = len(images), images.shape[-2:]
        weak, _ = apply_geometry(draw_geometry(self.augment, count, generator), images, None)
        strong = apply_intensity(draw_intensity(self.augment, count, generator), weak)
        drawn = draw_cutmix(self.augment, count, (height, width), generator)
        mix = CutMix(upload(drawn.box, images.device), upload(drawn.partner, images.device))
        return Unlabelled(weak, mix.mix(strong), mix)


def _make(path: Path, convert: Callable[[Scan], Tensor], scans: Sequence[Scan]) -> None:
    if path.is_file():
        return
    stacked = np.concatenate([convert(scan).numpy() for scan in scans])
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, stacked, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _fits(size: int, device: torch.device) -> bool:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return size <= free * MEMORY_SHARE
