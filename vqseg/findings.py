"""What an inspection of data finds: problems with what to do about them, and the facts of each part."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


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
