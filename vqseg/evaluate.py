"""From label maps to rows: one per protocol, case and class, every protocol of a geometry from the same label maps.

Importing this loads no torch, so that rows can be merged and averaged without it.

Letters: S slices, H x W pixels, K classes (0 is background).
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vqseg.errors import InputError, pick
from vqseg.files import replacing
from vqseg.identity import scoring_hash
from vqseg.inference import GEOMETRIES, Geometry, Recipe, label_map
from vqseg.lesions import COLUMNS as LESIONS
from vqseg.lesions import lesion_values
from vqseg.manifest import Scan, write_array
from vqseg.metrics import (
    LIBRARIES,
    Distances,
    confusion,
    jaccard_plausible,
    joint_box,
    overlaps,
    slice_consistency,
)
from vqseg.protocols import CASE_UNITS, PROTOCOLS, Case, ScoringProtocol, Spacing

__all__ = [
    "COLUMNS",
    "EXTRAS",
    "GEOMETRIES",
    "KEYS",
    "METRICS",
    "Geometry",
    "Recipe",
    "aggregate",
    "case_rows",
    "label_map",
    "label_path",
    "load_label_map",
    "merge_rows",
    "save_label_map",
    "score",
]

KEYS = ["part", "checkpoint", "network", "protocol"]
DISTANCES = [f"{name}_{unit}" for unit in ("voxel", "mm") for name in Distances._fields]
METRICS = ["dice", "jaccard", *DISTANCES]
CONSISTENCY = ["slice_consistency", "slice_consistency_reference"]
EXTRAS = [*CONSISTENCY, *LESIONS]
COLUMNS = [
    *KEYS,
    *("geometry", "case_unit", "case", "patient", "class_index", "class_name"),
    *METRICS,
    *EXTRAS,
    *("empty_prediction", "empty_reference", "scoring", "evaluated"),
]


def label_path(folder: Path, *, part: str, checkpoint: str, network: str, geometry: str, scan: str) -> Path:
    """Return where a run folder keeps one scan's label map."""
    return folder / "labels" / f"{part}-{checkpoint}-{network}-{geometry}" / f"{scan}.npz"


def save_label_map(path: Path, labels: np.ndarray) -> None:
    """Write class indices (S, H, W) atomically, as uint8 under the key `labels`."""
    write_array(path, labels=labels.astype(np.uint8, copy=False))


def load_label_map(path: Path) -> np.ndarray:
    """Read class indices uint8 (S, H, W).

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            labels: np.ndarray = archive["labels"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such label map; evaluate the run again") from None
    except Exception as error:  # zipfile, zlib and numpy each raise their own for a damaged archive
        raise InputError(f"{path}: not readable: {' '.join(str(error).split())}; evaluate the run again") from None
    return labels


def case_rows(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    spacing_mm: Spacing | None,
    classes: Sequence[str],
    protocol: str | ScoringProtocol,
    library: str = "own",
    lesions: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Score one case: two maps of class indices (S, H, W).

    Args:
        prediction: the network's.
        reference: the expert's.
        spacing_mm: (slice, row, column), None where unknown: the columns in mm are then NaN.
        classes: names of the K classes, background first.
        protocol: a row of `PROTOCOLS`, or its name.
        library: a row of `LIBRARIES`, what measures the distances.
        lesions: the classes that are lesions, with the tolerance of their surface Dice in mm (voxels where the
            spacing is unknown); the lesion columns of all others are NaN, and of cases that are no whole scan.

    Returns:
        One row per foreground class: protocol, geometry, case_unit, class_index, class_name, dice, jaccard,
        the distances, slice consistency of prediction and reference (NaN where a case is no whole volume),
        `vqseg.lesions.COLUMNS`, empty_prediction, empty_reference.

    Raises:
        InputError: unknown protocol or library, or the library is not installed.
        ValueError: shapes differ, or a value is no class.
    """
    rule = PROTOCOLS[pick(protocol, PROTOCOLS, "protocol")] if isinstance(protocol, str) else protocol
    measure = LIBRARIES[pick(library, LIBRARIES, "distance library")]
    prediction, reference, spacing = rule.grid(prediction), rule.grid(reference), rule.spacing(spacing_mm)
    units = [unit for unit in rule.units if unit == "voxel" or spacing]
    spacings = [spacing if unit == "mm" else None for unit in units]
    kind = {"protocol": rule.name, "geometry": rule.geometry, "case_unit": rule.case_unit}
    shape, (prediction, reference) = prediction.shape, _around_classes(prediction, reference)
    counts = confusion(prediction, reference, len(classes))
    rows = []
    for index, dice, jaccard in zip(range(1, len(classes)), *overlaps(counts)):
        flags = {"empty_prediction": not counts[:, index].any(), "empty_reference": not counts[index].any()}
        masks = prediction == index, reference == index
        if any(flags.values()):
            both = all(flags.values())
            dice = jaccard = rule.empty_score(both, shape, None).overlap
            found = [Distances(*[rule.empty_score(both, shape, each).distance] * 3) for each in spacings]
        else:
            found = measure(*masks, spacings) if spacings else []
        named = {f"{name}_{unit}": value for unit, each in zip(units, found) for name, value in each._asdict().items()}
        values = {"dice": float(dice), "jaccard": float(jaccard), **dict.fromkeys(DISTANCES, math.nan), **named}
        extras = _extras(rule, masks, spacing, (lesions or {}).get(classes[index]), all(flags.values()))
        rows.append({**kind, "class_index": index, "class_name": classes[index], **values, **extras, **flags})
    return rows


