"""Imports data sets in the layout of nnU-Net (version 2's raw one, and 1's) and of the Medical Segmentation Decathlon.

nnU-Net: ``dataset.json`` (channel_names, labels, file_ending), imagesTr/CASE_0000.nii.gz with a file per channel,
labelsTr/CASE.nii.gz, and perhaps imagesTs and labelsTs.
Decathlon: ``dataset.json`` (modality, labels, training, test), one file per case, of 4 dimensions where it has several
channels.

Training cases without labels are unlabelled. The test cases (of imagesTs, or listed) are the test part if labelsTs, or
the list, has labels of all of them; else all of them are unlabelled, whatever labels there are: nobody trains with the
labels of a published test case. A channel called CT needs a window. See `vqseg.importers.volumetric`.

Source: MIC-DKFZ/nnUNet, documentation/dataset_format.md; M. Antonelli et al., Nature Communications 13, 2022.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from vqseg.errors import InputError
from vqseg.files import read_json
from vqseg.importers import volumetric
from vqseg.importers.layouts import Case, Layout, Options
from vqseg.importers.names import one_mask_each
from vqseg.importers.writer import Imported
from vqseg.nifti import case_name, cases, nifti_files

ENDINGS = (".nii.gz", ".nii")


def prepare(source: Path, out: Path, *, options: Options | None = None) -> Imported:
    """Import ``source``, a folder with ``dataset.json``, into ``out``.

    Raises:
        InputError: the description or a file is missing or cannot be used, or ``out`` holds something else.
    """
    if not (source / "dataset.json").is_file():
        raise InputError(f"{source / 'dataset.json'}: missing; expected nnU-Net's or the Decathlon's description")
    path, about = source / "dataset.json", read_json(source / "dataset.json")
    if not isinstance(about, dict) or not isinstance(about.get("labels"), dict):
        raise InputError(f"{path}: has no 'labels'; expected nnU-Net's or the Decathlon's description")
    ending = about.get("file_ending", ENDINGS[0])
    if ending not in ENDINGS:
        other = "PNG images: import them with 'vqseg data folder' or 'vqseg data isic'"
        do = other if ending in (".png", ".bmp", ".tif") else f"convert the files to {ENDINGS[0]}"
        raise InputError(f"{path}: file_ending {ending!r}, expected .nii.gz or .nii; {do}")
    channels = _channels(about, path)
    found, files, notes = _listed(source, about) if "channel_names" not in about else _raw(source, about)
    for case in found:
        _require_channels(case, channels, files)
    classes = _classes(about["labels"], path)
    layout = Layout(
        importer="nnunet",
        path=source,
        name=re.sub(r"[^\w.=-]+", "-", source.resolve().name).lstrip("."),
        cases=found,
        classes=classes,
        channels=channels,
        frames="channels",
        files=files,
        notes=notes,
        extra=[("classes", classes), ("channels", channels)],
    )
    return volumetric.bring(layout, out, options or Options())


# --- the description -----------------------------------------------------------------------------


def _channels(about: dict[str, Any], path: Path) -> list[str]:
    named = about.get("channel_names", about.get("modality"))
    if not isinstance(named, dict) or sorted(named, key=str) != sorted(str(place) for place in range(len(named))):
        raise InputError(f"{path}: expected 'channel_names' (or 'modality') with a name for 0, 1, ...")
    if not named:
        raise InputError(f"{path}: 'channel_names' is empty; name at least channel 0")
    return [str(named[str(place)]) for place in range(len(named))]


def _classes(labels: dict[str, Any], path: Path) -> list[str]:
    """Return class names by index, of {name: index} or {index: name}."""
    if "ignore" in labels:
        raise InputError(
            f"{path}: labels have 'ignore', but masks are used whole here; relabel or leave out such masks"
        )
    region = next((name for name, value in labels.items() if isinstance(value, list)), None)
    if region is not None:
        what = f"label {region!r} is a region of several values"
        raise InputError(f"{path}: {what}; write each value as a label of its own ({{name: number}})")
    if len(labels) < 2:
        raise InputError(f"{path}: labels are {labels}; expected a name for background (0) and for at least one more")
    by_index = {_index(value): name for name, value in labels.items()}
    if None in by_index:
        by_index = {_index(key): str(value) for key, value in labels.items()}
    if sorted(by_index, key=str) != sorted(range(len(labels)), key=str):
        raise InputError(f"{path}: labels {labels}: expected a name for each of 0, 1, 2, ..., background first")
    return [by_index[place] for place in range(len(labels))]


def _index(value: Any) -> int | None:
    return int(value) if re.fullmatch(r"\d+", str(value)) else None


# --- the files -----------------------------------------------------------------------------------


def _raw(source: Path, about: dict[str, Any]) -> tuple[list[Case], Literal["each"], list[str]]:
    """Return the cases of nnU-Net's layout."""
    if not (source / "imagesTr").is_dir():
        raise InputError(f"{source / 'imagesTr'}: no such folder; nnU-Net keeps training images there")
    found, notes = _of(source, "Tr"), []
    promised = about.get("numTraining")
    if isinstance(promised, int) and promised != len(found):
        notes.append(f"dataset.json says {promised} training cases, imagesTr holds {len(found)}")
    if (source / "imagesTs").is_dir() and nifti_files(source / "imagesTs"):
        found += _tests(_of(source, "Ts"), notes, "of imagesTs")
    return found, "each", notes


