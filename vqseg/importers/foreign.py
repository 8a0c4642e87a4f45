"""Imports by a user's own function: ``scans(source: Path, *, options) -> writer.Plan``.

The function says what is there and how each scan is read; nothing else. Everything that it promises is checked here,
the writing is `writer.write`'s, and the splits are drawn in the order of its scans.

Letters: S slices, H x W pixels, C channels.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vqseg import foreign_code, splits
from vqseg.config import Choice
from vqseg.errors import InputError, require_name
from vqseg.files import digest
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
    options = json.loads(json.dumps(part.options))  # as the manifest gives them back
    kept = {**plan.source, "importer": part.label, "path": str(source.resolve()), **options}
    code = part.code.hash if part.code else ""
    scans = [replace(scan, read=partial(_read, part, scan, plan)) for scan in plan.scans]
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
    return write(out, read_plan(part, source), partial(_splits, labelled=labelled, val=val, test=test))


def _splits(manifest: Manifest, *, labelled: str, val: float, test: float) -> list[Split]:
    everyone = Split(name="the source", data=manifest.digest, parts={"unlabelled": manifest.patients})
    made = splits.draw(manifest, everyone, name="drawn", labelled=labelled, val=val, test=test)
    return [made.model_copy(update={"name": f"labelled-{len(made.parts['labelled'])}"})]


def _read(part: Part, pending: Pending, plan: Plan) -> Volume:
    volume = _asked(part, pending.read)
    where = f"{part.label}: scan {pending.scan!r}"
    if not isinstance(volume, Volume):
        raise InputError(f"{where}: read() gave a {type(volume).__name__}; expected a vqseg.importers.writer.Volume")
    _require_image(where, volume.image, len(pending.slices), plan.channels)
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
    if len(plan.classes) < 2 or len(set(plan.classes)) < len(plan.classes):
        raise InputError(f"{label}: classes are {plan.classes}; expected two or more names, background first")
    if not plan.scans:
        raise InputError(f"{label}: found no scan; look at the source folder, and at how the function lists it")
    names = [scan.scan for scan in plan.scans]
    for scan in plan.scans:
        require_name(scan.scan, f"{label}: a scan's name")
        if names.count(scan.scan) > 1:
            raise InputError(f"{label}: scan {scan.scan!r} stands twice; a scan is one volume, and its name its file's")
        if not scan.patient or not scan.slices:
            raise InputError(f"{label}: scan {scan.scan!r} has no patient or no slices; give both")


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
