"""Scoring protocols: what a case is, on which grid it was segmented, in which units, and what an empty mask costs.

Published numbers do not compare because these choices differ, so a run is segmented once per geometry, its
label maps are kept, and every protocol is computed from label maps. A protocol that a data set cannot satisfy
is not applicable, with a reason; it is never approximated.

A protocol is one row of `PROTOCOLS`. Its geometry names a row of `vqseg.evaluate.GEOMETRIES`, its case unit a
row of `CASE_UNITS`, its empty policy a row of `EMPTIES`.

Letters: S slices, H x W pixels.

Source: SSL4MIS `code/val_2D.py` for `ssl4mis`.
Differs: SSL4MIS's test script stops at an empty mask, its validation script gives 0; here 0 stands for both, whichever
of the two masks is empty. The network sees 256 x 256 pixels under `ssl4mis` whatever size it was trained on, because
that is the protocol: rows of a recipe with another input size carry that mismatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from vqseg.metrics import diagonal

if TYPE_CHECKING:
    from vqseg.manifest import Scan

Spacing = tuple[float, ...]


class Case(NamedTuple):
    """What one row per class is made for: the scans whose slices are stacked, in order."""

    name: str
    patient: str
    scans: tuple[str, ...]
    spacing_mm: Spacing | None


class EmptyScore(NamedTuple):
    """What a class scores when a mask is empty: Dice and Jaccard, and every distance."""

    overlap: float
    distance: float


class CaseUnit(NamedTuple):
    """How scans become cases, how many axes a case has, and why scans may not do (None if they do)."""

    cases: Callable[[Sequence[Scan]], list[Case]]
    axes: Literal[2, 3]
    lacks: Callable[[Sequence[Scan]], str | None]


def _each_scan(scans: Sequence[Scan]) -> list[Case]:
    return [Case(scan.scan, scan.patient, (scan.scan,), scan.spacing_mm) for scan in scans]


def _no_volumes(scans: Sequence[Scan]) -> str | None:
    flat = all(scan.shape[0] == 1 for scan in scans)
    return "the data hold single images, no volumes; use protocol 'image'" if flat else None


def _no_images(scans: Sequence[Scan]) -> str | None:
    deep = next((scan for scan in scans if scan.shape[0] != 1), None)
    return f"scan {deep.scan!r} has {deep.shape[0]} slices, but a case is one 2-D image" if deep else None


def _diagonal_if_one(both: bool, shape: Sequence[int], spacing: Spacing | None) -> EmptyScore:
    return EmptyScore(1.0, 0.0) if both else EmptyScore(0.0, diagonal(shape, spacing))


def _zero(both: bool, shape: Sequence[int], spacing: Spacing | None) -> EmptyScore:
    return EmptyScore(0.0, 0.0)


CASE_UNITS: Mapping[str, CaseUnit] = {
    "scan": CaseUnit(_each_scan, 3, _no_volumes),
    "image": CaseUnit(_each_scan, 2, _no_images),
}
EMPTIES: Mapping[str, Callable[[bool, Sequence[int], Spacing | None], EmptyScore]] = {
    "diagonal": _diagonal_if_one,
    "zero": _zero,
}


@dataclass(frozen=True)
class ScoringProtocol:
    """One way of turning label maps into numbers; the strings are rows of the tables named above."""

    name: str
    geometry: str
    case_unit: str
    empty: str
    units: tuple[Literal["voxel", "mm"], ...]

    def applicable(self, scans: Sequence[Scan]) -> str | None:
        """Return why the protocol cannot be applied to these scans, None if it can."""
        if not scans:
            return "no scans"
        bare = [scan.scan for scan in scans if scan.mask is None]
        if bare:
            return f"{len(bare)} of {len(scans)} scans have no mask, the first is {bare[0]!r}"
        return CASE_UNITS[self.case_unit].lacks(scans)

    def cases(self, scans: Sequence[Scan]) -> list[Case]:
        """Return the cases that these scans make, in order."""
        return CASE_UNITS[self.case_unit].cases(scans)

    def grid(self, labels: np.ndarray) -> np.ndarray:
        """Return a case's label map on its own axes: (S, H, W), or (H, W) where a case is one image (S = 1)."""
        return labels if CASE_UNITS[self.case_unit].axes == 3 else labels.squeeze(0)

    def spacing(self, spacing_mm: Spacing | None) -> Spacing | None:
        """Return the spacing of the axes of `grid`."""
        return None if spacing_mm is None else tuple(spacing_mm)[-CASE_UNITS[self.case_unit].axes :]

    def empty_score(self, both: bool, shape: Sequence[int], spacing: Spacing | None) -> EmptyScore:
        """Return what an empty mask (``both``: prediction and reference) scores, in voxels if no spacing is given."""
        return EMPTIES[self.empty](both, shape, spacing)


PROTOCOLS: Mapping[str, ScoringProtocol] = {
    "scan": ScoringProtocol("scan", "native", "scan", "diagonal", ("voxel", "mm")),
    "ssl4mis": ScoringProtocol("ssl4mis", "zoom0-256", "scan", "zero", ("voxel",)),
    "image": ScoringProtocol("image", "native", "image", "diagonal", ("voxel",)),
}


def default_protocol(scans: Sequence[Scan]) -> str:
    """Return `scan`, or `image` for data in which every scan is one image."""
    return "image" if scans and _no_images(scans) is None else "scan"


def applicable_protocols(scans: Sequence[Scan]) -> tuple[list[str], dict[str, str]]:
    """Return the names of the protocols that these scans satisfy, and for each other one the reason."""
    reasons = {name: protocol.applicable(scans) for name, protocol in PROTOCOLS.items()}
    return [name for name, why in reasons.items() if why is None], {n: why for n, why in reasons.items() if why}
