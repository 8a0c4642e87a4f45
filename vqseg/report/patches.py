"""What codes stand for: the image under some of their tokens, chosen by rules that leave no choice.

Codes: the most used ones, then of each foreground class those with the most of its tokens. Examples: a code's tokens
in the order of the scans, evenly spaced.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vqseg.report import images, style
from vqseg.report.images import Images, Raster

MOST_USED, MOST_ROWS, EXAMPLES = 4, 10, 8
AROUND = 3
"""A patch is so many cells wide: a token alone is too small to be recognized."""
SIDE_IN, STEP_IN, LABEL_IN = 0.64, 0.68, 1.52


@dataclass(frozen=True)
class Patch:
    """The image around a token and the token's own cell in it: left, top, width, height in its pixels."""

    image: Raster
    cell: tuple[float, float, float, float]


@dataclass(frozen=True)
class Shown:
    """One code: its share of all tokens, the share of each class among its own, and examples."""

    code: int
    share: float
    classes: tuple[float, ...]
    patches: tuple[Patch, ...]


def chosen(tokens: pd.DataFrame, classes: int, *, most: int = MOST_USED, rows: int = MOST_ROWS) -> list[int]:
    """Return the ``most`` used codes, then evenly of each foreground class those with the most of its tokens."""
    order = [int(code) for code in tokens["code"].value_counts(sort=True).index[:most]]
    each = max((rows - most) // max(classes - 1, 1), 1)
    for index in range(1, classes):
        counts = tokens.loc[tokens["class_index"] == index, "code"].value_counts()
        order += [int(code) for code in counts.index if code not in order][:each]
    return order[:rows]


def shares(tokens: pd.DataFrame, code: int, classes: int) -> tuple[float, ...]:
    """Return the share of each class among the tokens of a code, 0 of all where it has none."""
    own = tokens.loc[tokens["code"] == code, "class_index"].to_numpy(dtype=int)
    counts = np.bincount(own, minlength=classes)
    return tuple(float(count) for count in counts / max(len(own), 1))


def examples(images_: Images, tokens: pd.DataFrame, code: int, count: int = EXAMPLES) -> tuple[Patch, ...]:
    """Return the patches of ``count`` tokens of a code, evenly spaced in the order of the scans; fewer if it has fewer.

    Tokens that lie in padding alone show nothing and are left out.
    """
    own = tokens[(tokens["code"] == code) & (tokens["bottom"] > tokens["top"]) & (tokens["right"] > tokens["left"])]
    places = np.unique(np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int))
    return tuple(_cut(images_, token) for token in own.iloc[places].to_dict("records"))


def _cut(images_: Images, token: Mapping[Hashable, Any]) -> Patch:
    """Cut a square around a token's cell; what lies beyond the image is black."""
    image = images_.image(token["scan"], token["row"])
    height, width = token["bottom"] - token["top"], token["right"] - token["left"]
    side = int(np.ceil(AROUND * max(height, width)))
    top = int(np.floor(token["top"] + height / 2 - side / 2))
    left = int(np.floor(token["left"] + width / 2 - side / 2))
    square = np.zeros((side, side, *image.shape[2:]), np.uint8)
    rows = slice(max(top, 0), min(top + side, image.shape[0]))
    columns = slice(max(left, 0), min(left + side, image.shape[1]))
    square[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = image[rows, columns]
    place = token["left"] - left, token["top"] - top
    return Patch(Raster.of(square), (float(place[0]), float(place[1]), float(width), float(height)))


def compute(images_: Images, tokens: pd.DataFrame, classes: int) -> list[Shown]:
    """Return what the figure shows of the codes that `chosen` names."""
    return [
        Shown(
            code,
            float((tokens["code"] == code).mean()),
            shares(tokens, code, classes),
            examples(images_, tokens, code),
        )
        for code in chosen(tokens, classes)
    ]


def draw(shown: Sequence[Shown], classes: Sequence[str]) -> Figure:
    """Draw a row per code: how much it is used and by which classes, then its examples."""
    across = max(len(each.patches) for each in shown)
    with style.house():
        figure, axes = images.board(LABEL_IN + across * STEP_IN, 0.06 + len(shown) * STEP_IN + 0.24)
        for number, each in enumerate(shown):
            top = 0.06 + number * STEP_IN
            _label(axes, each, classes, top)
            for place, patch in enumerate(each.patches):
                tile(axes, patch, LABEL_IN + place * STEP_IN, top, SIDE_IN)
        images.key(figure, classes)
    return figure


def tile(axes: Axes, patch: Patch, left: float, top: float, side: float) -> None:
    """Put a patch on a board, its token's cell outlined."""
    images.tile(axes, patch.image, left, top, side)
    pixel = side / patch.image.shape[0]
    x, y, width, height = (pixel * value for value in patch.cell)
    for color, line in (("black", 1.3), ("white", 0.7)):
        axes.add_patch(Rectangle((left + x, top + y), width, height, fill=False, edgecolor=color, linewidth=line))


def words(of: Sequence[float], classes: Sequence[str], most: int = 2) -> str:
    """Return the classes that have the largest shares, in words: ``left ventricle 62 %``, one a line."""
    order = sorted(range(len(of)), key=lambda index: -of[index])[:most]
    return "\n".join(f"{classes[index]} {100 * of[index]:.0f} %" for index in order if of[index] >= 0.005)


def _label(axes: Axes, each: Shown, classes: Sequence[str], top: float) -> None:
    """Write a code's number and share, and draw the shares of the classes as a bar."""
    share = f"{100 * each.share:.1f} %" if each.share >= 5e-4 else "< 0.1 %"
    axes.text(0.06, top + 0.02, f"code {each.code}: {share} of tokens", va="top", fontsize=7)
    images.bar(axes, each.classes, 0.06, top + 0.18, LABEL_IN - 0.2, 0.09)
    axes.text(0.06, top + 0.31, words(each.classes, classes), va="top", fontsize=6.5, linespacing=1.15)
