"""Carries what the records have and MLflow lacks: one pass over a store's studies and runs.

Every record is compared with its `mirror.json` first, so a pass over a store where nothing happened sends nothing.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqseg.errors import InputError
from vqseg.files import digest
from vqseg.records import index, mirror, views
from vqseg.records.mirror import Ledger, View
from vqseg.records.run import STATUS, RunFolder

if TYPE_CHECKING:
    from vqseg.records.tracking import Tracking

Progress = Callable[[int, int], None]
_CONDITIONAL_TAGS = {"error", "studies", "mlflow.parentRunId"}


@dataclass
class Outcome:
    """What one pass did; ``problems`` are lines about single records that could not be mirrored."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.created} new, {self.updated} updated, {self.unchanged} unchanged"


class Pass:
    """Passes over one store into one tracking store; remembers which MLflow runs it has met there."""

    def __init__(self, store: Path, uri: str, *, address: str | None = None) -> None:
        """``address`` is where to write, if that is not yet ``uri``, under which things are remembered."""
        self.store, self.uri, self._address = store, uri, address or uri
        self.met: set[str] = set()
        self._tracking: Tracking | None = None

    def run(self, *, progress: Progress | None = None, afresh: bool = False) -> Outcome:
        """Push what is missing; ``afresh`` compares every record with the tracking store, whatever is remembered.

        Raises:
            InputError: the tracking store is away, or the store was moved since its mirror was made.
        """
        studies, problems = mirror.studies_of(self.store)
        outcome, parents = Outcome(problems=problems), dict[str, str | None]()
        runs, members = mirror.runs_of(self.store), mirror.members_of(studies)
        jobs = len(studies) + len(runs)
        if not jobs:
            return outcome
        for place, study in enumerate(studies):
            seen, view = partial(study_mark, self.store, study), partial(views.study_view, self.store, study)
            parents[study["name"]] = self._record(study["folder"], seen, view, outcome, afresh)
            if progress:
                progress(place + 1, jobs)
        for place, run in enumerate(runs, len(studies)):
            own = members.get(run.identity, [])
            claim = (run, own, parents[own[0].study] if own else None)
            self._record(
                run.path, partial(mirror.fingerprint, *claim), partial(views.run_view, *claim), outcome, afresh
            )
            if progress:
                progress(place + 1, jobs)
        return outcome

    def _record(
        self, folder: Path, mark: Callable[[], str], look: Callable[[], View], outcome: Outcome, afresh: bool
    ) -> str | None:
        """Bring one record's MLflow run up to date and return its id; a fault of this record is noted, not raised."""
        from vqseg.records.tracking import TrackingAway

        ledger = Ledger(folder, self.uri)
        try:
            tracking, seen = self._open(), mark()
            run_id: str | None = ledger.entry.get("run_id")
            if run_id and run_id not in self.met and not tracking.alive(run_id):
                ledger.entry, run_id = {}, None
            if run_id and ledger.entry.get("seen") == seen and not ledger.entry.get("pending") and not afresh:
                outcome.unchanged += 1
            elif push(tracking, ledger, look(), seen, afresh=afresh):
                outcome.created += 1
            else:
                outcome.updated += 1
            run_id = str(ledger.entry["run_id"])
            self.met.add(run_id)
            return run_id
        except TrackingAway:
            self._tracking = None
            self.met.clear()
            raise
        except (InputError, OSError, LookupError, TypeError, ValueError) as error:
            where = "" if str(folder) in str(error) else f"{folder}: "
            outcome.problems.append(f"{where}not mirrored: {' '.join(str(error).split()) or type(error).__name__}")
            return ledger.entry.get("run_id")

    def _open(self) -> "Tracking":
        if self._tracking is None:
            from vqseg.records.tracking import Tracking, make_database

            if database := mirror.database_of(self._address):
                make_database(database)
            own = mirror.artifacts_of(self.store, self.uri)
            tracking = Tracking(self._address, artifacts=own)
            if self.uri == mirror.default_uri(self.store) and tracking.artifact_location != str(own and own.as_uri()):
                raise InputError(f"{self.store}: moved since its MLflow mirror was made; run 'vqseg records rebuild'")
            self._tracking = tracking
        return self._tracking


