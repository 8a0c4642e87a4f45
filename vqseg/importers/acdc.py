"""Imports ACDC (cardiac MRI; right ventricle, myocardium, left ventricle) in either of its two public forms.

1. SSL4MIS's HDF5 form: ``train_slices.list``, ``val.list``, optionally ``train.list`` and ``test.list``; training
   slices ``patientNNN_frameNN_slice_K.h5`` in ``data/slices/`` or ``data/``, whole scans ``patientNNN_frameNN.h5``
   in ``data/``. Slices are stacked per scan in numeric order of K, and K is kept as the slice number. Patients
   keep the list's order of first appearance. The files hold no spacing, so it is unknown.
2. The original NIfTI form: ``patientNNN/patientNNN_frameNN.nii.gz`` with ``_gt``, in SOURCE or its ``training/`` and
   ``testing/``. Arrays become (slice, row, column), with spacing in mm. The same lists are followed if they lie
   in SOURCE (``train.list``, ``val.list``); else patients are sorted by name: with ``testing/`` its patients are the
   test part and the first seven eighths of the others train, else 70 % train, 10 % val, 20 % test.

Source: O. Bernard et al., IEEE TMI 37(11), 2018 (data); HiLab-git/SSL4MIS, ``code/dataloaders`` (lists, HDF5 form).
Differs: intensities are kept as 8 bits, mapped from each scan's minimum and maximum.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqseg import splits
from vqseg.errors import InputError
from vqseg.importers.writer import Imported, Pending, Plan, Volume, file_state, to_bytes, to_indices, write
from vqseg.intake import Channel, Intake
from vqseg.manifest import Manifest, Split
from vqseg.nifti import Source, probe, voxels
from vqseg.volumes import forward, grid_of

CLASSES = ["background", "right ventricle", "myocardium", "left ventricle"]
# Slices lie as in the file, (slice, row, column) of (column, row, slice), and so do those of the HDF5 form.
INTAKE = Intake(axis=2, orientation="file", channels=[Channel(name="MR", percentiles=(0, 100))])
SLICE = re.compile(r"((patient\d+)_frame\d+)_slice_(\d+)")
SCAN = re.compile(r"(patient\d+)_frame\d+")


class _Layout(NamedTuple):
    """What a source holds: scans in order, their files, and the patients of each part."""

    kind: str
    scans: list[Pending]
    files: list[Path]
    train: list[str]
    val: list[str]
    test: list[str]


def prepare(source: Path, out: Path, *, labelled: str = "7", name: str = "acdc") -> Imported:
    """Import ``source`` into ``out`` and write the splits of ``labelled`` patients.

    Without test scans a second split, the default one, holds out training patients as ``devtest`` (see
    `vqseg.splits.hold_out`). A later call with another ``labelled`` only adds splits.

    Args:
        labelled: how many patients of the training list are labelled: a number, a share (``10%``) or ``all``.

    Raises:
        InputError: a list, a file or a mask is missing, damaged or mismatched, or ``out`` holds something else.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; expected ACDC as HDF5 with SSL4MIS's lists, or as NIfTI")
    layout = _hdf5(source) if _is_hdf5(source) else _nifti(source)
    splits.labelled_count(labelled, len(layout.train))
    plan = Plan(
        name=name,
        classes=CLASSES,
        source={"importer": "acdc", "path": str(source.resolve()), "layout": layout.kind},
        state=file_state(layout.files),
        scans=layout.scans,
        intake=INTAKE.model_dump(mode="json"),
    )
    return write(out, plan, partial(_splits, layout=layout, labelled=labelled))


def _splits(manifest: Manifest, *, layout: _Layout, labelled: str) -> list[Split]:
    train, others = layout.train, {"val": layout.val}
    count = splits.labelled_count(labelled, len(train))
    name = f"labelled-{'all' if labelled == 'all' else count}"
    if layout.test:
        return [splits.first(manifest, name, train, count, {**others, "test": layout.test})]
    made = [splits.first(manifest, name, train, count, others, "no test scans: publish on the devtest split")]
    rest, held = splits.hold_out(manifest, train)
    if labelled == "all":
        count = len(rest)
    if held and (labelled == "all" or rest[:count] == train[:count]):
        note = f"no test scans: {len(held)} of the last training patients are held out as devtest"
        made.append(splits.first(manifest, f"{name}-devtest", rest, count, {**others, "devtest": held}, note))
    return made


