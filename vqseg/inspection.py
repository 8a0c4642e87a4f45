"""Looks at a prepared folder and one of its splits, and says exactly what is wrong where.

`check` reads everything, hidden masks too, and reports (of unlabelled patients only whether their files are sound and
how many voxels each class has); `require_sound` is the quick look before training: it stops at the first problem and
opens only the masks that the run may read.

Letters: S slices, H x W pixels, K classes.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from vqseg.errors import InputError
from vqseg.findings import PartReport, Problem, Report, part_report
from vqseg.manifest import (
    PARTS,
    Manifest,
    Scan,
    Split,
    array_sha256,
    looked_at,
    named,
    read_image,
    read_manifest,
    read_mask,
    read_split,
    scans_of,
)
from vqseg.rarity import Content, advice, content

DTYPES = {"image": ("uint8", "uint16"), "mask": ("uint8",)}
SCORED = ("labelled", "val", "test", "devtest")
NEEDED = ("labelled", "val")
LEAST_FOREGROUND = 0.005


class _Seen(NamedTuple):
    """What one scan turned out to hold: problems, its mask's content, a hash per slice (None: constant), its dtype."""

    problems: list[Problem]
    content: Content | None
    slices: list[str | None]
    dtype: str = ""


def check(root: Path, split_name: str | None = None) -> Report:
    """Read a prepared folder completely and report on one split (the default one if none is named).

    Raises:
        InputError: no prepared folder, or no such split; everything else becomes a `Problem`.
    """
    manifest = read_manifest(root)
    split = read_split(root, manifest, split_name)
    parts, problems = _members(manifest, split)
    scored = {scan.scan for part in SCORED for scan in parts.get(part, [])}
    seen = {
        scan.scan: _look(root, manifest, scan, with_mask=True, complete=True, lesions=scan.scan in scored)
        for scan in manifest.scans
    }
    problems += _shared_patients(split)
    problems += [problem for scan in manifest.scans for problem in seen[scan.scan].problems]
    problems += _mixed({name: look.dtype for name, look in seen.items() if look.dtype})
    problems += _shared_slices(parts, {name: look.slices for name, look in seen.items()})
    reports = {}
    for part, scans in parts.items():
        held = [found for scan in scans if (found := seen[scan.scan].content) is not None]
        reports[part] = part_report(scans, manifest, held, counted=part in SCORED)
        problems += _part_problems(part, scans, reports[part])
    problems += [_empty(part) for part in NEEDED if part not in parts]
    problems += _percentiles(manifest, split)
    problems += _rare(root, manifest, reports.get("labelled"))
    images = {part: report.images for part, report in reports.items()}
    pool = images.get("labelled", 0) + images.get("unlabelled", 0)
    return Report(
        root=str(root),
        name=manifest.name,
        synthetic=manifest.synthetic,
        digest=manifest.digest,
        split=split.name,
        classes=manifest.classes,
        channels=manifest.channels,
        label_share=images.get("labelled", 0) / pool if pool else None,
        parts=reports,
        problems=problems,
    )


def require_sound(
    root: Path,
    manifest: Manifest,
    split: Split,
    *,
    parts: Sequence[str] = ("labelled", "unlabelled", "val"),
    read_masks_of: Sequence[str] = ("labelled", "val"),
) -> None:
    """Refuse data that a run over ``parts`` would stumble over; masks of other parts are never opened.

    Raises:
        InputError: the first problem: an empty part, leakage between any two parts of the split, a missing mask among
            ``read_masks_of``, an unreadable or mismatched image or mask, a mask value outside the classes.
    """
    for problem in _quick_problems(root, manifest, split, parts, read_masks_of):
        raise InputError(f"{root}, split {split.name!r}: {problem.line()}")


def _quick_problems(
    root: Path, manifest: Manifest, split: Split, parts: Sequence[str], read_masks_of: Sequence[str]
) -> Iterator[Problem]:
    members, problems = _members(manifest, split)
    yield from problems
    for part in parts:
        if not members.get(part):
            yield _empty(part)
    yield from _shared_patients(split)
    # Whole scans only: the manifest has their hashes, so that nothing is read for it.
    yield from _shared_slices(members, _whole(manifest), what="scan")
    for part in parts:
        yield from _without_masks(part, members[part]) if part in read_masks_of else ()
        for scan in members[part]:
            yield from _look(root, manifest, scan, with_mask=part in read_masks_of, complete=False).problems


