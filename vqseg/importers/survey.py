"""Reads all volumes of a source once, before anything is written: is every file sound, and what will slices be?

A file of 4 dimensions holds channels if its mask has 3, and time points if its mask has 4: every time point is then a
scan of the same patient (CASE_t1, CASE_t2, ...). ``frames`` says it where there is no mask to tell.

Slices are cut across one axis in the whole set: the one that most volumes are coarsest along.

Letters: X, Y, Z voxels of a file, V its volumes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from vqseg.errors import InputError
from vqseg.importers import intensities, parts
from vqseg.importers.layouts import AXES, Case, Layout, Options
from vqseg.importers.writer import shown, to_indices
from vqseg.intake import Intake
from vqseg.nifti import Source, probe, require_same_place, voxels
from vqseg.volumes import coarsest, grid_of, stacked

AXIS_NAMES = ("sagittal", "coronal", "axial")
# As many classes may go without a name; a mask of more is rather no mask.
MOST_UNNAMED = 32


class Member(NamedTuple):
    """One scan to come: its case, its name, its patient, and its place in a file of time points."""

    case: Case
    scan: str
    patient: str
    frame: int | None


class Survey(NamedTuple):
    """What reading everything once has shown."""

    intake: Intake
    classes: list[str]
    members: list[Member]
    slices: list[int]
    notes: list[str]


def survey(layout: Layout, options: Options, patient_of: dict[str, str], name: str) -> Survey:
    """Read every file of ``layout`` and decide what holds for all.

    Args:
        patient_of: the patient of each case.
        name: of the data set, to show while it takes its time.

    Raises:
        InputError: a file is damaged, mismatched or out of its classes; an option is missing or impossible.
    """
    headers = {case.name: [probe(path) for path in case.images] for case in layout.cases}
    masks = {case.name: probe(case.mask) for case in layout.cases if case.mask}
    for case in layout.cases:
        _require_match(headers[case.name], masks.get(case.name))
    frames = _frames(layout, headers, masks)
    names = _channel_names(layout, headers, frames)
    axis, notes = _axis([sources[0] for sources in headers.values()], options.axis)
    members, seen, most = [], [], 0
    limit = len(layout.classes) if layout.classes else MOST_UNNAMED
    for case in shown(layout.cases, name, f"reading {len(layout.cases)} cases"):
        mask = indices(masks[case.name], limit) if case.mask else None
        most = max(most, 0 if mask is None else int(mask.max()))
        for member, look in _looks(case, headers[case.name], mask, patient_of[case.name], frames):
            members.append(member)
            seen.append(look)
    training = _training(members, seen, layout, options)
    looks = [look for member, look in zip(members, seen) if member.patient in training]
    channels = intensities.channels(
        names, seen, looks, windows=options.windows, shares=options.percentiles, where=layout.path
    )
    # Not where every channel got a fixed window all the same.
    pooled = any(channel.window and channel.percentiles for channel in channels)
    intake = Intake(
        axis=axis,
        spacing_mm=options.spacing_mm,
        frames=frames,
        files=layout.files,
        channels=channels,
        bits=options.bits or intensities.bits_for(channels, seen),
        pooled=training if pooled else [],
    )
    slices = [_count(headers[member.case.name][0], intake) for member in members]
    return Survey(intake, list(layout.classes or _unnamed(most)), members, slices, notes)


def indices(mask: Source, classes: int) -> np.ndarray:
    """Read a mask as class indices (X, Y, Z), or (X, Y, Z, V) of several volumes.

    Raises:
        InputError: the file is damaged, or a value is no index of a class.
    """
    values = voxels(mask)
    if values.dtype.kind == "f":
        # A slope leaves 2.9999998 where 3 was meant; a half stays what it is, and is refused.
        near = np.rint(values)
        values = np.where(np.abs(values - near) < 1e-3, near, values)
    return to_indices(values, classes, mask.path)


def _looks(
    case: Case, images: Sequence[Source], mask: np.ndarray | None, patient: str, frames: str
) -> list[tuple[Member, intensities.Seen]]:
    values = stacked(images)
    if frames == "channels" or values.ndim == 3:
        return [(Member(case, case.name, patient, None), intensities.look(values, mask, case.images[0]))]
    digits, found = len(str(values.shape[3])), []
    for frame in range(values.shape[3]):
        member = Member(case, f"{case.name}_t{frame + 1:0{digits}d}", patient, frame)
        inside = None if mask is None else mask[..., frame]
        found.append((member, intensities.look(values[..., frame], inside, case.images[0])))
    return found


def _require_match(images: Sequence[Source], mask: Source | None) -> None:
    for other in images[1:]:
        require_same_place(other, images[0], "the case's first channel")
    if mask is not None:
        require_same_place(mask, images[0], "its image")


def _frames(layout: Layout, headers: dict[str, list[Source]], masks: dict[str, Source]) -> Literal["channels", "scans"]:
    """Return what the volumes of 4-D files are: what is said, else what the masks tell."""
    said = layout.frames
    for case in layout.cases:
        volumes, mask = sum(source.volumes for source in headers[case.name]), masks.get(case.name)
        if mask is None or (volumes == 1 and mask.volumes == 1):
            continue
        told: Literal["channels", "scans"] = "channels" if mask.volumes == 1 else "scans"
        if told == "scans" and mask.volumes != volumes:
            what = f"{mask.volumes} volumes, its image has {volumes}"
            raise InputError(f"{mask.path}: {what}; expected one for all, or one each")
        if said not in (None, told):
            one = "one mask for all of its volumes" if told == "channels" else "a mask for each of its volumes"
            other = f"not {said} as --frames (or another case) says"
            raise InputError(f"{case.images[0]}: has {one}, so they are {told}, {other}; make them agree")
        said = told
    bare = next((case for case in layout.cases if headers[case.name][0].volumes > 1), None)
    if said is None and bare is not None:
        count = headers[bare.name][0].volumes
        do = "say what they are: --frames channels (of one scan) or --frames scans (time points)"
        raise InputError(f"{bare.images[0]}: holds {count} volumes and no mask tells what they are; {do}")
    return "scans" if said == "scans" else "channels"


def _channel_names(layout: Layout, headers: dict[str, list[Source]], frames: str) -> list[str]:
    """Return the names of the source's channels; every case has to have as many."""
    if frames == "scans":
        return ["image"]
    expected, first = len(layout.channels) if layout.channels else None, ""
    for case in layout.cases:
        count = sum(source.volumes for source in headers[case.name])
        if expected is None:
            expected, first = count, f", as {case.images[0].name} has"
        if count != expected:
            what = f"the case has {count} channel{'s' if count > 1 else ''}, expected {expected}{first}"
            raise InputError(f"{case.images[0]}: {what}; complete or remove the case")
    count = expected or 1
    return list(layout.channels or (["image"] if count == 1 else [f"channel {place}" for place in range(count)]))


