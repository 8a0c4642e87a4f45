"""Photographs and other 2-D image files, as the importers of pictures read them.

Letters: H x W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqseg.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
COLOR_MODES = ("RGB", "RGBA", "P", "CMYK", "YCbCr")


def by_stem(folder: Path, suffixes: Sequence[str], *, without: Sequence[str] = ()) -> dict[str, Path]:
    """Return the files of ``folder`` with one of ``suffixes`` by their names without it, in order of name.

    Args:
        without: files whose names hold one of these texts, in whatever case, are passed over.

    Raises:
        InputError: two files differ by their suffix only.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if any(text in path.stem.lower() for text in without):
            continue
        if path.stem in found:
            raise InputError(f"{path}: the same name as {found[path.stem].name}; keep one of them")
        found[path.stem] = path
    return found


def opened(path: Path) -> Any:
    """Open an image lazily: mode and size (W, H) are known, pixels are not read.

    Raises:
        InputError: not an image that can be read.
    """
    from PIL import Image

    try:
        return Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        what = "not readable as an image (damaged, too large or another format)"
        raise InputError(f"{path}: {what}; restore the file") from None


def pixels(path: Path, mode: str, max_side: int | None = None) -> np.ndarray:
    """Return an image of 8 bits as (H, W) for mode ``L`` or (H, W, 3) for ``RGB``, uint8.

    Args:
        max_side: an image with a longer side is shrunk to it, whole and bilinear with antialiasing.

    Raises:
        InputError: not an image that can be read, or one of more than 8 bits.
    """
    from PIL import Image

    image = opened(path)
    if image.mode.startswith("I") or image.mode == "F":
        raise InputError(f"{path}: has more than 8 bits a channel; expected a picture of 8 bits, convert it")
    try:
        whole = image.convert(mode)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{path}: not readable as an image: {' '.join(str(error).split())}; restore the file"
        ) from None
    size = shrunk_size(whole.size, max_side)
    return np.asarray(whole if size == whole.size else whole.resize(size, Image.Resampling.BILINEAR))


def intake(*, max_side: int | None = None, window: tuple[float, float] | None = None) -> dict[str, Any]:
    """Return how pictures became slices, for the manifest: so that a new picture can be treated alike."""
    return {"kind": "picture", "max_side": max_side, "window": None if window is None else list(window)}


def shrunk_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """Return the sides (two lengths in pixels) of an image after shrinking its longer one to ``max_side``."""
    longer = max(size)
    if max_side is None or longer <= max_side:
        return size
    first, second = (max(1, round(side * max_side / longer)) for side in size)
    return first, second