def _members(manifest: Manifest, split: Split) -> tuple[dict[str, list[Scan]], list[Problem]]:
    known = set(manifest.patients)
    problems = [
        _error(f"part {part}", f"patient {patient!r} is not in the data", "make the split again")
        for part, patients in split.parts.items()
        for patient in patients
        if patient not in known
    ]
    sound = {part: [p for p in patients if p in known] for part, patients in split.parts.items()}
    filtered = split.model_copy(update={"parts": sound})
    return {part: scans_of(manifest, filtered, part) for part in PARTS if part in split.parts}, problems


def _look(
    root: Path, manifest: Manifest, scan: Scan, *, with_mask: bool, complete: bool, lesions: bool = False
) -> _Seen:
    """Read one scan and hold it against the manifest; ``complete`` hashes every slice and counts the mask too."""
    problems: list[Problem] = []
    image = _content(root, scan, "image", problems)
    mask = _content(root, scan, "mask", problems) if with_mask and scan.mask else None
    if image is not None and image.shape[3:] != ((manifest.channels,) if manifest.channels > 1 else ()):
        found = image.shape[3] if image.ndim == 4 else 1
        what = f"has {found} channels, the manifest says {manifest.channels}"
        problems.append(_error(scan.image, what, "import the data again"))
    if mask is not None and (value := int(mask.max(initial=0))) >= len(manifest.classes):
        what = f"mask value {value} is outside the classes 0 to {len(manifest.classes) - 1}"
        problems.append(_error(str(scan.mask), what, "correct the source and import again"))
        mask = None
    if not complete:
        return _Seen(problems, None, [])
    held = None if mask is None else content(mask, manifest.classes, list(manifest.lesions) if lesions else [])
    if image is None:
        return _Seen(problems, held, [])
    if (image == image[:1, :1, :1]).all():
        do = "look at the source and its intensity range; leave the scan out if there is nothing to see"
        what = "its image is constant, all pixels are the same"
        problems.append(Problem(level="warning", where=f"scan {scan.scan}", what=what, do=do))
    return _Seen(problems, held, [_slice_hash(plane) for plane in image], str(image.dtype))


def _whole(manifest: Manifest) -> dict[str, list[str | None]]:
    return {scan.scan: [None if scan.constant else scan.image_sha256] for scan in manifest.scans}


def _mixed(dtypes: dict[str, str]) -> Iterator[Problem]:
    """Yield an error where scans have different dtypes: the same number would be another intensity."""
    first = {dtype: name for name, dtype in reversed(dtypes.items())}
    if len(first) > 1:
        what = " and ".join(f"{name} is {dtype}" for dtype, name in sorted(first.items()))
        yield _error(
            "images", f"{what}; expected one of them for all", "mend the importer and import into a new folder"
        )


def _percentiles(manifest: Manifest, split: Split) -> Iterator[Problem]:
    """Yield a warning for every part to be scored that had a say in the intensities."""
    for part, patients in looked_at(manifest.intake, split.parts).items():
        what = f"the intensity percentiles were computed from volumes of {named(patients)}, too"
        do = "import into another folder with this part held out, or with a --window"
        yield Problem(level="warning", where=f"part {part}", what=what, do=do)


def _slice_hash(plane: np.ndarray) -> str | None:
    """Content hash of one slice; None for a constant one, which any two patients may share."""
    return None if (plane == plane[:1, :1]).all() else array_sha256(plane)


