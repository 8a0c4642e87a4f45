"""A search: Optuna's TPE proposes the next trial, its pruner ends one that falls behind; trials are cells like others.

The study's record is the search's memory. A trial is an arm "trial N" with the sampled values as its overrides, and
stands in study.json before anybody may claim its cell; sampler and pruner are built anew from record and runs whenever
they are asked (`vqseg.records.trials`). So a worker that is killed takes nothing with it, a trial that is resumed has
the values that it had, and the proposals of one worker depend on nothing but the seed and the results before them.
The first trial is the reference arm, the preset's own point, which is never pruned; the others are that arm with
sampled values.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler

from vqseg.errors import InputError, nearest
from vqseg.experiment import Plan, Pruned, check_parts
from vqseg.plan import recorded_config
from vqseg.records import trials as records
from vqseg.records.run import RunFolder
from vqseg.study import standing
from vqseg.study.cells import StudyFolder, plan_cell, write
from vqseg.study.journal import alone
from vqseg.study.space import Search

# So many proposals in a row may be trials already, or impossible, before the space counts as searched through.
MOST_PROPOSALS = 50

Record = dict[str, Any]


def settings(record: Record) -> Search:
    """Return what a record says of its search."""
    return Search.model_validate(record["search"])


def begin(folder: StudyFolder, record: Record, *, budget: int | None, allow_code: bool) -> Record:
    """Write the record of a search with the trials that it has by now, and return it.

    Args:
        folder: the study's folder.
        record: the study as it was prepared; its reference arm is the preset's own point.
        budget: trials in all; None: as many as the study's file says.
        allow_code: whether the record may name code.

    Raises:
        InputError: as `require_possible`. Nothing is written then.
    """
    own = require_possible(folder, record, budget=budget, allow_code=allow_code)
    search = settings(record)
    record = {**record, "search": {**record["search"], "budget": budget or search.budget}}
    with alone(folder.path):
        if (folder.path / "study.json").is_file():
            _join(record, folder.read())
        at = {search.symbols[key]: value for key, value in own.items() if value is not None}
        first = {**_first(record), "at": at}
        record["arms"] = [first if arm["label"] == first["label"] else arm for arm in record["arms"]]
        write(folder, record)
    return record


def require_possible(
    folder: StudyFolder, record: Record, *, budget: int | None, allow_code: bool = False
) -> dict[str, Any]:
    """Refuse a search that cannot be, before anything is written; return the preset's own value of what is sampled.

    Raises:
        InputError: an impossible budget or space, more than one seed, or another space than the study has trials of.
    """
    if budget is not None and budget < 1:
        raise InputError(f"--budget {budget}: expected the number of trials in all, at least 1")
    search = settings(record)
    if len(record["seeds"]) != 1 or len(record["cells"]) != len(record["arms"]):
        raise InputError(f"study {record['study']}: a search trains one run per trial; give it one seed and one draw")
    if (folder.path / "study.json").is_file():
        _require_same_space(record, folder.read())
    record = {**record, "search": {**record["search"], "budget": budget or search.budget}}
    return _own_values(folder, record, search, allow_code=allow_code)


def left(record: Record) -> int:
    """Return how many trials may still be proposed; 0 for a study that does not search, or whose space is used up."""
    if not record.get("search") or record.get("exhausted"):
        return 0
    return max(int(record["search"]["budget"]) - len(record["cells"]), 0)


def propose(folder: StudyFolder, known: set[str], *, allow_code: bool = False) -> dict[str, Any] | None:
    """Return the cell of the next trial, which then stands in the study's record; None if there is none to come.

    A cell of the record that is not among the ``known`` identities comes first: its worker died before it was queued.
    Where the sampler finds nothing new, the record says why (``exhausted``), and the search is over.
    Only for one at a time (`vqseg.study.queue.Queue.grow`).
    """
    record = folder.read()
    rows = zip(record["cells"], standing.progress(folder, record))
    lost = next((cell for cell, row in rows if row["state"] == "new" and cell["identity"] not in known), None)
    if lost is not None or not left(record):
        return lost
    found = _next_trial(folder, record, allow_code=allow_code)
    if isinstance(found, str):
        write(folder, {**record, "exhausted": found})
        return None
    arm, cell = found
    write(folder, {**record, "arms": [*record["arms"], arm], "cells": [*record["cells"], cell]})
    return cell


def judge(folder: StudyFolder, cell: dict[str, Any], planned: Plan) -> Callable[[float, int], None]:
    """Return what a run of the search tells its validations to; it raises `Pruned` where the run falls behind."""
    record = folder.read()
    search, axes = settings(record), records.axes_of(record)
    warmup = _warmup_steps(search, planned)

    def on_validation(dice: float, step: int) -> None:
        if cell["arm"] == record["reference"] or step >= planned.steps:
            return
        every = records.of_study(folder.store, folder.read())
        finished = [trial for trial in every if trial.state == "finished"]
        own = next(trial for trial in every if trial.arm == cell["arm"])
        # What a run was before it could be judged does not speak for what became of it since.
        since = {when: found for when, found in own.validations.items() if when >= warmup} | {step: dice}
        held = records.frozen(axes, records.distributions(axes), replace(own, validations=since))
        pruner = MedianPruner(n_startup_trials=search.pruner.startup_trials, n_warmup_steps=warmup)
        if held is not None and pruner.prune(records.rebuilt(axes, finished), held):
            told = f"Dice {max(since.values()):.4f} at best by step {step}"
            raise Pruned(f"{told}: below the median of {len(finished)} finished trials there", by=record["name"])

    return on_validation


def gave_up(folder: StudyFolder, identity: str) -> bool:
    """Whether this search pruned the run."""
    run = RunFolder(folder.store, identity)
    status = run.status() if run.exists() else {}
    return status.get("state") == "pruned" and (status.get("pruned") or {}).get("by") == folder.name


def _next_trial(
    folder: StudyFolder, record: Record, *, allow_code: bool
) -> tuple[dict[str, Any], dict[str, Any]] | str:
    """Return arm and cell of a trial that is none yet, or why the sampler finds no such."""
    axes = records.axes_of(record)
    past = records.of_study(folder.store, record)
    taken = {cell["identity"] for cell in record["cells"]}
    number, impossible = len(record["arms"]), None
    for attempt in range(MOST_PROPOSALS):
        arm = _sampled(record, axes, past, number, attempt)
        seed = record["seeds"][0]
        cell = {"arm": arm["label"], "seed": seed, "draw": 0, "name": f"{arm['label']}, seed {seed}"}
        try:
            planned = plan_cell({**record, "arms": [arm]}, folder.store, cell, allow_code=allow_code)
        except InputError as error:
            impossible = error
            continue
        if planned.identity not in taken:
            return arm, {**cell, "identity": planned.identity}
        impossible = None
    if impossible is not None:
        return str(impossible)
    return f"the last {MOST_PROPOSALS} proposals were all among its {len(taken)} trials; let search.space hold more"


def _sampled(
    record: Record, axes: records.Axes, past: list[records.Trial], number: int, attempt: int
) -> dict[str, Any]:
    """Return the arm of a trial that the sampler proposes: the reference arm with sampled values."""
    search = settings(record)
    # Proposal by proposal a seed of its own: one sampler's stream would be at its start again in every worker.
    seed = int(np.random.SeedSequence((search.seed, number, attempt)).generate_state(1)[0])
    sampler = TPESampler(n_startup_trials=search.startup_trials, multivariate=True, constant_liar=True, seed=seed)
    study: optuna.Study = records.rebuilt(axes, past, sampler)
    proposed = study.ask(records.distributions(axes)).params
    values = {key: axis.tidied(proposed[search.symbols[key]]) for key, axis in search.space.items()}
    at = {search.symbols[key]: value for key, value in values.items()}
    return {**_varied(_first(record), f"trial {number}", values), "at": at}


def _varied(first: dict[str, Any], label: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the reference arm with other values of the sampled settings."""
    own = {"own": {**first["own"], **values}} if first.get("own") is not None else {}
    return {**first, "label": label, "family": "trial", "overrides": {**first["overrides"], **values}, **own}


