"""``vqseg bench score``: one volume's Dice, Jaccard, HD95 and ASD, every class, in voxels and mm, beside MedPy's.

Predictions are the references with errors made in: a shift, a ragged edge, a structure that is missing, and islands
all over the volume, which networks of few steps draw and which leave no small box to work in. Ours is the scorer as
runs are scored with it (`vqseg.evaluate.case_rows` under the protocol `scan`, which adds ASSD and slice consistency),
naive is MedPy on whole volumes, a call per class, measure and unit. Both must agree to 1e-9.

Source: METHOD's protocol and `medpy.metric.binary` (`dc`, `jc`, `hd95`, `asd`).
Differs: MedPy refuses an empty mask; there it is not called, and ours gives what the protocol says.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from vqseg.bench import machine
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row
from vqseg.bench.timing import seconds
from vqseg.errors import InputError
from vqseg.evaluate import case_rows
from vqseg.manifest import read_manifest, read_mask, read_split, scans_of
from vqseg.metrics import medpy_binary

VOLUMES = 20
# ACDC's: slices, rows and columns of a scan, and mm; the spacing also where data do not know theirs.
SHAPE, SPACING = (10, 256, 216), (10.0, 1.5625, 1.5625)
SAME = 1e-9
Values = dict[str, float]


class Volume(NamedTuple):
    """One prediction with its reference, class indices (S, H, W)."""

    error: str
    prediction: np.ndarray
    reference: np.ndarray
    spacing: tuple[float, ...]


def measure(options: Options) -> Outcome:
    """Time ours and MedPy's on every volume, and compare what they say.

    Raises:
        InputError: the data have no validation part with masks, or MedPy is not installed.
    """
    options.require_known()
    volumes, classes = _volumes(options)
    times: dict[str, list[tuple[float, float]]] = {}
    apart = 0.0
    for volume in volumes:
        ours, naive = partial(_ours, volume, classes), partial(_medpy, volume, classes)
        apart = max(apart, difference(ours(), naive()))
        taken = statistics.median(seconds(ours) for _ in range(options.repeats))
        times.setdefault(volume.error, []).append((taken, seconds(naive)))
    kinds = {"all volumes": [pair for found in times.values() for pair in found], **times}
    rows = [_row(name, found) for name, found in kinds.items()]
    goal = f"<= {SAME:g} voxel or mm"
    rows.append(Row("largest difference to MedPy", "voxel or mm", apart, target=goal))
    settings = {"volumes": len(volumes), "classes": len(classes) - 1, "shape": volumes[0].reference.shape}
    settings |= {"data": options.data or "drawn", "repeats": options.repeats}
    return Outcome("score", rows, settings, machine.describe())


def difference(ours: Values, naive: Values) -> float:
    """Return the largest difference of two scorings; infinite where one lacks a value of the other."""
    if set(ours) != set(naive):
        return float("inf")
    return max((abs(ours[name] - naive[name]) for name in ours), default=0.0)


def _row(name: str, times: list[tuple[float, float]]) -> Row:
    """The mean time of a volume; a ratio of means, or the many easy volumes would hide the dear ones."""
    ours, naive = (statistics.fmean(column) for column in zip(*times, strict=True))
    target = ">= 10 x naive" if name == "all volumes" else None
    return Row(f"{name}: one volume", "ms", 1000 * ours, 1000 * naive, target=target)


def _ours(volume: Volume, classes: list[str]) -> Values:
    """Dice, Jaccard, HD95 and ASD of the classes that neither map lacks."""
    rows = case_rows(
        volume.prediction, volume.reference, spacing_mm=volume.spacing, classes=classes, protocol="scan"
    )  # fmt: skip
    wanted = ("dice", "jaccard", "hd95_voxel", "asd_voxel", "hd95_mm", "asd_mm")
    full = [row for row in rows if not (row["empty_prediction"] or row["empty_reference"])]
    return {f"{row['class_index']} {name}": row[name] for row in full for name in wanted}


def _medpy(volume: Volume, classes: list[str]) -> Values:
    binary = medpy_binary()
    found: Values = {}
    for index in range(1, len(classes)):
        masks = volume.prediction == index, volume.reference == index
        if not (masks[0].any() and masks[1].any()):
            continue
        found |= {f"{index} dice": binary.dc(*masks), f"{index} jaccard": binary.jc(*masks)}
        for unit, spacing in (("voxel", None), ("mm", volume.spacing)):
            found[f"{index} hd95_{unit}"] = float(binary.hd95(*masks, spacing))
            found[f"{index} asd_{unit}"] = float(binary.asd(*masks, spacing))
    return found


def _volumes(options: Options) -> tuple[list[Volume], list[str]]:
    """Pairs of prediction and reference, errors in turn, and the names of the classes."""
    rng = np.random.default_rng(0)
    if options.data is not None:
        references, classes = _validation(options)
    else:
        classes = ["background", "right ventricle", "myocardium", "left ventricle"]
        shape = (4, 40, 36) if options.quick else SHAPE
        references = [(_drawn(shape, rng), SPACING) for _ in range(VOLUMES)]
    references = references[: 4 if options.quick else VOLUMES]
    errors = [list(ERRORS)[number % len(ERRORS)] for number in range(len(references))]
    return [Volume(e, ERRORS[e](mask, rng), mask, sides) for e, (mask, sides) in zip(errors, references)], classes


def _validation(options: Options) -> tuple[list[tuple[np.ndarray, tuple[float, ...]]], list[str]]:
    assert options.data is not None
    manifest = read_manifest(options.data)
    split = read_split(options.data, manifest, manifest.default_split)
    scans = [scan for scan in scans_of(manifest, split, "val") if scan.mask is not None]
    if not scans:
        raise InputError(f"{options.data}: part 'val' of split {split.name!r} has no masks; bench score needs some")
    masks = [(read_mask(options.data, scan), tuple(scan.spacing_mm or SPACING)) for scan in scans]
    return masks, list(manifest.classes)


def _drawn(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A heart of three classes, of ACDC's proportions: a left ventricle in its muscle, a right one beside it."""
    z, y, x = np.indices(shape) / np.array(shape).reshape(3, 1, 1, 1) - 0.5
    y, x = y + rng.uniform(-0.08, 0.08), x + rng.uniform(-0.08, 0.08)
    taper = 1 - 0.8 * np.abs(z)
    left = np.hypot(y, x * shape[2] / shape[1])
    right = np.hypot(y, (x + 0.15) * shape[2] / shape[1] * 1.4)
    mask = np.zeros(shape, np.uint8)
    for index, inside in ((1, right < 0.13 * taper), (2, left < 0.12 * taper), (3, left < 0.08 * taper)):
        mask[inside] = index
    return mask


def _shifted(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.roll(mask, rng.integers(-6, 7, 2), (1, 2))


def _ragged(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every pixel takes the class of one up to two pixels away."""
    rows, columns = (np.arange(mask.shape[axis]).reshape(-1, 1) for axis in (1, 2))
    down, right = rng.integers(-2, 3, (2, *mask.shape))
    rows = (rows + down).clip(0, mask.shape[1] - 1)
    columns = (columns.T + right).clip(0, mask.shape[2] - 1)
    return mask[np.arange(mask.shape[0]).reshape(-1, 1, 1), rows, columns]


def _missing(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shifted = _shifted(mask, rng)
    return np.where(shifted == 1, 0, shifted).astype(mask.dtype)


def _islands(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a network of few steps draws: the structures, and islands of every class all over the volume."""
    noise = gaussian_filter(rng.standard_normal((3, *mask.shape)), (0, 0.5, 2, 2))
    strongest = noise.argmax(0) + 1
    return np.where(noise.max(0) > 2.2 * noise.std(), strongest, mask).astype(mask.dtype)


ERRORS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "shift": _shifted,
    "ragged": _ragged,
    "missing structure": _missing,
    "islands": _islands,
}
