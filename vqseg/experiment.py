"""The composition root: plan (config -> parts) -> train -> score -> record. Read this file first.

Only this module and `vqseg.plan` see the config; everything below gets plain keywords.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vqseg.build import build_method, build_network, check_parts
from vqseg.config import from_tree
from vqseg.dataset import Batches
from vqseg.errors import InputError
from vqseg.identity import scoring_hash
from vqseg.inspection import require_sound
from vqseg.manifest import read_manifest, read_split, scans_of
from vqseg.plan import (
    CHOICES,
    Plan,
    first_status,
    plan,
    recorded_config,
    resolve_choices,
)
from vqseg.pretrain import ensure_prior
from vqseg.protocols import parts_read
from vqseg.provenance import BITWISE, describe, pick_device, pick_precision
from vqseg.records.index import FOREIGN
from vqseg.records.run import MetricsFile, RunFolder, now
from vqseg.scoring import score_part, write_weights
from vqseg.store import TensorStore, open_store
from vqseg.train import Diverged, Interrupted, Trainer, forget_peak_memory, peak_memory_mb
from vqseg.trained import recorded_network, recorded_plan
from vqseg.validation import Validation

__all__ = [
    "CHOICES",
    "Plan",
    "assemble",
    "build_method",
    "build_network",
    "check_parts",
    "evaluate",
    "plan",
    "prepare_prior",
    "require_data",
    "resolve_choices",
    "run",
    "scored",
]

KEEP = ("last", "best", "all", "none")


class Pruned(Exception):
    """A run was given up before its end, ``by`` a search: others did better at the same step."""

    def __init__(self, why: str, *, by: str) -> None:
        super().__init__(why)
        self.by = by


def run(
    plan: Plan,
    *,
    name: str,
    device: str = "cpu",
    keep: str = "last",
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] = lambda step, steps: None,
    on_validation: Callable[[float, int], None] = lambda dice, step: None,
) -> RunFolder:
    """Train (or resume, or find finished), score the validation part, record.

    The status is true at every moment; a killed run is seen by its lock (`RunFolder.state`). ``on_validation`` is
    told the teacher's Dice at a step, and may raise `Pruned`. A run that was pruned is trained anew, from its first
    step, by whoever calls this for it again.

    Raises:
        InputError: bad data or checkpoint, or another process holds the run.
        Interrupted: asked to stop; the same call resumes.
        Diverged: the loss is not finite; the run is `failed`.
        Pruned: ``on_validation`` raised it; the run is `pruned`, and keeps its metrics alone.
    """
    if keep not in KEEP:
        raise InputError(f"--keep {keep}: expected one of {', '.join(KEEP)}")
    folder = plan.folder
    if folder.exists() and folder.state() == "finished":
        return folder
    target = pick_device(device)
    check_parts(plan)
    require_data(plan)
    ensure_prior(plan, target, should_stop=should_stop)
    with folder.lock():
        if folder.exists() and folder.status()["state"] == "finished":
            return folder  # by another process, while this one waited
        try:
            _train_and_score(plan, folder, name, target, keep, should_stop, on_progress, on_validation)
        except Interrupted:
            folder.update(state="interrupted")
            raise
        except Pruned as end:
            folder.update(state="pruned", finished=now(), pruned={"by": end.by, "why": str(end)})
            (folder.path / "checkpoint.pt").unlink(missing_ok=True)
            raise
        except BaseException as error:
            if folder.exists():
                state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                folder.update(state=state, error=_one_line(error), finished=now())
            raise
    return folder


def prepare_prior(
    plan: Plan,
    device: str = "cpu",
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] = lambda step, steps: None,
) -> bool:
    """Train the local prior that a run needs, unless it is there; `run` does so too. Return whether it was trained.

    Raises:
        Interrupted: asked to stop; the same call resumes.
    """
    return ensure_prior(plan, pick_device(device), should_stop=should_stop, on_progress=on_progress)


def _train_and_score(
    plan: Plan,
    folder: RunFolder,
    name: str,
    device: torch.device,
    keep: str,
    should_stop: Callable[[], bool],
    on_progress: Callable[[int, int], None],
    on_validation: Callable[[float, int], None],
) -> None:
    config = plan.config
    provenance = describe(device, pick_precision(config.train.precision, device))
    trainer = assemble(plan, folder.path / "checkpoint.pt", device, str(provenance["precision"]))
    method: Any = trainer.method
    if not folder.exists():
        folder.create(recorded_config(plan), first_status(plan, name, provenance))
    trainer.should_stop = should_stop
    trainer.on_progress = lambda step: on_progress(step, plan.steps)
    forget_peak_memory(device)
    if trainer.resume():
        _mark_resume(folder, provenance)
    else:
        folder.update(provenance=provenance)
    metrics = MetricsFile(folder.path / "metrics.csv", trainer.step)

    def log(values: dict[str, float], step: int) -> None:
        metrics.write(values, step)
        folder.update(step=step)
        if "val/dice_teacher" in values:
            on_validation(values["val/dice_teacher"], step)

    trainer.log = log
    status = folder.status()
    again = {"pruned": None} if status.get("pruned") else {}
    folder.update(state="running", error=None, finished=None, started=status.get("started") or now(), **again)
    trainer.run()
    cost = {
        "parameters": sum(p.numel() for p in method.student.parameters() if p.requires_grad),
        "ms_per_step": round(1000 * trainer.seconds / plan.steps, 3),
        "train_seconds": round(trainer.seconds, 1),
        "peak_memory_mb": round(peak_memory_mb(device)),
    }
    networks = {
        (checkpoint, network): state
        for network in ("teacher", "student")
        for checkpoint, state in (
            ("last", getattr(method, network).state_dict()),
            ("best", trainer.best[network].weights),
        )
    }
    final = trainer.final()
    last = {name: final[f"val/dice_{name}"] for name in ("teacher", "student")}
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
    split: str | None = None,
    allow_code: bool = False,
) -> pd.DataFrame:
    """Score a finished run's kept weights on ``part`` and record the rows; ``protocols`` may be ``["all"]``.

    The prior that it was trained with is not asked for.

    Raises:
        InputError: the run is not finished, its data moved or changed, the network's code is not what trained it, it
            was trained on another split than the one named, or the part cannot be scored.
    """
    status = folder.status()
    if split is not None and split != status["split"]["name"]:
        raise InputError(
            f"run {folder.identity}: was trained on split {status['split']['name']!r}; it is scored on that one alone,"
            f" for its training patients may stand in a test part of {split!r}"
        )
    if status.get("kind") == FOREIGN:
        raise InputError(f"run {folder.identity}: was scored from its predictions; 'vqseg score' scores label maps")
    if folder.state() != "finished":
        raise InputError(f"run {folder.identity}: is {folder.state()}, not finished; finish it first")
    tree = folder.config()
    config = from_tree(tree, str(folder.path / "config.yaml"), allow_code=allow_code)
    place = root or Path(status["data"]["root"])
    manifest = read_manifest(place)
    chosen = read_split(place, manifest, status["split"]["name"])
    for what, found in (("data", manifest.digest), ("split", chosen.digest)):
        if found != status[what]["digest"]:
            raise InputError(f"{place}: {what} {found}, but the run was trained on {status[what]['digest']}")
    planned = recorded_plan(folder, config, manifest, chosen, place)
    target = pick_device(device)
    if planned.split.parts.get(part):
        opened = [name for name in parts_read(protocols, part) if planned.split.parts.get(name)]
        require_sound(place, planned.manifest, planned.split, parts=opened, read_masks_of=opened)
    with folder.lock():
        network = recorded_network(planned, folder, target)
        return score_part(planned, folder, part, target, reuse=network, protocols=protocols, library=library)


def scored(folder: RunFolder) -> pd.DataFrame:
    """Return all rows of a run."""
    return pd.read_parquet(folder.path / "rows.parquet")


def _stores(plan: Plan, device: torch.device) -> dict[str, TensorStore]:
    """Open the images of the training parts: ``labelled`` with masks and, where the method asks, ``unlabelled``."""
    config, manifest, split = plan.config, plan.manifest, plan.split
    scans = {"labelled": [scan for part in plan.labelled_parts for scan in scans_of(manifest, split, part)]}
    if plan.parts["method"].factory.needs_unlabelled:
        scans["unlabelled"] = scans_of(manifest, split, plan.unlabelled_part)
    return {
        part: open_store(
            plan.root,
            manifest,
            members,
            size_px=config.data.size_px if config.data.geometry == "resize" else None,
            masks=part == "labelled",
            cache=plan.store / "tensors",
            device=device,
            context=config.data.context,
        )
        for part, members in scans.items()
    }


def assemble(plan: Plan, checkpoint: Path, device: torch.device, precision: str) -> Trainer:
    """Open the images and build all that the loop holds; ``checkpoint`` is where it saves. It logs nothing yet."""
    config, manifest = plan.config, plan.manifest
    stores = _stores(plan, device)
    method = build_method(plan, device, stores)
    validation = Validation(
        plan.root,
        scans_of(manifest, plan.split, "val"),
        size_px=config.data.size_px,
        geometry=config.data.geometry,
        context=config.data.context,
        classes=manifest.classes,
        device=device,
        seed=config.seed,
    )
    batches = Batches(
        stores["labelled"],
        stores.get("unlabelled"),
        augment=config.augment,
        size_px=config.data.size_px,
        sizes=(config.train.labelled_batch, config.train.unlabelled_batch),
        seed=config.seed,
        foreground_share=config.data.foreground_share,
        foreground=plan.foreground,
    )
    return Trainer(
        method=method,
        batches=batches,
        optimizer=plan.parts["optimizer"].build(method.groups()),
        settings=config.train,
        schedule=config.schedule,
        seed=config.seed,
        num_codes=method.student.codes().shape[0],
        device=device,
        precision=precision,
        identity=plan.identity,
        config=recorded_config(plan),
        validate=lambda step: validation.measure(method.teacher, method.student, method.perturbation),
        log=lambda values, step: None,
        checkpoint=checkpoint,
    )


def require_data(plan: Plan) -> None:
    """Refuse data that the run would stumble over.

    Raises:
        InputError: the first problem (`vqseg.inspection.require_sound`).
    """
    semi = plan.parts["method"].factory.needs_unlabelled
    parts = ("labelled", plan.unlabelled_part, "val") if semi else (*plan.labelled_parts, "val")
    if not plan.split.parts.get("unlabelled") and not semi:
        parts = tuple(part for part in parts if part != "unlabelled")
    require_sound(plan.root, plan.manifest, plan.split, parts=parts, read_masks_of=(*plan.labelled_parts, "val"))


def _mark_resume(folder: RunFolder, provenance: dict[str, Any]) -> None:
    """Note a resume, and what of the provenance changed: then the run need not equal an uninterrupted one."""
    before = folder.status()["provenance"]
    changed = {key: [before.get(key), provenance[key]] for key in BITWISE if before.get(key) != provenance[key]}
    resumes = [*folder.status().get("resumes", []), {"date": now(), "changed": changed}]
    folder.update(resumes=resumes, provenance=provenance)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:500] if isinstance(error, (InputError, Diverged)) else f"{type(error).__name__}: {text[:500]}"
