"""Sliding windows: images of any size through a network of one size, logits averaged where windows overlap.

Letters: S images, C channels, H x W pixels, K classes.
Source: VQ-Seg's release, `test.py` (zero padding at the right and bottom, windows side by side).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def windowed(predict: Callable[[Tensor], Tensor], images: Tensor, side: int, stride: int) -> Tensor:
    """Return the mean logits (S, K, H, W) of all windows of ``side`` x ``side`` pixels, one every ``stride`` pixels.

    Images (S, C, H, W) are padded with zeros at the right and bottom to a whole number of windows; the padding is
    cut off again.
    """
    height, width = images.shape[-2:]
    rows, columns = _starts(height, side, stride), _starts(width, side, stride)
    padded = F.pad(images, (0, max(columns[-1] + side - width, 0), 0, max(rows[-1] + side - height, 0)))
    total: Tensor | None = None
    count = padded.new_zeros(padded.shape[-2:])
    for top in rows:
        for left in columns:
            logits = predict(padded[..., top : top + side, left : left + side]).float()
            if total is None:
                total = logits.new_zeros((len(images), logits.shape[1], *padded.shape[-2:]))
            total[..., top : top + side, left : left + side] += logits
            count[top : top + side, left : left + side] += 1
    assert total is not None
    return (total / count)[..., :height, :width]


def _starts(length: int, side: int, stride: int) -> list[int]:
    """Return where windows begin so that they cover ``length``."""
    count = max(-(-(length - side) // stride), 0) + 1
    return torch.arange(count).mul(stride).tolist()
