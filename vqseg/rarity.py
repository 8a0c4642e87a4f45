"""Whether a class is rare in the labelled masks, and by which settings a run can meet that.

A batch of a few slices mostly misses a class that one slice in thirty shows, cross-entropy hardly feels a class of one
pixel in a thousand, and a threshold that suits an organ keeps every pseudo-label of a small lesion out.

Letters: S slices, H x W pixels, K classes (0 is background).
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vqseg.files import parse_yaml
from vqseg.lesions import lesion_counts

RARE_SLICES = 0.05
RARE_VOXELS = 0.001


class Content(NamedTuple):
    """What one mask holds: voxels per class (K,), slices that show it (K,), lesions of each class marked as one."""

    voxels: np.ndarray
    slices: np.ndarray
    lesions: dict[str, int]


def content(mask: np.ndarray, classes: Sequence[str], marked: Sequence[str]) -> Content:
    """Count a mask (S, H, W) of class indices below ``len(classes)``; a lesion is a connected component."""
    voxels, slices, lesions = np.zeros(len(classes), np.int64), np.zeros(len(classes), np.int64), {}
    for index, name in enumerate(classes):
        inside = mask == index  # one class at a time: a volume of many classes would fill the memory
        voxels[index] = np.count_nonzero(inside)
        slices[index] = np.count_nonzero(inside.any(axis=(1, 2)))
        if name in marked:
            lesions[name] = int(lesion_counts(inside, inside)["lesions"])
    return Content(voxels, slices, lesions)


def advice(
    root: Path, slice_share: Mapping[str, float], voxel_share: Mapping[str, float], marked: Sequence[str]
) -> tuple[str, str] | None:
    """Return what is rare and what to do, as two clauses of a line, or None where nothing is.

    Args:
        root: the prepared folder, to be named in a command.
        slice_share: foreground class -> share (0-1) of the labelled slices that show it.
        voxel_share: class -> its share (0-1) of the labelled voxels.
        marked: the classes that are marked as lesions already.
    """
    rare = {
        name: share
        for name, share in slice_share.items()
        if share > 0 and (share < RARE_SLICES or voxel_share[name] < RARE_VOXELS)
    }
    if not rare:
        return None
    shares = [
        f"{name!r} in {share:.1%} of the slices, {voxel_share[name]:.3%} of the voxels" for name, share in rare.items()
    ]
    confidence = shlex.quote("{" + ", ".join(f"{_key(name)}: 0.7" for name in rare) + "}")
    what, only = "foreground", ""
    if set(slice_share) - set(rare):
        what = "it" if len(rare) == 1 else "one of them"
        only = " --set data.foreground_classes=" + shlex.quote(f"[{', '.join(map(_key, rare))}]")
    do = (
        f"these settings help: --set data.foreground_share=0.5{only} (half of a labelled batch shows {what}),"
        f" --set method.segmentation=dice_ce, --set method.class_confidence={confidence} (pseudo-labels from .7 on)"
    )
    if unmarked := [shlex.quote(name) for name in rare if name not in marked]:
        options = " ".join(f"--lesion {name}" for name in unmarked)
        do += f"; to score lesions one by one: vqseg data mark {shlex.quote(str(root))} {options}"
    return f"rare foreground: {'; '.join(shares)}", do


def _key(name: str) -> str:
    """Return a class name as a key of a YAML mapping on one line."""
    plain = re.fullmatch(r"[A-Za-z][\w -]*", name) and isinstance(parse_yaml(name), str)
    return name if plain else "'" + name.replace("'", "''") + "'"