def push(tracking: "Tracking", ledger: Ledger, view: View, seen: str, *, afresh: bool = False) -> bool:
    """Push what ``view`` has and the ledger lacks; return whether the MLflow run was made.

    The ledger says `pending` from before the first request until after the last.
    """
    created, entry = False, ledger.entry
    run_id = entry.get("run_id") or tracking.find(view.key)
    if run_id is None:
        created, run_id = True, tracking.create(view.name, view.tags, view.started)
        entry = {"run_id": run_id, "name": view.name, "tags": view.tags}
    elif afresh or entry.get("pending") or not entry:
        known = tracking.known(run_id)
        ours = {name: text for name, text in known["tags"].items() if name in view.tags or name in _CONDITIONAL_TAGS}
        entry = {"run_id": run_id, "tags": ours, "steps": known["steps"], "totals": known["totals"]}
    ledger.entry = {**entry, "pending": True}
    ledger.save()
    ledger.entry = {**_push_changes(tracking, run_id, entry, view), "pending": False, "seen": seen}
    ledger.save()
    return created


def _push_changes(tracking: "Tracking", run_id: str, entry: dict[str, Any], view: View) -> dict[str, Any]:
    """Send the difference between ``entry`` and ``view``; return the entry that says so."""
    steps, totals, tags = dict(entry.get("steps", {})), entry.get("totals", {}), entry.get("tags", {})
    points = [point for point in view.points if point[1] > steps.get(point[0], -1)]
    steps |= {name: step for name, step, _, _ in points}
    last = view.ended or view.started
    for name, value in view.totals.items():
        if totals.get(name) != value:
            # MLflow shows the point of the highest (step, time, value): at equal times the larger would hide the newer.
            steps[name] = max(view.step, steps.get(name, 0))
            points.append((name, steps[name], value, time.time_ns() // 1_000_000 if name in totals else last))
    if points or not entry.get("params"):
        tracking.log(run_id, points=points, params=None if entry.get("params") else view.params)
    if view.dataset and not entry.get("dataset"):
        tracking.dataset(run_id, view.dataset)
    artifacts = _push_artifacts(tracking, run_id, entry.get("artifacts", {}), view)
    changed = {name: text for name, text in view.tags.items() if tags.get(name) != text}
    gone = sorted(set(tags) - set(view.tags))
    if changed or gone:
        tracking.retag(run_id, changed, gone)
    if entry.get("name") != view.name:
        tracking.rename(run_id, view.name)
    if entry.get("status") != [view.status, view.ended]:
        tracking.finish(run_id, view.status, view.ended)
    return {
        "run_id": run_id, "name": view.name, "tags": view.tags, "params": True, "dataset": True, "steps": steps,
        "totals": view.totals, "artifacts": artifacts, "status": [view.status, view.ended],
    }  # fmt: skip


def _push_artifacts(tracking: "Tracking", run_id: str, old: dict[str, str], view: View) -> dict[str, str]:
    fresh = [artifact for artifact in view.artifacts if old.get(artifact.name) != artifact.digest]
    if fresh:
        with tempfile.TemporaryDirectory(prefix="vqseg-mirror-") as folder:
            for artifact in fresh:
                path = Path(folder) / artifact.name
                path.parent.mkdir(parents=True, exist_ok=True)
                artifact.write(path)
                tracking.artifact(run_id, path, artifact.name.rpartition("/")[0] or None)
    return {artifact.name: artifact.digest for artifact in view.artifacts}


def study_mark(store: Path, study: dict[str, Any]) -> str:
    """Return a digest that changes whenever the study's view could."""
    marks = []
    for run in (RunFolder(store, cell["identity"]) for cell in study["cells"]):
        files = [mirror.stamp(run.path / name) for name in (STATUS, "rows.parquet")]
        marks.append([run.state() if run.exists() else "waiting", *files])
    return digest([mirror.VERSION, mirror.stamp(study["folder"] / "study.json"), marks, index.failures(store, study)])
