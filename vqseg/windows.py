"""Sliding windows: images of any size through a network of one size, logits averaged where windows overlap.

Letters: S images, C channels, H x W pixels, K classes, B windows of a pass.
Source: VQ-Seg's release, `test.py` (zero padding at the right and bottom, windows side by side).
Differs: windows may overlap here; the release's own evaluation is ``stride`` = ``side``.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def windowed(predict: Callable[[Tensor], Tensor], images: Tensor, side: int, stride: int, *, batch: int = 16) -> Tensor:
    """Return the mean logits (S, K, H, W) of all windows of ``side`` x ``side`` pixels, one every ``stride`` pixels.

    Images (S, C, H, W) are padded with zeros at the right and bottom to a whole number of windows; the padding is
    cut off again. ``batch`` windows go through ``predict`` at once: (B, C, side, side) -> (B, K, side, side).
    """
    height, width = images.shape[-2:]
    padded, places = _padded(images, side, stride)
    jobs = [(image, top, left) for image in range(len(images)) for top, left in places]
    count = padded.new_zeros(padded.shape[-2:])
    for top, left in places:
        count[top : top + side, left : left + side] += 1
    total: Tensor | None = None
    for start in range(0, len(jobs), batch):
        chosen = jobs[start : start + batch]
        logits = predict(torch.stack([padded[i, :, y : y + side, x : x + side] for i, y, x in chosen])).float()
        if total is None:
            total = logits.new_zeros((len(images), logits.shape[1], *padded.shape[-2:]))
        for (image, top, left), each in zip(chosen, logits, strict=True):
            total[image, :, top : top + side, left : left + side] += each
    assert total is not None
    return total.div_(count)[..., :height, :width]


def cut(images: Tensor, side: int, stride: int) -> Tensor:
    """Return the windows of `windowed`, image by image: (S, C, H, W) -> (S x windows, C, side, side)."""
    padded, places = _padded(images, side, stride)
    return torch.stack([image[:, y : y + side, x : x + side] for image in padded for y, x in places])


def groups(count: int, shape: tuple[int, ...], side: int, batch: int) -> Iterator[slice]:
    """Yield runs of ``count`` slices of ``shape`` pixels, each no larger than ``batch`` windows (but one slice).

    So the logits of a run, K planes per slice, take no more memory than those of a pass of the network.
    """
    step = max(batch * side**2 // (shape[0] * shape[1]), 1)
    for start in range(0, count, step):
        yield slice(start, start + step)


def _padded(images: Tensor, side: int, stride: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return the padded images and where windows begin: (top, left)."""
    height, width = images.shape[-2:]
    rows, columns = _starts(height, side, stride), _starts(width, side, stride)
    right, bottom = max(columns[-1] + side - width, 0), max(rows[-1] + side - height, 0)
    return F.pad(images, (0, right, 0, bottom)), [(top, left) for top in rows for left in columns]


def _starts(length: int, side: int, stride: int) -> list[int]:
    """Return where windows begin so that they cover ``length``."""
    count = max(-(-(length - side) // stride), 0) + 1
    return [stride * number for number in range(count)]
