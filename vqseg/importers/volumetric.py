"""The engine of the importers of volumes: from cases (image files, perhaps a mask) to a prepared folder.

All files are read once before anything is written, so that whatever is wrong with one is said first; then each is
turned into slices by `vqseg.volumes.take`, as a new file is for a prediction.

Letters: S slices, H x W pixels.
"""

from functools import partial
from pathlib import Path

import numpy as np

from vqseg.errors import InputError, pick
from vqseg.importers import intensities, parts
from vqseg.importers.layouts import AXES, Case, Layout, Options
from vqseg.importers.names import Table, read_table
from vqseg.importers.survey import Member, Survey, indices, survey
from vqseg.importers.writer import Imported, Pending, Plan, Volume, file_state, held, unchanged, write
from vqseg.intake import Intake
from vqseg.marks import parse_lesions
from vqseg.nifti import probe
from vqseg.volumes import forward, take

MOST_CLASSES = 256


def bring(layout: Layout, out: Path, options: Options) -> Imported:
    """Import the cases of ``layout`` into ``out``.

    Raises:
        InputError: an option, a file or a table that cannot be used (before anything is written), or ``out`` holds
            something else.
    """
    intensities.require_ranges(options.windows, options.percentiles)
    _require_options(layout, options)
    table = read_table(options.patients) if options.patients else None
    patient_of, attributes = _patients(layout, table)
    name = layout.name if options.name is None else options.name
    source = {
        "importer": layout.importer,
        "path": str(layout.path.resolve()),
        **dict(layout.extra),
        **options.shaping(),
    }
    files = [path for case in layout.cases for path in (*case.images, case.mask) if path]
    state = file_state([*files, *([options.patients] if options.patients else [])], source)
    before = held(out, name, source)
    kept = before is not None and unchanged(out, before, state)
    if before is not None and kept:
        read = Survey(Intake.model_validate(before.intake), before.classes, [], [], [])
    else:
        read = survey(layout, options, patient_of, name)
    tests = [patient_of[case.name] for case in layout.cases if case.test]
    counted = zip(read.members, read.slices)
    plan = Plan(
        name=name,
        classes=read.classes,
        source=source,
        state=state,
        scans=[
            Pending(m.scan, m.patient, list(range(1, count + 1)), partial(_read, m, read.intake, len(read.classes)))
            for m, count in counted
        ],
        channels=len(read.intake.channels),
        lesions=parse_lesions(options.lesions, read.classes),
        attributes=attributes,
        intake=read.intake.model_dump(mode="json"),
        notes=[*layout.notes, *_bare(layout), *read.notes],
        kept=kept,
    )
    return write(out, plan, partial(parts.first, tests=tests, wanted=options.wanted))


def _bare(layout: Layout) -> list[str]:
    count = sum(case.mask is None and not case.withheld for case in layout.cases)
    return [f"{count} case{'s have' if count > 1 else ' has'} no mask: unlabelled"] if count else []


def _require_options(layout: Layout, options: Options) -> None:
    if options.axis is not None:
        pick(options.axis.lower(), AXES, "slice axis for --axis")
    if options.spacing_mm is not None and not 0 < options.spacing_mm < np.inf:
        raise InputError(f"--spacing {options.spacing_mm:g}: expected millimeters above 0")
    if options.bits not in (None, 8, 16):
        raise InputError(f"--bits {options.bits}: expected 8 or 16")
    if layout.frames not in (None, "channels", "scans"):
        raise InputError(f"--frames {layout.frames}: expected channels (of one scan) or scans (time points)")
    named = layout.classes
    if named is not None and not (2 <= len(named) == len(set(named)) <= MOST_CLASSES and all(named)):
        raise InputError(f"--classes {','.join(named)}: expected 2 to 256 different names, background first")
    seen: dict[str, Case] = {}
    for case in layout.cases:
        first = seen.setdefault(case.name, case)
        if first is not case:
            raise InputError(f"{case.images[0]}: the same case name as {first.images[0]}; rename one")


def _patients(layout: Layout, table: Table | None) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return the patient of every case, by default the case itself, and what the table knows of each patient."""
    if table is None:
        return {case.name: case.name for case in layout.cases}, {}
    patient_of: dict[str, str] = {}
    found: dict[str, dict[str, set[str]]] = {}
    for case in layout.cases:
        named = (case.name, *(path.name for path in case.images))
        key = next((name for name in named if name in table.patients), None)
        if key is None:
            raise InputError(f"{table.path}: has no row for case {case.name}; add one")
        patient_of[case.name] = patient = table.patient(key) or case.name
        for column, value in table.columns[key].items():
            found.setdefault(patient, {}).setdefault(column, set()).add(value)
    joined = {who: {key: "+".join(sorted(vs - {""})) for key, vs in columns.items()} for who, columns in found.items()}
    return patient_of, joined


# --- reading one scan ----------------------------------------------------------------------------


def _read(member: Member, intake: Intake, classes: int) -> Volume:
    taken = take(member.case.images, intake, frame=member.frame)[0]
    mask = None
    if member.case.mask is not None:
        labels = indices(probe(member.case.mask), classes)
        mask = forward(labels if member.frame is None else labels[..., member.frame], taken.grid, labels=True)
    return Volume(taken.image, mask, taken.range, taken.spacing_mm, taken.grid)
