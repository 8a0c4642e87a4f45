"""Decides which intensities of a set of volumes become 0 and 1, and in how many bits they are kept.

- Windows (``--window LO HI``) are fixed. With several channels they go to those that are CT, if any is.
- Percentiles (``--percentiles LO HI``) become a fixed range: those of all training volumes' voxels, of at most 20,000
  voxels of each. Volumes of val and test are not looked at.
- Without either, each scan is mapped from its own percentiles .5 and 99.5, as an MR's intensities have no unit.
- A channel that is called CT, or looks like it (half of the volumes reach from -500 or less to 300 or more), has to be
  given a window or percentiles; the window proposed is that of the training volumes, too.

8 bits suffice where intensities are whole numbers and no range holds more than 256 of them; else 16 are kept.

Letters: X, Y, Z voxels, V channels of the source.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from vqseg.errors import InputError
from vqseg.intake import SCAN_PERCENTILES, Channel, Range, percentiles, require_finite, sample

HU = (-500.0, 300.0)
MOST_WINDOWS, MOST_CHANNELS = 3, 16
POOLED_VOXELS, FOREGROUND_VOXELS = 20_000, 2_000
# Beyond the foreground's 1st and 99th percentile a proposed window reaches this far, in HU: organs need surroundings.
BEYOND_HU = 100


class Seen(NamedTuple):
    """What a scan's voxels hold: per channel of the source, and a hash of all of them, whatever type they have."""

    extremes: list[Range]
    inner: list[Range]
    whole: list[bool]
    samples: list[np.ndarray]
    foreground: list[np.ndarray]
    sha256: str


def look(values: np.ndarray, mask: np.ndarray | None, where: object) -> Seen:
    """Look at a scan (X, Y, Z) or (X, Y, Z, V) and, for proposals, at its foreground in a mask (X, Y, Z).

    Raises:
        InputError: a value is not finite; ``where`` is named.
    """
    seen = Seen([], [], [], [], [], _hash(values))
    for volume in np.moveaxis(values, -1, 0) if values.ndim == 4 else [values]:
        require_finite(volume, where)
        seen.extremes.append((float(volume.min()), float(volume.max())))
        seen.inner.append(percentiles(volume, SCAN_PERCENTILES))
        seen.whole.append(volume.dtype.kind in "biu" or bool((volume == np.rint(volume)).all()))
        seen.samples.append(sample(volume, POOLED_VOXELS).astype(np.float32))
        inside = np.empty(0, np.float32) if mask is None else sample(volume[mask > 0], FOREGROUND_VOXELS)
        seen.foreground.append(inside.astype(np.float32))
    return seen


def require_ranges(windows: Sequence[Range], shares: Range | None) -> None:
    """Refuse windows and percentiles that are none.

    Raises:
        InputError: more than three windows, or the lower end is not below the upper one.
    """
    if len(windows) > MOST_WINDOWS:
        raise InputError(f"--window: given {len(windows)} times; expected at most {MOST_WINDOWS}, one per channel")
    for low, high in windows:
        if not -math.inf < low < high < math.inf:
            raise InputError(f"--window {low:g} {high:g}: expected the lower intensity first")
    if shares is not None and not 0 <= shares[0] < shares[1] <= 100:
        raise InputError(f"--percentiles {shares[0]:g} {shares[1]:g}: expected two numbers from 0 to 100, lower first")


