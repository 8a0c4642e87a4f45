"""Reads patient, scan and slice from a file name: by the default rule, by a pattern, or by a table.

Default rule: ``PATIENT_frameNN_slice_K`` is slice K of scan ``PATIENT_frameNN``; any other name is a scan of one image,
whose patient is the text before the first underscore.

A table is a CSV file (comma, semicolon or tab) with one row per image: its name in one of `IMAGE_COLUMNS`, its patient
in `PATIENT_COLUMNS`, and whatever else is known about it, by which splits can be stratified.
"""

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vqseg.errors import InputError

VOLUME_NAME = r"(?P<scan>(?P<patient>[^_]+)_frame\d+)_slice_(?P<slice>\d+)"
IMAGE_COLUMNS = ("image", "case", "image_id", "image_name", "isic_id")
# Where a row fills several of them, the first counts: a patient may have many lesions. A row that fills a later one
# only belongs to the patient of the other rows with that lesion.
PATIENT_COLUMNS = ("patient", "patient_id", "lesion_id")
SEPARATORS = ",;\t"


class Place(NamedTuple):
    """Where an image belongs; ``slice`` is None where the name does not say."""

    patient: str
    scan: str
    slice: int | None


class Table(NamedTuple):
    """A CSV file of images, by image name: the patient ("" where the row leaves it open) and all other columns."""

    path: Path
    patients: dict[str, str]
    columns: dict[str, dict[str, str]]

    def key(self, path: Path) -> str:
        """Return the name under which an image stands in the table, with or without its suffix.

        Raises:
            InputError: it has no row.
        """
        for name in (path.name, path.stem):
            if name in self.patients:
                return name
        raise InputError(f"{self.path}: has no row for image {path.name}; add one")

    def patient(self, key: str) -> str:
        """Return the patient of the row ``key``, "" where the whole table names none.

        Raises:
            InputError: this row names none, although others do.
        """
        if not self.patients[key] and any(self.patients.values()):
            count = sum(not patient for patient in self.patients.values())
            more = f" and {count - 1} more" if count > 1 else ""
            raise InputError(
                f"{self.path}: names no patient for image {key}{more}; fill it in (the image's own name, if it is the"
                " only one of its patient)"
            )
        return self.patients[key]

    def attributes(self, patient_of: Mapping[Path, str]) -> dict[str, dict[str, str]]:
        """Return {patient: {column: value}} for images and their patients; different values are joined by ``+``."""
        found: dict[str, dict[str, set[str]]] = {}
        for image, patient in patient_of.items():
            for column, value in self.columns[self.key(image)].items():
                found.setdefault(patient, {}).setdefault(column, set()).add(value)
        return {
            patient: {column: "+".join(sorted(values - {""})) for column, values in columns.items()}
            for patient, columns in found.items()
        }


def reader(patients: Path | None = None, pattern: str | None = None) -> Callable[[Path], Place]:
    """Return the function that places a file by its name.

    Args:
        patients: CSV with columns ``image`` (file name, with or without suffix) and ``patient``; see `read_table`.
        pattern: regular expression over a whole file name without suffix, with a group ``patient`` and optionally
            ``scan`` and ``slice``.

    Raises:
        InputError: the table or the pattern is unusable; the function raises it for a name that it cannot place.
    """
    expression = _pattern(pattern)
    table = read_table(patients) if patients else None
    if table and not any(table.patients.values()):
        raise InputError(f"{table.path}: expected a CSV with a header row and the columns image and patient")

    def place(path: Path) -> Place:
        match = (expression or re.compile(VOLUME_NAME)).fullmatch(path.stem)
        if expression and not match:
            raise InputError(f"{path}: the name does not match --pattern {pattern!r}; widen the pattern")
        groups = match.groupdict() if match else {}
        patient = groups.get("patient") or path.stem.split("_", 1)[0]
        if table is not None:
            patient = table.patient(table.key(path))
        scan = groups.get("scan") or path.stem
        scan = scan if expression is None or scan.startswith(patient) else f"{patient}_{scan}"
        return Place(patient, scan, int(groups["slice"]) if groups.get("slice") else None)

    return place


def one_mask_each(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Return the mask of each image, from pairs of an image's name and a mask.

    Raises:
        InputError: an image has two.
    """
    found: dict[str, Path] = {}
    for name, path in named:
        if name in found:
            raise InputError(f"{path}: a second mask of {name}, beside {found[name]}; keep one")
        found[name] = path
    return found


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


def _column(name: str) -> str:
    """Return a column's name; those of image and patient in any spelling of cases."""
    plain = name.strip()
    return plain.casefold() if plain.casefold() in (*IMAGE_COLUMNS, *PATIENT_COLUMNS) else plain


def _image_column(head: str, separator: str) -> tuple[bool, int]:
    """Say how well a separator suits a header row: whether an image column stands there, and how many columns."""
    names = [_column(name) for name in next(csv.reader([head], delimiter=separator), [])]
    return any(column in names for column in IMAGE_COLUMNS), len(names)


def read_table(path: Path, *, told: bool = True) -> Table:
    """Read a table of images, in which a column says the patients if they have to be ``told``.

    Raises:
        InputError: unreadable, without a column for the image or for the patient, an image stands twice with different
            contents, or a lesion belongs to several patients.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            read = csv.DictReader(file, delimiter=max(SEPARATORS, key=lambda each: _image_column(head, each)))
            rows = [{_column(key): (row[key] or "").strip() for key in row if key} for row in read]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    held = set(rows[0]) if rows else set()
    image = next((column for column in IMAGE_COLUMNS if column in held), None)
    if image is None:
        kin = ", ".join((*IMAGE_COLUMNS[1:], *PATIENT_COLUMNS[1:]))
        raise InputError(
            f"{path}: expected a CSV with a header row and the columns image and patient (or their kin: {kin})"
        )
    table = Table(path, {}, {})
    groups = [column for column in PATIENT_COLUMNS if column in held]
    if told and not groups:
        raise InputError(
            f"{path}: has no column {', '.join(PATIENT_COLUMNS[:-1])} or {PATIENT_COLUMNS[-1]} (it has"
            f" {', '.join(sorted(held))}); name the column of the patients patient"
        )
    for row, patient in zip(rows, _patients(rows, groups, path)):
        others = {key: value for key, value in row.items() if key not in (image, *groups)}
        name = row[image]
        if name in table.patients and (table.patients[name], table.columns[name]) != (patient, others):
            raise InputError(f"{path}: image {name!r} stands twice, with different contents; remove one row")
        table.patients[name], table.columns[name] = patient, others
    return table


def _patients(rows: Sequence[Mapping[str, str]], groups: Sequence[str], path: Path) -> list[str]:
    """Return the patient of every row by the first of the columns ``groups`` that says who it is, "" if none does."""
    named = [next(((column, row[column]) for column in groups if row[column]), None) for row in rows]
    owners: dict[tuple[str, str], set[str]] = {}
    for row, first in zip(rows, named):
        for column in groups:
            if first is not None and row[column] and column != first[0]:
                owners.setdefault((column, row[column]), set()).add(first[1])
    found = []
    for first in named:
        known = owners.get(first, set()) if first else set()
        if first and len(known) > 1:
            who = " and ".join(repr(patient) for patient in sorted(known)[:2])
            raise InputError(f"{path}: a row of {first[0]} {first[1]!r} may be of {who}; fill in {groups[0]}")
        found.append(next(iter(known)) if known else first[1] if first else "")
    return found
