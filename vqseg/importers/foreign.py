"""Imports by a user's own function: ``scans(source: Path, *, options) -> writer.Plan``.

The function says what is there and how each scan is read; nothing else. Everything that it promises is checked here,
the writing is `writer.write`'s, and the splits are drawn in the order of its scans.

Letters: S slices, H x W pixels, C channels.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vqseg import foreign_code, splits
from vqseg.config import Choice
from vqseg.errors import InputError, require_name
from vqseg.files import digest
from vqseg.importers.parts import not_yet, stand_in
from vqseg.importers.writer import Imported, Pending, Plan, Volume, write
from vqseg.manifest import Manifest, Split
from vqseg.parts import Part, resolve

DTYPES = ("uint8", "uint16")
Value = TypeVar("Value")


def importer(name: str, options: Mapping[str, Any]) -> Part:
    """Return the user's function with its options bound.

    Raises:
        InputError: not a name of code, or the code or an option does not do.
    """
    if not foreign_code.is_code(name):
        raise InputError(f"{name!r}: expected {foreign_code.FORM}, a function of yours that returns a Plan")
    return resolve("importer", Choice.model_validate({"name": name, **options}))


def read_plan(part: Part, source: Path) -> Plan:
    """Ask the function for its plan, complete it and check it; scans are checked when they are read.

    Raises:
        InputError: the source is no folder, the function raises, or its plan is none that can be written.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    plan = _asked(part, lambda: part.build(source))
    _require_plan(part.label, plan)
    seen: dict[str, str] = {}
    options = json.loads(json.dumps(part.options))  # as the manifest gives them back
    kept = {**plan.source, "importer": part.label, "path": str(source.resolve()), **options}
    code = part.code.hash if part.code else ""
    scans = [replace(scan, read=partial(_read, part, scan, plan, seen)) for scan in plan.scans]
    return replace(plan, source=kept, state=digest([plan.state, code, options]), scans=scans)


def prepare_own(
    part: Part, source: Path, out: Path, *, labelled: str = "all", val: float = 0.15, test: float = 0.25
) -> Imported:
    """Import ``source`` into ``out`` with one split: the last patients are test, those before them val.

    Args:
        part: what `importer` returned.
        source: the data set's folder.
        out: the prepared folder to write.
        labelled: of the others, the first ones are labelled: a number, a share (``10%``) or ``all``.
        val: share (0-1) of all patients.
        test: share (0-1) of all patients.

    Raises:
        InputError: as `read_plan` and `writer.write`, or too few patients have masks.
    """
    plan, drawn = read_plan(part, source), partial(_splits, labelled=labelled, val=val, test=test)
    # Numbers that would not do if everybody had a mask are refused before anything is written.
    drawn(not_yet([stand_in(scan.scan, scan.patient, scan.scan, masked=True) for scan in plan.scans]))
    return write(out, plan, drawn)


def _splits(manifest: Manifest, *, labelled: str, val: float, test: float) -> list[Split]:
    everyone = Split(name="the source", data=manifest.digest, parts={"unlabelled": manifest.patients})
    made = splits.draw(manifest, everyone, name="drawn", labelled=labelled, val=val, test=test)
    return [made.model_copy(update={"name": f"labelled-{len(made.parts['labelled'])}"})]


def _read(part: Part, pending: Pending, plan: Plan, seen: dict[str, str]) -> Volume:
    """Read a scan and check it; ``seen`` holds the first scan of each dtype."""
    volume = _asked(part, pending.read)
    where = f"{part.label}: scan {pending.scan!r}"
    if not isinstance(volume, Volume):
        raise InputError(f"{where}: read() gave a {type(volume).__name__}; expected a vqseg.importers.writer.Volume")
    _require_image(where, volume.image, len(pending.slices), plan.channels)
    seen.setdefault(str(volume.image.dtype), pending.scan)
    if len(seen) > 1:
        (one, first), (two, second) = list(seen.items())[:2]
        what = f"scan {first!r} is {one}, scan {second!r} is {two}"
        raise InputError(f"{part.label}: {what}; expected one dtype (white is 255 in uint8, 65535 in uint16)")
    if volume.mask is not None:
        _require_mask(where, volume.mask, volume.image.shape[:3], len(plan.classes))
    spacing = volume.spacing_mm
    if spacing is not None and not (len(spacing) == 3 and all(0 < side < math.inf for side in spacing)):
        raise InputError(f"{where}: spacing_mm is {spacing}; expected (slice, row, column) in mm, or None if unknown")
    return volume


