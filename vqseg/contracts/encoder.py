"""The contract of an encoder: images (B, C, H, W) in 0-1 -> feature maps, finest first; the last one is quantized."""

import itertools
from typing import Any

import torch
from torch import Tensor

from vqseg.contracts import module
from vqseg.contracts.promise import FIRST, backward, expect, refuses
from vqseg.parts import Part

IMAGES, CHANNELS, NORM = 2, 1, "batch"
# Pixels that the smallest image of a check has at least: what batch norm averages over must be more than one cell.
LEAST_SIDE = 16


def is_built(part: Part) -> None:
    """From the images' channels and the kind of norm; it states its maps."""
    module.is_built(part, CHANNELS, NORM)
    encoder = part.build(CHANNELS, NORM)
    for name in ("dims", "strides", "stride"):
        stated = getattr(encoder, name, None)
        expect(stated, f"an attribute {name!r}", stated, "state dims and strides of all maps, finest first, and stride")
    alike = len(encoder.dims) == len(encoder.strides) and list(encoder.strides) == sorted(encoder.strides)
    expect(alike, "one stride per dim, finest first", (encoder.dims, encoder.strides), "order them as forward does")


def gives_the_maps_it_states(part: Part) -> None:
    """For grey and color images, both norms, and images that are no squares."""
    for channels, norm in itertools.product((1, 3), ("batch", "group")):
        encoder = module.built(part, channels, norm)
        images = _images(encoder, channels)
        maps = encoder(images)
        height, width = images.shape[-2:]
        wanted = [
            (IMAGES, dim, height // stride, width // stride)
            for dim, stride in zip(encoder.dims, encoder.strides, strict=True)
        ]
        found = [tuple(each.shape) for each in maps]
        mend = "return one map per entry of dims, of height / stride by width / stride cells"
        expect(found == wanted, f"maps of {wanted} from images of {tuple(images.shape)}", found, mend)


def learns(part: Part) -> None:
    """All maps together reach every trainable parameter."""
    encoder = module.built(part, CHANNELS, NORM).train()
    if any(value.requires_grad for value in encoder.parameters()):
        mend = "compute forward without detach or no_grad, or set requires_grad False"
        backward(encoder(_images(encoder)), "maps", mend)
        module.gradients_arrive(encoder)


def repeats(part: Part) -> None:
    """In evaluation it is a function of one image."""
    encoder = module.built(part, CHANNELS, NORM).eval()
    images = _images(encoder)
    with torch.no_grad():
        both, again, alone = encoder(images)[-1], encoder(images)[-1], encoder(images[:1])[-1]
    expect(torch.equal(both, again), "the same maps for the same images", "others", "draw nothing in evaluation")
    mend = "mix no images of a batch in evaluation"
    expect(torch.allclose(both[:1], alone, atol=1e-4), "the maps of an image alone as in a batch", "others", mend)


def refuses_other_sizes(part: Part) -> None:
    """Or maps and masks would not fit each other."""
    encoder = module.built(part, CHANNELS, NORM)
    side = _side(encoder) + 1
    if side % encoder.stride:
        refuses(
            lambda: encoder(torch.rand(IMAGES, CHANNELS, side, side)),
            f"images of {side} px where stride is {encoder.stride}",
            "compare the sides with self.stride, or state the stride that it really needs",
        )


def starts_from_the_seed(part: Part) -> None:
    """As `module.starts_from_the_seed`."""
    module.starts_from_the_seed(part, CHANNELS, NORM)


def is_saved_and_copied(part: Part) -> None:
    """As `module.is_saved_and_copied`."""
    module.is_saved_and_copied(part, CHANNELS, NORM)


def _side(encoder: Any) -> int:
    stride = int(encoder.stride)
    return stride * max(2, -(-LEAST_SIDE // stride))


def _images(encoder: Any, channels: int = CHANNELS) -> Tensor:
    height = _side(encoder)
    shape = (IMAGES, channels, height, height + int(encoder.stride))
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


CHECKS = {
    FIRST: is_built,
    "gives the maps that it states": gives_the_maps_it_states,
    "every parameter learns": learns,
    "the same image gives the same maps": repeats,
    "images of another size raise": refuses_other_sizes,
    "starts from the seed alone": starts_from_the_seed,
    "is saved, loaded and copied": is_saved_and_copied,
}
