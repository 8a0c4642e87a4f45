"""Imports NIfTI volumes of anybody's: a folder of images, and one of masks or masks beside the images.

IMAGES and MASKS are searched with their subfolders. A mask belongs to the image of the same path and name, or of the
same one without a word for what the file is: ``case7.nii.gz`` or ``case7_image.nii.gz`` and ``case7_seg.nii.gz``,
``img07.nii`` and ``label07.nii``, ``case7/imaging.nii.gz`` and ``case7/segmentation.nii.gz``. Without MASKS, files in
IMAGES with a word for a mask are the masks. A case without a mask is unlabelled. See `vqseg.importers.volumetric`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vqseg.errors import InputError
from vqseg.importers import volumetric
from vqseg.importers.layouts import Case, Layout, Options
from vqseg.importers.names import one_mask_each
from vqseg.importers.writer import Imported
from vqseg.nifti import case_name, cases, nifti_files

IMAGE_WORDS = ("image", "images", "imaging", "img", "volume", "vol", "scan", "orig")
MASK_WORDS = (
    *("segmentation", "seg", "mask", "masks", "labels", "label", "gt", "groundtruth", "truth", "annotation", "manual"),
)


def prepare(
    images: Path,
    out: Path,
    *,
    masks: Path | None = None,
    classes: Sequence[str] | None = None,
    frames: Literal["channels", "scans"] | None = None,
    options: Options | None = None,
) -> Imported:
    """Import ``images`` and ``masks`` into ``out``.

    Args:
        classes: class names from index 0 on; by default as many as the masks use.
        frames: what the volumes of 4-D files are, "channels" or "scans"; by default the masks tell.
        options: everything that any set of volumes can be given.

    Raises:
        InputError: a file is missing, unreadable, ambiguous or mismatched, or ``out`` holds something else.
    """
    for folder in (images, *([masks] if masks else [])):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected a folder of NIfTI files (.nii, .nii.gz)")
    layout = Layout(
        importer="nifti",
        path=images,
        name=re.sub(r"[^\w.=-]+", "-", images.resolve().name).lstrip("."),
        cases=_cases(images, masks),
        classes=classes,
        frames=frames,
        extra=[
            (key, value)
            for key, value in (
                ("masks", masks and str(masks.resolve())),
                ("classes", classes and list(classes)),
                ("frames", frames),
            )
            if value
        ],
    )
    return volumetric.bring(layout, out, options or Options())


def _cases(images: Path, masks: Path | None) -> list[Case]:
    found = {name: members[0] for name, members in cases(images).items()}
    if masks is not None:
        drawn = one_mask_each((case_name(path, masks), path) for path in nifti_files(masks))
        if not drawn:
            do = "convert the masks to NIfTI, or leave the folder out to import without masks"
            raise InputError(f"{masks}: holds no NIfTI mask (.nii, .nii.gz); {do}")
        inside = masks.resolve()
        found = {name: path for name, path in found.items() if not path.resolve().is_relative_to(inside)} or found
    else:
        drawn = {name: path for name, path in found.items() if _plain(name, MASK_WORDS) != name}
        found = {name: path for name, path in found.items() if name not in drawn}
    if not found:
        raise InputError(f"{images}: holds masks only; give the folder of images first, then that of masks")
    mask_of = _matched(found, drawn)
    return [Case(name, (path,), mask_of.get(name)) for name, path in sorted(found.items())]


def _matched(images: dict[str, Path], masks: dict[str, Path]) -> dict[str, Path]:
    """Return the mask of each image that has one; every mask has to find its image, and only one."""
    plain: dict[str, list[str]] = {}
    for name in images:
        plain.setdefault(_plain(name, IMAGE_WORDS), []).append(name)
    found: list[tuple[str, Path]] = []
    for name, path in masks.items():
        candidates = [name] if name in images else plain.get(_plain(name, MASK_WORDS), [])
        if len(candidates) != 1:
            what = f"may belong to {' or '.join(candidates)}" if candidates else "belongs to no image"
            raise InputError(f"{path}: {what}; give it its image's name, perhaps with _seg or _mask behind")
        found.append((candidates[0], path))
    return one_mask_each(found)


def _plain(name: str, words: Sequence[str]) -> str:
    """Return a name without a word for what the file is, at its end (or before a number, at its beginning)."""
    any_word = "|".join(words)
    shorter = re.sub(rf"(^|[-_.])({any_word})$", "", name, flags=re.IGNORECASE)
    return re.sub(rf"(^|_)({any_word})[-_.]?(?=\d+$)", r"\1", shorter, flags=re.IGNORECASE)
