"""The contract of a prior: a frozen module, images (B, C, H, W) in 0-1 and a grid -> features (B, D, h', w')."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vqseg.contracts.promise import FIRST, expect, same
from vqseg.parts import Part

IMAGES, SIDE, GRID = 2, 32, (4, 6)
TOLERANCE = 1e-4


def is_built(part: Part) -> None:
    """From the images' channels; it states its features' width and its patch."""
    for channels in (1, 3):
        prior = part.build(channels)
        expect(isinstance(prior, nn.Module), "a torch.nn.Module", type(prior).__name__, "derive it from nn.Module")
        for name in ("dim", "patch"):
            stated = getattr(prior, name, None)
            whole = isinstance(stated, int) and stated > 0
            expect(whole, f"an attribute {name!r}, a positive whole number", stated, f"set self.{name}")


def is_frozen(part: Part) -> None:
    """Nothing of it is trained, and it is in evaluation mode."""
    prior = part.build(1)
    trained = [name for name, value in prior.named_parameters() if value.requires_grad]
    expect(not trained, "no trainable parameter", trained[:3], "end the constructor with self.requires_grad_(False)")
    expect(not prior.training, "evaluation mode", "training mode", "end the constructor with self.eval()")


def gives_features(part: Part) -> None:
    """Of its width, for grey and color images; they are wide, so that a map has more columns than rows, or as many."""
    for channels in (1, 3):
        prior = part.build(channels)
        found = prior(_images(prior, channels), GRID)
        fine = isinstance(found, Tensor) and found.ndim == 4 and tuple(found.shape[:2]) == (IMAGES, prior.dim)
        seen = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        expect(fine, f"features of shape ({IMAGES}, {prior.dim}, h', w')", seen, "return a map of features")
        wide = found.shape[2] <= found.shape[3]
        expect(wide, "rows before columns in features of a wide image", seen, "return (B, D, h', w'), h' of the height")
        expect(torch.isfinite(found).all(), "finite features", "others", "look at the scale of the input")
        expect(not found.requires_grad, "features without a gradient", "one", "compute under torch.no_grad()")


def repeats(part: Part) -> None:
    """It is a function of the image, and leaves it alone."""
    prior = part.build(1)
    images = _images(prior)
    before = images.clone()
    found = [prior(images, GRID) for _ in range(2)]
    expect(same(*found), "the same features for the same images", "others", "draw nothing in forward")
    expect(torch.equal(images, before), "the images as they were", "a change in place", "work on new tensors")
    alone = torch.allclose(prior(images[:1], GRID), found[0][:1], atol=TOLERANCE)
    expect(alone, "the features of an image alone as in a batch", "others", "mix no images of a batch")


def is_the_same_again(part: Part) -> None:
    """Built again, whatever the global generators are at: a run that is resumed or scored builds it anew."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global state is what is checked
        random.seed(seed)
        prior = part.build(1)
        found.append(prior(_images(prior), GRID))
    mend = "load its weights from a file, or draw them from a torch.Generator with a seed of its own"
    expect(same(*found), "the same features from two that are built alike", "others", mend)


def keeps_places(part: Part) -> None:
    """What changes at the top right of an image changes features there no less than those at the bottom left."""
    prior = part.build(1)
    images = _images(prior)
    other = images.clone()
    (height, width), generator = images.shape[-2:], torch.Generator().manual_seed(2)
    corner = other[..., : height // 2, width // 2 :]
    corner.copy_(torch.rand(corner.shape, generator=generator))
    away = (prior(other, GRID) - prior(images, GRID)).square().sum((0, 1))
    rows, columns = (max(side // 2, 1) for side in away.shape)
    there, opposite = away[:rows, -columns:].mean(), away[-rows:, :columns].mean()
    mend = "return features in the order of the image's rows and columns; flat tokens unflatten to (h', w')"
    expect(there >= opposite, "a change of the image's top right in the features' top right", "it elsewhere", mend)


def _images(prior: Any, channels: int = 1) -> Tensor:
    """Return wide images of whole patches."""
    rows = max(GRID[0], -(-SIDE // prior.patch))
    shape = (IMAGES, channels, rows * prior.patch, rows * GRID[1] // GRID[0] * prior.patch)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


CHECKS = {
    FIRST: is_built,
    "is frozen": is_frozen,
    "gives features of its width": gives_features,
    "the same images give the same features": repeats,
    "built again it is the same": is_the_same_again,
    "features lie where the image has them": keeps_places,
}
