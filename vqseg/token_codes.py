"""Looks at a part with a finished run's kept weights and records which code every token took, and where it lies.

The scorer counts how often each code is used; what a code stands for shows only in the image under its tokens. This
writes that beside the run (`vqseg.records.tokens`) and touches no score. The tokens are the ones that the scorer
counts: slices as the recipe sees them, resized whole or in windows side by side.

Letters: S slices, H x W pixels, C channels, h x w tokens per slice or window, N = h * w, B slices or windows of a pass,
V codes, K classes, M moments.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vqseg.errors import InputError
from vqseg.files import digest
from vqseg.inference import Recipe
from vqseg.manifest import PARTS, Scan, read_image, read_mask, read_split, scans_of
from vqseg.metrics import token_classes
from vqseg.network import SegmentationNetwork
from vqseg.plan import Plan
from vqseg.protocols import require_scorable
from vqseg.provenance import pick_device
from vqseg.records import tokens as records
from vqseg.records.run import RunFolder, now
from vqseg.scoring import BATCH
from vqseg.store import to_input, to_unit, with_context
from vqseg.trained import config_of, data_of, load, recorded_network, recorded_plan, weights_of
from vqseg.windows import cut

PREFERRED = ("test", "devtest", "val")


class Recorded(NamedTuple):
    """What `record` did: the part, how many tokens it has, and whether they were looked at now."""

    part: str
    tokens: int
    anew: bool


class _Look(NamedTuple):
    """What the network sees at once: images (B, C, h, w) in 0-1, masks (B, H, W), and where in the scan they lie.

    ``rows`` (B,) are slices, ``corners`` (B, 2) the top and left pixel on the native grid; ``size`` is the height and
    width of one of them there.
    """

    images: Tensor
    masks: np.ndarray
    rows: np.ndarray
    corners: np.ndarray
    size: tuple[int, int]


def record(
    folder: RunFolder,
    *,
    part: str | None = None,
    root: Path | None = None,
    device: str = "cpu",
    allow_code: bool = False,
) -> Recorded:
    """Record the code of every token of ``part`` (by default the test part if it was scored, else val).

    What was recorded of the same weights stays as it is. A part that was never scored is not looked at.

    Args:
        folder: a finished run that kept its last teacher.
        part: test, devtest or val.
        root: the data's folder, if it has moved.
        device: cpu, cuda or auto.
        allow_code: load parts of the user's own that the run's config names.

    Raises:
        InputError: the run is not finished or kept no weights, the part was not scored, the data moved or changed, or
            the network's code is not what trained it.
    """
    last = weights_of(folder, "last", "teacher")
    part = _part(folder, part)
    of = digest(last.read_bytes())
    known = (folder.status().get("tokens") or {}).get(part, {})
    written = records.tokens_path(folder.path, part), records.moments_path(folder.path, part)
    if known.get("weights") == of and all(path.is_file() for path in written):
        return Recorded(part, known["tokens"], anew=False)
    plan = _plan(folder, root, allow_code)
    with folder.lock():
        table, moments = _look(plan, folder, part, pick_device(device))
        records.write(folder.path, part, table, moments)
        entry = {"date": now(), "weights": of, "tokens": len(table), "steps": moments.steps.tolist()}
        folder.update(tokens={**(folder.status().get("tokens") or {}), part: entry})
    return Recorded(part, len(table), anew=True)


def _part(folder: RunFolder, asked: str | None) -> str:
    scored = {one["part"] for one in folder.status()["evaluations"] if not one.get("unfinished")}
    if asked is None:
        asked = next((name for name in PREFERRED if name in scored), "val")
    if asked not in PARTS:
        raise InputError(f"--part {asked}: expected {', '.join(PREFERRED)}")
    require_scorable(asked)
    if asked not in scored:
        raise InputError(
            f"run {folder.identity}: {asked} was not scored, and no part is looked at before that;"
            f" 'vqseg evaluate {folder.identity} --part {asked}' scores it"
        )
    return asked


def _plan(folder: RunFolder, root: Path | None, allow_code: bool) -> Plan:
    """Return the plan of a recorded run on its data, which must be what they were."""
    status, config = folder.status(), config_of(folder, allow_code=allow_code)
    place = root or Path(status["data"]["root"])
    if not (place / "manifest.json").is_file():
        raise InputError(f"run {folder.identity}: its data are not in {place}; name their folder with --data")
    manifest = data_of(folder, place)
    split = read_split(place, manifest, status["split"]["name"])
    if split.digest != status["split"]["digest"]:
        raise InputError(
            f"{place}: split {split.digest}, but the run was trained on {status['split']['digest']}; restore that split"
        )
    return recorded_plan(folder, config, manifest, split, place)


def _look(plan: Plan, folder: RunFolder, part: str, device: torch.device) -> tuple[pd.DataFrame, records.Moments]:
    """Return the last teacher's tokens, and the codebook with its use at every moment that the record knows."""
    scans, classes = scans_of(plan.manifest, plan.split, part), len(plan.manifest.classes)
    steps, codes, counts = [], [], []
    for step, weights in _moments(folder):
        if weights is None:
            network = recorded_network(plan, folder, device).eval()
        else:
            network = load(folder, weights, plan.config, plan.manifest, device).network
        table = _tokens(plan, network, scans, device)
        book = network.codes().detach().cpu().numpy()
        steps.append(step)
        codes.append(book)
        counts.append(_counts(table, classes, len(book)))
    return table, records.Moments(np.array(steps), np.stack(codes), np.stack(counts))


