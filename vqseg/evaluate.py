"""From a network to rows: label maps once per geometry, every protocol from the label maps.

Importing this loads no torch, so that rows can be merged and averaged without it.

Letters: S slices, H x W pixels, C channels, K classes (0 is background), B images of a batch, h x w network grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import zoom

from vqseg.errors import InputError, pick
from vqseg.files import replacing
from vqseg.identity import scoring_hash
from vqseg.manifest import Scan, write_array
from vqseg.metrics import LIBRARIES, Distances, confusion, jaccard_plausible, overlaps
from vqseg.protocols import PROTOCOLS, ScoringProtocol, Spacing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Predict = Callable[[Tensor], Tensor]
    ToInput = Callable[[np.ndarray], Tensor]

KEYS = ["part", "checkpoint", "network", "protocol"]
DISTANCES = [f"{name}_{unit}" for unit in ("voxel", "mm") for name in Distances._fields]
METRICS = ["dice", "jaccard", *DISTANCES]
COLUMNS = [
    *KEYS,
    *("geometry", "case_unit", "case", "patient", "class_index", "class_name"),
    *METRICS,
    *("empty_prediction", "empty_reference", "scoring", "evaluated"),
]


def _native(predict: Predict, volume: np.ndarray, to_input: ToInput) -> np.ndarray:
    """(S, H, W[, 3]) -> (S, H, W): the recipe's input geometry, bilinear logits back to the native grid."""
    import torch
    from torch.nn import functional

    shape = volume.shape[1:3]
    logits = predict(to_input(volume)).float()
    # One image at a time: K full-size planes of a whole batch of photographs would not fit.
    full = (functional.interpolate(each, shape, mode="bilinear", align_corners=False) for each in logits.split(1))
    labels: np.ndarray = torch.cat([each.argmax(1).byte() for each in full]).cpu().numpy()
    return labels


def _zoom0_256(predict: Predict, volume: np.ndarray, to_input: ToInput) -> np.ndarray:
    """(S, H, W[, 3]) -> (S, H, W): to 256 x 256 pixels and labels back, both as scipy's zoom of order 0."""
    labels = predict(to_input(zoom0(volume, (256, 256)))).argmax(1).byte().cpu().numpy()
    return zoom0(labels, volume.shape[1:3])


