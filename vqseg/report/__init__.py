"""Tables and figures from run folders: one file per table or figure, one row per report.

A report NAME is the module `vqseg.report.NAME` with ``build(selection) -> Report``. This module stays light, so that
a command can list reports without loading pandas or matplotlib. Nothing here ever imports torch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """Which study definition a report speaks about (None: any), and what it shows."""

    study: str | None
    about: str


REPORTS = {
    "ablation": Entry(None, "any study: arms x scores, effects against the reference, curves, codebooks, cost"),
    "epsilon": Entry("epsilon-sweep", "scores against rate and distortion, reach, KL, QPM against the best dropout"),
    "modules": Entry("modules", "a grid of modules: ticks x scores, effects and interactions, cost, the paper's steps"),
}


def report_of(study: Mapping[str, Any]) -> str:
    """Return the report of a study: its definition's own, that of grids if its arms have factors, else the generic."""
    grid = any(arm.get("factors") for arm in study["arms"])
    own = next((name for name, entry in REPORTS.items() if entry.study == study["study"]), None)
    return own or ("modules" if grid else "ablation")
