"""The contract of a prior: a frozen module, images (B, C, H, W) in 0-1 and a grid -> features (B, D, h', w')."""

import torch
from torch import Tensor, nn

from vqseg.contracts.promise import FIRST, expect, same
from vqseg.parts import Part

IMAGES, SIDE, GRID = 2, 32, (4, 4)


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
    """Of its width, for grey and color images."""
    for channels in (1, 3):
        prior = part.build(channels)
        found = prior(_images(channels), GRID)
        fine = isinstance(found, Tensor) and found.ndim == 4 and tuple(found.shape[:2]) == (IMAGES, prior.dim)
        seen = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        expect(fine, f"features of shape ({IMAGES}, {prior.dim}, h', w')", seen, "return a map of features")
        expect(torch.isfinite(found).all(), "finite features", "others", "look at the scale of the input")
        expect(not found.requires_grad, "features without a gradient", "one", "compute under torch.no_grad()")


def repeats(part: Part) -> None:
    """It is a function of the image, and leaves it alone."""
    prior, images = part.build(1), _images(1)
    before = images.clone()
    found = [prior(images, GRID) for _ in range(2)]
    expect(same(*found), "the same features for the same images", "others", "draw nothing in forward")
    expect(torch.equal(images, before), "the images as they were", "a change in place", "work on new tensors")


def _images(channels: int) -> Tensor:
    return torch.rand(IMAGES, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


CHECKS = {
    FIRST: is_built,
    "is frozen": is_frozen,
    "gives features of its width": gives_features,
    "the same images give the same features": repeats,
}
