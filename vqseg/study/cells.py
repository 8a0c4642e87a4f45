"""A study in a store: what its cells are, and which runs they mean.

STORE/studies/FULLNAME/study.json     the definition resolved: base config, arms, cells with identities
STORE/studies/FULLNAME/queue.journal  Optuna's journal
STORE/studies/FULLNAME/errors/        why cells failed
STORE/studies/FULLNAME/logs/          what the workers said
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vqseg.config import Choice, Config, from_tree, load_config, parse_overrides, with_option, with_overrides
from vqseg.errors import InputError, require_name
from vqseg.experiment import Plan, check_parts, plan, require_data
from vqseg.files import digest, read_json, write_json
from vqseg.manifest import read_manifest, read_split
from vqseg.parts import admit_code, code_in, resolve
from vqseg.records.run import now
from vqseg.study.definition import Arm, Definition, parse_seeds, read_definition, select


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
    allow_code: bool = False


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

    A study of the same name in the store is extended: its arms and seeds stay, new ones join, and an arm whose
    definition changed since changes with it.
    Returns the folder, the record, and a line saying what was thinned (or an empty text).

    Raises:
        InputError: anything unknown or impossible, before anything starts.
    """
    stem, definition = read_definition(request.study, allow_code=request.allow_code)
    manifest = read_manifest(request.root)
    split = read_split(request.root, manifest, request.split)
    preset, tree = _base_config(request, stem, definition)
    base = digest({"tree": tree, "data": manifest.digest, "split": split.digest})
    folder, old = _folder(request, stem, manifest.name, preset, base)
    arms, seeds, said = _grid(request, definition, preset)
    if old:
        arms, seeds = _extended(old, definition, arms, [*old["seeds"], *([] if request.add_seeds else seeds)])
    if request.add_seeds:
        seeds = list(dict.fromkeys([*seeds, *parse_seeds(request.add_seeds, "--add-seeds")]))
    kept = {"arms": [arm.model_dump(mode="json") for arm in arms]}
    admit_code(kept, f"study {folder.name}", allowed=request.allow_code)  # arms that an older study.json brought
    record: dict[str, Any] = {
        "format": 1,
        "name": folder.name,
        "study": stem,
        "question": " ".join(definition.question.split()),
        "data": {
            "name": manifest.name,
            "root": str(request.root.resolve()),
            "digest": manifest.digest,
            "synthetic": manifest.synthetic,
        },
        "split": {"name": split.name, "digest": split.digest},
        "preset": preset,
        "supervised": request.supervised,
        "reference": definition.reference,
        "created": old["created"] if old else now(),
        "base": base,
        "base_config": tree,
        "overrides": admit_code(parse_overrides(request.overrides), "--set", allowed=True),
        "fixed": sorted(definition.supervised or {}) if request.supervised else [],
        "seeds": seeds,
        "arms": [arm.model_dump(mode="json") for arm in arms],
        "cells": [],
    }
    planned = _plans(record, request, arms)
    _refuse_idle(record, arms)
    record["cells"] = [_cell(arm, one) for arm, one in planned]
    _refuse_twins(record)
    left = (one for _, one in planned if not one.folder.exists() or one.folder.state() != "finished")
    if first := next(left, None):
        require_data(first)
    idle = dict.fromkeys(one.idle for _, one in planned if one.idle)
    return folder, record, "\n".join([*([said] if said else []), *(f"note: {line}" for line in idle)])


def _base_config(request: Request, stem: str, definition: Definition) -> tuple[str, dict[str, Any]]:
    """Return the preset's name and the settings that all cells share."""
    if request.supervised and definition.supervised is None:
        raise InputError(f"study {stem!r} has no supervised form; run it without --supervised")
    config = load_config(
        request.preset or definition.preset,
        with_option(request.overrides, "--steps", request.steps),
        allow_code=request.allow_code,
    )
    tree = config.plain()
    form = definition.supervised or {} if request.supervised else {}
    return config.preset, with_overrides(tree, {key: _carried(tree, key, value) for key, value in form.items()})


def _carried(tree: dict[str, Any], key: str, value: Any) -> Any:
    """Return the method that the supervised form names with the preset's options that it has too."""
    if key != "method":
        return value
    try:
        choice = Choice.model_validate(value)
    except ValidationError:
        raise InputError(f"supervised.method: expected a name, or {{name: ..., options}}, got {value!r}") from None
    known = resolve("method", choice).options
    return {"name": choice.name, **{k: v for k, v in tree["method"].items() if k in known}, **choice.options}


def _grid(request: Request, definition: Definition, preset: str) -> tuple[list[Arm], list[int], str]:
    """Return the arms and seeds that the request means, and a line if the preset thinned them."""
    everything, seeds, said = definition.expand(), definition.seeds, ""
    arms, thinning = everything, definition.thinned.get(preset)
    if thinning and request.seeds is None:
        seeds = thinning.seeds
    if request.seeds is not None:
        seeds = parse_seeds(request.seeds)
    if request.arms:
        return select(everything, request.arms, definition.reference), seeds, said
    if thinning:
        arms = select(everything, thinning.arms, definition.reference)
        if len(arms) < len(everything):
            said = f"preset {preset} thins this study to {len(arms)} of {len(everything)} arms; --arms '*' runs all"
        elif seeds != definition.seeds and request.seeds is None:
            listed = ", ".join(map(str, seeds))
            said = f"preset {preset} thins this study to seed {listed}; --seeds runs more"
    return arms, seeds, said