def _moments(folder: RunFolder) -> list[tuple[int, Path | None]]:
    """Return (step, weights) in order: as drawn (no weights), the best on validation if it was kept, the last."""
    status = folder.status()
    best = folder.path / "weights" / "best-teacher.safetensors"
    when = ((status.get("validation") or {}).get("best") or {}).get("teacher", {}).get("step")
    between = [(int(when), best)] if when is not None and 0 < when < status["steps"] and best.is_file() else []
    return [(0, None), *between, (int(status["steps"]), weights_of(folder, "last", "teacher"))]


@torch.no_grad()
def _tokens(plan: Plan, network: SegmentationNetwork, scans: Sequence[Scan], device: torch.device) -> pd.DataFrame:
    """Return one line per token of the scans, in order: `vqseg.records.tokens.COLUMNS`."""
    data = plan.config.data
    recipe, parts = Recipe(data.size_px, data.geometry, data.context), []
    for scan in scans:
        for seen in _looks(read_image(plan.root, scan), read_mask(plan.root, scan), recipe):
            encoded = network.encode(seen.images.to(device))
            codes = network.quantize(encoded.tokens).indices.cpu().numpy()
            boxes = _boxes(seen, encoded.grid).clip(0, np.repeat([scan.shape[1:]], 2, axis=0).ravel())
            rows = np.repeat(seen.rows, codes.shape[1])
            columns = {
                "patient": scan.patient,
                "scan": scan.scan,
                "slice": np.array(scan.slices)[rows],
                "row": rows,
                **dict(zip(("top", "left", "bottom", "right"), boxes.astype(np.float32).T)),
                "code": codes.ravel().astype(np.int32),
                "class_index": token_classes(seen.masks, encoded.grid, len(plan.manifest.classes)).ravel(),
            }
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _looks(volume: np.ndarray, mask: np.ndarray, recipe: Recipe) -> Iterator[_Look]:
    """Yield what the network looks at, in the passes in which the scorer counts codes."""
    slices, side, shape = with_context(volume, recipe.context), recipe.size_px, mask.shape[1:]
    if recipe.geometry == "resize":
        for start in range(0, len(slices), BATCH):
            part = slice(start, start + BATCH)
            rows = np.arange(len(slices))[part]
            corners = np.zeros((len(rows), 2))
            yield _Look(to_input(slices[part], side), mask[part], rows, corners, (shape[0], shape[1]))
        return
    corners = np.array([(top, left) for top in range(0, shape[0], side) for left in range(0, shape[1], side)])
    for row in range(len(slices)):
        masks = torch.from_numpy(np.ascontiguousarray(mask[row : row + 1]))[:, None]
        images, marks = cut(to_unit(slices[row : row + 1]), side, side), cut(masks, side, side)[:, 0].numpy()
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            places = corners[part]
            yield _Look(images[part], marks[part], np.full(len(places), row), places, (side, side))


def _boxes(seen: _Look, grid: tuple[int, int]) -> np.ndarray:
    """Return the cell of every token in native pixels, (B * N, 4): top, left, bottom, right."""
    height, width = seen.size[0] / grid[0], seen.size[1] / grid[1]
    rows, columns = (axis.ravel() for axis in np.mgrid[: grid[0], : grid[1]])
    cells = np.stack([rows * height, columns * width, (rows + 1) * height, (columns + 1) * width], axis=1)
    moved = cells[None] + np.tile(seen.corners, 2)[:, None]
    return np.asarray(moved.reshape(-1, 4), dtype=float)


def _counts(table: pd.DataFrame, classes: int, size: int) -> np.ndarray:
    """Return tokens per class and code, int64 (K, V)."""
    pairs = table["class_index"].to_numpy(dtype=np.int64) * size + table["code"].to_numpy(dtype=np.int64)
    return np.bincount(pairs, minlength=classes * size).reshape(classes, size)
