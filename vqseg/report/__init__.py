"""Tables and figures from run folders: one file per table or figure, one row per report.

A report NAME is the module `vqseg.report.NAME` with ``build(selection) -> Report``. This module stays light, so that
a command can list reports without loading pandas or matplotlib. Nothing here ever imports torch.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """Which study definition a report speaks about (None: any), and what it shows."""

    study: str | None
    about: str


REPORTS = {
    "ablation": Entry(None, "any study: arms x scores, effects against the reference, curves, codebooks, cost"),
    "epsilon": Entry("epsilon-sweep", "scores against rate and distortion, reach, KL, QPM against the best dropout"),
}


def report_of(study: str) -> str:
    """Return the report that renders studies of definition ``study``."""
    return next((name for name, entry in REPORTS.items() if entry.study == study), "ablation")