def _extended(
    old: dict[str, Any], definition: Definition, arms: list[Arm], seeds: list[int]
) -> tuple[list[Arm], list[int]]:
    """Return the arms and seeds that the study has, as they are defined now, then the new ones."""
    current = {arm.label: arm for arm in definition.expand()}
    known = [current.get(arm["label"]) or Arm.model_validate(arm) for arm in old["arms"]]
    labels = {arm.label for arm in known}
    return known + [arm for arm in arms if arm.label not in labels], list(dict.fromkeys(seeds))


def _refuse_twins(record: dict[str, Any]) -> None:
    """Two cells that are one run would be counted twice, as if they were independent."""
    names: dict[str, str] = {}
    for cell in record["cells"]:
        if cell["identity"] in names:
            raise InputError(
                f"study {record['name']}: {names[cell['identity']]!r} and {cell['name']!r} are the same run;"
                " let their settings differ, or leave one out"
            )
        names[cell["identity"]] = cell["name"]


def _folder(
    request: Request, stem: str, data: str, preset: str, base: str
) -> tuple[StudyFolder, dict[str, Any] | None]:
    """Return the study's folder and its record there; another study of that default name makes it a longer one."""
    if request.name is not None:
        require_name(request.name)
    plain = request.name or "-".join([stem, data, preset, *(["supervised"] if request.supervised else [])])
    for name in (plain, f"{plain}-{base[:6]}"):
        folder = StudyFolder(request.store, name)
        if not (folder.path / "study.json").is_file():
            return folder, None
        old = folder.read()
        if old["base"] == base:
            return folder, old
        if request.name:
            raise InputError(
                f"--name {name}: that study has other data, split, preset or settings; choose another name"
            )
    raise InputError(f"{plain}: two studies of that name differ; choose one with --name")


def _plans(record: dict[str, Any], request: Request, arms: list[Arm]) -> list[tuple[Arm, Plan]]:
    """Return the plan of every cell, seed by seed; of every arm the first was tried.

    Raises:
        InputError: names the arm whose settings are impossible.
    """
    planned, typed = [], code_in(parse_overrides(request.overrides))
    for seed in record["seeds"]:
        for arm in arms:
            try:
                cell = {"arm": arm.label, "seed": seed}
                one = plan_cell(record, request.store, cell, allow_code=request.allow_code, typed=typed)
                if seed == record["seeds"][0]:
                    check_parts(one)
            except InputError as error:
                raise InputError(f"study {record['study']}, arm {arm.label!r}: {error}") from None
            planned.append((arm, one))
    return planned


def _refuse_idle(record: dict[str, Any], arms: list[Arm]) -> None:
    """Refuse a setting of the user's that no arm takes: it would change nothing, in silence."""
    taken: set[str] = set()
    for arm in arms:
        taken |= set(_taken(record, arm.overrides, with_overrides(record["base_config"], arm.overrides)))
    idle = next((key for key in record["overrides"] if key not in taken), None)
    if idle:
        raise InputError(
            f"--set {idle}: no arm of study {record['study']!r} takes it; the arms set it themselves, or their parts"
            " have no such option ('vqseg study show' lists what arms set)"
        )


def _cell(arm: Arm, planned: Plan) -> dict[str, Any]:
    seed = planned.config.seed
    return {"arm": arm.label, "seed": seed, "identity": planned.identity, "name": f"{arm.label}, seed {seed}"}


def cell_config(
    record: dict[str, Any], cell: dict[str, Any], *, allow_code: bool = False, typed: Collection[str] = ()
) -> Config:
    """Return the config of a cell; of code only what is ``typed`` passes without ``allow_code``."""
    named = {key: record.get(key, {}) for key in ("base_config", "overrides", "arms")}
    admit_code(named, f"study {record['name']}", allowed=allow_code, typed=typed)
    origin = f"study {record['name']}, arm {cell['arm']!r}"
    arm = next(arm for arm in record["arms"] if arm["label"] == cell["arm"])
    tree = with_overrides(record["base_config"], {**arm["overrides"], "seed": cell["seed"]})
    from_tree(tree, origin, allow_code=allow_code, typed=typed)  # before any part that it names is looked at
    again = [key for key, replaced in _taken(record, arm["overrides"], tree).items() if replaced]
    tree = with_overrides(tree, {key: record["overrides"][key] for key in again})
    return from_tree(tree, origin, allow_code=allow_code, typed=typed)


def _taken(record: dict[str, Any], own: dict[str, Any], tree: dict[str, Any]) -> dict[str, bool]:
    """Return which of the user's settings hold in an arm, and whether they have to be set again there.

    What the arm or the supervised form sets itself stays theirs. A node that they replace (``perturbation:
    {name: qpm}``) takes the user's option again if its part has it.
    """
    taken, fixed = {}, record.get("fixed", [])
    for key in record.get("overrides", {}):
        *path, leaf = key.split(".")
        parent = ".".join(path)
        if key in own or key in fixed:
            continue
        replaced = parent in own or parent in fixed
        if replaced:
            node: Any = tree
            for name in path:
                node = node[name]
            given = Choice.model_validate(own[parent]).options if parent in own else {}
            if leaf in given or leaf not in resolve(path[-1], Choice.model_validate(node)).options:
                continue
        taken[key] = replaced
    return taken


def plan_cell(
    record: dict[str, Any], store: Path, cell: dict[str, Any], *, allow_code: bool = False, typed: Collection[str] = ()
) -> Plan:
    """Return the plan of a cell; of code only what is ``typed`` passes without ``allow_code``."""
    config = cell_config(record, cell, allow_code=allow_code, typed=typed)
    return plan(config, root=Path(record["data"]["root"]), split=record["split"]["name"], store=store)


def write(folder: StudyFolder, record: dict[str, Any]) -> None:
    """Write ``study.json``."""
    write_json(folder.path / "study.json", record)
