"""Scores a run folder on a part of its split: weights -> label maps -> rows, usage histogram, overlays.

A protocol with a pool reads the validation scans beside those of a test part, never any other.

Letters: S slices, H x W pixels, h x w tokens per slice or window, V codes, K classes, B slices or windows of a pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vqseg.errors import InputError, pick
from vqseg.evaluate import label_path, merge_rows, save_label_map, score
from vqseg.files import replacing
from vqseg.identity import scoring_hash
from vqseg.inference import GEOMETRIES, Recipe, label_map
from vqseg.manifest import Scan, read_image, read_mask, scans_of, write_array
from vqseg.metrics import token_classes
from vqseg.network import SegmentationNetwork
from vqseg.overlays import write_overlays
from vqseg.plan import Plan
from vqseg.protocols import PROTOCOLS, applicable_protocols, require_scorable
from vqseg.records.run import RunFolder, now
from vqseg.store import to_input, to_unit, with_context
from vqseg.windows import cut

Networks = Mapping[tuple[str, str], Mapping[str, Tensor]]
BATCH = 16


def write_weights(folder: RunFolder, networks: Networks, keep: str = "all") -> None:
    """Write CHECKPOINT-NETWORK.safetensors for what ``keep`` names and take away the rest.

    ``last`` and ``best`` keep the teacher's weights of that name, ``all`` those of both networks, ``none`` nothing.
    """
    for (checkpoint, network), state in networks.items():
        path = folder.path / "weights" / f"{checkpoint}-{network}.safetensors"
        kept = keep == "all" or (network == "teacher" and keep == checkpoint)
        if not kept:
            path.unlink(missing_ok=True)
        elif not path.is_file() or keep == "all":
            with replacing(path) as temporary:
                temporary.write_bytes(save({name: value.detach().cpu().contiguous() for name, value in state.items()}))


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not readable ({error}); restore the file, or train the run again") from None


def score_part(
    plan: Plan,
    folder: RunFolder,
    part: str,
    device: torch.device,
    *,
    reuse: SegmentationNetwork,
    protocols: list[str] | None = None,
    library: str = "own",
) -> pd.DataFrame:
    """Score every kept network on ``part``; write label maps, rows, histogram and overlays. Returns the new rows.

    Without ``protocols``, those that are applicable, show the network what it was trained on, and read no other part.
    ``["all"]`` are all that are applicable; the run's last evaluation then says why the others are not
    (``not_applicable``: name -> reason).
    ``reuse`` is a network of the run's shape whose weights are overwritten and put back.

    Raises:
        InputError: the part is not in the split, has no masks, no weights were kept, or a protocol is not applicable.
    """
    members = {"val": scans_of(plan.manifest, plan.split, "val"), part: _scans(plan, part)}
    asked, reasons = _protocols(plan, part, members, reuse, protocols)
    files = sorted((folder.path / "weights").glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder.path}: no weights were kept (--keep none); train again with --keep last")
    read = dict.fromkeys(name for protocol in asked for name in PROTOCOLS[protocol].parts(part))
    references = {scan.scan: read_mask(plan.root, scan) for name in read for scan in members[name]}
    before = {name: value.clone() for name, value in reuse.state_dict().items()}
    reuse.eval()
    found = []
    for path in files:
        checkpoint, network = path.stem.split("-")
        reuse.load_state_dict(_weights(path))
        maps = _label_maps(plan, folder, reuse, members, part, checkpoint, network, asked, device)
        rows = score(
            maps,
            references,
            members[part],
            protocols=asked,
            classes=plan.manifest.classes,
            part=part,
            checkpoint=checkpoint,
            network=network,
            library=library,
            pool=members["val"],
            lesions=plan.manifest.lesions,
        )
        found.append(rows)
        if (checkpoint, network) == ("last", "teacher"):
            _codebook(plan, folder, reuse, members[part], references, part, device)
            _overlays(plan, folder, members[part], maps)
    reuse.load_state_dict(before)
    rows = pd.concat(found, ignore_index=True)
    repeat = sum(one["part"] == part for one in folder.status()["evaluations"])
    entry = {"part": part, "date": now(), "protocols": asked, "library": library, "lesions": plan.manifest.lesions}
    entry |= {"repeat": repeat, "scoring": scoring_hash()}
    if protocols == ["all"]:
        entry["not_applicable"] = reasons
    with folder.counted(entry):
        merge_rows(folder.path / "rows.parquet", rows)
    return rows


def usual_protocols(able: Sequence[str], recipe: Recipe) -> list[str]:
    """Return those of ``able`` that show a network what it was trained on, and read no other part."""
    return [name for name in able if GEOMETRIES[PROTOCOLS[name].geometry].own(recipe) and not PROTOCOLS[name].pool]


def _protocols(
    plan: Plan,
    part: str,
    members: Mapping[str, Sequence[Scan]],
    network: SegmentationNetwork,
    wanted: list[str] | None,
) -> tuple[list[str], dict[str, str]]:
    """Return what to score, and for each protocol that is not applicable the reason."""
    able, reasons = applicable_protocols(members[part], part, members["val"])
    stride = int(network.encoder.stride)  # type: ignore[arg-type]  # nn.Module's attributes are typed as tensors
    for name in able:
        side = GEOMETRIES[PROTOCOLS[name].geometry].side
        if side and side % stride:
            reasons[name] = f"it shows {side} x {side} pixels, the network takes multiples of {stride}"
    able = [name for name in able if name not in reasons]
    asked = able if wanted == ["all"] else list(dict.fromkeys(wanted or usual_protocols(able, _recipe(plan))))
    refused = next((name for name in asked if pick(name, PROTOCOLS, "protocol") in reasons), None)
    if refused or not asked:
        why = f"protocol {refused!r} is not applicable" if refused else "no protocol is applicable"
        raise InputError(f"{why} to {part}: {reasons[refused or next(iter(reasons))]}")
    return asked, reasons


def _recipe(plan: Plan) -> Recipe:
    data = plan.config.data
    return Recipe(data.size_px, data.geometry, data.context)


def _scans(plan: Plan, part: str) -> list[Scan]:
    require_scorable(part)
    known = [name for name, patients in plan.split.parts.items() if patients]
    if part not in known:
        raise InputError(f"part {part!r} is not in split {plan.split.name!r}; it has {', '.join(known)}")
    return scans_of(plan.manifest, plan.split, part)


def _label_maps(
    plan: Plan,
    folder: RunFolder,
    network: SegmentationNetwork,
    members: Mapping[str, Sequence[Scan]],
    part: str,
    checkpoint: str,
    name: str,
    protocols: list[str],
    device: torch.device,
) -> dict[str, dict[str, np.ndarray]]:
    """Segment every scan once per geometry; a scan of a pool is kept under its own part."""
    maps: dict[str, dict[str, np.ndarray]] = {}
    jobs = ((PROTOCOLS[p].geometry, own) for p in protocols for own in PROTOCOLS[p].parts(part))
    for geometry, own in dict.fromkeys(jobs):
        for scan in members[own]:
            volume = read_image(plan.root, scan)
            labels = label_map(lambda x: network(x).logits, volume, geometry, _recipe(plan), device, BATCH)
            keys = {"part": own, "checkpoint": checkpoint, "network": name, "geometry": geometry}
            save_label_map(label_path(folder.path, scan=scan.scan, **keys), labels)
            maps.setdefault(geometry, {})[scan.scan] = labels
    return maps


def _overlays(
    plan: Plan, folder: RunFolder, scans: Sequence[Scan], maps: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
    native = next((geometry for geometry in maps if geometry == "native"), next(iter(maps)))
    write_overlays(
        folder.path / "overlays",
        root=plan.root,
        scans=scans,
        label_maps=maps[native],
        classes=plan.manifest.classes,
        synthetic=plan.manifest.synthetic,
        name=folder.status()["name"],
    )


@torch.no_grad()
def _codebook(
    plan: Plan,
    folder: RunFolder,
    network: SegmentationNetwork,
    scans: Sequence[Scan],
    references: Mapping[str, np.ndarray],
    part: str,
    device: torch.device,
) -> None:
    """Write the usage histogram of the last teacher (tokens per code, and per majority class) and its codes.

    A recipe of crops looks at each slice in windows side by side; their padding is background, as in the release's
    count of tokens.
    """
    codes, classes = network.codes(), plan.manifest.classes
    counts = np.zeros((len(classes), codes.shape[0]), dtype=np.int64)
    for scan in scans:
        for images, mask in _seen(read_image(plan.root, scan), references[scan.scan], _recipe(plan)):
            encoded = network.encode(images.to(device))
            indices = network.quantize(encoded.tokens).indices.cpu().numpy().ravel()
            majority = token_classes(mask, encoded.grid, len(classes)).ravel()
            np.add.at(counts, (majority, indices), 1)
    table: dict[str, Any] = {
        "part": part,
        "network": "teacher",
        "code": np.arange(codes.shape[0]),
        "tokens": counts.sum(0),
        **{f"class_{name}": row for name, row in zip(classes, counts, strict=True)},
    }
    new, path = pd.DataFrame(table), folder.path / "codebook.parquet"
    if path.is_file():
        old = pd.read_parquet(path)
        new = pd.concat([old[old["part"] != part], new], ignore_index=True)
    with replacing(path) as temporary:
        new.to_parquet(temporary, index=False)
    write_array(folder.path / "codes.npz", codes=codes.float().cpu().numpy())


def _seen(volume: np.ndarray, mask: np.ndarray, recipe: Recipe) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Yield what the network looks at: images (B, C, h, w) in 0-1 and their masks (B, H, W)."""
    slices, side = with_context(volume, recipe.context), recipe.size_px
    step = BATCH if recipe.geometry == "resize" else 1
    for start in range(0, len(slices), step):
        part, drawn = slices[start : start + step], mask[start : start + step]
        if recipe.geometry == "resize":
            yield to_input(part, side), drawn
        else:
            masks = torch.from_numpy(np.ascontiguousarray(drawn))[:, None]
            windows = cut(to_unit(part), side, side).split(BATCH), cut(masks, side, side)[:, 0].split(BATCH)
            yield from ((images, marks.numpy()) for images, marks in zip(*windows, strict=True))
