"""Imports a folder of 2-D images with masks, in the layout that VQ-Seg's release trains from.

    SOURCE/train-label/{image,mask}   SOURCE/train-unlabel/image   SOURCE/val/{image,mask}   SOURCE/test/{image,mask}

Images are PNG or JPEG: grey, RGB (one or the other throughout) or 16-bit grey, of any size. Masks carry their image's
name and are PNG or NPY of class indices; PNG masks of only 0 and 255 become 0 and 1, and the import says so.
``train-unlabel`` and ``test`` may be absent; ``train-unlabel/mask`` is kept for the supervised bound if it is there.

Names are read by the release's rule, or by a table or pattern where the rule is wrong: see `vqseg.importers.names`.

Source: script-Yang/VQ-Seg, README and data loader (layout, case id).
Differs: 8-bit images are kept as they are; 16-bit ones are mapped by each scan's extremes, or a given window.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vqseg.errors import InputError
from vqseg.importers import names
from vqseg.importers.pictures import COLOR_MODES, IMAGE_SUFFIXES, by_stem, intake, opened, pixels
from vqseg.importers.writer import Imported, Pending, Plan, Volume, file_state, to_bytes, to_indices, write
from vqseg.manifest import Manifest, Split

FOLDERS = {"labelled": "train-label", "unlabelled": "train-unlabel", "val": "val", "test": "test"}
MASK_SUFFIXES = (".png", ".npy")
MOST_CLASSES = 32
Window = tuple[float, float]


@dataclass(frozen=True)
class _Item:
    """One image of the source and where its name puts it."""

    part: str
    image: Path
    mask: Path | None
    patient: str
    scan: str
    slice: int | None


def prepare(
    source: Path,
    out: Path,
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    patients: Path | None = None,
    pattern: str | None = None,
    val: float | None = None,
    window: Window | None = None,
) -> Imported:
    """Import ``source`` into ``out`` with one split, ``folder``.

    Args:
        name: the data set's name, by default the source folder's.
        classes: class names from index 0 on; by default as many as the masks use.
        patients: CSV with columns ``image`` and ``patient``; its other columns are kept to stratify splits by.
        pattern: regular expression over a whole file name (without suffix) with a named group ``patient`` and
            optionally ``scan`` and ``slice``.
        val: share of the labelled patients, the last ones, that become val where there is no ``val`` folder.
        window: source intensities that become 0 and 255 in 16-bit images.

    Raises:
        InputError: a file is missing, unreadable or mismatched, a name cannot be placed, or ``out`` holds other data.
    """
    if window and not -math.inf < window[0] < window[1] < math.inf:
        raise InputError(f"--window {window[0]:g} {window[1]:g}: expected the lower intensity first")
    if classes and (len(classes) < 2 or len(set(classes)) < len(classes) or not all(classes)):
        raise InputError(f"--classes {','.join(classes)}: expected two or more different names, background first")
    items = _items(source, names.reader(patients, pattern))
    _one_part_each(items, source, guessed=pattern is None and patients is None)
    parts = _parts(items, source, val)
    channels, files = _channels(items), [path for item in items for path in (item.image, item.mask) if path]
    binary, named = _classes(items, classes)
    options: dict[str, Any] = {"pattern": pattern, "patients": patients and str(patients.resolve()), "window": window}
    used = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items() if value}
    plan = Plan(
        name=re.sub(r"[^\w.=-]+", "-", source.resolve().name).lstrip(".") if name is None else name,
        classes=named,
        source={"importer": "folder", "path": str(source.resolve()), **used},
        state=file_state([*files, *([patients] if patients else [])], used),
        scans=list(_pending(items, partial(_read, classes=len(named), binary=binary, window=window))),
        channels=channels,
        color=channels == 3,
        attributes=names.read_table(patients).attributes({i.image: i.patient for i in items}) if patients else {},
        intake=intake(window=window),
        notes=["masks hold only 0 and 255: 255 became class 1"] if binary else [],
    )
    return write(out, plan, partial(_splits, parts=parts))


def _splits(manifest: Manifest, *, parts: dict[str, list[str]]) -> list[Split]:
    return [Split(name="folder", data=manifest.digest, parts=parts, note="the source's own folders")]


# --- files: what is there and whether it fits ----------------------------------------------------


def _items(source: Path, place: Callable[[Path], names.Place]) -> list[_Item]:
    if not (source / "train-label" / "image").is_dir():
        raise InputError(
            f"{source / 'train-label' / 'image'}: no such folder; expected train-label/image and train-label/mask"
        )
    items = []
    for part, folder in FOLDERS.items():
        images = by_stem(source / folder / "image", IMAGE_SUFFIXES)
        if not images and (source / folder / "image").is_dir() and part != "unlabelled":
            raise InputError(f"{source / folder / 'image'}: holds no PNG or JPEG image; add them or delete the folder")
        mask_folder = source / folder / "mask"
        wanted = part != "unlabelled" or mask_folder.is_dir()
        masks = by_stem(mask_folder, MASK_SUFFIXES) if wanted else {}
        for stem in masks:
            if stem not in images:
                raise InputError(
                    f"{masks[stem]}: has no image {stem}.png in {source / folder / 'image'}; add or delete"
                )
        for stem, image in images.items():
            if wanted and stem not in masks:
                raise InputError(f"{mask_folder / stem}.png: missing (or .npy); {image} needs a mask of its own name")
            items.append(_Item(part, image, masks.get(stem), *place(image)))
    return items


def _one_part_each(items: list[_Item], source: Path, *, guessed: bool) -> None:
    found = {(item.part, item.patient) for item in items}
    numbered = any(item.slice is not None for item in items)
    if guessed and not numbered and len(found) == len({part for part, _ in found}) < len(items):
        raise InputError(
            f"{source}: by its names every part is a single patient, such as {items[0].patient!r};"
            r" say how names are read with --pattern, such as '(?P<patient>.+)', or give --patients CSV"
        )
    part_of: dict[str, _Item] = {}
    for item in items:
        first = part_of.setdefault(item.patient, item)
        if first.part != item.part:
            where = f"{FOLDERS[first.part]} ({first.image.name}) and {FOLDERS[item.part]} ({item.image.name})"
            raise InputError(
                f"{source}: patient {item.patient!r} is in {where}; a patient may be in one part only: move the images,"
                " or say how names are read with --pattern or --patients"
            )


def _parts(items: list[_Item], source: Path, val: float | None) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {part: [] for part in ("labelled", "unlabelled", "val")}
    for item in items:
        members = parts.setdefault(item.part, [])
        if item.patient not in members:
            members.append(item.patient)
    if parts["val"]:
        if val is not None:
            raise InputError(f"--val {val:g}: {source / 'val'} is there already; leave the option out")
        return parts
    if val is None:
        raise InputError(
            f"{source / 'val'}: missing; add val/image and val/mask, or hold out labelled patients with --val 0.2"
        )
    labelled = parts["labelled"]
    count = max(1, round(len(labelled) * val)) if 0 < val < 1 else len(labelled)
    if count >= len(labelled):
        raise InputError(
            f"--val {val:g}: expected a share between 0 and 1 that leaves some of {len(labelled)} labelled patients"
        )
    return {**parts, "labelled": labelled[:-count], "val": labelled[-count:]}


def _channels(items: list[_Item]) -> int:
    """Return 1 or 3; all images have to agree."""
    channels = [3 if opened(item.image).mode in COLOR_MODES else 1 for item in items]
    odd = next((place for place, count in enumerate(channels) if count != channels[0]), None)
    if odd is not None:
        kinds = {1: "grey", 3: "color"}
        raise InputError(
            f"{items[odd].image}: is {kinds[channels[odd]]}, but {items[0].image.name} is {kinds[channels[0]]};"
            " convert one so that all images have the same channels"
        )
    return channels[0]


def _classes(items: list[_Item], named: Sequence[str] | None) -> tuple[bool, list[str]]:
    """Return whether masks are 0/255, and the class names; every mask is read and held against its image's size."""
    values: dict[int, Path] = {}
    for item in items:
        if item.mask is None:
            continue
        mask, (width, height) = _mask(item.mask), opened(item.image).size
        if mask.shape != (height, width):
            sizes = f"{mask.shape[0]} x {mask.shape[1]} pixels, its image has {height} x {width}"
            raise InputError(f"{item.mask}: {sizes}; make them the same")
        for value in np.unique(mask).tolist():
            values.setdefault(value, item.mask)
    binary = set(values) == {0, 255}
    most = 1 if binary else int(max(values))
    limit = len(named) if named else MOST_CLASSES
    bad = next((value for value in sorted(values) if value != int(value) or not 0 <= value < limit), None)
    if bad is not None and not (binary and limit >= 2):
        known = (
            f"the {limit} classes of --classes"
            if named
            else f"class indices 0 to {limit - 1}; name more with --classes"
        )
        raise InputError(f"{values[bad]}: mask value {bad:g} is outside {known}")
    if named:
        return binary, list(named)
    return binary, ["background", "foreground"] if most <= 1 else [
        "background",
        *(f"class {i}" for i in range(1, most + 1)),
    ]