def _of(source: Path, part: str) -> list[Case]:
    images, masks = cases(source / f"images{part}", "each"), _labels(source / f"labels{part}")
    stray = next((path for name, path in masks.items() if name not in images), None)
    if stray is not None:
        raise InputError(f"{stray}: has no image in images{part}; restore the image or remove the label")
    return [Case(name, tuple(paths), masks.get(name)) for name, paths in images.items()]


def _labels(folder: Path) -> dict[str, Path]:
    return one_mask_each((case_name(path, folder), path) for path in nifti_files(folder)) if folder.is_dir() else {}


def _tests(found: Sequence[Case], notes: list[str], which: str) -> list[Case]:
    """Return the test cases as the test part if all of them have labels, else all without labels."""
    bare = sum(case.mask is None for case in found)
    if not bare:
        return [Case(case.name, case.images, case.mask, test=True) for case in found]
    if bare == len(found):
        notes.append(f"{bare} test cases {which} have no label: they are trained on as unlabelled images")
    else:
        what = "all are unlabelled, none is a test case, and the labels of the others are not used"
        notes.append(f"{bare} of {len(found)} cases {which} have no label: {what}")
    return [Case(case.name, case.images, withheld=case.mask is not None) for case in found]


def _listed(source: Path, about: dict[str, Any]) -> tuple[list[Case], Literal["one", "each"], list[str]]:
    """Return the cases that the Decathlon's description lists, or nnU-Net 1's with a file per channel."""
    path = source / "dataset.json"
    listed = about.get("training")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{path}: lists no 'training' cases and has no 'channel_names'; restore one of them")
    tests, labels, notes = about.get("test", []), _labels(source / "labelsTs"), list[str]()
    found = [_entry(entry, source, {}) for entry in listed]
    apart = [_entry(entry, source, labels) for entry in (tests if isinstance(tests, list) else [])]
    # A file per channel has its number behind the listed name.
    each = any(case.images[0].name != name for case, name in [*found, *apart])
    cases_of = [case for case, _ in found] + _tests([case for case, _ in apart], notes, "listed as 'test'")
    return cases_of, "each" if each else "one", notes


def _entry(entry: Any, source: Path, labels: dict[str, Path]) -> tuple[Case, str]:
    """Return a listed case, with the label of its name where the entry has none, and the file name that it lists."""
    path = source / "dataset.json"
    image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
    if not isinstance(image, str) or not isinstance(label, str | None):
        raise InputError(f"{path}: {entry!r} is no case; expected {{image: path, label: path}}")
    images, file = _images(_below(source, image, path)), Path(image).name
    name = case_name(Path(file), Path())
    mask = labels.get(name) if label is None else _below(source, label, path)
    if mask is not None and not mask.is_file():
        raise InputError(f"{mask}: missing, although {path.name} lists it; restore it")
    return Case(name, images, mask), file


def _images(image: Path) -> tuple[Path, ...]:
    """Return the listed file, or those with a channel's number behind its name."""
    if image.is_file():
        return (image,)
    ending = next((ending for ending in ENDINGS if image.name.endswith(ending)), "")
    stem = image.name.removesuffix(ending)
    numbered = sorted(image.parent.glob(f"{stem}_[0-9][0-9][0-9][0-9]{ending}")) if ending else []
    if not numbered:
        raise InputError(f"{image}: missing, although dataset.json lists it; restore it")
    return tuple(numbered)


def _below(source: Path, name: str, path: Path) -> Path:
    """Return a listed file; links inside of ``source`` may lead elsewhere, the name itself may not."""
    whole = source / name
    if not Path(os.path.abspath(whole)).is_relative_to(os.path.abspath(source)):
        raise InputError(f"{path}: {name!r} lies outside of {source}; list files below it")
    return whole


def _require_channels(case: Case, channels: Sequence[str], files: str) -> None:
    """Hold the file names of a case against the channels."""
    if files == "one":
        return
    for place, name in enumerate(channels):
        held = next((path for path in case.images if re.search(rf"_{place:04d}\.nii(\.gz)?$", path.name)), None)
        if held is None:
            missing = f"{case.name}_{place:04d}"
            raise InputError(
                f"{case.images[0].parent / missing}.nii.gz: missing, the case's channel {name!r}; restore it"
            )
    if len(case.images) > len(channels):
        what = f"{len(case.images)} files, dataset.json names {len(channels)} channels"
        raise InputError(f"{case.images[-1]}: the case has {what}; make them agree")
