"""The contract of a decoder: the coarsest map and the finer ones -> (B, out_channels, H, W)."""

import torch
from torch import Tensor, nn

from vqseg.contracts import module
from vqseg.contracts.promise import FIRST, backward, expect, same
from vqseg.parts import Part

IMAGES, OUT = 2, 3
# (dims, strides) of a U-Net, of a pyramid whose finest map is coarser than the image, and of equal grids.
PYRAMIDS = (
    ((4, 8, 12), (1, 2, 4)),
    ((4, 8, 12, 16), (4, 8, 16, 32)),
    ((8, 8, 8, 8), (8, 8, 8, 8)),
    ((8, 8, 8, 8), (14, 14, 14, 14)),
)
Pyramid = tuple[tuple[int, ...], tuple[int, ...]]


def is_built(part: Part) -> None:
    """From the encoder's dims and strides; it may refuse some, with a ValueError that says which it takes."""
    dims, strides = _pyramid(part)
    module.is_built(part, dims, strides, OUT, "batch", True)


def gives_full_resolution(part: Part) -> None:
    """With and without the finer maps, both norms."""
    for skips in (True, False):
        for norm in ("batch", "group"):
            decoder, maps, side = _wired(part, skips, norm)
            found, wanted = tuple(decoder(maps[-1], maps[:-1]).shape), (IMAGES, OUT, *side)
            expect(found == wanted, f"{wanted} from maps of strides {_pyramid(part)[1]}", found, "return full images")


def without_skips_sees_codes_alone(part: Part) -> None:
    """Or the image decoder could copy the image past the codebook."""
    decoder, maps, _ = _wired(part, False)
    decoder.eval()
    others = [torch.rand_like(each) for each in maps[:-1]]
    equal = torch.equal(decoder(maps[-1], maps[:-1]), decoder(maps[-1], others))
    expect(equal, "the same output whatever the finer maps hold", "another", "with skips False read their sizes alone")


def gradient_passes(part: Part) -> None:
    """To the tokens, and to every parameter."""
    decoder, maps, _ = _wired(part, True)
    maps[-1].requires_grad_()
    backward([decoder.train()(maps[-1], maps[:-1])], "an output", "compute forward without detach or no_grad")
    reached = maps[-1].grad is not None and torch.isfinite(maps[-1].grad).all() and maps[-1].grad.any()
    expect(reached, "a finite gradient at the coarsest map", maps[-1].grad, "use the coarsest map in forward")
    module.gradients_arrive(decoder)


def repeats(part: Part) -> None:
    """In evaluation it is a function."""
    decoder, maps, _ = _wired(part, True)
    decoder.eval()
    found = [decoder(maps[-1], maps[:-1]) for _ in range(2)]
    expect(same(*found), "the same output for the same maps", "another", "draw nothing in evaluation")


def starts_from_the_seed(part: Part) -> None:
    """As `module.starts_from_the_seed`."""
    module.starts_from_the_seed(part, *_pyramid(part), OUT, "batch", True)


def is_saved_and_copied(part: Part) -> None:
    """As `module.is_saved_and_copied`."""
    module.is_saved_and_copied(part, *_pyramid(part), OUT, "batch", True)


def _pyramid(part: Part) -> Pyramid:
    """Return the first of `PYRAMIDS` that the decoder takes.

    Raises:
        ValueError: what the decoder says to the first, where it takes none.
    """
    first: ValueError | None = None
    for dims, strides in PYRAMIDS:
        try:
            part.build(dims, strides, OUT, "batch", True)
        except ValueError as error:
            first = first or error
        else:
            return dims, strides
    raise first or ValueError("no pyramid to try")


def _wired(part: Part, skips: bool, norm: str = "batch") -> tuple[nn.Module, list[Tensor], tuple[int, int]]:
    """Return the decoder, maps for it, finest first, and the sides of the image that they are of."""
    dims, strides = _pyramid(part)
    height = 2 * strides[-1] * (2 if strides[-1] < 8 else 1)
    width = height + strides[-1]
    generator = torch.Generator().manual_seed(1)
    sizes = [(dim, height // stride, width // stride) for dim, stride in zip(dims, strides, strict=True)]
    maps = [torch.rand((IMAGES, *size), generator=generator) for size in sizes]
    return module.built(part, dims, strides, OUT, norm, skips), maps, (height, width)


CHECKS = {
    FIRST: is_built,
    "gives images of full resolution": gives_full_resolution,
    "without skips it sees the codes alone": without_skips_sees_codes_alone,
    "the gradient reaches tokens and parameters": gradient_passes,
    "the same maps give the same output": repeats,
    "starts from the seed alone": starts_from_the_seed,
    "is saved, loaded and copied": is_saved_and_copied,
}
