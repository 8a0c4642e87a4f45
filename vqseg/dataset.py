"""From a prepared folder to batches: one tensor store per part, sampled by a stateless order, augmented whole.

Letters: M images of a part, B images of a batch, C channels, P = size_px pixels a side, n neighbouring slices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vqseg import streams
from vqseg.augment import (
    CutMix,
    Intensity,
    apply_geometry,
    apply_intensity,
    draw_crop,
    draw_cutmix,
    draw_geometry,
    draw_intensity,
    inside,
)
from vqseg.config import Augment
from vqseg.errors import InputError
from vqseg.losses import IGNORE
from vqseg.store import TensorStore
from vqseg.upload import upload


@dataclass(frozen=True)
class Labelled:
    """Images (B, C, P, P) in 0-1 and their masks (B, P, P), `IGNORE` where a crop left the image.

    ``rows`` are the images' places in their part if the views are the stored images themselves, else None.
    """

    image: Tensor
    mask: Tensor
    rows: Tensor | None = None


@dataclass(frozen=True)
class Strong:
    """A strong view (B, C, P, P), CutMix done, and the mix to repeat on its pseudo-labels."""

    image: Tensor
    mix: CutMix


@dataclass(frozen=True)
class Unlabelled:
    """Weak views (B, C, P, P), strong views of the same crops, and the pixels (B, P, P) that lie in the image.

    ``there`` is None if all do; ``rows`` as in `Labelled`, for the weak views.
    """

    weak: Tensor
    strong: list[Strong]
    there: Tensor | None = None
    rows: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """One step's images; ``unlabelled`` is None where a method asks for none."""

    labelled: Labelled
    unlabelled: Unlabelled | None


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


class Views:
    """Makes views of stored images: a batch of rows and a generator in, tensors at the input size out."""

    def __init__(self, store: TensorStore, augment: Augment, size_px: int) -> None:
        self.store, self.augment, self.size_px = store, augment, size_px
        turns = (augment.flip_probability, augment.flip_vertical_probability or 0, augment.rotate90_probability)
        moved = (*turns, augment.rotation_degrees)
        # The stored images themselves: what a frozen network sees of them can be kept.
        self.still = not store.cropped and not any(moved) and augment.scale_range == (1.0, 1.0)

    def geometry(self, rows: np.ndarray, generator: torch.Generator, *, points: Tensor | None = None) -> Tensor:
        """Draw where the views lie: maps to the store's coordinates (B, 2, 3); ``points`` as `draw_crop` takes them."""
        theta = draw_geometry(self.augment, len(rows), generator)
        if not self.store.cropped:
            return theta
        sizes, canvas = self.store.sizes[rows], self.store.canvas
        return draw_crop(theta, sizes, canvas, self.size_px, generator, points=points)

    def take(self, rows: np.ndarray, theta: Tensor, *, masks: bool) -> tuple[Tensor, Tensor | None]:
        """Return the views (B, C, P, P) and, if asked for, their masks (B, P, P)."""
        side = self.size_px if self.store.cropped else None
        return apply_geometry(theta, self.store.image(rows), self.store.mask(rows) if masks else None, side)

    def there(self, rows: np.ndarray, theta: Tensor) -> Tensor | None:
        """Return which pixels of crops lie in their image, bool (B, P, P) on the device; None: views are no crops."""
        if not self.store.cropped:
            return None
        lying = inside(theta, self.store.sizes[rows], self.store.canvas, self.size_px)
        return upload(lying, self.store.device)

    def strong(self, weak: Tensor, generator: torch.Generator) -> Strong:
        """Return a strong view of weak views (B, C, P, P)."""
        count, (height, width) = len(weak), weak.shape[-2:]
        changed = apply_intensity(self.intensity(count, generator), weak)
        mix = draw_cutmix(self.augment, count, (height, width), generator, device=weak.device)
        return Strong(mix.mix(changed), mix)

    def intensity(self, count: int, generator: torch.Generator) -> Intensity:
        """Draw the intensities of ``count`` views."""
        return draw_intensity(self.augment, count, generator, color=self.store.color)

    def numbers(self, rows: np.ndarray) -> Tensor | None:
        """Return ``rows`` on the device if the views are the stored images themselves."""
        return upload(torch.from_numpy(rows), self.store.device) if self.still else None


