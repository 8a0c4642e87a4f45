"""How an importer turned source volumes into slices: kept in the manifest, so that a new file can be treated alike.

A channel's intensities are cut to a range and mapped onto the integers of 8 or 16 bits. The range is fixed (a window of
a CT, or percentiles of the training volumes), or each scan's own percentiles (an MR's intensities have no unit).

Letters: S slices, H x W pixels, V channels of the source, C channels of a slice.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vqseg.errors import InputError

SCAN_PERCENTILES = (0.5, 99.5)
# Percentiles are of this many voxels of a scan, always the same ones, where it has more.
MOST_VOXELS = 100_000

Range = tuple[float, float]


class Channel(BaseModel):
    """One channel of a slice: the source's channel that it shows, and the intensities that become 0 and 1.

    Without ``window`` the range is each scan's own ``percentiles``; where both are given, the window is what these
    percentiles of the training volumes were.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    source: Annotated[int, Field(ge=0)] = 0
    window: Range | None = None
    percentiles: Range | None = None


class Intake(BaseModel):
    """What is done to every volume of a set.

    ``axis`` is the axis that slices are cut across: 0 sagittal, 1 coronal, 2 axial, or the file's own axis where
    ``orientation`` is "file". ``spacing_mm`` is the pixel size that slices were resampled to. ``frames`` says what the
    volumes of a 4-D file are: channels of one scan, or time points, each a scan. ``files`` says whether one file
    holds all channels of a case, or each channel lies in a file of its own (CASE_0000, CASE_0001, ...). ``pooled``
    names the patients whose volumes the percentiles of the set were computed from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["volume"] = "volume"
    axis: Literal[0, 1, 2]
    orientation: Literal["canonical", "file"] = "canonical"
    spacing_mm: Annotated[float, Field(gt=0)] | None = None
    frames: Literal["channels", "scans"] = "channels"
    files: Literal["one", "each"] = "one"
    channels: Annotated[list[Channel], Field(min_length=1, max_length=16)]
    bits: Literal[8, 16] = 8
    pooled: list[str] = []

    @property
    def sources(self) -> int:
        """How many channels the source has."""
        return 1 + max(channel.source for channel in self.channels)


def to_levels(values: np.ndarray, intake: Intake, where: object) -> tuple[np.ndarray, Range]:
    """Map a scan's intensities (S, H, W) or (S, H, W, V) to the integers of the store.

    Returns:
        uint8 or uint16 (S, H, W), or (S, H, W, C) of several channels; and the range mapped, over all channels.

    Raises:
        InputError: a value is not finite; ``where`` is named.
    """
    kind = np.uint8 if intake.bits == 8 else np.uint16
    levels = np.empty((*values.shape[:3], len(intake.channels)), kind)
    ranges = []
    for place, channel in enumerate(intake.channels):
        volume = values[..., channel.source] if values.ndim == 4 else values
        require_finite(volume, where)
        low, high = channel.window or percentiles(volume, channel.percentiles or SCAN_PERCENTILES)
        scale = np.iinfo(kind).max / (high - low) if high > low else 0.0
        for number, plane in enumerate(volume):
            levels[number, ..., place] = np.rint((np.clip(plane.astype(np.float64), low, high) - low) * scale)
        ranges.append((low, high))
    span = min(low for low, _ in ranges), max(high for _, high in ranges)
    return (levels if len(ranges) > 1 else levels[..., 0]), span


def percentiles(values: np.ndarray, shares: Range) -> Range:
    """Return two percentiles (0-100) of an array, of a sample where it is large; 0 and 100 are exact."""
    held = values if shares == (0, 100) else sample(values)
    low, high = np.percentile(held, shares)
    return float(low), float(high)


def sample(values: np.ndarray, most: int = MOST_VOXELS) -> np.ndarray:
    """Return all values (N,), or ``most`` of them, the same places for every array of that size."""
    flat = values.reshape(-1)
    if len(flat) <= most:
        return flat
    return flat[np.random.default_rng(len(flat)).integers(0, len(flat), most)]


def require_finite(values: np.ndarray, where: object) -> None:
    """Refuse what has no place in a range.

    Raises:
        InputError: a value is not finite; ``where`` is named.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{where}: holds values that are not finite; clean the image and import again")
