"""Legends below a figure; none where so many entries would leave no room for what they explain."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

MOST = 24
"""Entries at most: more would cover a page, and no reader could tell so many looks apart."""
COLUMNS = 4


def below(figure: Figure, entries: Mapping[str, Any], *, columns: int = COLUMNS) -> None:
    """Write a legend of ``entries``, label -> handle, below a figure."""
    if 0 < len(entries) <= MOST:
        handles, labels = list(entries.values()), list(entries)
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(entries)))


def of(figure: Figure) -> dict[str, Any]:
    """Return what the panels of a figure explain, every label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= {label: handle for label, handle in zip(labels, handles) if label not in found}
    return found