def _axis(sources: Sequence[Source], said: str | None) -> tuple[Literal[0, 1, 2], list[str]]:
    """Return the slice axis of the set, and a note where volumes disagree."""
    if said is not None:
        return AXES[said.lower()], []
    votes = Counter(coarsest(source) for source in sources)
    axis = max(votes, key=lambda one: (votes[one], one))
    other = len(sources) - votes[axis]
    if not other:
        return axis, []
    what = f"{other} of {len(sources)} volumes are coarsest along another axis than the others"
    return axis, [f"{what}: all are cut into {AXIS_NAMES[axis]} slices; --axis chooses another"]


def _training(
    members: Sequence[Member], seen: Sequence[intensities.Seen], layout: Layout, options: Options
) -> list[str]:
    """Return the patients who train (labelled or unlabelled), so that percentiles may be taken of their scans.

    The split is drawn for it as it will be: what is wrong with it is known before anything is written.
    """
    scans = [
        parts.stand_in(
            member.scan,
            member.patient,
            look.sha256,
            masked=member.case.mask is not None,
            constant=all(low == high for low, high in look.extremes),
        )
        for member, look in zip(members, seen)
    ]
    twice = next((name for name, count in Counter(scan.scan for scan in scans).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"{layout.path}: two scans would be called {twice}; rename one of the files")
    tests = [member.patient for member in members if member.case.test]
    both = next((m for m in members if not m.case.test and m.patient in tests), None)
    if both is not None:
        what = f"is of patient {both.patient!r}, of whom the test part has images, too"
        raise InputError(f"{both.case.images[0]}: {what}; leave the case out, or correct the table")
    made = parts.first(parts.not_yet(scans), tests=tests, wanted=options.wanted)[0].parts
    inside = {patient for part in ("labelled", "unlabelled") for patient in made.get(part, [])}
    return list(dict.fromkeys(member.patient for member in members if member.patient in inside))


def _count(source: Source, intake: Intake) -> int:
    return (*source.shape, 1)[:3][grid_of(source, intake.axis).axes[0]]


def _unnamed(most: int) -> list[str]:
    return ["background", "foreground"] if most <= 1 else ["background", *(f"class {i}" for i in range(1, most + 1))]
