"""A study in a store: what its cells are, which runs they mean, and how they stand.

    STORE/studies/FULLNAME/study.json     the definition resolved: base config, arms, cells with identities
    STORE/studies/FULLNAME/queue.journal  Optuna's journal
    STORE/studies/FULLNAME/logs/          what the workers said
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqseg.config import Config, from_tree, load_config, with_overrides
from vqseg.errors import InputError
from vqseg.experiment import Plan, plan
from vqseg.files import digest, read_json, write_json
from vqseg.manifest import read_manifest, read_split
from vqseg.records.run import RunFolder, now
from vqseg.study.definition import Arm, parse_seeds, read_definition, select


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    study: str
    store: Path
    root: Path
    split: str | None = None
    preset: str | None = None
    arms: tuple[str, ...] = ()
    seeds: str | None = None
    add_seeds: str | None = None
    overrides: tuple[str, ...] = ()
    steps: int | None = None
    supervised: bool = False
    name: str | None = None


@dataclass(frozen=True)
class StudyFolder:
    """One study's folder."""

    store: Path
    name: str

    @property
    def path(self) -> Path:
        """STORE/studies/NAME."""
        return self.store / "studies" / self.name

    def read(self) -> dict[str, Any]:
        """Return ``study.json``."""
        value: dict[str, Any] = read_json(self.path / "study.json")
        return value


def prepare(request: Request) -> tuple[StudyFolder, dict[str, Any], str]:
    """Resolve a request into a study record, checking every cell's config; nothing is written.

    A study of the same name in the store is extended: its arms and seeds stay, new ones join.
    Returns the folder, the record, and a line saying what was thinned (or an empty text).

    Raises:
        InputError: anything unknown or impossible, before anything starts.
    """
    stem, definition = read_definition(request.study)
    preset = request.preset or definition.preset
    manifest = read_manifest(request.root)
    split = read_split(request.root, manifest, request.split)
    steps = (f"train.steps={request.steps}",) if request.steps else ()
    config = load_config(preset, (*request.overrides, *steps))
    tree = config.plain()
    if request.supervised:
        if definition.supervised is None:
            raise InputError(f"study {stem!r} has no supervised form; run it without --supervised")
        tree = with_overrides(tree, definition.supervised)
    arms, seeds = definition.expand(), definition.seeds
    said = ""
    thinning = definition.thinned.get(config.preset)
    if thinning and not request.arms:
        arms = select(arms, thinning.arms, definition.reference)
        said = f"preset {config.preset} thins this study to {len(arms)} of {len(definition.expand())} arms; --arms '*' runs all"
    if thinning and not request.seeds:
        seeds = thinning.seeds
    if request.arms:
        arms = select(arms, request.arms, definition.reference)
    if request.seeds:
        seeds = parse_seeds(request.seeds)
    base = {"tree": tree, "data": manifest.digest, "split": split.digest}
    folder, old = _folder(request, stem, manifest.name, config.preset, digest(base))
    if request.add_seeds:
        seeds = list(dict.fromkeys([*(old["seeds"] if old else seeds), *parse_seeds(request.add_seeds)]))
    if old:
        known = [Arm.model_validate(arm) for arm in old["arms"]]
        arms = known + [arm for arm in arms if arm.label not in {one.label for one in known}]
        seeds = list(dict.fromkeys([*old["seeds"], *seeds]))
    record = {
        "format": 1,
        "name": folder.name,
        "study": stem,
        "question": definition.question,
        "data": {
            "name": manifest.name,
            "root": str(request.root.resolve()),
            "digest": manifest.digest,
            "synthetic": manifest.synthetic,
        },
        "split": {"name": split.name, "digest": split.digest},
        "preset": config.preset,
        "supervised": request.supervised,
        "reference": definition.reference,
        "created": old["created"] if old else now(),
        "base": digest(base),
        "base_config": tree,
        "seeds": seeds,
        "arms": [arm.model_dump(mode="json") for arm in arms],
        "cells": [],
    }
    record["cells"] = [_cell(record, request.store, arm, seed) for seed in seeds for arm in arms]
    return folder, record, said


def _folder(
    request: Request, stem: str, data: str, preset: str, base: str
) -> tuple[StudyFolder, dict[str, Any] | None]:
    """Return the study's folder and its record there; another study of that default name makes it a longer one."""
    plain = request.name or "-".join([stem, data, preset, *(["supervised"] if request.supervised else [])])
    for name in (plain, f"{plain}-{base[:6]}"):
        folder = StudyFolder(request.store, name)
        if not (folder.path / "study.json").is_file():
            return folder, None
        old = folder.read()
        if old["base"] == base:
            return folder, old
        if request.name:
            raise InputError(f"--name {name}: that study has other data, split, preset or settings; choose another name")
    raise InputError(f"{plain}: two studies of that name differ; choose one with --name")


def _cell(record: dict[str, Any], store: Path, arm: Arm, seed: int) -> dict[str, Any]:
    planned = plan_cell(record, store, {"arm": arm.label, "seed": seed})
    return {"arm": arm.label, "seed": seed, "identity": planned.identity, "name": f"{arm.label}, seed {seed}"}


def cell_config(record: dict[str, Any], cell: dict[str, Any]) -> Config:
    """Return the config of a cell."""
    arm = next(arm for arm in record["arms"] if arm["label"] == cell["arm"])
    tree = with_overrides(record["base_config"], {**arm["overrides"], "seed": cell["seed"]})
    return from_tree(tree, f"study {record['name']}, arm {cell['arm']!r}")


def plan_cell(record: dict[str, Any], store: Path, cell: dict[str, Any]) -> Plan:
    """Return the plan of a cell."""
    config = cell_config(record, cell)
    return plan(config, root=Path(record["data"]["root"]), split=record["split"]["name"], store=store)


def write(folder: StudyFolder, record: dict[str, Any]) -> None:
    """Write ``study.json``."""
    write_json(folder.path / "study.json", record)


def states(store: Path, record: dict[str, Any]) -> dict[str, str]:
    """Return identity -> new, running, interrupted, killed, failed or finished."""
    folders = {cell["identity"]: RunFolder(store, cell["identity"]) for cell in record["cells"]}
    return {identity: folder.state() if folder.exists() else "new" for identity, folder in folders.items()}
