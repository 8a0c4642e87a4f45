"""Scores a run folder on a part of its split: weights -> label maps -> rows, usage histogram, overlays.

Letters: S slices, h x w tokens per slice, V codes, K classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vqseg.dataset import to_input
from vqseg.errors import InputError, pick
from vqseg.evaluate import GEOMETRIES, label_map, label_path, merge_rows, save_label_map, score
from vqseg.files import replacing
from vqseg.identity import scoring_hash
from vqseg.manifest import Scan, read_image, read_mask, scans_of, write_array
from vqseg.metrics import token_classes
from vqseg.network import SegmentationNetwork
from vqseg.overlays import write_overlays
from vqseg.plan import Plan
from vqseg.protocols import PROTOCOLS, applicable_protocols
from vqseg.records.run import RunFolder, now

Networks = Mapping[tuple[str, str], Mapping[str, Tensor]]


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

    Without ``protocols``, those that are applicable and keep the recipe's own input geometry.
    ``reuse`` is a network of the run's shape whose weights are overwritten and put back.

    Raises:
        InputError: the part is not in the split, has no masks, or no weights were kept.
    """
    scans = _scans(plan, part)
    able, reasons = applicable_protocols(scans)
    asked = protocols or [name for name in able if _own_geometry(plan, name)]
    refused = next((pick(name, PROTOCOLS, "protocol") for name in asked if name not in able), None)
    if refused:
        raise InputError(f"protocol {refused!r} is not applicable to {part}: {reasons[refused]}")
    files = sorted((folder.path / "weights").glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder.path}: no weights were kept (--keep none); train again with --keep last")
    references = {scan.scan: read_mask(plan.root, scan) for scan in scans}
    before = {name: value.clone() for name, value in reuse.state_dict().items()}
    reuse.eval()
    found = []
    for path in files:
        checkpoint, network = path.stem.split("-")
        reuse.load_state_dict(_weights(path))
        maps = _label_maps(plan, folder, reuse, scans, part, checkpoint, network, asked, device)
        keys = {"part": part, "checkpoint": checkpoint, "network": network}
        classes = plan.manifest.classes
        found.append(score(maps, references, scans, protocols=asked, classes=classes, library=library, **keys))
        if (checkpoint, network) == ("last", "teacher"):
            _codebook(plan, folder, reuse, scans, references, part, device)
            native = next((g for g in maps if g == "native"), next(iter(maps)))
            write_overlays(
                folder.path / "overlays",
                root=plan.root,
                scans=scans,
                label_maps=maps[native],
                classes=classes,
                synthetic=plan.manifest.synthetic,
                name=folder.status()["name"],
            )
    reuse.load_state_dict(before)
    rows = pd.concat(found, ignore_index=True)
    merge_rows(folder.path / "rows.parquet", rows)
    done = folder.status()["evaluations"]
    repeat = sum(one["part"] == part for one in done)
    entry = {"part": part, "date": now(), "protocols": asked, "repeat": repeat, "scoring": scoring_hash()}
    folder.update(evaluations=[*done, entry])
    return rows


def _own_geometry(plan: Plan, protocol: str) -> bool:
    """Whether the protocol shows the network images of the size that it was trained on."""
    side = GEOMETRIES[PROTOCOLS[protocol].geometry].side
    return side in (None, plan.config.data.size_px)


def _scans(plan: Plan, part: str) -> list[Scan]:
    known = [name for name, patients in plan.split.parts.items() if patients]
    if part not in known:
        raise InputError(f"part {part!r} is not in split {plan.split.name!r}; it has {', '.join(known)}")
    return scans_of(plan.manifest, plan.split, part)


def _label_maps(
    plan: Plan,
    folder: RunFolder,
    network: SegmentationNetwork,
    scans: list[Scan],
    part: str,
    checkpoint: str,
    name: str,
    protocols: list[str],
    device: torch.device,
) -> dict[str, dict[str, np.ndarray]]:
    maps: dict[str, dict[str, np.ndarray]] = {}
    for geometry in dict.fromkeys(PROTOCOLS[protocol].geometry for protocol in protocols):
        maps[geometry] = {}
        for scan in scans:
            volume = read_image(plan.root, scan)
            size = plan.config.data.size_px
            labels = label_map(lambda x: network(x).logits, volume, geometry, size, device)
            keys = {"part": part, "checkpoint": checkpoint, "network": name, "geometry": geometry}
            save_label_map(label_path(folder.path, scan=scan.scan, **keys), labels)
            maps[geometry][scan.scan] = labels
    return maps


@torch.no_grad()
def _codebook(
    plan: Plan,
    folder: RunFolder,
    network: SegmentationNetwork,
    scans: list[Scan],
    references: Mapping[str, np.ndarray],
    part: str,
    device: torch.device,
) -> None:
    """Write the usage histogram of the last teacher (tokens per code, and per majority class) and its codes."""
    codes, classes = network.codes(), plan.manifest.classes
    counts = np.zeros((len(classes), codes.shape[0]), dtype=np.int64)
    for scan in scans:
        encoded = network.encode(to_input(read_image(plan.root, scan), plan.config.data.size_px).to(device))
        indices = network.quantize(encoded.tokens).indices.cpu().numpy().ravel()
        majority = token_classes(references[scan.scan], encoded.grid, len(classes)).ravel()
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