def channels(
    names: Sequence[str],
    scans: Sequence[Seen],
    training: Sequence[Seen],
    *,
    windows: Sequence[Range],
    shares: Range | None,
    where: object,
) -> list[Channel]:
    """Return the channels of a slice.

    Args:
        names: those of the source's channels; "CT" has a meaning.
        scans: all scans of the set.
        training: those of them that train; nothing else is pooled, or proposed from.
        windows: fixed ranges.
        shares: percentiles (0-100) of the training scans.
        where: the source, for the error.

    Raises:
        InputError: a CT without a range (one is proposed), percentiles that are the same intensity, or more than 16
            channels.
    """
    ct = [
        name.strip().upper() == "CT" or _like_hu([scan.extremes[v] for scan in scans]) for v, name in enumerate(names)
    ]
    found: list[Channel] = []
    for source, name in enumerate(names):
        if windows and (ct[source] or not any(ct)):
            several = len(windows) > 1
            found += [
                Channel(name=f"{name} {low:g} to {high:g}" if several else name, source=source, window=(low, high))
                for low, high in windows
            ]
        elif shares is not None:
            window = _pooled(source, name, training, shares, where)
            found.append(Channel(name=name, source=source, window=window, percentiles=shares))
        elif ct[source]:
            raise InputError(_proposal(source, name, training or scans, where))
        else:
            found.append(Channel(name=name, source=source, percentiles=SCAN_PERCENTILES))
    if len(found) > MOST_CHANNELS:
        raise InputError(f"{where}: {len(found)} channels; expected at most {MOST_CHANNELS}, leave some out")
    return found


def bits_for(found: Sequence[Channel], scans: Sequence[Seen]) -> Literal[8, 16]:
    """Return 8 where that many bits hold every intensity within the ranges, else 16."""
    for channel in found:
        if not all(scan.whole[channel.source] for scan in scans):
            return 16
        ranges = [channel.window] if channel.window else [scan.inner[channel.source] for scan in scans]
        if any(math.floor(high) - math.ceil(low) > 255 for low, high in ranges):
            return 16
    return 8


def _hash(values: np.ndarray) -> str:
    """Return one hash for the same intensities in whatever type a file keeps them."""
    found = hashlib.sha256(f"{values.shape}".encode())
    for plane in values:
        found.update((plane.astype(np.float64) + 0.0).tobytes())  # there is a -0.0 among floats
    return found.hexdigest()[:32]


def _pooled(source: int, name: str, training: Sequence[Seen], shares: Range, where: object) -> Range:
    """Return the percentiles of all training scans' voxels."""
    if not training:
        raise InputError(f"{where}: no scan is left to train on; --percentiles needs some, or give a --window")
    pool = np.concatenate([scan.samples[source] for scan in training])
    low, high = (float(end) for end in np.percentile(pool, shares))
    if not low < high:
        what = f"in channel {name!r} of the training scans both are {low:g}"
        do = "choose percentiles that lie further apart, or give a --window"
        raise InputError(f"--percentiles {shares[0]:g} {shares[1]:g}: {what}; {do}")
    return low, high


def _like_hu(extremes: Sequence[Range]) -> bool:
    alike = sum(low <= HU[0] and high >= HU[1] for low, high in extremes)
    return alike > 0 and 2 * alike >= len(extremes)


def _proposal(source: int, name: str, scans: Sequence[Seen], where: object) -> str:
    low, high = min(scan.extremes[source][0] for scan in scans), max(scan.extremes[source][1] for scan in scans)
    what = f"{where}: channel {name!r} is a CT" if name.strip().upper() == "CT" else f"{where}: looks like a CT"
    seen = f"{what} (intensities from {low:g} to {high:g}) and needs a window"
    inside = np.concatenate([scan.foreground[source] for scan in scans])
    if not len(inside):
        return f"{seen}: add --window -160 240 (abdomen), --window -1000 400 (lung), or --percentiles 0.5 99.5"
    ends = np.percentile(inside, (1, 99))
    first = max(math.floor((ends[0] - BEYOND_HU) / 10) * 10, math.floor(low))
    last = min(math.ceil((ends[1] + BEYOND_HU) / 10) * 10, math.ceil(high))
    why = f"98 % of the foreground lie within {ends[0]:g} to {ends[1]:g}"
    return f"{seen}: add --window {first:g} {last:g} ({why}), or --percentiles 0.5 99.5"