# --- reading -------------------------------------------------------------------------------------


def _pending(items: list[_Item], read: Any) -> Iterator[Pending]:
    scans: dict[str, list[_Item]] = {}
    for item in items:
        scans.setdefault(item.scan, []).append(item)
    for scan, members in scans.items():
        numbered = [item for item in members if item.slice is not None]
        slices = [item.slice for item in numbered if item.slice is not None]
        if len(numbered) < len(members):
            numbered, slices = members, list(range(1, len(members) + 1))
        if len(set(slices)) < len(slices):
            raise InputError(f"{numbered[-1].image}: scan {scan!r} has a slice number twice; correct the names")
        order = np.argsort(slices).tolist()
        stacked = [numbered[place] for place in order]
        sizes = [opened(item.image).size for item in stacked]
        odd = next((place for place, size in enumerate(sizes) if size != sizes[0]), None)
        if odd is not None:
            raise InputError(
                f"{stacked[odd].image}: another size than {stacked[0].image.name} of the same scan; make them the same"
            )
        yield Pending(scan, stacked[0].patient, [slices[place] for place in order], partial(read, stacked))


def _read(items: Sequence[_Item], *, classes: int, binary: bool, window: Window | None) -> Volume:
    images = np.stack([_image(item.image) for item in items])
    span: Window = (0.0, 255.0)
    if images.dtype != np.uint8:
        images, span = to_bytes(images, items[0].image, window=window)
    if any(item.mask is None for item in items):
        return Volume(images, None, span)
    masks = [_mask(item.mask) // (255 if binary else 1) for item in items if item.mask]
    indices = [to_indices(mask, classes, item.mask) for mask, item in zip(masks, items)]
    return Volume(images, np.stack(indices), span)


def _image(path: Path) -> np.ndarray:
    """Return (H, W) or (H, W, 3), uint8, or wider integers for 16-bit images."""
    image = opened(path)
    if not (image.mode.startswith("I") or image.mode == "F"):
        return pixels(path, "RGB" if image.mode in COLOR_MODES else "L")
    try:
        return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{path}: not readable as an image: {' '.join(str(error).split())}; restore the file"
        ) from None


def _mask(path: Path) -> np.ndarray:
    """Return the values of a mask, (H, W)."""
    try:
        if path.suffix.lower() == ".npy":
            values = np.squeeze(np.load(path, allow_pickle=False))
        else:
            values = np.asarray(opened(path))
    except InputError:
        raise
    except Exception as error:  # numpy and PIL each raise their own for a damaged file
        raise InputError(f"{path}: not readable as a mask: {' '.join(str(error).split())}; restore the file") from None
    if values.ndim != 2:
        raise InputError(f"{path}: mask of shape {values.shape}; expected one class index per pixel, (rows, columns)")
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        what = "values that are not finite" if values.dtype.kind == "f" else str(values.dtype)
        raise InputError(f"{path}: mask of {what}; expected one class index per pixel, correct the mask")
    return values.astype(np.uint8) if values.dtype == bool else values
