"""A copy of a study's queue for Optuna's own tools: one journal file, every trial with its settings as parameters.

The queue knows a cell by its identity alone, for its settings stand in the study's record; in the copy they are the
trial's parameters, and what validation said of its run its intermediate values, so that Optuna's plots have both.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from vqseg.errors import InputError
from vqseg.files import replacing
from vqseg.records import trials as records
from vqseg.records.run import RunFolder
from vqseg.study.cells import StudyFolder
from vqseg.study.journal import KernelLock, whole_lines

# Bounds that lie further apart than this are plotted on a log axis.
LOG_RATIO = 50


def copy_queue(folder: StudyFolder, record: dict[str, Any], path: Path) -> int:
    """Write a copy of a study's journal to ``path`` and return its number of trials; the journal stays as it is.

    Raises:
        InputError: there is no journal, or ``path`` is there already or cannot be written.
    """
    if path.exists():
        raise InputError(f"--copy {path}: is there already; name a new file")
    journal = folder.path / "queue.journal"
    if not journal.is_file():
        raise InputError(
            f"{journal}: no such file; 'vqseg study run {record['study']}' makes the queue (with --storage, there)"
        )
    filled = [_filled(trial, folder, record) for trial in _trials(journal, folder.name)]
    try:
        with replacing(path) as temporary:
            study = optuna.create_study(
                study_name=folder.name, storage=_opened(temporary), direction="maximize", load_if_exists=True
            )
            study.add_trials(filled)
    except OSError as error:
        raise InputError(f"--copy {path}: cannot be written: {error.strerror}; name another file") from None
    return len(filled)


def _opened(path: Path) -> JournalStorage:
    lock = KernelLock(path)
    return JournalStorage(JournalFileBackend(str(path), lock))  # type: ignore[arg-type]


def _trials(journal: Path, name: str) -> list[FrozenTrial]:
    """Return the trials of a journal as it stood between two writes."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as place:
        still = Path(place) / "journal"
        still.write_bytes(whole_lines(journal))
        try:
            return optuna.load_study(study_name=name, storage=_opened(still)).get_trials(deepcopy=False)
        except Exception as error:  # what is no journal breaks Optuna's reader in more than one way
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{journal}: is not readable ({type(error).__name__}: {reason})") from None


def _filled(trial: FrozenTrial, folder: StudyFolder, record: dict[str, Any]) -> FrozenTrial:
    """Return a trial with its cell's settings as parameters and its run's validations; who held it is left out."""
    cell = trial.user_attrs.get("cell")
    trial.user_attrs = {key: value for key, value in trial.user_attrs.items() if key not in ("lease", "cell")}
    if cell is None:
        return trial
    values, known = _parameters(record, cell)
    trial.params, trial.distributions = values, known
    trial.intermediate_values = records.validations(RunFolder(folder.store, cell["identity"]))
    trial.user_attrs = {**trial.user_attrs, "arm": cell["arm"], "name": cell["name"], "seed": cell["seed"]}
    return trial


def _parameters(record: dict[str, Any], cell: dict[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Return a cell's parameters: of a search what was sampled, else the arm, where that stands, seed and draw."""
    arms = {arm["label"]: arm for arm in record["arms"]}
    at = _place(arms.get(cell["arm"], {}))
    if axes := records.axes_of(record):
        values = {symbol: records.inside(axis, at.get(symbol)) for symbol, axis in axes.items()}
        known = records.distributions(axes)
    else:
        values = {**at, "arm": cell["arm"], "seed": cell["seed"], "draw": cell.get("draw", 0)}
        known = _grid(record)
    values = {name: value for name, value in values.items() if value is not None and name in known}
    return values, {name: known[name] for name in values}


def _place(arm: dict[str, Any]) -> dict[str, Any]:
    """Return where an arm stands: which factors are on, and its values along named axes."""
    return {**(arm.get("factors") or {}), **(arm.get("at") or {})}


def _grid(record: dict[str, Any]) -> dict[str, BaseDistribution]:
    """Return what the parameters of a grid were chosen from: all that its cells have; of one draw nothing is said."""
    found: dict[str, list[Any]] = {"arm": [arm["label"] for arm in record["arms"]]}
    for arm in record["arms"]:
        for name, value in _place(arm).items():
            found.setdefault(name, []).append(value)
    found["seed"] = [cell["seed"] for cell in record["cells"]]
    draws = [cell.get("draw", 0) for cell in record["cells"]]
    if len(set(draws)) > 1:
        found["draw"] = draws
    return {name: _distribution(values) for name, values in found.items()}


def _distribution(values: Iterable[Any]) -> BaseDistribution:
    """Return the range of numbers, logarithmic where it is wide, or the choice among anything else."""
    known = list(dict.fromkeys(values))
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in known):
        return CategoricalDistribution(known)
    low, high = min(known), max(known)
    log = low > 0 and high / low >= LOG_RATIO
    if all(isinstance(value, int) for value in known):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)
