"""The trials of a search as its record and its runs tell them, and as a study of Optuna's that lives in memory.

What a search knows is read from STORE/studies/NAME/study.json (`search`, arms, cells) and from the run folders, never
from the queue: the sampler, the pruner, the report and a copy of the queue all see the same trials.
A setting is named by its symbol here; `axes` says, per symbol, what it was sampled from (`vqseg.study.space.Axis`).
Optuna is loaded by those functions alone that return something of its kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqseg.errors import InputError
from vqseg.records import index
from vqseg.records.run import RunFolder

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

OBJECTIVE = "val/dice_teacher"
"""What a search maximizes, as it is logged: the last value of a finished run counts."""

LEAST_TRIALS = 30
"""Fewer finished trials say nothing about which setting matters."""

FOLDS, TREES = 5, 32
"""Of importances: in so many parts the trials are left out in turn, and so many trees are grown each time."""

Axes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Trial:
    """One trial: ``values`` by symbol, ``score`` of a finished one, ``validations`` {step: Dice}.

    States: those of its run, and ``new`` where there is none; ``failed`` also where the run never began.
    """

    number: int
    arm: str
    identity: str
    state: str
    values: dict[str, Any]
    score: float | None = None
    validations: dict[int, float] = field(default_factory=dict)


def axes_of(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return symbol -> axis of a search's record; empty for a study that does not search."""
    space = (record.get("search") or {}).get("space") or {}
    return {axis.get("symbol") or key.rpartition(".")[2]: {"key": key, **axis} for key, axis in space.items()}


def of_study(store: Path, record: Mapping[str, Any]) -> list[Trial]:
    """Return the trials of a search in their order; the number of one is its place among the study's arms."""
    cells = {cell["arm"]: cell for cell in record["cells"]}
    failed = index.failures(store, dict(record))
    found = []
    for number, arm in enumerate(record["arms"]):
        if arm["label"] in cells:
            identity, at = str(cells[arm["label"]]["identity"]), dict(arm.get("at") or {})
            state, score, seen = _standing(RunFolder(store, identity), record["name"], identity in failed)
            found.append(Trial(number, arm["label"], identity, state, at, score, seen))
    return found


def _standing(run: RunFolder, name: str, failed: bool) -> tuple[str, float | None, dict[int, float]]:
    """Return state, score and validations of a run, as the study ``name`` sees it."""
    status, state = (run.status(), run.state()) if run.exists() else ({}, "new")
    if state == "pruned" and (status.get("pruned") or {}).get("by") != name:
        return "new", None, {}  # another search gave it up
    if failed and state in ("new", "killed", "interrupted"):
        state = "failed"
    score = float(status["validation"]["last"]["teacher"]) if state == "finished" else None
    return state, score, validations(run)


def validations(run: RunFolder) -> dict[int, float]:
    """Return {step: Dice of the teacher} of a run; a line that is still being written is left out."""
    path = run.path / "metrics.csv"
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    lines = (line.split(",") for line in text[: text.rfind("\n") + 1].splitlines() if f",{OBJECTIVE}," in line)
    return {int(step): float(value) for step, _, value in lines}


def inside(axis: Mapping[str, Any], value: Any) -> Any:
    """Return what of an axis comes nearest to ``value``, None if nothing does.

    The preset's own point may lie outside of what is sampled, and a logarithm of 0 would teach the sampler nothing.
    """
    if axis.get("choices"):
        return next((one for one in axis["choices"] if type(one) is type(value) and one == value), None)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    low, high, step = axis["low"], axis["high"], axis.get("step")
    found = min(max(float(value), low), high)
    if step and not axis.get("log"):
        found = min(low + round((found - low) / step) * step, high)
    return round(found) if whole(axis) else found


def whole(axis: Mapping[str, Any]) -> bool:
    """Whether an axis is one of whole numbers (`vqseg.study.space.Axis.whole`)."""
    numbers = (axis.get("low"), axis.get("high"), axis.get("step"))
    return all(number is not None and float(number).is_integer() for number in numbers)


def distributions(axes: Axes) -> dict[str, BaseDistribution]:
    """Return Optuna's names for the axes."""
    from optuna import distributions as kinds

    found: dict[str, BaseDistribution] = {}
    for symbol, axis in axes.items():
        if axis.get("choices"):
            found[symbol] = kinds.CategoricalDistribution(list(axis["choices"]))
            continue
        log, step = bool(axis.get("log")), axis.get("step")
        if whole(axis):
            found[symbol] = kinds.IntDistribution(int(axis["low"]), int(axis["high"]), log=log, step=int(step or 1))
        else:
            found[symbol] = kinds.FloatDistribution(axis["low"], axis["high"], log=log, step=step)
    return found


def rebuilt(axes: Axes, trials: Iterable[Trial], sampler: BaseSampler | None = None) -> Study:
    """Return an Optuna study in memory that holds the trials.

    Finished ones are COMPLETE, pruned ones PRUNED with what validation said of them; one that is not over is RUNNING.
    Failed ones are left out, for why they failed need not have to do with their values; so is one of which no value
    can stand on its axis.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    known = distributions(axes)
    frozen_ones = (frozen(axes, known, trial) for trial in trials if trial.state != "failed")
    study.add_trials([one for one in frozen_ones if one is not None])
    return study


def frozen(axes: Axes, known: Mapping[str, BaseDistribution], trial: Trial) -> FrozenTrial | None:
    """Return a trial as Optuna holds it; ``known`` are the `distributions` of the axes."""
    from optuna.trial import TrialState, create_trial

    params = {symbol: inside(axis, trial.values.get(symbol)) for symbol, axis in axes.items()}
    if None in params.values():
        return None
    state = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(trial.state, TrialState.RUNNING)
    return create_trial(
        state=state,
        value=trial.score,
        params=params,
        distributions=dict(known),
        intermediate_values=dict(trial.validations),
        user_attrs={"trial": trial.number},
    )


def importances(axes: Axes, trials: Iterable[Trial], *, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Return how much of the score's variance each setting explains alone: shares that sum to 1 (fANOVA).

    Returns:
        symbol -> the share, and its least and its largest where a fold of the trials is left out.

    Raises:
        InputError: fewer than `LEAST_TRIALS` finished trials.
        ImportError: Optuna, or what it computes them with, is not installed.
    """
    finished = [trial for trial in trials if trial.state == "finished"]
    if len(finished) < LEAST_TRIALS:
        raise InputError(f"importances: {len(finished)} finished trials; expected {LEAST_TRIALS} at least")
    whole = _shares(axes, finished, seed)
    kept = [[trial for place, trial in enumerate(finished) if place % FOLDS != fold] for fold in range(FOLDS)]
    parts = [_shares(axes, part, seed) for part in kept]
    ranges = {symbol: [part[symbol] for part in (whole, *parts)] for symbol in axes}
    return {symbol: (whole[symbol], min(range_), max(range_)) for symbol, range_ in ranges.items()}


def _shares(axes: Axes, finished: Iterable[Trial], seed: int) -> dict[str, float]:
    import optuna

    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    found = optuna.importance.get_param_importances(rebuilt(axes, finished), evaluator=evaluator)
    return {symbol: float(found.get(symbol, 0.0)) for symbol in axes}
