"""Images, masks and label maps for figures: read from the data's folder and the run folders, held as text.

Figures are drawn from inputs that have a digest (`vqseg.report.content.Picture`), so pixels travel as `Raster`.
Where the data are gone or changed, a figure cannot be drawn and the report says why.

Letters: S slices, H x W pixels.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vqseg.errors import InputError
from vqseg.manifest import Manifest, Scan, read_image, read_manifest, read_mask
from vqseg.report import style
from vqseg.report.selection import Selection

# Okabe and Ito's palette, bright hues first: outlines lie on grey. The background is grey.
CLASS_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2", "#8C6D00")
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "p")
BACKGROUND = style.GREY


@dataclass(frozen=True)
class Raster:
    """An array of 8 bits as text: an image (H, W) or (H, W, 3), or class indices (H, W)."""

    shape: tuple[int, ...]
    text: str

    @staticmethod
    def of(array: np.ndarray) -> "Raster":
        """Return ``array``, which must be uint8, as text."""
        packed = zlib.compress(np.ascontiguousarray(array, dtype=np.uint8).tobytes(), 1)
        return Raster(tuple(int(side) for side in array.shape), base64.b85encode(packed).decode("ascii"))

    @property
    def array(self) -> np.ndarray:
        """The array uint8."""
        return np.frombuffer(zlib.decompress(base64.b85decode(self.text)), np.uint8).reshape(self.shape)


@dataclass
class Images:
    """The images and masks of a prepared folder, each scan read once."""

    root: Path
    manifest: Manifest
    _held: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def scan(self, name: str) -> Scan:
        """Return a scan's entry.

        Raises:
            InputError: the data have no such scan.
        """
        found = next((scan for scan in self.manifest.scans if scan.scan == name), None)
        if found is None:
            raise InputError(f"{self.root}: has no scan {name!r}; name the data's folder, or score the run again")
        return found

    def image(self, scan: str, row: int) -> np.ndarray:
        """Return a slice as it is shown: uint8 (H, W), or (H, W, 3) of color; of other channels the first."""
        volume = self._read("image", scan)
        one = volume[row] if volume.dtype == np.uint8 else (volume[row] // 257).astype(np.uint8)
        return one if one.ndim == 2 or self.manifest.color else one[..., 0]

    def masks(self, scan: str) -> np.ndarray:
        """Return a scan's class indices uint8 (S, H, W)."""
        return self._read("mask", scan)

    def _read(self, kind: str, scan: str) -> np.ndarray:
        if (kind, scan) not in self._held:
            read = read_image if kind == "image" else read_mask
            self._held[kind, scan] = read(self.root, self.scan(scan))
        return self._held[kind, scan]


def images_of(selection: Selection) -> Images | str:
    """Return the study's images, or a sentence that says why there are none."""
    said = selection.study["data"]
    root = Path(str(said.get("root", "")))
    if not (root / "manifest.json").is_file():
        return f"The images are not where the study had them ({root}): put the data there again to see them here."
    try:
        manifest = read_manifest(root)
    except InputError as error:
        return f"The images cannot be read: {error}."
    if manifest.digest != said["digest"]:
        return f"The data in {root} have changed since ({manifest.digest}, they were {said['digest']}): no images."
    return Images(root, manifest)


def class_color(index: int) -> str:
    """Return the color of a class: grey for the background, then the palette, which starts again after eight."""
    return BACKGROUND if index == 0 else CLASS_COLORS[(index - 1) % len(CLASS_COLORS)]


def class_marker(index: int) -> str:
    """Return the marker of a class."""
    return "." if index == 0 else CLASS_MARKERS[(index - 1) % len(CLASS_MARKERS)]


def board(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """Return a figure that is one place without axes, in inches from the left and from the top.

    Many small pictures lie on it: as panels of their own they would take seconds to lay out and draw.
    """
    figure = style.sheet(width_in, height_in, margins={"left": 0, "right": 1, "bottom": 0, "top": 1})
    axes = figure.subplots()
    axes.set(xlim=(0, width_in), ylim=(height_in, 0), autoscale_on=False)
    bare(axes)
    return figure, axes


def tile(axes: Axes, image: Raster, left: float, top: float, side: float) -> None:
    """Put a square image on a board."""
    axes.imshow(
        image.array, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto",
        extent=(left, left + side, top + side, top),
    )  # fmt: skip


def bar(axes: Axes, shares: Sequence[float], left: float, top: float, width: float, height: float) -> None:
    """Put the shares of the classes on a board, as one bar."""
    for index, share in enumerate(shares):
        place = (left + width * sum(shares[:index]), top)
        axes.add_patch(Rectangle(place, width * share, height, facecolor=class_color(index), ec="white", lw=0.4))


def key(figure: Figure, classes: Sequence[str]) -> None:
    """Write the colors of the classes at the bottom of a board."""
    handles = [Rectangle((0, 0), 1, 1, facecolor=class_color(n), label=name) for n, name in enumerate(classes)]
    figure.legend(handles=handles, loc="lower center", ncols=min(len(classes), 5), handlelength=1.2, borderaxespad=0.1)


def bare(axes: Axes) -> None:
    """Take ticks, frame and grid away; labels stay."""
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def outline(
    axes: Axes, labels: np.ndarray, left: float, top: float, side: float, *, solid: bool, width: float = 1.0
) -> None:
    """Put the borders of the foreground classes (H = W) on a board, where `tile` put the image.

    Solid ones have the colors of the classes, dashed ones are white on a black line: so they differ in grey, too.
    Padding closes outlines that touch the edge.
    """
    size = labels.shape[0]
    x, y = (start + (np.arange(-1, size + 1) + 0.5) * side / size for start in (left, top))
    for index in np.unique(labels[labels > 0]):
        mask = np.pad(labels == index, 1).astype(float)
        looks: list[tuple[str, float, object]] = [("black", width, "solid"), ("white", 0.8 * width, (0, (2.2, 1.6)))]
        for color, line, dash in [(class_color(int(index)), width, "solid")] if solid else looks:
            axes.contour(x, y, mask, levels=[0.5], colors=[color], linewidths=[line], linestyles=[dash])
