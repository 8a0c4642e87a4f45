"""From a config to a run that is known to be possible: parts bound, data and split found, identity computed, built.

With `vqseg.experiment` the only module that sees the config; what is built gets plain keywords.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vqseg.config import Config, identity_leaves
from vqseg.errors import InputError, pick
from vqseg.identity import PRETRAINING, code_hashes, identity, module_hash, scoring_hash
from vqseg.manifest import Manifest, Scan, Split, read_manifest, read_split, scans_of
from vqseg.parts import Part, resolve
from vqseg.records.run import RunFolder
from vqseg.splits import draw

CHOICES = ("network.encoder", "network.quantizer", "network.decoder", "perturbation", "prior", "method", "optimizer")


@dataclass(frozen=True)
class Plan:
    """A run that is known to be possible: config and options checked, data and split found, identity computed.

    ``split`` is the one chosen, with the labelled patients that `relabelled` draws from it.
    """

    config: Config
    root: Path
    manifest: Manifest
    split: Split
    store: Path
    parts: dict[str, Part]
    code: dict[str, str]
    identity: str
    prior_folder: Path | None = None
    chosen: Split | None = None

    @property
    def aligned(self) -> bool:
        """Whether tokens are aligned with a prior."""
        return self.parts["prior"].name != "none"

    @property
    def channels(self) -> int:
        """Channels of the network's input: those of a slice and of its neighbours."""
        return self.manifest.channels * self.config.data.context

    @property
    def folder(self) -> RunFolder:
        """Where the run is, or will be, recorded."""
        return RunFolder(self.store, self.identity)

    @property
    def steps(self) -> int:
        """Steps to train."""
        return self.config.train.steps

    @property
    def idle(self) -> str:
        """A line if the run ends before anything but labelled images counts; empty otherwise."""
        warmup = self.parts["method"].options.get("warmup_steps", 0)
        if not isinstance(warmup, int) or self.steps > warmup:
            return ""
        what = "labelled images alone are trained on, and perturbations and their like never act"
        return f"train.steps {self.steps} ends within method.warmup_steps {warmup}: {what}"

    @property
    def labelled_parts(self) -> tuple[str, ...]:
        """The parts of the split whose masks are trained on."""
        return ("labelled",) if self.config.data.labels == "labelled" else ("labelled", "unlabelled")

    @property
    def unlabelled_part(self) -> str:
        """The part of the split whose images are trained on without masks: where all are labelled, those."""
        return "unlabelled" if self.split.parts.get("unlabelled") or not _redraws(self.config) else "labelled"

    @property
    def foreground(self) -> tuple[int, ...]:
        """Indices of the classes that `data.foreground_share` counts."""
        names = self.config.data.foreground_classes or self.manifest.classes[1:]
        return tuple(self.manifest.classes.index(name) for name in names)


def plan(config: Config, *, root: Path, split: str | None, store: Path) -> Plan:
    """Check a config against parts and data, and compute the run's identity; nothing is written.

    Raises:
        InputError: an unknown part or option, or data or a split that cannot be read.
    """
    manifest = read_manifest(root)
    chosen = read_split(root, manifest, split)
    used = relabelled(manifest, chosen, config)
    parts = resolve_choices(config)
    code = code_hashes(()) | {name: found for part in parts.values() for name, found in part.hashes().items()}
    leaves, folder = identity_leaves(config, {key: part.identity() for key, part in parts.items()}), None
    for key, part in parts.items():
        if hasattr(part.factory, "digest"):
            # The weights count by what they are, not by where they lie.
            leaves[key] = {name: value for name, value in leaves[key].items() if name != "weights"}
            leaves[f"{key}.weights"] = part.factory.digest(**part.options)
    if parts["prior"].name == "local":
        wanted = prior_identity(config, parts, manifest, chosen)
        leaves["prior.weights"], folder = wanted, store / "priors" / wanted
    for key in ("data.labelled_share", "data.draw"):
        leaves.pop(key, None)
    if set(used.parts["labelled"]) != set(chosen.parts.get("labelled", [])):
        # Who is labelled counts, not by which rule: the same patients are the same run.
        leaves["data.labelled"] = sorted(used.parts["labelled"])
    if config.data.labels == "all" and parts["method"].factory.needs_unlabelled:
        raise InputError("data.labels: all opens the hidden labels; it goes with method: supervised only")
    if parts["method"].factory.needs_unlabelled and config.train.unlabelled_batch < 1:
        raise InputError("train.unlabelled_batch: must be at least 1 for a semi-supervised method")
    known = identity(leaves, manifest.digest, chosen.digest, code)
    made = Plan(config, root, manifest, used, store, parts, code, known, folder, chosen)
    _require_foreground(made)
    return made


