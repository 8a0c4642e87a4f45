"""Scoring protocols: what a case is, on which grid it was segmented, in which units, and what an empty mask costs.

Published numbers do not compare because these choices differ, so a run is segmented once per geometry, its
label maps are kept, and every protocol is computed from label maps. A protocol that a data set cannot satisfy
is not applicable, with a reason; it is never approximated.

A protocol is one row of `PROTOCOLS`. Its geometry names a row of `vqseg.inference.GEOMETRIES`, its case unit a
row of `CASE_UNITS`, its empty policy a row of `EMPTIES`. Its pool is a part whose scans are scored together with
those of a test part: the rows carry the test part's name, but a number over validation scans is no clean test number.

Letters: S slices, H x W pixels.

Source: SSL4MIS `code/val_2D.py` for `ssl4mis`; UniMatch `more-scenarios/medical/unimatch.py` and its list
`valtest.txt` for `unimatch`; VQ-Seg's release, `test.py`, for `vqseg-release`.
Differs: SSL4MIS's test script stops at an empty mask, its validation script gives 0; here 0 stands for both, whichever
of the two masks is empty. UniMatch divides by zero where both are empty; here that is 0 too. UniMatch publishes Dice
alone: the Jaccard beside it is ours, and there are no distances. The release stacks whatever files a patient has; here
a patient without two scans of one in-plane shape makes the protocol not applicable. A network sees the protocol's own
size (256 pixels under `ssl4mis` and `unimatch`, 224 under `vqseg-release`) whatever it was trained on, because that is
the protocol: rows of a recipe with another input carry that mismatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from vqseg.errors import InputError, pick
from vqseg.metrics import diagonal

if TYPE_CHECKING:
    from vqseg.manifest import Scan

Spacing = tuple[float, ...]
TEST_PARTS = ("test", "devtest")
TRAINING_PARTS = ("labelled", "unlabelled")


class Case(NamedTuple):
    """What one row per class is made for: the scans whose slices are stacked, in order.

    ``order`` are the stacked slices' places in another order, None: as they are.
    """

    name: str
    patient: str
    scans: tuple[str, ...]
    spacing_mm: Spacing | None
    order: tuple[int, ...] | None = None


class EmptyScore(NamedTuple):
    """What a class scores when a mask is empty: Dice and Jaccard, and every distance."""

    overlap: float
    distance: float


class CaseUnit(NamedTuple):
    """How scans become cases, how many axes a case has, and why scans may not do (None if they do).

    ``whole``: a case is one scan with its slices side by side, so that lesions and slices next to each other mean
    something.
    """

    cases: Callable[[Sequence[Scan]], list[Case]]
    axes: Literal[2, 3]
    lacks: Callable[[Sequence[Scan]], str | None]
    whole: bool = True


def _each_scan(scans: Sequence[Scan]) -> list[Case]:
    return [Case(scan.scan, scan.patient, (scan.scan,), scan.spacing_mm) for scan in scans]


def _each_patient(scans: Sequence[Scan]) -> list[Case]:
    """All slices of a patient as the release's file names sort: slice 10 before slice 2."""
    cases = []
    for patient, own in _by_patient(scans).items():
        files = [f"{scan.scan}_slice_{number}" for scan in own for number in scan.slices]
        order = tuple(sorted(range(len(files)), key=files.__getitem__))
        cases.append(Case(patient, patient, tuple(scan.scan for scan in own), None, order))
    return cases


def _by_patient(scans: Sequence[Scan]) -> dict[str, list[Scan]]:
    found: dict[str, list[Scan]] = {}
    for scan in scans:
        found.setdefault(scan.patient, []).append(scan)
    return found


def _no_pairs(scans: Sequence[Scan]) -> str | None:
    if flat := _no_volumes(scans):
        return flat
    for patient, own in _by_patient(scans).items():
        if len(own) != 2:
            return f"no ED/ES: patient {patient!r} has {len(own)} scan{'s' * (len(own) > 1)}, a case is two"
        shapes = [" x ".join(str(side) for side in scan.shape[1:]) for scan in own]
        if shapes[0] != shapes[1]:
            return f"no ED/ES: the two scans of patient {patient!r} have {' and '.join(shapes)} pixels, a case has one"
    return None


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
    "patient": CaseUnit(_each_patient, 3, _no_pairs, whole=False),
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
    pool: Literal["val"] | None = None

    def parts(self, part: str) -> tuple[str, ...]:
        """Return the parts whose scans are scored when ``part`` is."""
        return (part,) if self.pool is None else (self.pool, part)

    def scans(self, scans: Sequence[Scan], pool: Sequence[Scan]) -> list[Scan]:
        """Return what is scored: the part's scans, after those of the pool where the protocol has one."""
        return [*(pool if self.pool else ()), *scans]

    def applicable(self, scans: Sequence[Scan], part: str, pool: Sequence[Scan] = ()) -> str | None:
        """Return why the protocol cannot be applied, None if it can.

        Args:
            scans: those of ``part``.
            part: the part's name.
            pool: the validation scans.
        """
        if not scans:
            return "no scans"
        if self.pool and part not in TEST_PARTS:
            return f"{self.pool} and test scans together; score test"
        if self.pool and not pool:
            return f"{self.pool} and test scans together, but the split has no {self.pool} scans"
        scans = self.scans(scans, pool)
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
    "unimatch": ScoringProtocol("unimatch", "bilinear-256", "scan", "zero", (), pool="val"),
    "vqseg-release": ScoringProtocol("vqseg-release", "tiles-224", "patient", "zero", ("voxel",)),
}


def require_scorable(part: str) -> None:
    """Refuse what networks are trained on.

    Raises:
        InputError: ``part`` is one of `TRAINING_PARTS`.
    """
    if part in TRAINING_PARTS:
        raise InputError(
            f"--part {part}: is for training, and masks of unlabelled patients stay hidden; name val, test or devtest"
        )


def default_protocol(scans: Sequence[Scan]) -> str:
    """Return `scan`, or `image` for data in which every scan is one image."""
    return "image" if scans and _no_images(scans) is None else "scan"


def applicable_protocols(scans: Sequence[Scan], part: str, pool: Sequence[Scan]) -> tuple[list[str], dict[str, str]]:
    """Return the names of the protocols that a part satisfies, and for each other one the reason.

    Args:
        scans: those of the part.
        part: the part's name.
        pool: the validation scans of the same split, which a protocol may score together with those of a test part.
    """
    reasons = {name: protocol.applicable(scans, part, pool) for name, protocol in PROTOCOLS.items()}
    return [name for name, why in reasons.items() if why is None], {n: why for n, why in reasons.items() if why}


def parts_read(protocols: Sequence[str] | None, part: str) -> tuple[str, ...]:
    """Return the parts whose images and masks are opened when ``part`` is scored, ``["all"]`` being every protocol."""
    asked = PROTOCOLS if protocols == ["all"] else protocols or ()
    rules = [PROTOCOLS[pick(name, PROTOCOLS, "protocol")] for name in asked]
    pools = [name for rule in rules for name in rule.parts(part) if part in TEST_PARTS]
    return tuple(dict.fromkeys([part, *pools]))
