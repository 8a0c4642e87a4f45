"""Files of anybody's predictions, by the scans of a prepared folder that they are named after.

A file may be called as a scan is: by its path below the folder as one word, by its name alone, or with a word for what
it is behind it (``_seg``, ``_mask``, ``_pred`` ...). Pictures may be slices: ``SCAN_slice_K``, ``SCAN-K``, ``SCAN/K``,
or named by the pattern that the data set was imported with.

Letters: K a slice's number.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqseg.errors import InputError
from vqseg.importers import names
from vqseg.manifest import Manifest, Scan

ENDINGS = (".nii.gz", ".nii", ".npz", ".npy", ".png")
WORD = re.compile(r"[-_.](seg|segmentation|mask|label|labels|pred|prediction)$", re.IGNORECASE)
SLICE = re.compile(r"(.+)(?:_slice_|-|/)(\d+)")

Names = dict[str, list[Path]]


@dataclass(frozen=True)
class Shelf:
    """Files of predictions by what they may be called: tables of names, the surest first; slices by scan and number."""

    root: Path
    files: list[Path]
    tables: tuple[Names, ...] = field(default_factory=lambda: ({}, {}, {}))
    slices: dict[str, dict[int, list[Path]]] = field(default_factory=dict)

    def whole(self, scan: Scan) -> Path | None:
        """Return the file of a whole scan, or of the case that it is a time point of.

        Raises:
            InputError: there are several of one kind.
        """
        timed = scan.grid is not None and scan.grid.frame is not None
        wanted = [scan.scan, *([re.sub(r"_t\d+$", "", scan.scan)] if timed else [])]
        endings = ENDINGS if scan.shape[0] == 1 else ENDINGS[:-1]
        for table in self.tables:
            found = [path for name in wanted for path in table.get(name, [])]
            for ending in endings:
                same = [path for path in found if path.name.lower().endswith(ending)]
                if len(same) > 1:
                    raise InputError(f"{same[0]}: scan {scan.scan!r} has another one, {same[1]}; keep one of them")
                if same:
                    return same[0]
        return None


def shelve(place: Path, manifest: Manifest) -> Shelf:
    """Find the label maps of a folder (with its subfolders), or take one file.

    Raises:
        InputError: there are none.
    """
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; expected label maps (.nii.gz, .npz, .npy, .png)")
    root = place if place.is_dir() else place.parent
    inside = sorted(place.rglob("*")) if place.is_dir() else [place]
    files = [path for path in inside if path.name.lower().endswith(ENDINGS) and path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    if not files:
        raise InputError(f"{place}: holds no label map (.nii.gz, .npz, .npy, .png)")
    shelf = Shelf(root, files)
    by_pattern = _pattern(manifest)
    unnumbered: Names = {}
    for path in files:
        relative = _stem(path.relative_to(root).as_posix())
        name = relative.rpartition("/")[2]
        keys = (_word(relative), name, WORD.sub("", name))
        for key, table in zip(dict.fromkeys(keys), shelf.tables):
            table.setdefault(key, []).append(path)
        if path.suffix.lower() != ".png":
            continue
        if by_pattern and (placed := _placed(by_pattern, path)):
            if placed.slice is None:
                unnumbered.setdefault(placed.scan, []).append(path)
            else:
                shelf.slices.setdefault(placed.scan, {}).setdefault(placed.slice, []).append(path)
        elif match := SLICE.fullmatch(WORD.sub("", relative)):
            for scan in dict.fromkeys((_word(match[1]), match[1].rpartition("/")[2])):
                shelf.slices.setdefault(scan, {}).setdefault(int(match[2]), []).append(path)
    for scan, paths in unnumbered.items():
        # Names without numbers were counted in order of name on import.
        shelf.slices.setdefault(scan, {number: [path] for number, path in enumerate(paths, start=1)})
    return shelf


def _pattern(manifest: Manifest) -> Any:
    """Return how the importer read file names, if by a pattern of the user's."""
    pattern, table = manifest.source.get("pattern"), manifest.source.get("patients")
    if manifest.source.get("importer") != "folder" or not isinstance(pattern, str):
        return None
    return names.reader(Path(table) if table and Path(table).is_file() else None, pattern)


def _placed(place: Any, path: Path) -> names.Place | None:
    try:
        found: names.Place = place(path)
    except InputError:  # a file of something else
        return None
    return found


def _stem(name: str) -> str:
    return re.sub(r"\.(nii\.gz|nii|npz|npy|png)$", "", name, flags=re.IGNORECASE)


def _word(relative: str) -> str:
    """Return a path as one word, as importers name scans (`vqseg.nifti.case_name`)."""
    return re.sub(r"[^\w.=-]+", "_", relative).lstrip(".")
