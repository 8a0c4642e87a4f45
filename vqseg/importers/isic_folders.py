"""Finds the images and masks of a dermoscopic set in the folders that `vqseg.importers.isic` lists."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vqseg.errors import InputError
from vqseg.importers.names import Table, one_mask_each
from vqseg.importers.pictures import IMAGE_SUFFIXES, by_stem, opened

CHALLENGE = r"IS(?:IC|BI)-?(?P<year>201[678])(?:_ISIC)?"
PART = r"_(?P<part>Training|Validation|Test)(?:_v\d)?"
IMAGES = re.compile(rf"{CHALLENGE}(?:_Part1|_Task1-2)?{PART}_(?:Data|Input)", re.IGNORECASE)
MASKS = re.compile(rf"{CHALLENGE}(?:_Part1|_Task1)?{PART}(?:_Part1)?_GroundTruth", re.IGNORECASE)
PART_NAMES = {"training": "train", "validation": "val", "test": "test"}
MASK_NAME = re.compile(r"_(?:segmentation|mask)$", re.IGNORECASE)
OTHER_TASKS = ("_superpixels", "_attribute_")


class Layout(NamedTuple):
    """The folders of a source: those of images and of masks by part (train, val, test)."""

    name: str
    images: dict[str, list[Path]]
    masks: dict[str, list[Path]]


@dataclass(frozen=True)
class Item:
    """One image of the source."""

    part: str
    name: str
    patient: str
    image: Path
    mask: Path | None


def layout_of(source: Path) -> Layout:
    """Return where ``source`` keeps its images and masks.

    Raises:
        InputError: no training images with masks, or the folders of several years.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; expected the folders of an ISIC challenge, or images and masks")
    folders = [source, *sorted(path for pattern in ("*", "*/*") for path in source.glob(pattern) if path.is_dir())]
    images, masks = _matching(folders, IMAGES), _matching(folders, MASKS)
    years = sorted({year for year, _ in images})
    if len(years) > 1:
        raise InputError(f"{source}: holds ISIC {' and '.join(years)}; give the folder of one year")
    if years:
        layout = Layout(
            f"isic-{years[0]}",
            {part: found for (_, part), found in images.items()},
            {part: found for (year, part), found in masks.items() if year == years[0]},
        )
    elif ham := [folder for folder in folders if folder.name.startswith("HAM10000_images") and _pictures(folder)]:
        drawn = [folder for folder in folders if folder.name.startswith("HAM10000_segmentations_lesion")]
        layout = Layout("ham10000", {"train": ham}, {"train": drawn} if drawn else {})
    else:
        layout = Layout("plain", {"train": [source / "images"]}, {"train": [source / "masks"]})
    if "train" not in layout.images or "train" not in layout.masks or not layout.images["train"][0].is_dir():
        raise InputError(
            f"{source}: no training images with ground truth; expected folders such as ISIC2018_Task1-2_Training_Input"
            " and ISIC2018_Task1_Training_GroundTruth, or images and masks"
        )
    return layout


def _matching(folders: Sequence[Path], name: re.Pattern[str]) -> dict[tuple[str, str], list[Path]]:
    """Return the folders of pictures with such a name, by (year, part)."""
    found: dict[tuple[str, str], list[Path]] = {}
    for folder in folders:
        if (match := name.fullmatch(folder.name)) and _pictures(folder):
            found.setdefault((match["year"], PART_NAMES[match["part"].lower()]), []).append(folder)
    return found


def _pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())


def items_of(layout: Layout, table: Table | None) -> list[Item]:
    """Return the images of the parts that have masks: training, validation, test, each in order of name.

    Raises:
        InputError: a mask without an image or of another size, two masks of one image, a validation or test image
            without a mask, a name that stands twice or that ``table`` does not have or gives no patient.
    """
    items: list[Item] = []
    seen: dict[str, Path] = {}
    for part in (part for part in ("train", "val", "test") if part in layout.images and part in layout.masks):
        images = _files(layout.images[part], IMAGE_SUFFIXES)
        drawn = _files(layout.masks[part], (".png",))
        masks = one_mask_each((MASK_NAME.sub("", stem), path) for stem, path in drawn.items())
        if not images or not masks:
            empty = layout.masks[part][0] if images else layout.images[part][0]
            raise InputError(f"{empty}: holds no {'PNG mask' if images else 'JPEG or PNG image'}; restore the files")
        if lone := [masks[name] for name in masks if name not in images]:
            raise InputError(f"{lone[0]}: has no image in {layout.images[part][0]}; add it, or delete the mask")
        for name, image in images.items():
            if name in seen:
                raise InputError(f"{image}: the same name as {seen[name]}; keep one of them")
            seen[name] = image
            if name not in masks and part != "train":
                raise InputError(f"{image}: has no mask in {layout.masks[part][0]}; the {part} part needs it")
            _same_size(image, masks.get(name))
            patient = (table.patient(table.key(image)) if table else "") or name
            items.append(Item(part, name, patient, image, masks.get(name)))
    return items


def _files(folders: Sequence[Path], suffixes: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        for stem, path in by_stem(folder, suffixes, without=OTHER_TASKS).items():
            if stem in found:
                raise InputError(f"{path}: the same name as {found[stem]}; keep one of them")
            found[stem] = path
    return found


def _same_size(image: Path, mask: Path | None) -> None:
    if mask is not None and (sizes := (opened(mask).size, opened(image).size))[0] != sizes[1]:
        (width, height), (wide, high) = sizes
        raise InputError(f"{mask}: {height} x {width} pixels, its image has {high} x {wide}; make them the same")