def _content(root: Path, scan: Scan, kind: Literal["image", "mask"], problems: list[Problem]) -> np.ndarray | None:
    """Read one file of a scan and hold it against the manifest; what is wrong is added to ``problems``."""
    where, expected = (scan.image, scan.image_sha256) if kind == "image" else (str(scan.mask), scan.mask_sha256)
    again = "import the data again"
    if len(scan.slices) != scan.shape[0] and kind == "image":
        what = f"{len(scan.slices)} slice numbers for {scan.shape[0]} slices"
        problems.append(_error(f"scan {scan.scan}", what, again))
    try:
        array = read_image(root, scan) if kind == "image" else read_mask(root, scan)
    except InputError as error:
        reason = str(error).removeprefix(f"{root / where}: ").removesuffix(f"; {again}")
        problems.append(_error(where, reason, again))
        return None
    if str(array.dtype) not in DTYPES[kind]:
        problems.append(_error(where, f"holds {array.dtype}, expected {' or '.join(DTYPES[kind])}", again))
        return None
    # A value outside the classes is named as such, before the hash calls it merely changed.
    if array_sha256(array) != expected and (kind == "image" or array.max(initial=0) < len(scan.class_voxels or ())):
        problems.append(_error(where, "its content is not what the manifest recorded", again))
    return array


def _shared_patients(split: Split) -> Iterator[Problem]:
    for part, patients in split.parts.items():
        for twice in sorted({patient for patient in patients if patients.count(patient) > 1}):
            yield _error(f"part {part}", f"names patient {twice!r} twice", "make the split again")
    for (first, here), (second, there) in combinations(split.parts.items(), 2):
        for patient in sorted(set(here) & set(there)):
            what = f"leakage: patient {patient!r} is in both"
            yield _error(f"parts {first} and {second}", what, "make the split again; a patient may be in one part only")


def _shared_slices(
    parts: dict[str, list[Scan]], hashes: dict[str, list[str | None]], *, what: str = "slice"
) -> Iterator[Problem]:
    """Yield an error for every pair of scans of different patients and parts that share content."""
    first: dict[str, tuple[str, Scan]] = {}
    shared: dict[tuple[str, str, str, str], int] = {}
    for part, scans in parts.items():
        for scan in scans:
            for value in hashes[scan.scan]:
                if value is None:
                    continue
                other, held = first.setdefault(value, (part, scan))
                if other != part and held.patient != scan.patient:
                    pair = (other, part, held.scan, scan.scan)
                    shared[pair] = shared.get(pair, 0) + 1
    for (one, two, here, there), count in shared.items():
        same = f"leakage: {count} {what}{'s' if count > 1 else ''} of {here} and {there} are identical"
        do = "keep one of the two patients, or put both into one part"
        yield _error(f"parts {one} and {two}", same, do)


def _part_problems(part: str, scans: list[Scan], report: PartReport) -> Iterator[Problem]:
    where = f"part {part}"
    if not scans and part == "unlabelled":
        yield Problem(level="warning", where=where, what="is empty", do="only fully supervised runs can use it")
    elif not scans:
        yield _empty(part)
    yield from _without_masks(part, scans) if part in SCORED else ()
    if report.foreground is not None and report.foreground < LEAST_FOREGROUND:
        what = f"foreground is {report.foreground:.2%} of the voxels, under {LEAST_FOREGROUND:.1%}"
        yield Problem(level="warning", where=where, what=what, do="check the masks; consider cropping")
    if part == "labelled" and report.voxel_share:
        for name in (name for name, share in report.voxel_share.items() if share == 0):
            what = f"class {name!r} never occurs"
            yield Problem(level="warning", where=where, what=what, do="label a patient that shows it")


def _rare(root: Path, manifest: Manifest, labelled: PartReport | None) -> Iterator[Problem]:
    """Yield a warning that names the settings for rare foreground, as the labelled masks show it."""
    if labelled is None or labelled.slice_share is None or labelled.voxel_share is None:
        return
    if found := advice(root, labelled.slice_share, labelled.voxel_share, list(manifest.lesions)):
        yield Problem(level="warning", where="part labelled", what=found[0], do=found[1])


def _without_masks(part: str, scans: list[Scan]) -> Iterator[Problem]:
    for scan in scans:
        if scan.mask is None:
            do = "add its mask and import again, or move the patient to unlabelled"
            yield _error(f"part {part}, scan {scan.scan}", "has no mask", do)


def _empty(part: str) -> Problem:
    return _error(f"part {part}", "is empty", "choose another split, see 'vqseg data split --help'")


def _error(where: str, what: str, do: str) -> Problem:
    return Problem(level="error", where=where, what=what, do=do)
