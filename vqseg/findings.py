"""What an inspection of data finds: problems with what to do about them, and the facts of each part."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from vqseg.manifest import Manifest, Scan
from vqseg.rarity import Content


class Problem(BaseModel):
    """One thing that is wrong: where, what, and what to do about it."""

    model_config = ConfigDict(frozen=True)
    level: Literal["error", "warning"]
    where: str
    what: str
    do: str

    def line(self) -> str:
        """Return the problem as one line without its level."""
        return f"{self.where}: {self.what}; {self.do}"


class PartReport(BaseModel):
    """One part: counts, (smallest, largest) sides in pixels, spacing, and each class's share of the voxels (0-1).

    ``slice_share`` (0-1 of the slices with a mask) and ``lesions`` (all, fewest and most of one scan, for the classes
    marked as lesions) are those of parts whose masks a run or its scoring may open; they are None elsewhere.
    """

    patients: int
    scans: int
    images: int
    images_with_mask: int
    rows: tuple[int, int] | None
    columns: tuple[int, int] | None
    spacing: Literal["known", "unknown", "partly"]
    voxel_share: dict[str, float] | None
    foreground: float | None
    slice_share: dict[str, float] | None = None
    lesions: dict[str, tuple[int, int, int]] | None = None


class Report(BaseModel):
    """All that `check` found; ``label_share`` is labelled images over labelled and unlabelled ones (0-1)."""

    root: str
    name: str
    synthetic: bool
    digest: str
    split: str
    classes: list[str]
    channels: int
    label_share: float | None
    parts: dict[str, PartReport]
    problems: list[Problem]

    @property
    def errors(self) -> list[Problem]:
        """The problems that make the split unusable."""
        return [problem for problem in self.problems if problem.level == "error"]


def part_report(scans: Sequence[Scan], manifest: Manifest, held: Sequence[Content], *, counted: bool) -> PartReport:
    """Return the facts of a part: its scans, the contents of those masks that were read; slices are ``counted``."""
    known = {scan.spacing_mm is not None for scan in scans}
    voxels = np.sum([found.voxels for found in held], axis=0) if held else None
    shares = None if voxels is None else voxels / max(1, voxels.sum())
    images_with_mask = sum(len(scan.slices) for scan in scans if scan.mask)
    counted &= bool(held)
    shown = np.sum([found.slices for found in held], axis=0) / max(1, images_with_mask) if counted else ()
    lesions = {name: [found.lesions[name] for found in held] for name in manifest.lesions} if counted else {}
    return PartReport(
        patients=len({scan.patient for scan in scans}),
        scans=len(scans),
        images=sum(len(scan.slices) for scan in scans),
        images_with_mask=images_with_mask,
        rows=_extent(scan.shape[1] for scan in scans),
        columns=_extent(scan.shape[2] for scan in scans),
        spacing="partly" if len(known) == 2 else "known" if known == {True} else "unknown",
        voxel_share=None if shares is None else {n: float(share) for n, share in zip(manifest.classes, shares)},
        foreground=None if shares is None else float(shares[1:].sum()),
        slice_share={n: float(share) for n, share in zip(manifest.classes[1:], shown[1:])} if counted else None,
        lesions={n: (sum(counts), min(counts), max(counts)) for n, counts in lesions.items()} if counted else None,
    )


def _extent(sides: Iterator[int]) -> tuple[int, int] | None:
    found = list(sides)
    return (min(found), max(found)) if found else None