def relabelled(manifest: Manifest, split: Split, config: Config) -> Split:
    """Return the split with the labelled patients that ``data.labelled_share`` and ``data.draw`` ask for.

    They stand in the manifest's order, or in the split's own where they are its own: a run is known by who is labelled,
    so nothing of it may depend on how they came to be.

    Raises:
        InputError: so many have no masks.
    """
    if not _redraws(config):
        return split
    share, number = config.data.labelled_share, config.data.draw
    labelled, unlabelled = (split.parts.get(part, []) for part in ("labelled", "unlabelled"))
    pool = len(labelled) + len(unlabelled)
    # 5 % of 70 patients are 3, as in SSL4MIS; what a product misses by rounding is no patient less.
    count = len(labelled) if share is None else max(int(share * pool + 1e-9), 1)
    try:
        drawn = draw(manifest, split, name=split.name, labelled=str(count), seed=number or None)
    except InputError as error:
        asked = "data.draw" if share is None else f"data.labelled_share {share:g} ({count} of {pool} patients)"
        raise InputError(f"{asked}: {str(error).partition(': ')[2] or error}; leave it, or its arm, out") from None
    if all(set(drawn.parts[part]) == set(split.parts.get(part, [])) for part in ("labelled", "unlabelled")):
        return split
    place = {patient: number for number, patient in enumerate(manifest.patients)}
    parts = {part: sorted(drawn.parts[part], key=place.__getitem__) for part in ("labelled", "unlabelled")}
    return drawn.model_copy(update={"parts": {**drawn.parts, **parts}})


def _redraws(config: Config) -> bool:
    return config.data.labelled_share is not None or config.data.draw > 0


def _require_foreground(plan: Plan) -> None:
    """Refuse a share of foreground that no labelled mask can give."""
    data = plan.config.data
    if data.foreground_classes and not data.foreground_share:
        raise InputError("data.foreground_classes: says what data.foreground_share counts; set that above 0, too")
    for name in data.foreground_classes:
        pick(name, plan.manifest.classes[1:], "class in data.foreground_classes")
    scans = [scan for part in plan.labelled_parts for scan in scans_of(plan.manifest, plan.split, part)]
    shown = sum(scan.class_voxels[index] for scan in scans if scan.class_voxels for index in plan.foreground)
    if data.foreground_share and scans and not shown:
        named = ", ".join(plan.manifest.classes[index] for index in plan.foreground)
        raise InputError(
            f"data.foreground_share: no labelled image of split {plan.split.name!r} shows {named}; label a patient that"
            " does, or leave it at 0"
        )


def resolve_choices(config: Config) -> dict[str, Part]:
    """Look up every part that the config names and bind its options.

    Raises:
        InputError: an unknown name or option, a value of the wrong type, or one that does not go with the images' size.
    """
    parts = {key: resolve(key.rpartition(".")[2], _at(config, key)) for key in CHOICES}
    for key, part in parts.items():
        if hasattr(part.factory, "fitted"):
            parts[key] = replace(part, options=part.factory.fitted(part.options, config.data.size_px))
    return parts


def modules_of(part: Part) -> tuple[str, ...]:
    """Return the modules whose code a part computes with: its own, and those that its class names in ``uses``."""
    return tuple(part.hashes())


def prior_identity(config: Config, parts: dict[str, Part], manifest: Manifest, split: Split) -> str:
    """Return who the local prior is: its options, what it sees, and the code that trains it; not the run's seed."""
    images = [[scan.scan, scan.image_sha256] for scan in training_scans(manifest, split)]
    seen = {"images": images, "channels": manifest.channels, "size_px": config.data.size_px}
    seen["geometry"] = config.data.geometry
    code = {module: module_hash(module) for module in PRETRAINING}
    return identity({**parts["prior"].identity(), **seen}, "", "", code)


def training_scans(manifest: Manifest, split: Split) -> list[Scan]:
    """Return the scans of labelled and unlabelled patients in the manifest's order, whoever of them is labelled."""
    trained = {*split.parts.get("labelled", []), *split.parts.get("unlabelled", [])}
    return [scan for scan in manifest.scans if scan.patient in trained]


def first_status(plan: Plan, name: str, provenance: dict[str, Any]) -> dict[str, Any]:
    """Return what ``status.json`` says of a run before its first step."""
    members = {part: scans_of(plan.manifest, plan.split, part) for part in plan.split.parts}
    return {
        "name": name,
        "state": "running",
        "step": 0,
        "steps": plan.steps,
        "seed": plan.config.seed,
        "preset": plan.config.preset,
        "started": None,
        "finished": None,
        "error": None,
        "labels": plan.config.data.labels,
        "data": {
            "name": plan.manifest.name,
            "root": str(plan.root.resolve()),
            "digest": plan.manifest.digest,
            "synthetic": plan.manifest.synthetic,
            "classes": plan.manifest.classes,
            "channels": plan.manifest.channels,
            "color": plan.manifest.color,
            "intake": plan.manifest.intake,
        },
        "split": {
            "name": plan.split.name,
            "digest": (plan.chosen or plan.split).digest,
            "parts": {
                part: {"patients": len(plan.split.parts[part]), "images": sum(len(scan.slices) for scan in scans)}
                for part, scans in members.items()
            },
        },
        "code": plan.code,
        "scoring": scoring_hash(),
        "provenance": provenance,
        "evaluations": [],
    }


def recorded_config(plan: Plan) -> dict[str, Any]:
    """Return the config with every option of every part, defaults included.

    A folder of weights is named by its whole path, so that the run can be built from any working directory.
    """
    tree = plan.config.plain()
    for key, part in plan.parts.items():
        *path, leaf = key.split(".")
        node = tree
        for name in path:
            node = node[name]
        options = {name: list(value) if isinstance(value, tuple) else value for name, value in part.options.items()}
        named = options.get("weights")
        if hasattr(part.factory, "digest") and isinstance(named, str) and Path(named).expanduser().is_dir():
            options["weights"] = str(Path(named).expanduser().absolute())
        node[leaf] = {"name": part.name, **options}
    return tree


def _at(config: Config, key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = getattr(node, name)
    return node