class Batches:
    """Batches by step number: the same (seed, step) gives the same batch, whatever came before."""

    def __init__(
        self,
        labelled: TensorStore,
        unlabelled: TensorStore | None,
        *,
        augment: Augment,
        size_px: int,
        sizes: tuple[int, int],
        seed: int,
        foreground_share: float = 0.0,
        foreground: Sequence[int] = (),
    ) -> None:
        self.labelled, self.unlabelled, self.augment, self.sizes, self.seed = labelled, unlabelled, augment, sizes, seed
        self._labelled_views = Views(labelled, augment, size_px)
        self._labelled_order = Order(len(labelled), seed, "labelled")
        self._least = math.ceil(foreground_share * sizes[0])
        self._wanted = tuple(foreground)
        self._foreground = labelled.showing(self._wanted) if self._least else np.zeros(0, bool)
        if self._least and not self._foreground.any():
            raise InputError(
                "data.foreground_share: no labelled image as it is stored shows what it asks for; resizing may have"
                " lost it: set a larger data.size_px, or data.geometry=crop"
            )
        self._foreground_order = Order(max(int(self._foreground.sum()), 1), seed, "foreground")
        self._unlabelled_views = Views(unlabelled, augment, size_px) if unlabelled is not None else None
        self._unlabelled_order = Order(len(unlabelled), seed, "unlabelled") if unlabelled is not None else None

    def at(self, step: int) -> Batch:
        """Return the batch of a step."""
        rows = self._labelled_rows(step)
        labelled = self._labelled(rows, step, self._points(rows, step))
        if self._unlabelled_order is None:
            return Batch(labelled, None)
        return Batch(labelled, self._unlabelled(self._unlabelled_order.rows(step, self.sizes[1]), step))

    def _labelled_rows(self, step: int) -> np.ndarray:
        """Return the rows of a step, with foreground in place of background until there is enough of it."""
        rows = self._labelled_order.rows(step, self.sizes[0])
        if not self._least:
            return rows
        empty = np.flatnonzero(~self._foreground[rows])
        lacking = max(self._least - (len(rows) - len(empty)), 0)
        if lacking:
            drawn = np.flatnonzero(self._foreground)[self._foreground_order.rows(step, self._least)]
            rows[empty[len(empty) - lacking :]] = drawn[:lacking]
        return rows

    def _points(self, rows: np.ndarray, step: int) -> Tensor | None:
        """Return for the last rows that show foreground, as many as are asked for, a pixel (x, y) of it; else NaN."""
        if not (self.labelled.cropped and self._least):
            return None
        u = torch.rand(len(rows), generator=streams.generator(self.seed, "data", "foreground-pixel", step))
        points = torch.full((len(rows), 2), torch.nan)
        for place in np.flatnonzero(self._foreground[rows])[-self._least :].tolist():
            row, column = self.labelled.pixel(int(rows[place]), self._wanted, float(u[place]))
            points[place] = torch.tensor([column + 0.5, row + 0.5])
        return points

    def _labelled(self, rows: np.ndarray, step: int, points: Tensor | None) -> Labelled:
        generator = streams.generator(self.seed, "augmentation", "labelled", step)
        views = self._labelled_views
        theta = views.geometry(rows, generator, points=points)
        image, mask = views.take(rows, theta, masks=True)
        assert mask is not None
        there = views.there(rows, theta)
        if there is not None:
            mask = mask.where(there, IGNORE)
        if self.augment.labelled_strong:
            image = apply_intensity(views.intensity(len(rows), generator), image)
        return Labelled(image, mask, None if self.augment.labelled_strong else views.numbers(rows))

    def _unlabelled(self, rows: np.ndarray, step: int) -> Unlabelled:
        views = self._unlabelled_views
        assert views is not None
        generator = streams.generator(self.seed, "augmentation", "unlabelled", step)
        theta = views.geometry(rows, generator)
        weak, _ = views.take(rows, theta, masks=False)
        strong = [views.strong(weak, generator) for _ in range(self.augment.strong_views)]
        return Unlabelled(weak, strong, views.there(rows, theta), views.numbers(rows))
