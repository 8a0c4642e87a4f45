"""A study in a store: what its cells are, and which runs they mean.

STORE/studies/FULLNAME/study.json     the definition resolved: base config, arms, cells with identities
STORE/studies/FULLNAME/queue.journal  Optuna's journal
STORE/studies/FULLNAME/errors/        why cells failed
STORE/studies/FULLNAME/logs/          what the workers said

Reading a study loads no torch; preparing one does, because its parts are looked up.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vqseg.config import Config, from_tree, load_config, parse_overrides, with_option, with_overrides
from vqseg.errors import InputError, MissingWeights, require_name
from vqseg.files import digest, read_json, write_json
from vqseg.manifest import read_manifest, read_split
from vqseg.parts import admit_code, code_in
from vqseg.plan import Plan, plan
from vqseg.records.run import RunFolder, now
from vqseg.study.asked import Extent, Request, extent
from vqseg.study.definition import Definition, read_definition
from vqseg.study.rows import Arm
from vqseg.study.settings import again, carried, settled, taken
from vqseg.study.twins import Planned, distinct_draws, folded, refuse_twins

__all__ = ["Request", "StudyFolder", "cell_config", "plan_cell", "prepare", "write"]


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

    A study of the same name in the store is extended: its arms, seeds and draws stay, new ones join, and an arm whose
    definition changed since changes with it. An optional arm whose weights are not here is skipped, with the reason.
    Returns the folder, the record, and lines on what was thinned, skipped or will change nothing (or an empty text).

    Raises:
        InputError: anything unknown or impossible, before anything starts.
    """
    # Said like this, the steps hold in arms that are whole presets too.
    overrides = tuple(with_option(request.overrides, "--steps", request.steps))
    request = replace(request, overrides=overrides, steps=None)
    stem, definition = read_definition(request.study, allow_code=request.allow_code)
    if definition.rescore:
        raise InputError(f"study {stem!r} trains nothing; it scores another study again: name that with --of")
    manifest = read_manifest(request.root)
    split = read_split(request.root, manifest, request.split)
    preset, tree = _base_config(request, stem, definition)
    base = digest({"tree": tree, "data": manifest.digest, "split": split.digest})
    folder, old = _folder(request, stem, manifest.name, preset, base)
    asked = extent(request, definition, _arms(request, definition, preset, tree), preset, old)
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
        "reference": asked.reference,
        "created": old["created"] if old else now(),
        "base": base,
        "base_config": tree,
        "overrides": admit_code(parse_overrides(request.overrides), "--set", allowed=True),
        "fixed": sorted(definition.supervised or {}) if request.supervised else [],
        "seeds": asked.seeds,
        "draws": asked.draws,
        **({"search": definition.search.model_dump(mode="json")} if definition.search else {}),
        "arms": [arm.model_dump(mode="json") for arm in asked.arms],
        "cells": [],
        "skipped": [],
    }
    # Arms that an older study.json brought may name code.
    admit_code({"arms": record["arms"]}, f"study {folder.name}", allowed=request.allow_code)
    return (
        folder,
        record,
        "\n".join([*([asked.said] if asked.said else []), *_fill(record, request, asked, folder, old)]),
    )


