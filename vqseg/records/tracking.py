"""The one module that speaks to MLflow: a narrow, quiet client of one tracking store.

Training never comes here. Telemetry is switched off and the HTTP timeouts are cut before MLflow is imported: with
its own defaults a server that is away blocks the caller for minutes.
"""

import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vqseg.errors import InputError
from vqseg.records.mirror import EXPERIMENT, Dataset, Point, shown_uri

os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# No connection outlives its request, so that between two passes nobody has the SQLite file open and it can be swapped.
os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")

from mlflow import MlflowClient, entities
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

_KIND = {"mlflow.experimentKind": "custom_model_development"}
_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}


class TrackingAway(InputError):
    """The tracking store does not answer; the run folders hold everything, so a later sync completes it."""


class TrackingRefused(InputError):
    """The tracking store answered, and refused this one thing."""


class Tracking:
    """One experiment of one tracking store.

    ``uri`` is absolute; ``artifacts`` is where a new experiment keeps its artifacts (None: the server decides).
    """

    def __init__(self, uri: str, *, artifacts: Path | None) -> None:
        self.uri = uri
        with self._asking():
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                place = None if artifacts is None else artifacts.as_uri()
                made = self._client.create_experiment(EXPERIMENT, artifact_location=place, tags=_KIND)
                found = self._client.get_experiment(made)
            elif found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
        self.experiment: str = found.experiment_id
        self.artifact_location: str = found.artifact_location

    def find(self, key: str) -> str | None:
        """Return the living run whose tag `identity` is ``key``."""
        with self._asking():
            found = self._client.search_runs([self.experiment], f"tags.identity = '{key}'", max_results=1)
        return found[0].info.run_id if found else None

    def alive(self, run_id: str) -> bool:
        """Whether the run is there and not deleted."""
        try:
            with self._asking():
                stage: str = self._client.get_run(run_id).info.lifecycle_stage
        except TrackingRefused:
            return False
        return stage == "active"

    def known(self, run_id: str) -> dict[str, Any]:
        """Return what the store itself knows of a run: its tags, the last step and the last value of every metric."""
        with self._asking():
            data = self._client.get_run(run_id).data
            steps = {name: max(m.step for m in self._client.get_metric_history(run_id, name)) for name in data.metrics}
        tags = {name: value for name, value in data.tags.items() if name not in ("mlflow.runName", "mlflow.user")}
        return {"tags": tags, "steps": steps, "totals": dict(data.metrics)}

    def create(self, name: str, tags: dict[str, str], started: int) -> str:
        """Make a run (status RUNNING) and return its id; ``started`` in ms since 1970."""
        with self._asking():
            run = self._client.create_run(self.experiment, start_time=started, tags=tags, run_name=name)
        run_id: str = run.info.run_id
        return run_id

    def log(self, run_id: str, *, points: Sequence[Point] = (), params: dict[str, str] | None = None) -> None:
        """Append metric points and parameters, in the fewest requests."""
        metrics = [entities.Metric(name, value, moment, step) for name, step, value, moment in points]
        given = [entities.Param(name, value) for name, value in (params or {}).items()]
        with self._asking():
            self._client.log_batch(run_id, metrics=metrics, params=given)

    def retag(self, run_id: str, tags: dict[str, str], gone: Sequence[str] = ()) -> None:
        """Set ``tags`` and delete the tags ``gone``."""
        with self._asking():
            self._client.log_batch(run_id, tags=[entities.RunTag(name, value) for name, value in tags.items()])
            for name in gone:
                self._client.delete_tag(run_id, name)

    def rename(self, run_id: str, name: str) -> None:
        """Give the run another name."""
        with self._asking():
            self._client.update_run(run_id, name=name)

    def dataset(self, run_id: str, given: Dataset) -> None:
        """Record the data set by name and digest, without its content."""
        meta = MetaDataset(LocalArtifactDatasetSource(given.source), name=given.name, digest=given.digest).to_dict()
        entity = entities.Dataset(
            name=meta["name"], digest=meta["digest"], source_type=meta["source_type"], source=meta["source"]
        )
        context = entities.InputTag("mlflow.data.context", "training")
        with self._asking():
            self._client.log_inputs(run_id, [entities.DatasetInput(entity, [context])])

    def artifact(self, run_id: str, path: Path, folder: str | None) -> None:
        """Copy one file into the run's artifacts."""
        with self._asking():
            self._client.log_artifact(run_id, str(path), folder)

    def finish(self, run_id: str, status: str, ended: int | None) -> None:
        """Set RUNNING, FINISHED, FAILED or KILLED; ``ended`` in ms since 1970, None while it runs."""
        with self._asking():
            if ended is None:
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status=status, end_time=ended)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = " ".join(str(error).split())
            if isinstance(error, OSError) and not isinstance(error, ConnectionError) and error.errno:
                raise TrackingRefused(f"MLflow mirror: {error.strerror}: {error.filename or self.uri}") from None
            if isinstance(error, MlflowException) and error.error_code in _REFUSALS:
                raise TrackingRefused(f"MLflow refused: {reason[:300]}") from None
            raise TrackingAway(
                f"tracking store {shown_uri(self.uri)} does not answer ({_cause(reason)}); nothing is lost: "
                "when it is back, or with another --tracking, run 'vqseg records sync'"
            ) from None


def make_database(path: Path) -> None:
    """Make MLflow's schema beside ``path`` and rename it there, so that nobody ever meets half a schema."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        MlflowClient(tracking_uri=f"sqlite:///{temporary}").search_experiments(max_results=1)
        os.link(temporary, path)  # unlike a rename, this never replaces a file that another process made meanwhile
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)
    set_journal(path, "wal")


def set_journal(path: Path, mode: str) -> None:
    """Set SQLite's journal mode: `wal` lets the UI read while the mirror writes, `delete` leaves a single file.

    Raises:
        InputError: another process has the file open.
    """
    try:
        connection = sqlite3.connect(path, timeout=2.0)
        try:
            (now,) = connection.execute(f"PRAGMA journal_mode={mode}").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        now = str(error)
    if now != mode:
        raise InputError(f"{path}: in use ({now}); stop 'vqseg ui' and studies that run on this store, then try again")


def _cause(reason: str) -> str:
    """Cut MLflow's long account of a failed request down to the cause."""
    causes = {
        "connection refused": "Connection refused",
        "no such host": "NameResolution",
        "timed out": "timed out",
        "database is locked": "database is locked",
    }
    return next((cause for cause, sign in causes.items() if sign in reason), reason[:160])