def _require_image(where: str, image: Any, slices: int, channels: int) -> None:
    shape = f"({slices}, H, W{f', {channels}' if channels > 1 else ''})"
    fits = isinstance(image, np.ndarray) and image.shape[:1] + image.shape[3:] == (
        (slices,) if channels == 1 else (slices, channels)
    )
    if not fits or image.ndim != 3 + (channels > 1) or str(image.dtype) not in DTYPES:
        raise InputError(
            f"{where}: its image is {_form(image)}; expected {' or '.join(DTYPES)} of {shape}, as its slices and the"
            " plan's channels say (vqseg.importers.writer.to_bytes maps intensities)"
        )


def _require_mask(where: str, mask: Any, shape: tuple[int, ...], classes: int) -> None:
    fits = isinstance(mask, np.ndarray) and mask.shape == shape and str(mask.dtype) == "uint8"
    if not fits or mask.max(initial=0) >= classes:
        found = f"{_form(mask)}{f' up to {mask.max(initial=0)}' if fits else ''}"
        raise InputError(
            f"{where}: its mask is {found}; expected uint8 of {shape} with the indices 0 to {classes - 1} of the plan's"
            " classes (vqseg.importers.writer.to_indices checks and converts), or None"
        )


def _require_plan(label: str, plan: Any) -> None:
    if not isinstance(plan, Plan):
        raise InputError(f"{label}: gave a {type(plan).__name__}; expected a vqseg.importers.writer.Plan")
    require_name(plan.name, f"{label}: the plan's name")
    if (
        len(plan.classes) < 2
        or len(set(plan.classes)) < len(plan.classes)
        or not _texts(plan.classes)
        or "" in plan.classes
    ):
        raise InputError(f"{label}: classes are {plan.classes}; expected two or more names, background first")
    _require_facts(label, plan)
    if not plan.scans:
        raise InputError(f"{label}: found no scan; look at the source folder, and at how the function lists it")
    names = [scan.scan for scan in plan.scans]
    for scan in plan.scans:
        require_name(scan.scan, f"{label}: a scan's name")
        if names.count(scan.scan) > 1:
            raise InputError(f"{label}: scan {scan.scan!r} stands twice; a scan is one volume, and its name its file's")
        if not scan.patient or not scan.slices:
            raise InputError(f"{label}: scan {scan.scan!r} has no patient or no slices; give both")


def _require_facts(label: str, plan: Plan) -> None:
    """Hold what goes into the manifest as it is against what the manifest takes."""
    if not (isinstance(plan.channels, int) and 1 <= plan.channels <= 16):
        raise InputError(f"{label}: channels is {plan.channels!r}; expected 1 to 16")
    if plan.color and plan.channels != 3:
        raise InputError(f"{label}: color is True with {plan.channels} channels; expected 3, red, green and blue")
    if not isinstance(plan.lesions, dict) or not isinstance(plan.attributes, dict):
        raise InputError(f"{label}: lesions and attributes: expected {{class: mm}} and {{patient: {{column: value}}}}")
    for name, tolerance in plan.lesions.items():
        if name not in plan.classes[1:]:
            known = ", ".join(plan.classes[1:])
            raise InputError(f"{label}: lesions name {name!r}; expected foreground classes of the plan: {known}")
        if not (isinstance(tolerance, int | float) and 0 < tolerance < math.inf):
            raise InputError(f"{label}: the lesion {name!r} has {tolerance!r}; expected a tolerance in mm above 0")
    for patient, columns in plan.attributes.items():
        if not isinstance(columns, dict) or not _texts([patient, *columns, *columns.values()]):
            what = f"attributes of {patient!r} are {columns!r}"
            raise InputError(f"{label}: {what}; expected {{column: value}}, all of them text (str(value))")


def _texts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _form(value: Any) -> str:
    return f"{value.dtype} of {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _asked(part: Part, ask: Callable[[], Value]) -> Value:
    """Run the user's code; what it raises becomes one line with its place."""
    try:
        return ask()
    except InputError:
        raise
    except Exception as error:  # whatever the code of a user raises
        where = foreign_code.place_of(error, part.code.path.parent) if part.code else ""
        text = " ".join(str(error).split()) or "no message"
        raise InputError(f"{where or f'{part.label}: '}{type(error).__name__}: {text}") from None