def _own_values(folder: StudyFolder, record: Record, search: Search, *, allow_code: bool) -> dict[str, Any]:
    """Return the preset's own value of every sampled setting; and try both ends of the space.

    Raises:
        InputError: a setting is unknown or no single value, or the networks at an end of the space cannot be built.
    """
    first = _first(record)
    planned = plan_cell(record, folder.store, _cell_of(record, first["label"]), allow_code=allow_code)
    tree = recorded_config(planned)
    own = {key: _value_at(tree, key) for key in search.space}
    if not left(record):
        return own
    for place, end in enumerate(("lowest", "highest")):
        arm = _varied(first, f"{end} values", {key: axis.ends[place] for key, axis in search.space.items()})
        cell = {**_cell_of(record, first["label"]), "arm": arm["label"]}
        try:
            check_parts(plan_cell({**record, "arms": [arm]}, folder.store, cell, allow_code=allow_code))
        except InputError as error:
            raise InputError(f"search.space, {end} values: {error}") from None
    return own


def _value_at(tree: dict[str, Any], key: str) -> Any:
    """Return the value of a dotted key in a resolved config.

    Raises:
        InputError: there is none, or more than one.
    """
    node: Any = tree
    for place, piece in enumerate(key.split(".")):
        if not isinstance(node, dict) or piece not in node:
            known = [name for name in node if name != "name"] if isinstance(node, dict) else []
            where = ".".join(key.split(".")[:place]) or "a config"
            raise InputError(
                f"search.space: unknown setting {key!r}{nearest(piece, known)};"
                f" known in {where}: {', '.join(known) or 'nothing'}"
            )
        node = node[piece]
    if isinstance(node, (dict, list)):
        raise InputError(f"search.space: {key} is no single value; name one of its settings")
    return node


def _require_same_space(record: Record, there: Record) -> None:
    """Refuse to go on with trials that were sampled from another space."""
    if there.get("search") and settings(there).space != settings(record).space:
        raise InputError(
            f"study {there['name']}: its trials were sampled from another search.space; choose another --name, or"
            " let the space be as it was"
        )


def _join(record: Record, there: Record) -> None:
    """Take over the trials that the study has got since the record was prepared.

    Raises:
        InputError: they were sampled from another space.
    """
    _require_same_space(record, there)
    labels = {arm["label"] for arm in record["arms"]}
    grown = [arm for arm in there["arms"] if arm["label"] not in labels]
    record["arms"] = [*record["arms"], *grown]
    record["cells"] = [*record["cells"], *(_cell_of(there, arm["label"]) for arm in grown)]


def _first(record: Record) -> dict[str, Any]:
    found = next((arm for arm in record["arms"] if arm["label"] == record["reference"]), None)
    if found is None:
        raise InputError(f"study {record['study']}: a search starts at its reference arm; give it the arm 'trial 0'")
    return found


def _cell_of(record: Record, label: str) -> dict[str, Any]:
    return next(cell for cell in record["cells"] if cell["arm"] == label)


def _warmup_steps(search: Search, planned: Plan) -> int:
    """Return the first step at which a run may be judged."""
    if search.pruner.warmup_steps is not None:
        return search.pruner.warmup_steps
    options = planned.parts["method"].options
    return max(int(options.get("warmup_steps", 0)) + int(options.get("ramp_steps", 0)), planned.steps // 4)