def _around_classes(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut both maps to where one of them is not background, which moves no surface and spares most of the volume."""
    inside = prediction != 0, reference != 0
    if prediction.shape != reference.shape or not (inside[0].any() or inside[1].any()):
        return prediction, reference
    box = joint_box(*inside)
    return prediction[box], reference[box]


def _extras(
    rule: ScoringProtocol,
    masks: tuple[np.ndarray, np.ndarray],
    spacing: Spacing | None,
    tolerance: float | None,
    both_empty: bool,
) -> dict[str, float]:
    """`EXTRAS` of one class: what is known only of whole volumes, and of lesions (``tolerance`` is None for others)."""
    values = dict.fromkeys(EXTRAS, math.nan)
    unit = CASE_UNITS[rule.case_unit]
    if unit.whole and unit.axes == 3:
        values.update(zip(CONSISTENCY, map(slice_consistency, masks), strict=True))
    if unit.whole and tolerance is not None:
        surface = rule.empty_score(both_empty, masks[0].shape, None).overlap
        values.update(lesion_values(*masks, tolerance=tolerance, spacing=spacing, empty_surface=surface))
    return values


def score(
    label_maps: Mapping[str, Mapping[str, np.ndarray]],
    references: Mapping[str, np.ndarray],
    scans: Sequence[Scan],
    *,
    protocols: Sequence[str],
    classes: Sequence[str],
    part: str,
    checkpoint: str,
    network: str,
    library: str = "own",
    pool: Sequence[Scan] = (),
    lesions: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Score one network on one part under several protocols.

    Args:
        label_maps: geometry -> scan -> class indices (S, H, W); one inference serves all protocols of a geometry.
        references: scan -> class indices (S, H, W).
        scans: the scans of the part, in order.
        protocols: names of rows of `PROTOCOLS`, all of them applicable.
        classes: names of the K classes, background first.
        part: the part's name, a column; so are ``checkpoint`` (last, best) and ``network`` (student, teacher).
        library: what measures the distances, a row of `LIBRARIES`.
        pool: the validation scans, for protocols that score them together with those of a test part.
        lesions: the classes that are lesions and their tolerance, as `case_rows` takes them.

    Returns:
        `COLUMNS`, one row per protocol, case and foreground class.

    Raises:
        InputError: a protocol is unknown or not applicable, or a label map is missing.
        ValueError: as `case_rows`.
    """
    keys = {"part": part, "checkpoint": checkpoint, "network": network}
    stamp = {"scoring": scoring_hash(), "evaluated": datetime.now(UTC).isoformat(timespec="seconds")}
    rows: list[dict[str, Any]] = []
    for name in protocols:
        protocol = PROTOCOLS[pick(name, PROTOCOLS, "protocol")]
        reason = protocol.applicable(scans, part, pool)
        if reason:
            raise InputError(f"protocol {name!r} is not applicable to part {part}: {reason}")
        predictions = label_maps.get(protocol.geometry, {})
        for case in protocol.cases(protocol.scans(scans, pool)):
            scored = case_rows(
                _stacked(predictions, case, f"label map of geometry {protocol.geometry!r}"),
                _stacked(references, case, "reference"),
                spacing_mm=case.spacing_mm,
                classes=classes,
                protocol=protocol,
                library=library,
                lesions=lesions,
            )
            rows += [{**keys, **row, "case": case.name, "patient": case.patient, **stamp} for row in scored]
    return pd.DataFrame(rows, columns=COLUMNS)


def _stacked(arrays: Mapping[str, np.ndarray], case: Case, what: str) -> np.ndarray:
    missing = [scan for scan in case.scans if scan not in arrays]
    if missing:
        raise InputError(f"scan {missing[0]!r} has no {what}; segment the part again")
    stack = [arrays[scan] for scan in case.scans]
    whole = stack[0] if len(stack) == 1 else np.concatenate(stack)
    return whole if case.order is None else whole[list(case.order)]


def merge_rows(path: Path, new: pd.DataFrame) -> None:
    """Put rows into ``path`` atomically, in place of those with the same (part, checkpoint, network, protocol).

    The caller holds the run's lock. Rows of other keys stay; where they are older and lack a column, it is NaN.
    """
    if path.is_file():
        old = pd.read_parquet(path)
        replaced = pd.MultiIndex.from_frame(old[KEYS]).isin(pd.MultiIndex.from_frame(new[KEYS]))
        if not replaced.all():
            new = pd.concat([old[~replaced], new], ignore_index=True)
            new = new.reindex(columns=[*COLUMNS, *new.columns.difference(COLUMNS, sort=False)])
    with replacing(path) as temporary:
        new.to_parquet(temporary, index=False)


def aggregate(rows: pd.DataFrame, by: Sequence[str] = KEYS) -> pd.DataFrame:
    """Average rows over cases and classes.

    Returns:
        One row per ``by``: the mean of every metric (NaN if any value is unknown, so that a mean never covers a
        part of the cases in silence), `<distance>_nonempty` over the rows in which neither mask is empty,
        `empties` (rows in which one or both are), `cases`, `patients`, `jaccard_plausible`; of the `EXTRAS`, for which
        rows may lack the columns: sums of `lesions` and `lesions_found`, the means of slice consistency and lesion
        sensitivity over the rows that have one, the means of all others over the rows of lesions (NaN as above).
    """
    by = list(by)
    empty = rows["empty_prediction"] | rows["empty_reference"]
    groups = rows.assign(empties=empty).groupby(by, sort=False)
    table = groups[METRICS].mean(skipna=False)
    filled = rows[~empty].groupby(by, sort=False)[DISTANCES].mean(skipna=False)
    table = table.join(filled.add_suffix("_nonempty"))
    table["empties"] = groups["empties"].sum()
    table["cases"], table["patients"] = groups["case"].nunique(), groups["patient"].nunique()
    table["jaccard_plausible"] = [jaccard_plausible(*pair) for pair in zip(table["dice"], table["jaccard"])]
    return table.join(_mean_extras(rows, by)).reset_index()


def _mean_extras(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    rows = rows.reindex(columns=[*by, *EXTRAS])
    marked = rows[rows["lesions"].notna()].groupby(by, sort=False)
    counted, some = ["lesions", "lesions_found"], [*CONSISTENCY, "lesion_sensitivity"]
    every = [name for name in EXTRAS if name not in (*counted, *some)]
    table = rows.groupby(by, sort=False)[some].mean()
    return table.join(marked[counted].sum()).join(marked[every].mean(skipna=False))