def _fill(
    record: dict[str, Any], request: Request, asked: Extent, folder: StudyFolder, old: dict[str, Any] | None
) -> list[str]:
    """Write the cells into a record, and of the arms those that have some; return lines on what there is to know."""
    from vqseg.experiment import require_data

    _refuse_second_draw(record)
    planned, notes = _planned(record, request, asked)
    _refuse_idle(record)
    stay = _staying(record, folder, old)
    record["cells"] = [*(_cell(one) for one in planned), *stay]
    refuse_twins(record["name"], record["cells"])
    arms = {one.arm.label: one.arm.model_dump(mode="json") for one in planned}
    arms |= {arm["label"]: arm for arm in record["arms"] if arm["label"] in {cell["arm"] for cell in stay}}
    record["arms"] = [arms[arm["label"]] for arm in record["arms"] if arm["label"] in arms]
    left = [one.plan for one in planned if not one.plan.folder.exists() or one.plan.folder.state() != "finished"]
    read: dict[tuple[Any, ...], set[str]] = {}
    for one in sorted(left, key=lambda one: -len(one.split.parts["labelled"])):
        masks = read.setdefault(_reads(one), set())
        if not masks.issuperset(one.split.parts["labelled"]):  # of each kind, masks that were not read yet
            require_data(one)
            masks.update(one.split.parts["labelled"])
    idle = dict.fromkeys(one.plan.idle for one in planned if one.plan.idle)
    skipped = [f"skipped: {row['label']}: {row['reason']}" for row in record["skipped"]]
    return [*skipped, *notes, *(f"note: {line}" for line in idle)]


def _base_config(request: Request, stem: str, definition: Definition) -> tuple[str, dict[str, Any]]:
    """Return the preset's name and the settings that all cells share."""
    if request.supervised and definition.supervised is None:
        raise InputError(f"study {stem!r} has no supervised form; run it without --supervised")
    config = load_config(request.preset or definition.preset, request.overrides, allow_code=request.allow_code)
    tree = config.plain()
    form = dict(definition.supervised or {}) if request.supervised else {}
    if "method" in form:  # with the preset's options that it has too
        form["method"] = carried(tree, "method", form["method"], "supervised.", allow_code=request.allow_code)
    return config.preset, with_overrides(tree, form)


def _arms(request: Request, definition: Definition, preset: str, tree: dict[str, Any]) -> list[Arm]:
    """Return every arm, settled; a study at the preset of one of its arms keeps nothing of its own."""
    arms = definition.expand()
    whole = {Path(arm.preset).stem for arm in arms if arm.preset is not None}
    keeps = [] if preset in whole else definition.keeps
    return [settled(arm, tree, keeps, allow_code=request.allow_code) for arm in arms]


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


def _refuse_second_draw(record: dict[str, Any]) -> None:
    """Refuse draws of the labelled patients where something else says who they are."""
    if record["draws"] == 1:
        return
    told = f"--draws {record['draws']}"
    if record["base_config"]["data"]["labels"] == "all":
        raise InputError(f"{told}: data.labels is 'all', so that nobody is drawn; leave it out")
    who = next((arm["label"] for arm in record["arms"] if "data.draw" in arm["overrides"]), None)
    if "data.draw" in record["overrides"] or who:
        raise InputError(f"{told}: {f'arm {who!r}' if who else '--set'} sets data.draw too; leave one of them out")


def _planned(record: dict[str, Any], request: Request, asked: Extent) -> tuple[list[Planned], list[str]]:
    """Return every cell with its plan, draw by draw and seed by seed, and notes; of every arm the first was tried.

    Optional arms whose weights are absent go to the record's ``skipped``.

    Raises:
        InputError: names the arm whose settings are impossible, or the reference whose weights are absent.
    """
    from vqseg.experiment import check_parts

    found, typed = list[Planned](), code_in(parse_overrides(request.overrides))
    skipped: dict[str, str] = {}
    tried: set[str] = set()
    for draw in range(asked.draws):
        for seed in asked.seeds:
            for arm in (one for one in asked.arms if one.label not in skipped):
                cell = {"arm": arm.label, "seed": seed, "draw": draw}
                try:
                    one = plan_cell(record, request.store, cell, allow_code=request.allow_code, typed=typed)
                    if arm.label not in tried:
                        check_parts(one)
                except InputError as error:
                    if isinstance(error, MissingWeights) and arm.optional and arm.label != asked.reference:
                        skipped[arm.label] = str(error)
                        continue
                    raise InputError(f"study {record['study']}, arm {arm.label!r}: {error}") from None
                tried.add(arm.label)
                found.append(Planned(arm, draw, one))
    record["skipped"] = [{"label": label, "reason": reason} for label, reason in skipped.items()]
    distinct, twice = distinct_draws(found)
    if asked.draws > 1 and not any(one.draw for one in distinct):
        raise InputError(
            f"--draws {asked.draws}: every draw labels the same patients, for so many are labelled as have masks;"
            " leave it out, or label fewer (data.labelled_share)"
        )
    left, same = folded(distinct, asked.reference)
    return left, [*twice, *same]


