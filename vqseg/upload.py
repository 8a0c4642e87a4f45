"""Moves what was drawn on the CPU to the device without making the host wait for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Bytes that every tensor of a packed copy starts at a multiple of: those of the widest dtype, and some to spare.
ALIGN = 16


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Return ``values`` on ``device``; to a card from pinned memory, because a copy from pageable memory waits."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def upload_all(values: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return all ``values`` on ``device``, to a card by one copy: each costs as much as a hundred kilobytes."""
    if device.type != "cuda":
        return [value.to(device) for value in values]
    return unpack(upload(pack(values), device), values)


def pack(values: Sequence[Tensor]) -> Tensor:
    """Return the bytes of all ``values``, uint8, each from a multiple of `ALIGN` on."""
    packed = torch.zeros(sum(_room(value) for value in values), dtype=torch.uint8)
    for value, place in zip(values, packed.split([_room(value) for value in values]), strict=True):
        place[: value.nbytes] = value.contiguous().flatten().view(torch.uint8)
    return packed


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return what `pack` was given, as views of its bytes; ``like`` says shapes and dtypes."""
    places = packed.split([_room(value) for value in like])
    return [
        place[: value.nbytes].view(value.dtype).view(value.shape) for value, place in zip(like, places, strict=True)
    ]


def _room(value: Tensor) -> int:
    return -(-value.nbytes // ALIGN) * ALIGN
