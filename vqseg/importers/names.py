"""Reads patient, scan and slice from a file name: by the default rule, by a pattern, or by a table.

Default rule: ``PATIENT_frameNN_slice_K`` is slice K of scan ``PATIENT_frameNN``; any other name is a scan of one image,
whose patient is the text before the first underscore.
"""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vqseg.errors import InputError

VOLUME_NAME = r"(?P<scan>(?P<patient>[^_]+)_frame\d+)_slice_(?P<slice>\d+)"


class Place(NamedTuple):
    """Where an image belongs; ``slice`` is None where the name does not say."""

    patient: str
    scan: str
    slice: int | None


def reader(patients: Path | None = None, pattern: str | None = None) -> Callable[[Path], Place]:
    """Return the function that places a file by its name.

    Args:
        patients: CSV with columns ``image`` (file name, with or without suffix) and ``patient``.
        pattern: regular expression over a whole file name without suffix, with a group ``patient`` and optionally
            ``scan`` and ``slice``.

    Raises:
        InputError: the table or the pattern is unusable; the function raises it for a name that it cannot place.
    """
    expression = _pattern(pattern)
    table = _table(patients) if patients else None

    def place(path: Path) -> Place:
        match = (expression or re.compile(VOLUME_NAME)).fullmatch(path.stem)
        if expression and not match:
            raise InputError(f"{path}: the name does not match --pattern {pattern!r}; widen the pattern")
        groups = match.groupdict() if match else {}
        patient = groups.get("patient") or path.stem.split("_", 1)[0]
        if table is not None:
            if not (found := table.get(path.name) or table.get(path.stem)):
                raise InputError(f"{patients}: has no row for image {path.name}; add one")
            patient = found
        scan = groups.get("scan") or path.stem
        scan = scan if expression is None or scan.startswith(patient) else f"{patient}_{scan}"
        return Place(patient, scan, int(groups["slice"]) if groups.get("slice") else None)

    return place


def _pattern(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--pattern {pattern!r}: not a regular expression: {error}") from None
    if "patient" not in expression.groupindex:
        raise InputError(
            f"--pattern {pattern!r}: needs a group (?P<patient>...); (?P<scan>...) and (?P<slice>...) may follow"
        )
    return expression


def _table(path: Path) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not rows or not {"image", "patient"} <= set(rows[0]):
        raise InputError(f"{path}: expected a CSV with a header row and the columns image and patient")
    return {row["image"]: row["patient"] for row in rows}