def _refuse_idle(record: dict[str, Any]) -> None:
    """Refuse a setting of the user's that no arm takes: it would change nothing, in silence."""
    held: set[str] = set()
    for arm in record["arms"]:
        held |= set(taken(record, arm, with_overrides(record["base_config"], arm["overrides"])))
    idle = next((key for key in record["overrides"] if key not in held), None)
    if idle and record["arms"]:
        raise InputError(
            f"--set {idle}: no arm of study {record['study']!r} takes it; the arms set it themselves, or their parts"
            " have no such option ('vqseg study show' lists what arms set)"
        )


def _staying(record: dict[str, Any], folder: StudyFolder, old: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the cells of skipped arms that are finished: their weights are not needed any more."""
    own, skipped = (
        {arm["label"]: arm["overrides"] for arm in record["arms"]},
        {one["label"] for one in record["skipped"]},
    )
    arms = [arm for arm in (old or record)["arms"] if arm["label"] in skipped]
    same = {arm["label"] for arm in arms if arm["overrides"] == own[arm["label"]]}
    return [cell for cell in (old or record)["cells"] if cell["arm"] in same and _finished(folder, cell)]


def _reads(planned: Plan) -> tuple[Any, ...]:
    """What a run reads for training: cells that read the same parts need no second look."""
    factory = planned.parts["method"].factory
    return factory.needs_unlabelled, planned.labelled_parts, planned.unlabelled_part


def _finished(folder: StudyFolder, cell: dict[str, Any]) -> bool:
    run = RunFolder(folder.store, cell["identity"])
    return run.exists() and run.state() == "finished"


def _cell(planned: Planned) -> dict[str, Any]:
    label, seed, draw = planned.arm.label, planned.plan.config.seed, planned.draw
    name = f"{label}, seed {seed}" + (f", draw {draw}" if draw else "")
    return {"arm": label, "seed": seed, "draw": draw, "identity": planned.plan.identity, "name": name}


def cell_config(
    record: dict[str, Any], cell: dict[str, Any], *, allow_code: bool = False, typed: Collection[str] = ()
) -> Config:
    """Return the config of a cell; of code only what is ``typed`` passes without ``allow_code``."""
    named = {key: record.get(key, {}) for key in ("base_config", "overrides", "arms")}
    admit_code(named, f"study {record['name']}", allowed=allow_code, typed=typed)
    origin = f"study {record['name']}, arm {cell['arm']!r}"
    arm = next(arm for arm in record["arms"] if arm["label"] == cell["arm"])
    drawn = {"data.draw": cell["draw"]} if cell.get("draw") else {}
    tree = with_overrides(record["base_config"], {**arm["overrides"], "seed": cell["seed"], **drawn})
    from_tree(tree, origin, allow_code=allow_code, typed=typed)  # before any part that it names is looked at
    tree = with_overrides(tree, again(record, arm, tree))
    return from_tree(tree, origin, allow_code=allow_code, typed=typed)


def plan_cell(
    record: dict[str, Any], store: Path, cell: dict[str, Any], *, allow_code: bool = False, typed: Collection[str] = ()
) -> Plan:
    """Return the plan of a cell; of code only what is ``typed`` passes without ``allow_code``."""
    config = cell_config(record, cell, allow_code=allow_code, typed=typed)
    return plan(config, root=Path(record["data"]["root"]), split=record["split"]["name"], store=store)


def write(folder: StudyFolder, record: dict[str, Any]) -> None:
    """Write ``study.json``."""
    write_json(folder.path / "study.json", record)