def zoom0(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return (S, H, W[, 3]) on another grid of H x W, slice by slice what `scipy.ndimage.zoom` of order 0 gives.

    That includes its quirk: where rounding puts the last coordinate outside, the last line is 0.
    """
    rows, columns = (
        zoom(np.arange(side), target / side, order=0, cval=-1) for side, target in zip(volume.shape[1:3], shape)
    )
    padded = np.pad(volume, [(0, 0), (0, 1), (0, 1), (0, 0)][: volume.ndim])  # index -1 finds the zeros
    return padded[:, rows][:, :, columns]


class Geometry(NamedTuple):
    """How slices reach the network and labels come back; ``side`` is the network's input, None: the recipe's."""

    segment: Callable[[Predict, np.ndarray, ToInput], np.ndarray]
    side: int | None


GEOMETRIES: Mapping[str, Geometry] = {"native": Geometry(_native, None), "zoom0-256": Geometry(_zoom0_256, 256)}


def label_map(
    predict: Predict,
    volume: np.ndarray,
    geometry: str,
    size_px: int,
    device: torch.device | str = "cpu",
    batch: int = 16,
    to_input: Callable[[np.ndarray, int], Tensor] | None = None,
) -> np.ndarray:
    """Segment one volume.

    Args:
        predict: images float (B, C, h, w) in 0-1 -> logits (B, K, h, w); must be in evaluation mode.
        volume: uint8 (S, H, W) or (S, H, W, 3).
        geometry: a row of `GEOMETRIES`.
        size_px: side of the recipe's input.
        device: where ``predict`` computes, ``batch`` slices per pass.
        to_input: slices uint8, side -> images float (B, C, side, side) in 0-1; default: the tensor store's.

    Returns:
        Class indices uint8 (S, H, W).

    Raises:
        InputError: unknown geometry.
    """
    import torch

    from vqseg import dataset

    segment, side = GEOMETRIES[pick(geometry, GEOMETRIES, "geometry")]
    resize = to_input or dataset.to_input
    parts = np.split(volume, range(batch, len(volume), batch))
    with torch.no_grad():
        return np.concatenate(
            [segment(predict, part, lambda array: resize(array, side or size_px).to(device)) for part in parts]
        )


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
) -> list[dict[str, Any]]:
    """Score one case: two maps of class indices (S, H, W).

    Args:
        prediction: the network's.
        reference: the expert's.
        spacing_mm: (slice, row, column), None where unknown: the columns in mm are then NaN.
        classes: names of the K classes, background first.
        protocol: a row of `PROTOCOLS`, or its name.
        library: a row of `LIBRARIES`, what measures the distances.

    Returns:
        One row per foreground class: protocol, geometry, case_unit, class_index, class_name, dice, jaccard,
        the distances, empty_prediction, empty_reference.

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
    counts = confusion(prediction, reference, len(classes))
    rows = []
    for index, dice, jaccard in zip(range(1, len(classes)), *overlaps(counts)):
        flags = {"empty_prediction": not counts[:, index].any(), "empty_reference": not counts[index].any()}
        if any(flags.values()):
            both = all(flags.values())
            dice = jaccard = rule.empty_score(both, prediction.shape, None).overlap
            found = [Distances(*[rule.empty_score(both, prediction.shape, each).distance] * 3) for each in spacings]
        else:
            found = measure(prediction == index, reference == index, spacings)
        named = {f"{name}_{unit}": value for unit, each in zip(units, found) for name, value in each._asdict().items()}
        values = {
            "dice": float(dice),
            "jaccard": float(jaccard),
            **{key: named.get(key, math.nan) for key in DISTANCES},
        }
        rows.append({**kind, "class_index": index, "class_name": classes[index], **values, **flags})
    return rows


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
        reason = protocol.applicable(scans)
        if reason:
            raise InputError(f"protocol {name!r} is not applicable to part {part}: {reason}")
        predictions = label_maps.get(protocol.geometry, {})
        for case in protocol.cases(scans):
            scored = case_rows(
                _stacked(predictions, case.scans, f"label map of geometry {protocol.geometry!r}"),
                _stacked(references, case.scans, "reference"),
                spacing_mm=case.spacing_mm,
                classes=classes,
                protocol=protocol,
                library=library,
            )
            rows += [{**keys, **row, "case": case.name, "patient": case.patient, **stamp} for row in scored]
    return pd.DataFrame(rows, columns=COLUMNS)


def _stacked(arrays: Mapping[str, np.ndarray], scans: Sequence[str], what: str) -> np.ndarray:
    missing = [scan for scan in scans if scan not in arrays]
    if missing:
        raise InputError(f"scan {missing[0]!r} has no {what}; segment the part again")
    return arrays[scans[0]] if len(scans) == 1 else np.concatenate([arrays[scan] for scan in scans])


def merge_rows(path: Path, new: pd.DataFrame) -> None:
    """Put rows into ``path`` atomically, in place of those with the same (part, checkpoint, network, protocol).

    The caller holds the run's lock. Rows of other keys stay.
    """
    if path.is_file():
        old = pd.read_parquet(path)
        replaced = pd.MultiIndex.from_frame(old[KEYS]).isin(pd.MultiIndex.from_frame(new[KEYS]))
        new = pd.concat([old[~replaced], new], ignore_index=True) if not replaced.all() else new
    with replacing(path) as temporary:
        new.to_parquet(temporary, index=False)


def aggregate(rows: pd.DataFrame, by: Sequence[str] = KEYS) -> pd.DataFrame:
    """Average rows over cases and classes.

    Returns:
        One row per ``by``: the mean of every metric (NaN if any value is unknown, so that a mean never covers a
        part of the cases in silence), `<distance>_nonempty` over the rows in which neither mask is empty,
        `empties` (rows in which one or both are), `cases`, `patients`, `jaccard_plausible`.
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
    return table.reset_index()
