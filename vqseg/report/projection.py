"""The codebook seen from above: two coordinates per code, colored by class and by use, at several moments of training.

Coordinates are the first two principal components of the last codebook, into which the earlier ones are projected; or,
asked for, t-SNE of the last codebook alone, which has no place for another.

Letters: V codes, C channels, K classes.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vqseg.errors import InputError
from vqseg.report import images, style

MOST_IN_TSNE = 1000
"""Codes: above, t-SNE takes most of a minute and the figure is a blot."""
UNUSED = "#C9C9C9"


def plane(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean code (C,), two principal axes (C, 2), and their shares of the variance (2,) of a table (V, C)."""
    table = np.asarray(codes, dtype=np.float64)
    mean = table.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(table - mean, rowvar=False).reshape(table.shape[1], -1))
    axes = vectors[:, ::-1][:, :2]
    axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    # An eigenvector's sign is free: the largest entry is positive, so that a figure does not flip by chance.
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1, 1)
    shares = np.pad(values[::-1].clip(0)[:2], (0, max(2 - len(values), 0))) / max(float(values.clip(0).sum()), 1e-300)
    return mean, axes, shares


def compute(moments: Sequence[tuple[str, np.ndarray, np.ndarray]], how: str = "pca") -> tuple[pd.DataFrame, list[str]]:
    """Place every code at every moment.

    Args:
        moments: (words, codes (V, C), tokens (K, V)) in order; the last decides the coordinates.
        how: ``pca``, or ``tsne`` of the last moment.

    Returns:
        ``moment``, ``code``, ``x``, ``y``, ``tokens``, ``class_index`` (`typical_class`); and what the two axes are.

    Raises:
        InputError: t-SNE without scikit-learn.
    """
    if how == "tsne":
        words, codes, tokens = moments[-1]
        kept = np.sort(np.argsort(-tokens.sum(axis=0), kind="stable")[:MOST_IN_TSNE])
        return _table(words, kept, _tsne(codes[kept]), tokens[:, kept]), ["t-SNE 1", "t-SNE 2"]
    mean, axes, shares = plane(moments[-1][1])
    parts = [_table(words, np.arange(len(codes)), (codes - mean) @ axes, tokens) for words, codes, tokens in moments]
    names = [f"component {n + 1} ({100 * share:.0f} % of variance)" for n, share in enumerate(shares)]
    return pd.concat(parts, ignore_index=True), names


def typical_class(tokens: np.ndarray) -> np.ndarray:
    """Return the class of each code (V,) that is most over-represented among its tokens (K, V).

    -1 where a code has none, and of all codes where nobody knows the classes. The class of most tokens would be
    the background almost everywhere, of which almost all tokens are.
    """
    if not len(tokens):
        return np.full(tokens.shape[1], -1)
    total, of_class = tokens.sum(axis=0), tokens.sum(axis=1, keepdims=True)
    lift = tokens / np.maximum(of_class, 1)
    return np.where(total > 0, lift.argmax(axis=0), -1)


def _table(moment: str, codes: np.ndarray, places: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    total = tokens.sum(axis=0)
    return pd.DataFrame(
        {
            "moment": moment, "code": codes, "x": places[:, 0], "y": places[:, 1], "tokens": total,
            "class_index": typical_class(tokens),
        }
    )  # fmt: skip


def _tsne(codes: np.ndarray) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE  # type: ignore[import-untyped]
    except ImportError:
        raise InputError(
            "--projection tsne: needs scikit-learn, which is not installed; install it, or leave it at pca"
        ) from None
    perplexity = min(30.0, max((len(codes) - 1) / 3, 1.0))
    made = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(np.asarray(codes, dtype=np.float64))
    return np.asarray(made)


def draw(table: pd.DataFrame, names: Sequence[str], classes: Sequence[str]) -> Figure:
    """Draw two rows, colored by class and by use, a column per moment; with one moment, two panels side by side."""
    moments = list(dict.fromkeys(table["moment"]))
    few = len(moments) == 1
    with style.house():
        figure = style.sheet(style.PAGE_IN, 2.9 if few else 4.7 if len(moments) == 2 else 4.1)
        grid = figure.subplots(1, 2) if few else figure.subplots(2, len(moments))
        tops, bottoms = ([grid[0]], [grid[1]]) if few else (grid[0], grid[1])
        norm = LogNorm(1, max(float(table["tokens"].max()), 2.0))
        for moment, top, bottom in zip(moments, tops, bottoms):
            own = table[table["moment"] == moment]
            _by_class(top, own)
            _by_use(bottom, own, norm)
            top.set_title(moment if not few else f"{moment}: its typical class", fontsize=7.5)
            if few:
                bottom.set_title("tokens", fontsize=7.5)
        _axes(table, names, [*tops], [*bottoms], few)
        figure.colorbar(ScalarMappable(norm, "viridis"), ax=list(bottoms), label="tokens (log scale)", aspect=18)
        figure.legend(handles=_handles(table, classes), loc="outside lower center", ncols=min(len(classes) + 1, 5))
    return figure


def _axes(table: pd.DataFrame, names: Sequence[str], tops: list[Axes], bottoms: list[Axes], few: bool) -> None:
    """Give all panels one scale, and labels where they are read."""
    for axes in (*tops, *bottoms):
        for side, column in ((axes.set_xlim, "x"), (axes.set_ylim, "y")):
            low, high = float(table[column].min()), float(table[column].max())
            side(low - 0.05 * (high - low + 1e-9), high + 0.05 * (high - low + 1e-9))
    for axes in [*tops, *bottoms] if few else bottoms:
        axes.set_xlabel(names[0])
    for axes in (tops[0], bottoms[0]):
        axes.set_ylabel(names[1])
    if not few:
        for axes in tops:
            axes.tick_params(labelbottom=False)
        for axes in (*tops[1:], *bottoms[1:]):
            axes.tick_params(labelleft=False)


def _by_class(axes: Axes, own: pd.DataFrame) -> None:
    _unused(axes, own)
    for index in sorted({int(index) for index in own["class_index"] if index >= 0}):
        group = own[own["class_index"] == index]
        color, marker = images.class_color(index), images.class_marker(index)
        size = 16 if index == 0 else 11
        axes.scatter(
            group["x"], group["y"], s=size, c=color, marker=marker, linewidths=0.25, rasterized=True,
            edgecolors="black" if index else color, zorder=2 + int(index > 0),
        )  # fmt: skip


def _by_use(axes: Axes, own: pd.DataFrame, norm: LogNorm) -> None:
    _unused(axes, own)
    used = own[own["tokens"] > 0].sort_values("tokens")
    axes.scatter(
        used["x"], used["y"], s=11, c=used["tokens"], cmap="viridis", norm=norm, lw=0, rasterized=True, zorder=2
    )


def _unused(axes: Axes, own: pd.DataFrame) -> None:
    idle = own[own["tokens"] == 0]
    axes.scatter(idle["x"], idle["y"], s=7, c=UNUSED, marker="x", linewidths=0.4, rasterized=True, zorder=1)


def _handles(table: pd.DataFrame, classes: Sequence[str]) -> list[Line2D]:
    there = sorted({int(index) for index in table["class_index"] if index >= 0})
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=images.class_marker(index),
            color=images.class_color(index),
            ms=5,
            label=classes[index],
        )
        for index in there
    ]
    return [*handles, Line2D([], [], ls="", marker="x", color=UNUSED, ms=4, label="no token")]
