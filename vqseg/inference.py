"""From a network to label maps: how slices reach it and labels come back, one row of `GEOMETRIES` per way.

Importing this loads no torch, so that rows can be scored without it.

Letters: S slices, H x W pixels, C channels, K classes (0 is background), n neighboring slices, B images of a pass,
h x w network grid.

Source: SSL4MIS `code/val_2D.py` (`zoom0-256`); UniMatch `more-scenarios/medical/unimatch.py` (`bilinear-256`);
VQ-Seg's release, `test.py` (`tiles-224`).
Differs: a framework's "nearest" takes other pixels than scipy's zoom of order 0 (on 20 scans a round trip through
256 pixels keeps .927 Dice with torch's `nearest`, .9993 with scipy's or `nearest-exact`), so `zoom0` is scipy's.
Images come from a store of 8 or 16 bits, where SSL4MIS and UniMatch read floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from scipy.ndimage import zoom

from vqseg.errors import pick

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Predict = Callable[[Tensor], Tensor]


class Recipe(NamedTuple):
    """What a network was trained on: whole slices resized to ``size_px``, or crops of that size, of ``context`` slices.

    ``context`` neighboring slices are the channels of one input (`vqseg.store.with_context`).
    """

    size_px: int
    geometry: Literal["resize", "crop"] = "resize"
    context: int = 1


class Pass(NamedTuple):
    """What a geometry is given beside the slices: the network, its recipe, where it computes, B images at once."""

    predict: Predict
    recipe: Recipe
    device: torch.device | str
    batch: int


def _native(run: Pass, slices: np.ndarray) -> np.ndarray:
    """The recipe's own: slices resized and bilinear logits back, or overlapping windows, half a window apart."""
    from vqseg.store import to_input

    side = run.recipe.size_px
    if run.recipe.geometry == "crop":
        return _windows(run, slices, side, max(side // 2, 1))
    return _back(run.predict(to_input(slices, side).to(run.device)), slices.shape[1:3])


def _zoom0_256(run: Pass, slices: np.ndarray) -> np.ndarray:
    """To 256 x 256 pixels and labels back, both as scipy's zoom of order 0."""
    from vqseg.store import to_input

    labels = run.predict(to_input(zoom0(slices, (256, 256)), 256).to(run.device)).argmax(1).byte().cpu().numpy()
    return zoom0(labels, slices.shape[1:3])


def _bilinear_256(run: Pass, slices: np.ndarray) -> np.ndarray:
    """To 256 x 256 pixels without antialiasing and logits back, both bilinear."""
    from torch.nn import functional

    from vqseg.store import to_unit

    images = to_unit(slices).to(run.device)
    small = functional.interpolate(images, (256, 256), mode="bilinear", align_corners=False)
    return _back(run.predict(small), slices.shape[1:3])


def _tiles_224(run: Pass, slices: np.ndarray) -> np.ndarray:
    """Native slices in tiles of 224 pixels side by side, padded with zeros."""
    return _windows(run, slices, 224, 224)


def _back(logits: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """(S, K, h, w) -> class indices (S, H, W), by bilinear logits on the native grid."""
    import torch
    from torch.nn import functional

    # One image at a time: K full-size planes of a whole batch of photographs would not fit.
    full = (functional.interpolate(e, shape, mode="bilinear", align_corners=False) for e in logits.float().split(1))
    labels: np.ndarray = torch.cat([each.argmax(1).byte() for each in full]).cpu().numpy()
    return labels


def _windows(run: Pass, slices: np.ndarray, side: int, stride: int) -> np.ndarray:
    from vqseg.store import to_unit
    from vqseg.windows import groups, windowed

    labels = []
    for group in groups(len(slices), slices.shape[1:3], side, run.batch):
        images = to_unit(slices[group]).to(run.device)
        labels.append(windowed(run.predict, images, side, stride, batch=run.batch).argmax(1).byte().cpu().numpy())
    return np.concatenate(labels)


def zoom0(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return (S, H, W[, C]) on another grid of H x W, slice by slice what `scipy.ndimage.zoom` of order 0 gives.

    That includes its quirk: where rounding puts the last coordinate outside, the last line is 0.
    """
    rows, columns = (
        zoom(np.arange(side), target / side, order=0, cval=-1) for side, target in zip(volume.shape[1:3], shape)
    )
    padded = np.pad(volume, [(0, 0), (0, 1), (0, 1), (0, 0)][: volume.ndim])  # index -1 finds the zeros
    return padded[:, rows][:, :, columns]


class Geometry(NamedTuple):
    """How slices reach the network and labels come back: (S, H, W[, C]) -> (S, H, W).

    ``side`` is that of the network's input and ``kind`` how slices come to it; None: as the recipe says.
    """

    segment: Callable[[Pass, np.ndarray], np.ndarray]
    side: int | None = None
    kind: Literal["resize", "crop"] | None = None

    def own(self, recipe: Recipe) -> bool:
        """Whether the network sees images of the size and kind that it was trained on."""
        return self.side is None or (self.side, self.kind) == (recipe.size_px, recipe.geometry)


GEOMETRIES: Mapping[str, Geometry] = {
    "native": Geometry(_native),
    "zoom0-256": Geometry(_zoom0_256, 256, "resize"),
    "bilinear-256": Geometry(_bilinear_256, 256, "resize"),
    "tiles-224": Geometry(_tiles_224, 224, "crop"),
}


def label_map(
    predict: Predict,
    volume: np.ndarray,
    geometry: str,
    recipe: Recipe,
    device: torch.device | str = "cpu",
    batch: int = 16,
) -> np.ndarray:
    """Segment one volume.

    Args:
        predict: images float (B, n C, h, w) in 0-1 -> logits (B, K, h, w); must be in evaluation mode.
        volume: uint8 or uint16 (S, H, W) or (S, H, W, C), all slices of the scan.
        geometry: a row of `GEOMETRIES`.
        recipe: what the network was trained on.
        device: where ``predict`` computes, ``batch`` slices or windows per pass.

    Returns:
        Class indices uint8 (S, H, W).

    Raises:
        InputError: unknown geometry.
    """
    import torch

    from vqseg.store import with_context

    segment = GEOMETRIES[pick(geometry, GEOMETRIES, "geometry")].segment
    slices = with_context(volume, recipe.context)
    run = Pass(predict, recipe, device, batch)
    with torch.no_grad():
        return np.concatenate([segment(run, part) for part in np.split(slices, range(batch, len(slices), batch))])