def _is_hdf5(source: Path) -> bool:
    return (source / "train_slices.list").exists() or any((source / "data").glob("**/*.h5"))


def _hdf5(source: Path) -> _Layout:
    slices = _training_slices(source)
    val, test = _scan_list(source / "val.list"), _scan_list(source / "test.list", optional=True)
    if (source / "train.list").exists():
        _agree(source, list(slices), _scan_list(source / "train.list"))
    parts = [list(dict.fromkeys(map(_patient, part))) for part in (slices, val, test)]
    _disjoint(source, parts)
    folder = source / "data" / "slices"
    folder = folder if folder.is_dir() else source / "data"
    scans, files = [], []
    for scan, numbers in slices.items():
        paths = [folder / f"{scan}_slice_{number}.h5" for number in numbers]
        scans.append(Pending(scan, _patient(scan), numbers, partial(_read_slices, paths)))
        files += paths
    whole = {scan: source / "data" / f"{scan}.h5" for scan in val + test}
    _refuse_missing(source, [*files, *whole.values()])
    shapes = {path: _hdf5_shape(path, 2) for path in files}
    for scan, numbers in slices.items():
        first, *others = [folder / f"{scan}_slice_{number}.h5" for number in numbers]
        for path in others:
            if shapes[path] != shapes[first]:
                sizes = f"{_size(shapes[path])} pixels, but {first.name} of the same scan has {_size(shapes[first])}"
                raise InputError(f"{path}: {sizes}; restore the files")
    for scan, path in whole.items():
        count = _hdf5_shape(path, 3)[0]
        scans.append(Pending(scan, _patient(scan), list(range(1, count + 1)), partial(_read_slices, [path])))
    return _Layout("SSL4MIS HDF5", scans, [*files, *whole.values()], *parts)


def _training_slices(source: Path) -> dict[str, list[int]]:
    """Return the slice numbers of each training scan, scans grouped by patient in order of first appearance."""
    path = source / "train_slices.list"
    found: dict[str, dict[str, list[int]]] = {}
    for line in _lines(path):
        match = SLICE.fullmatch(line)
        if not match:
            raise InputError(f"{path}: line {line!r} is not of the form patientNNN_frameNN_slice_K")
        numbers = found.setdefault(match[2], {}).setdefault(match[1], [])
        if int(match[3]) in numbers:
            raise InputError(f"{path}: {line!r} stands twice; remove one")
        numbers.append(int(match[3]))
    return {scan: sorted(numbers) for patient in found.values() for scan, numbers in patient.items()}


def _scan_list(path: Path, *, optional: bool = False) -> list[str]:
    if optional and not path.exists():
        return []
    names = _lines(path)
    bad = next((name for name in names if not SCAN.fullmatch(name)), None)
    if bad is not None:
        raise InputError(f"{path}: line {bad!r} is not of the form patientNNN_frameNN")
    return list(dict.fromkeys(names))


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise InputError(f"{path}: missing; SSL4MIS's lists say which patients train and validate") from None
    if not lines:
        raise InputError(f"{path}: empty; expected one name per line")
    return [line.removesuffix(".h5") for line in lines]


def _agree(source: Path, sliced: Sequence[str], listed: Sequence[str]) -> None:
    odd = sorted(set(sliced) ^ set(listed))
    if odd:
        raise InputError(f"{source}: {odd[0]} stands in only one of train_slices.list and train.list; make them agree")


def _disjoint(source: Path, parts: Sequence[Sequence[str]]) -> None:
    seen: set[str] = set()
    for part in parts:
        if twice := sorted(seen & set(part)):
            raise InputError(f"{source}: {twice[0]} stands in two of the train, val and test lists; leave it in one")
        seen |= set(part)


def _refuse_missing(source: Path, paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}: missing{more}, although it belongs to {source}; restore it")


def _hdf5_shape(path: Path, dimensions: int) -> tuple[int, ...]:
    with _opened(path) as file:
        absent = next((key for key in ("image", "label") if key not in file), None)
        if absent:
            raise InputError(f"{path}: holds no {absent!r} (it has {', '.join(file) or 'nothing'}); restore the file")
        image, label = file["image"].shape, file["label"].shape
    if image != label or len(image) != dimensions:
        expected = "the same (rows, columns)" if dimensions == 2 else "the same (slices, rows, columns)"
        raise InputError(f"{path}: image is {_size(image)}, label is {_size(label)}; expected {expected} for both")
    return tuple(int(side) for side in image)


