"""Imports dermoscopic photographs with lesion masks: the ISIC challenges of 2016, 2017 and 2018, HAM10000, and alike.

    2016   ISBI2016_ISIC_Part1_{Training,Test}_Data         ISBI2016_ISIC_Part1_{Training,Test}_GroundTruth
    2017   ISIC-2017_{Training,Validation,Test_v2}_Data     ISIC-2017_{Training,Validation,Test_v2}_Part1_GroundTruth
    2018   ISIC2018_Task1-2_{Training,Validation,Test}_Input      ISIC2018_Task1_{Training,Validation,Test}_GroundTruth
    HAM    HAM10000_images_part_{1,2}                       HAM10000_segmentations_lesion_tschandl
    plain  images                                           masks

in SOURCE or a folder or two below it. A mask is a PNG of 0 and 255 (or 0 and 1) with its image's name, perhaps followed
by ``_segmentation`` or ``_mask``; superpixels and the attributes of other tasks are passed over.

Each image is a scan of one slice, and a patient of its own unless a table says whose it is: an image's number is no
patient's, and HAM10000 has several images of one lesion. Training images without a mask are unlabelled.

The published parts are kept; parts that are not there are drawn from the training images, with seed 0, because numbers
follow the hospitals that sent the images. Images that stand in two published parts are left out of training.

Source: challenge.isic-archive.com/data (layouts); P. Tschandl et al., Scientific Data 5, 2018 (HAM10000).
Differs: photographs are shrunk on import, whole, to ``max_side`` pixels (bilinear with antialiasing; masks nearest), as
far as a network is ever shown them. Scores are those of the shrunk grid.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vqseg import splits
from vqseg.errors import InputError
from vqseg.importers import names
from vqseg.importers.isic_folders import Item, Layout, items_of, layout_of
from vqseg.importers.parts import not_yet, stand_in
from vqseg.importers.pictures import intake, pixels, shrunk_size
from vqseg.importers.writer import Imported, Pending, Plan, Volume, file_state, write
from vqseg.manifest import Manifest, Split
from vqseg.marks import TOLERANCE_MM

CLASSES = ["background", "lesion"]
SHARES = {"val": 0.1, "test": 0.2}
SEED = 0
LEAST_SIDE = 16


def prepare(
    source: Path,
    out: Path,
    *,
    name: str | None = None,
    labelled: str = "10%",
    val: float | None = None,
    test: float | None = None,
    patients: Path | None = None,
    max_side: int = 512,
    lesion: bool = False,
) -> Imported:
    """Import ``source`` into ``out`` with the splits ``labelled-N`` of all training patients and of ``labelled`` ones.

    The second is the default one; a later call with another ``labelled`` only adds a split.

    Args:
        name: the data set's name, by default that of the layout or of the source folder.
        labelled: labelled training patients: a number, a share (``10%``) or ``all``.
        val: share (0-1) of all patients to validate on where there is no validation folder, by default .1.
        test: share (0-1) of all patients to test on where there is no test folder, by default .2.
        patients: CSV with a column ``image`` (or ``image_id``, ``isic_id``) and one of ``patient``, ``patient_id`` and
            ``lesion_id``; its other columns are kept to stratify splits by.
        max_side: images with a longer side are shrunk to it, in pixels.
        lesion: mark the class as a lesion. Not by default: with one lesion to an image, counting lesions says little.

    Raises:
        InputError: a folder or mask is missing, unreadable or mismatched, a share where the part is published, a
            patient in two published parts, or ``out`` holds something else.
    """
    if max_side < LEAST_SIDE:
        raise InputError(f"--max-side {max_side}: expected at least {LEAST_SIDE} pixels")
    layout = layout_of(source)
    table = names.read_table(patients, told=False) if patients else None
    items = items_of(layout, table)
    parts = _parts(items, source)
    shares = _shares(layout, parts, val=val, test=test)
    options = {"layout": layout.name, "max_side": max_side, "patients": patients and str(patients.resolve())}
    used = {key: value for key, value in options.items() if value}
    files = [path for item in items for path in (item.image, item.mask) if path]
    plan = Plan(
        name=_name(source, layout.name) if name is None else name,
        classes=CLASSES,
        source={"importer": "isic", "path": str(source.resolve()), **used},
        state=file_state([*files, *([patients] if patients else [])], used),
        scans=[Pending(item.name, item.patient, [1], partial(_read, item, max_side)) for item in items],
        channels=3,
        color=True,
        lesions={"lesion": TOLERANCE_MM} if lesion else {},
        attributes=table.attributes({item.image: item.patient for item in items}) if table else {},
        intake=intake(max_side=max_side),
        notes=_notes(layout, items, source, table),
    )
    drawn = partial(_splits, parts=parts, labelled=labelled, shares=shares)
    drawn(not_yet([stand_in(item.name, item.patient, item.name, masked=item.mask is not None) for item in items]))
    return write(out, plan, drawn)


def _name(source: Path, layout: str) -> str:
    plain = re.sub(r"[^\w.=-]+", "-", source.resolve().name).lstrip(".")
    return plain if layout == "plain" else layout


def _notes(layout: Layout, items: Sequence[Item], source: Path, table: names.Table | None) -> list[str]:
    notes = [
        f"{layout.images[part][0].name}: no ground truth beside it, left out"
        for part in sorted(set(layout.images) - set(layout.masks))
    ]
    bare = sum(item.mask is None for item in items)
    if bare:
        notes.append(f"{bare} training images have no mask: unlabelled")
    if table is not None and not any(table.patients.values()):
        notes.append(f"{table.path}: names no patients, so that every image is a patient of its own")
    if table is None and (tables := sorted(source.glob("*metadata*.csv"))):
        notes.append(f"{tables[0].name} is not used; --patients {tables[0]} groups images and keeps its columns")
    return notes


# --- splits --------------------------------------------------------------------------------------


def _parts(items: Sequence[Item], source: Path) -> dict[str, list[str]]:
    """Return the patients of each part that the source has."""
    part_of: dict[str, Item] = {}
    for item in items:
        first = part_of.setdefault(item.patient, item)
        if first.part != item.part:
            where = f"{first.image.parent.name} ({first.name}) and {item.image.parent.name} ({item.name})"
            raise InputError(
                f"{source}: patient {item.patient!r} has images in {where}; a patient may be in one part only:"
                " move the images, or merge the parts into images and masks"
            )
    parts: dict[str, list[str]] = {}
    for patient, item in part_of.items():
        parts.setdefault(item.part, []).append(patient)
    return parts


def _shares(layout: Layout, parts: dict[str, list[str]], **given: float | None) -> dict[str, float | None]:
    """Return the shares of val and test that have to be drawn, None where the part is published."""
    shares: dict[str, float | None] = {}
    for part, share in given.items():
        if share is not None and part in parts:
            raise InputError(f"--{part} {share:g}: {layout.images[part][0]} is there already; leave the option out")
        shares[part] = None if part in parts else SHARES[part] if share is None else share
    return shares


def _splits(
    manifest: Manifest, *, parts: dict[str, list[str]], labelled: str, shares: dict[str, float | None]
) -> list[Split]:
    kept, out = _without_twins(manifest, parts)
    base = Split(name="isic", data=manifest.digest, parts={"unlabelled": kept.pop("train"), **kept})
    made = []
    for wanted in dict.fromkeys(["all", labelled]):
        split = splits.draw(
            manifest, base, name="isic", labelled=wanted, seed=SEED, val=shares["val"], test=shares["test"]
        )
        name = f"labelled-{'all' if wanted == 'all' else len(split.parts['labelled'])}"
        note = split.note + (f"; left out, the same image as one of val or test: {', '.join(out)}" if out else "")
        made.append(split.model_copy(update={"name": name, "note": note}))
    return made


def _without_twins(manifest: Manifest, parts: dict[str, list[str]]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the parts without patients whose image stands in a later part too, and those patients."""
    double, seen, out = splits.twins(manifest), set[str](), []
    kept: dict[str, list[str]] = {}
    for part in ("test", "val", "train"):
        leaking = [patient for patient in parts.get(part, []) if double.get(patient, set()) & seen]
        kept[part] = [patient for patient in parts.get(part, []) if patient not in leaking]
        seen |= set(kept[part])
        out += leaking
    return kept, out


# --- reading -------------------------------------------------------------------------------------


def _read(item: Item, max_side: int) -> Volume:
    image = pixels(item.image, "RGB", max_side)
    mask = None if item.mask is None else _mask(item.mask, max_side)
    return Volume(image[None], None if mask is None else mask[None], (0.0, 255.0))


def _mask(path: Path, max_side: int) -> np.ndarray:
    """Return a mask as class indices (H, W), shrunk by taking the nearest pixel."""
    from PIL import Image

    whole = pixels(path, "L")
    if odd := sorted(set(np.unique(whole).tolist()) - {0, 255}) if whole.max(initial=0) > 1 else []:
        raise InputError(f"{path}: mask value {odd[0]}; expected 0 and 255 (or 0 and 1), correct the mask")
    labels = Image.fromarray((whole > 0).astype(np.uint8))
    return np.asarray(labels.resize(shrunk_size(labels.size, max_side), Image.Resampling.NEAREST))
