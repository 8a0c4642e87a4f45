"""Pictures of a few fixed cases: the prediction's outline over the reference's, on the image.

The cases depend on the part alone, so that every arm of a study shows the same ones.

Letters: S slices, H x W pixels, K classes (0 is background).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from vqseg.files import replacing
from vqseg.manifest import Scan, read_image, read_mask
from vqseg.metrics import class_dice

# Okabe and Ito's palette, the hues that stand out on grey first; after eight classes it starts again.
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2", "#999999")
WIDTH_INCHES, DPI, LEGEND_COLUMNS = 4.0, 150, 5


def draw_overlay(
    image: np.ndarray,
    prediction: np.ndarray,
    reference: np.ndarray | None,
    *,
    classes: Sequence[str],
    title: str,
    synthetic: bool,
) -> Figure:
    """Draw one slice.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        prediction: class indices (H, W), drawn solid.
        reference: class indices (H, W), drawn dashed; None where nobody drew one.
        classes: names of the K classes, background first.
        title: what stands above the picture.
        synthetic: whether the watermark *phantom* is printed.
    """
    height, width = image.shape[:2]
    legend_rows = -(-(len(classes) + 1) // LEGEND_COLUMNS)
    text_inches = 0.16 * (title.count("\n") + 1) + 0.16 * legend_rows + 0.2
    figure = Figure(figsize=(WIDTH_INCHES, WIDTH_INCHES * height / width + text_inches), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    for index in range(1, len(classes)):
        color = COLORS[(index - 1) % len(COLORS)]
        _outline(axes, prediction == index, color, "solid")
        if reference is not None:
            _outline(axes, reference == index, color, (0, (2, 1.5)))
    axes.set_axis_off()
    axes.set_title(title, fontsize=8)
    if reference is not None:
        _corner(axes, _dice_text(prediction, reference, classes))
    if synthetic:
        _watermark(axes)
    _legend(figure, classes, with_reference=reference is not None)
    return figure


def write_overlays(
    folder: Path,
    *,
    root: Path,
    scans: Sequence[Scan],
    label_maps: Mapping[str, np.ndarray],
    classes: Sequence[str],
    synthetic: bool,
    name: str = "",
) -> list[Path]:
    """Draw the middle slice of the first, the middle and the last scan of a part.

    Args:
        folder: where the PNG files go, SCAN-SLICE.png with the source's slice number; written atomically.
        root: the prepared data folder.
        scans: the scans of the part, in order.
        label_maps: scan -> class indices (S, H, W) on the native grid.
        classes: names of the K classes, background first.
        synthetic: whether the data are a phantom.
        name: what to put behind scan and slice in the title, such as the run's name.

    Returns:
        The files, in the order of the scans.

    Raises:
        InputError: an image or a mask is missing or damaged.
    """
    paths = []
    for scan in fixed_cases(scans):
        row = len(scan.slices) // 2
        reference = read_mask(root, scan)[row] if scan.mask is not None else None
        figure = draw_overlay(
            _shown(read_image(root, scan)[row]),
            label_maps[scan.scan][row],
            reference,
            classes=classes,
            title=f"{scan.scan}, slice {scan.slices[row]}" + (f"\n{name}" if name else ""),
            synthetic=synthetic,
        )
        paths.append(folder / f"{scan.scan}-{scan.slices[row]}.png")
        with replacing(paths[-1]) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
    return paths


def _shown(image: np.ndarray) -> np.ndarray:
    """Return a slice (H, W[, C]) of 8 or 16 bits as 8 bits, grey or RGB; of other numbers of channels the first."""
    eight = image if image.dtype == np.uint8 else (image // 257).astype(np.uint8)
    return eight if eight.ndim == 2 or eight.shape[-1] == 3 else eight[..., 0]


def fixed_cases(scans: Sequence[Scan]) -> list[Scan]:
    """Return the first, the middle and the last scan, each once."""
    rows = sorted({0, len(scans) // 2, len(scans) - 1}) if scans else []
    return [scans[row] for row in rows]


def _outline(axes: Any, mask: np.ndarray, color: str, style: Any) -> None:
    """Draw the border of a mask; padding closes outlines that touch the edge of the image."""
    if not mask.any():
        return
    height, width = mask.shape
    axes.contour(
        np.arange(-1, width + 1),
        np.arange(-1, height + 1),
        np.pad(mask, 1).astype(float),
        levels=[0.5],
        colors=[color],
        linestyles=[style],
        linewidths=1.1,
    )


def _dice_text(prediction: np.ndarray, reference: np.ndarray, classes: Sequence[str]) -> str:
    """One line per class that is there; of a class that neither holds, Dice says nothing."""
    scores = class_dice(prediction, reference, len(classes))
    present = [k for k in range(1, len(classes)) if (prediction == k).any() or (reference == k).any()]
    return "\n".join(f"{classes[k]} {scores[k - 1]:.2f}" for k in present) or "no foreground"


def _corner(axes: Any, text: str) -> None:
    box = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 2.5}
    axes.text(
        *(0.02, 0.98, f"Dice of this slice\n{text}"),
        transform=axes.transAxes,
        fontsize=7,
        color="white",
        va="top",
        ha="left",
        bbox=box,
    )


def _watermark(axes: Any) -> None:
    axes.text(
        *(0.97, 0.03, "phantom"),
        transform=axes.transAxes,
        fontsize=24,
        color="white",
        alpha=0.6,
        ha="right",
        va="bottom",
        path_effects=[withStroke(linewidth=2, foreground="black", alpha=0.3)],
    )


def _legend(figure: Figure, classes: Sequence[str], with_reference: bool) -> None:
    handles = [
        Line2D([], [], color=COLORS[(index - 1) % len(COLORS)], linewidth=2, label=classes[index])
        for index in range(1, len(classes))
    ]
    handles.append(Line2D([], [], color="black", linewidth=1.1, label="prediction"))
    if with_reference:
        handles.append(Line2D([], [], color="black", linewidth=1.1, linestyle=(0, (2, 1.5)), label="reference"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(LEGEND_COLUMNS, len(handles)), fontsize=7, frameon=False
    )