def _read_slices(paths: Sequence[Path]) -> Volume:
    """Read one whole scan, or stack the slices of one."""
    images, labels = [], []
    for path in paths:
        with _opened(path) as file:
            try:
                images.append(np.asarray(file["image"][()]))
                label = np.asarray(file["label"][()])
            except OSError as error:
                raise InputError(f"{path}: damaged: {' '.join(str(error).split())}; restore the file") from None
        labels.append(to_indices(label, len(CLASSES), path))
    image = images[0] if images[0].ndim == 3 else np.stack(images)
    mask = labels[0] if labels[0].ndim == 3 else np.stack(labels)
    mapped, span = to_bytes(image, paths[0])
    return Volume(mapped, mask, span)


def _opened(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError:
        raise InputError(f"{path}: not readable as HDF5 (damaged or cut short); restore the file") from None


def _nifti(source: Path) -> _Layout:
    found: dict[str, tuple[Path, bool]] = {}
    for path in sorted(source.glob("**/patient*_frame*.nii*")):
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        if SCAN.fullmatch(stem) and path.is_file():
            found.setdefault(stem, (path, "testing" in path.relative_to(source).parts))
    if not found:
        raise InputError(
            f"{source}: holds neither SSL4MIS's HDF5 (train_slices.list, data/*.h5) nor ACDC's NIfTI"
            " (patientNNN/patientNNN_frameNN.nii.gz)"
        )
    parts = _nifti_parts(source, {_patient(scan): testing for scan, (_, testing) in found.items()})
    by_patient: dict[str, list[str]] = {}
    for scan in found:
        by_patient.setdefault(_patient(scan), []).append(scan)
    absent = next((patient for part in parts for patient in part if patient not in by_patient), None)
    if absent:
        raise InputError(f"{source}: {absent} stands in a list, but has no patientNNN_frameNN.nii.gz; restore it")
    order = [scan for part in parts for patient in part for scan in by_patient[patient]]
    images = [found[scan][0] for scan in order]
    masks = [path.with_name(path.name.replace(".nii", "_gt.nii")) for path in images]
    _refuse_missing(source, masks)
    read: list[Callable[[], Volume]] = [partial(_read_nifti, *pair) for pair in zip(images, masks)]
    counts = [_nifti_slices(image, mask) for image, mask in zip(images, masks)]
    scans = [Pending(s, _patient(s), list(range(1, n + 1)), r) for s, n, r in zip(order, counts, read)]
    return _Layout("ACDC NIfTI", scans, [*images, *masks], *parts)


def _nifti_parts(source: Path, testing: dict[str, bool]) -> list[list[str]]:
    if (source / "train.list").exists():
        lists = [_scan_list(source / f"{part}.list", optional=part == "test") for part in ("train", "val", "test")]
        parts = [list(dict.fromkeys(map(_patient, names))) for names in lists]
        _disjoint(source, parts)
        return parts
    patients = sorted(testing)
    test = [patient for patient in patients if testing[patient]]
    rest = [patient for patient in patients if not testing[patient]]
    if not test:
        test = patients[len(patients) - round(len(patients) * 0.2) :]
        rest = patients[: len(patients) - len(test)]
    train = round(len(rest) * 7 / 8)
    if not 0 < train < len(rest):
        raise InputError(f"{source}: {len(patients)} patients are too few for training, validation and test")
    return [rest[:train], rest[train:], test]


def _nifti_slices(image: Path, mask: Path) -> int:
    shapes = [_shape(probe(path)) for path in (image, mask)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 3:
        raise InputError(
            f"{mask}: {_size(shapes[1])} voxels, its image has {_size(shapes[0])}; expected the same three"
        )
    return shapes[0][2]


def _shape(source: Source) -> tuple[int, ...]:
    return source.shape if source.volumes == 1 else (*source.shape, source.volumes)


def _read_nifti(image: Path, mask: Path) -> Volume:
    source = probe(image)
    grid = grid_of(source, INTAKE.axis, orientation=INTAKE.orientation)
    labels = to_indices(forward(voxels(probe(mask)), grid), len(CLASSES), mask)
    mapped, span = to_bytes(forward(voxels(source), grid), image)
    zooms = [round(side, 6) for side in np.ravel(source.header["pixdim"])[3:0:-1].tolist()]
    return Volume(mapped, labels, span, (zooms[0], zooms[1], zooms[2]) if min(zooms) > 0 else None, grid)


def _patient(scan: str) -> str:
    return scan.split("_", 1)[0]


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(side) for side in shape)
