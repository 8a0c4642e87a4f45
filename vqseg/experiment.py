"""The composition root: config -> parts -> train -> score -> record. Read this file first.

Only this module sees the config; everything below gets plain keywords.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vqseg import streams
from vqseg.config import Config, from_tree, identity_leaves
from vqseg.dataset import Batches, open_store
from vqseg.errors import InputError
from vqseg.identity import code_hashes, identity, scoring_hash
from vqseg.inspection import require_sound
from vqseg.manifest import Manifest, Split, read_manifest, read_split, scans_of
from vqseg.network import SegmentationNetwork
from vqseg.parts import Part, resolve
from vqseg.protocols import applicable_protocols
from vqseg.provenance import BITWISE, describe, pick_device, pick_precision
from vqseg.records.run import MetricsFile, RunFolder, now
from vqseg.scoring import score_part, write_weights
from vqseg.step import Setup
from vqseg.train import Diverged, Interrupted, Trainer
from vqseg.validation import Validation

CHOICES = ("network.encoder", "network.quantizer", "network.decoder", "perturbation", "method", "optimizer")
KEEP = ("last", "best", "all", "none")


@dataclass(frozen=True)
class Plan:
    """A run that is known to be possible: config and options checked, data and split found, identity computed."""

    config: Config
    root: Path
    manifest: Manifest
    split: Split
    store: Path
    parts: dict[str, Part]
    code: dict[str, str]
    identity: str

    @property
    def folder(self) -> RunFolder:
        """Where the run is, or will be, recorded."""
        return RunFolder(self.store, self.identity)

    @property
    def steps(self) -> int:
        """Steps to train."""
        return self.config.train.steps

    @property
    def labelled_parts(self) -> tuple[str, ...]:
        """The parts of the split whose masks are trained on."""
        return ("labelled",) if self.config.data.labels == "labelled" else ("labelled", "unlabelled")


def plan(config: Config, *, root: Path, split: str | None, store: Path) -> Plan:
    """Check a config against parts and data, and compute the run's identity; nothing is written.

    Raises:
        InputError: an unknown part or option, or data or a split that cannot be read.
    """
    manifest = read_manifest(root)
    chosen = read_split(root, manifest, split)
    parts = resolve_choices(config)
    code = code_hashes(part.module for part in parts.values())
    leaves = identity_leaves(config, {key: part.identity() for key, part in parts.items()})
    if config.data.labels == "all" and parts["method"].factory.needs_unlabelled:
        raise InputError("data.labels: all opens the hidden labels; it goes with method: supervised only")
    _check_sizes(config, parts)
    return Plan(
        config, root, manifest, chosen, store, parts, code, identity(leaves, manifest.digest, chosen.digest, code)
    )


def resolve_choices(config: Config) -> dict[str, Part]:
    """Look up every part that the config names and bind its options.

    Raises:
        InputError: an unknown name or option, or a value of the wrong type.
    """
    return {key: resolve(key.rpartition(".")[2], _at(config, key)) for key in CHOICES}


def build_network(plan: Plan, device: torch.device) -> SegmentationNetwork:
    """Build the student, every parameter drawn from the stream of its own path.

    Raises:
        InputError: an option's value does not do.
    """
    config, parts = plan.config, plan.parts
    channels, classes, norm = plan.manifest.channels, len(plan.manifest.classes), config.network.norm
    encoder = _built(parts["network.encoder"], channels, norm)
    decoder, dims = parts["network.decoder"], encoder.dims
    segment = _built(decoder, dims, classes, norm, config.network.skips)
    dual = parts["method"].options.get("dual_branch", False)
    image = _built(decoder, dims, channels, norm, False) if dual else None
    network = SegmentationNetwork(encoder, _built(parts["network.quantizer"], dims[-1]), segment, image)
    streams.initialize(network, config.seed)
    if config.train.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.to(device)


def build_method(plan: Plan, device: torch.device) -> Any:
    """Build the method around a fresh student."""
    config = plan.config
    separate = config.network.statistics == "separate"
    setup = Setup(config.seed, config.train.teacher_decay, separate)
    perturbation = _built(plan.parts["perturbation"])
    return _built(plan.parts["method"], build_network(plan, device), perturbation, setup).to(device)


def run(
    plan: Plan,
    *,
    name: str,
    device: str = "cpu",
    keep: str = "last",
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] = lambda step, steps: None,
) -> RunFolder:
    """Train (or resume, or find finished), score the validation part, record.

    The status is true at every moment; a killed run is seen by its lock (`RunFolder.state`).

    Raises:
        InputError: bad data or checkpoint, or another process holds the run.
        Interrupted: asked to stop; the same call resumes.
        Diverged: the loss is not finite; the run is `failed`.
    """
    if keep not in KEEP:
        raise InputError(f"--keep {keep}: expected one of {', '.join(KEEP)}")
    folder = plan.folder
    if folder.exists() and folder.state() == "finished":
        return folder
    target = pick_device(device)
    _require_data(plan)
    with folder.lock():
        try:
            _train_and_score(plan, folder, name, target, keep, should_stop, on_progress)
        except Interrupted:
            folder.update(state="interrupted")
            raise
        except BaseException as error:
            if folder.exists():
                state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                folder.update(state=state, error=_one_line(error), finished=now())
            raise
    return folder


def _train_and_score(
    plan: Plan,
    folder: RunFolder,
    name: str,
    device: torch.device,
    keep: str,
    should_stop: Callable[[], bool],
    on_progress: Callable[[int, int], None],
) -> None:
    config = plan.config
    provenance = describe(device, pick_precision(config.train.precision, device))
    method = build_method(plan, device)
    if not folder.exists():
        folder.create(_recorded_config(plan), _first_status(plan, name, provenance))
    trainer = _trainer(plan, folder, method, device, str(provenance["precision"]))
    trainer.should_stop = should_stop
    trainer.on_progress = lambda step: on_progress(step, plan.steps)
    resumed = trainer.resume()
    if resumed:
        _mark_resume(folder, provenance)
    metrics = MetricsFile(folder.path / "metrics.csv", trainer.step)

    def log(values: dict[str, float], step: int) -> None:
        metrics.write(values, step)
        folder.update(step=step)

    trainer.log = log
    folder.update(state="running", error=None, finished=None, started=folder.status().get("started") or now())
    trainer.run()
    cost = {
        "parameters": sum(p.numel() for p in method.student.parameters() if p.requires_grad),
        "ms_per_step": round(1000 * trainer.seconds / plan.steps, 3),
        "train_seconds": round(trainer.seconds, 1),
        "peak_memory_mb": round(_peak_memory_mb(device)),
    }
    networks = {
        (checkpoint, network): state
        for network in ("teacher", "student")
        for checkpoint, state in (
            ("last", getattr(method, network).state_dict()),
            ("best", trainer.best[network].weights),
        )
    }
    last = {name: trainer.validate(plan.steps)[f"val/dice_{name}"] for name in ("teacher", "student")}
    best = {name: {"dice": b.dice, "step": b.step} for name, b in trainer.best.items()}
    write_weights(folder, networks)
    score_part(plan, folder, "val", device, reuse=method.teacher)
    write_weights(folder, networks, keep=keep)
    folder.update(
        state="finished",
        finished=now(),
        step=plan.steps,
        cost=cost,
        scoring=scoring_hash(),
        validation={"last": last, "best": best},
    )
    (folder.path / "checkpoint.pt").unlink(missing_ok=True)


def evaluate(
    folder: RunFolder,
    *,
    part: str,
    protocols: list[str] | None = None,
    library: str = "own",
    device: str = "cpu",
    root: Path | None = None,
) -> pd.DataFrame:
    """Score a finished run's kept weights on ``part`` and record the rows; ``protocols`` may be ``["all"]``.

    Raises:
        InputError: the run is not finished, its data moved or changed, or the part cannot be scored.
    """
    status = folder.status()
    if folder.state() != "finished":
        raise InputError(f"run {folder.identity}: is {folder.state()}, not finished; finish it first")
    tree = folder.config()
    config = from_tree(tree, str(folder.path / "config.yaml"))
    place = root or Path(status["data"]["root"])
    planned = plan(config, root=place, split=status["split"]["name"], store=folder.store)
    for what, found in (("data", planned.manifest.digest), ("split", planned.split.digest)):
        if found != status[what]["digest"]:
            raise InputError(f"{place}: {what} {found}, but the run was trained on {status[what]['digest']}")
    target = pick_device(device)
    if protocols == ["all"]:
        protocols = applicable_protocols(scans_of(planned.manifest, planned.split, part))[0]
    with folder.lock():
        network = build_network(planned, target)
        return score_part(planned, folder, part, target, reuse=network, protocols=protocols, library=library)


def scored(folder: RunFolder) -> pd.DataFrame:
    """Return all rows of a run."""
    return pd.read_parquet(folder.path / "rows.parquet")


def _trainer(plan: Plan, folder: RunFolder, method: Any, device: torch.device, precision: str) -> Trainer:
    config, manifest, split = plan.config, plan.manifest, plan.split
    size = config.data.size_px
    cache = plan.store / "tensors"
    labelled = [scan for part in plan.labelled_parts for scan in scans_of(manifest, split, part)]
    open_part = {"size_px": size, "cache": cache, "device": device}
    store = open_store(plan.root, manifest, labelled, masks=True, **open_part)  # type: ignore[arg-type]
    unlabelled = None
    if method.needs_unlabelled:
        rest = scans_of(manifest, split, "unlabelled")
        unlabelled = open_store(plan.root, manifest, rest, masks=False, **open_part)  # type: ignore[arg-type]
    sizes = (config.train.labelled_batch, config.train.unlabelled_batch)
    validation = Validation(
        plan.root,
        scans_of(manifest, split, "val"),
        size_px=size,
        classes=manifest.classes,
        device=device,
        seed=config.seed,
    )
    return Trainer(
        method=method,
        batches=Batches(store, unlabelled, augment=config.augment, sizes=sizes, seed=config.seed),
        optimizer=plan.parts["optimizer"].build(method.groups()),
        settings=config.train,
        schedule=config.schedule,
        seed=config.seed,
        num_codes=method.student.codes().shape[0],
        device=device,
        precision=precision,
        identity=plan.identity,
        config=_recorded_config(plan),
        validate=lambda step: validation.measure(method.teacher, method.student, method.perturbation),
        log=lambda values, step: None,
        checkpoint=folder.path / "checkpoint.pt",
    )


def _require_data(plan: Plan) -> None:
    semi = plan.parts["method"].factory.needs_unlabelled
    parts = ("labelled", "unlabelled", "val") if semi else (*plan.labelled_parts, "val")
    if not plan.split.parts.get("unlabelled") and not semi:
        parts = tuple(part for part in parts if part != "unlabelled")
    require_sound(plan.root, plan.manifest, plan.split, parts=parts, read_masks_of=(*plan.labelled_parts, "val"))


def _check_sizes(config: Config, parts: dict[str, Part]) -> None:
    widths = parts["network.encoder"].options.get("widths")
    stride = 2 ** (len(widths) - 1) if widths else 1
    if config.data.size_px % stride:
        raise InputError(f"data.size_px: {config.data.size_px} is no multiple of the encoder's stride {stride}")
    if parts["method"].factory.needs_unlabelled and config.train.unlabelled_batch < 1:
        raise InputError("train.unlabelled_batch: must be at least 1 for a semi-supervised method")


def _first_status(plan: Plan, name: str, provenance: dict[str, Any]) -> dict[str, Any]:
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
        },
        "split": {
            "name": plan.split.name,
            "digest": plan.split.digest,
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


def _recorded_config(plan: Plan) -> dict[str, Any]:
    """Return the config with every option of every part, defaults included."""
    tree = plan.config.plain()
    for key, part in plan.parts.items():
        *path, leaf = key.split(".")
        node = tree
        for name in path:
            node = node[name]
        options = {name: list(value) if isinstance(value, tuple) else value for name, value in part.options.items()}
        node[leaf] = {"name": part.name, **options}
    return tree


def _mark_resume(folder: RunFolder, provenance: dict[str, Any]) -> None:
    """Note a resume, and what of the provenance changed: then the run need not equal an uninterrupted one."""
    before = folder.status()["provenance"]
    changed = {key: [before.get(key), provenance[key]] for key in BITWISE if before.get(key) != provenance[key]}
    resumes = [*folder.status().get("resumes", []), {"date": now(), "changed": changed}]
    folder.update(resumes=resumes, provenance=provenance)


def _at(config: Config, key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = getattr(node, name)
    return node


def _built(part: Part, *supplied: Any) -> Any:
    try:
        return part.build(*supplied)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{part.family} {part.name!r}: {error}") from None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:500] if isinstance(error, (InputError, Diverged)) else f"{type(error).__name__}: {text[:500]}"


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed_step(plan: Plan, device: str = "cpu", repeats: int = 3) -> float:
    """Return seconds per training step, measured on ``repeats`` steps after one warm-up; nothing is recorded."""
    target = pick_device(device)
    method = build_method(plan, target)
    trainer = _trainer(plan, plan.folder, method, target, pick_precision(plan.config.train.precision, target))
    trainer._one_step()
    start = time.perf_counter()
    for _ in range(repeats):
        trainer._one_step()
    return (time.perf_counter() - start) / repeats
