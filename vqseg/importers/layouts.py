"""What an importer of volumes hands to the engine: the cases it found, and what the user said about them.

The engine is `vqseg.importers.survey` (everything is read once) and `vqseg.importers.volumetric` (then imported).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vqseg.importers.parts import Wanted
from vqseg.intake import Range

AXES: dict[str, Literal[0, 1, 2]] = {"0": 0, "1": 1, "2": 2, "sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class Options:
    """What a user may say of any set of volumes; the commands' help explains each."""

    name: str | None = None
    patients: Path | None = None
    lesions: Sequence[str] = ()
    labelled: str | None = None
    val: float | None = None
    test: float | None = None
    axis: str | None = None
    spacing_mm: float | None = None
    windows: Sequence[Range] = ()
    percentiles: Range | None = None
    bits: Literal[8, 16] | None = None

    @property
    def wanted(self) -> Wanted:
        """Those that decide the first split."""
        return Wanted(self.labelled, self.val, self.test)

    def shaping(self) -> dict[str, Any]:
        """Return those that decide what slices look like, as JSON: a folder belongs to one choice of them."""
        named = {
            "patients": self.patients and str(self.patients.resolve()),
            "axis": self.axis,
            "spacing_mm": self.spacing_mm,
            "windows": [list(window) for window in self.windows],
            "percentiles": self.percentiles and list(self.percentiles),
            # Who is left out of the percentiles depends on who is val and test.
            "val": self.percentiles and self.val,
            "test": self.percentiles and self.test,
            "bits": self.bits,
        }
        return {key: value for key, value in named.items() if value is not None and value != []}


@dataclass(frozen=True)
class Case:
    """The files of one case: one image with all channels or one per channel; ``test`` is the source's own word.

    ``withheld`` says that the source has a mask, which is not to be used.
    """

    name: str
    images: tuple[Path, ...]
    mask: Path | None = None
    test: bool = False
    withheld: bool = False


@dataclass(frozen=True)
class Layout:
    """A source: its cases, and what it says itself; None where it does not say.

    ``channels`` are the names of the source's channels, ``files`` says whether each has a file of its own.
    """

    importer: str
    path: Path
    name: str
    cases: Sequence[Case]
    classes: Sequence[str] | None = None
    channels: Sequence[str] | None = None
    frames: Literal["channels", "scans"] | None = None
    files: Literal["one", "each"] = "one"
    notes: Sequence[str] = ()
    extra: Sequence[tuple[str, Any]] = ()
