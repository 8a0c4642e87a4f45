"""A trained network by its record alone: the run folder's config, status and weights; no data folder is needed."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vqseg.build import build_network
from vqseg.config import Config, from_tree
from vqseg.errors import InputError
from vqseg.identity import INFERENCE, code_hashes
from vqseg.inference import Recipe
from vqseg.manifest import Manifest, Split, read_manifest
from vqseg.network import SegmentationNetwork
from vqseg.plan import Plan, modules_of, resolve_choices
from vqseg.records.index import FOREIGN
from vqseg.records.run import RunFolder

CHECKPOINTS, NETWORKS = ("last", "best"), ("teacher", "student")


class Trained(NamedTuple):
    """A network in evaluation mode, what it was trained on, and where it computes."""

    network: SegmentationNetwork
    recipe: Recipe
    device: torch.device


def weights_of(folder: RunFolder, checkpoint: str, network: str) -> Path:
    """Return the file of a finished run's weights.

    Raises:
        InputError: the run is not finished or has no network, or these weights were not kept.
    """
    status = folder.status()
    if status.get("kind") == FOREIGN:
        raise InputError(f"run {folder.identity}: was scored from its predictions; it has no network")
    if folder.state() != "finished":
        raise InputError(f"run {folder.identity}: is {folder.state()}, not finished; finish it first")
    for option, value, known in (("checkpoint", checkpoint, CHECKPOINTS), ("network", network, NETWORKS)):
        if value not in known:
            raise InputError(f"--{option} {value}: expected {' or '.join(known)}")
    path = folder.path / "weights" / f"{checkpoint}-{network}.safetensors"
    if not path.is_file():
        kept = ", ".join(sorted(other.stem for other in path.parent.glob("*.safetensors")))
        do = f"kept are {kept}: name one with --checkpoint and --network" if kept else "train again with --keep last"
        raise InputError(f"run {folder.identity}: the weights {path.stem} were not kept; {do}")
    return path


def data_of(folder: RunFolder, root: Path | None = None) -> Manifest:
    """Return what the status says of a run's data, as a manifest without scans; older ones: the data's own manifest.

    Args:
        folder: the run's folder.
        root: the data's folder, where it has moved.

    Raises:
        InputError: the record is too old to tell and the data folder is gone, or ``root`` holds other data.
    """
    data: dict[str, Any] = folder.status()["data"]
    known = ("name", "synthetic", "classes", "channels", "color", "intake")
    if root is None and all(key in data for key in known):
        return Manifest(**{key: data[key] for key in known}, source={}, default_split="", scans=[])
    place = root or Path(data["root"])
    if root is None and not (place / "manifest.json").is_file():
        what = f"recorded before runs kept how images are read, and {place} is gone"
        raise InputError(f"run {folder.identity}: {what}; name the data's folder with --data")
    manifest = read_manifest(place)
    if manifest.digest != data["digest"]:
        raise InputError(f"{place}: data {manifest.digest}, but the run was trained on {data['digest']}")
    return manifest


def config_of(folder: RunFolder, *, allow_code: bool = False) -> Config:
    """Return a run's recorded config.

    Raises:
        InputError: it cannot be read, or names a user's code and ``allow_code`` is false.
    """
    origin = str(folder.path / "config.yaml")
    return from_tree(folder.config(), origin, allow_code=allow_code)


def load(folder: RunFolder, weights: Path, config: Config, manifest: Manifest, device: torch.device) -> Trained:
    """Build the network of a run and give it its weights.

    Args:
        folder: the run's folder.
        weights: what `weights_of` returned.
        config: what `config_of` returned; the parts that it names are loaded.
        manifest: what `data_of` returned.
        device: where to compute.

    Raises:
        InputError: the network's code is not what trained it, or the weights cannot be read or are another network's.
    """
    status = folder.status()
    nobody = Split(name=status["split"]["name"], data=manifest.digest, parts={})
    planned = recorded_plan(folder, config, manifest, nobody, Path(status["data"]["root"]))
    state = _read(weights)
    network = _network(planned, state, device)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{weights}: not the weights of this run's network ({reason}); restore the file") from None
    data = config.data
    return Trained(network.eval(), Recipe(data.size_px, data.geometry, data.context), device)


def recorded_plan(folder: RunFolder, config: Config, manifest: Manifest, split: Split, root: Path) -> Plan:
    """Return the plan of a recorded run. Its identity is the record's: no weights that it was trained with are read.

    Raises:
        InputError: the network's code is not what trained it, or a part is unknown.
    """
    parts = resolve_choices(config)
    code = code_hashes(()) | {name: value for part in parts.values() for name, value in part.hashes().items()}
    planned = Plan(config, root, manifest, split, folder.store, parts, code, folder.identity)
    _require_same_network(planned, folder)
    return planned


def recorded_network(plan: Plan, folder: RunFolder, device: torch.device) -> SegmentationNetwork:
    """Build a network of the shape that a run's kept weights have, whichever they are.

    Raises:
        InputError: they cannot be read, or an encoder's own folder is gone.
    """
    kept = next(iter(sorted((folder.path / "weights").glob("*.safetensors"))), None)
    return _network(plan, _read(kept) if kept else {}, device)


def _network(plan: Plan, state: dict[str, Tensor], device: torch.device) -> SegmentationNetwork:
    """Build the network that ``state`` is of, its values not yet in it."""
    # What a prior's features were adapted to, so that the prior itself is not needed.
    adapter = state.get("adapter.weight")
    return build_network(plan, device, None if adapter is None else adapter.shape[0])


def _require_same_network(plan: Plan, folder: RunFolder) -> None:
    """Refuse weights that other code would turn into other label maps."""
    status = folder.status()
    parts = (part for key, part in plan.parts.items() if key.startswith("network."))
    modules = {*INFERENCE, *(module for part in parts for module in modules_of(part))}
    changed = sorted(name for name in modules if status["code"].get(name) not in (None, plan.code.get(name)))
    if changed:
        commit = str(status["provenance"].get("commit") or "unknown")[:12]
        raise InputError(
            f"run {folder.identity}: {', '.join(changed)} changed since it was trained (commit {commit});"
            " score it with that version of vqseg, or train it again"
        )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not readable ({error}); restore the file, or train the run again") from None
