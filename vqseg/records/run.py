"""The run folder: the one record of a run, whole at every moment, readable without vqseg.

    STORE/runs/IDENTITY/
      status.json        state, seed, names, data, split, code hashes, provenance, cost, validation
      config.yaml        every leaf of the resolved config
      metrics.csv        step,name,value: one line per logged number
      rows.parquet       one line per (part, checkpoint, network, protocol, case, class): see `vqseg.evaluate`
      codebook.parquet   usage histogram: part, network, code, tokens, then tokens per class
      tokens-PART.parquet  every token's code and place ('vqseg codes')
      moments-PART.npz   codebook and use as drawn, at best, at the end ('vqseg codes')
      labels/            label maps, PART-CHECKPOINT-NETWORK-GEOMETRY/SCAN.npz
      overlays/          PNG of a few fixed cases
      weights/           CHECKPOINT-NETWORK.safetensors, as --keep says
      checkpoint.pt      resume state, only while unfinished
      lock               held (flock) by the process that trains or scores

States: running, interrupted (stopped on request, resumes), failed (an error, kept in `error`), finished, pruned (given
up by a search before its end, by whom and why in `pruned`; final for that search, but whoever else wants the run
trains it anew, to its end). Only what is finished has scores and weights, and is tabulated.
A folder that says `running` and whose lock nobody holds was killed: `state_of` answers `killed`.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vqseg.errors import InputError
from vqseg.files import read_json, read_yaml, write_json, write_yaml

STATUS = "status.json"
FINAL = ("finished", "failed", "pruned")
"""The states of a run that is over."""


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunFolder:
    """One run's folder below ``store``; making the object touches nothing on disk."""

    def __init__(self, store: Path, identity: str) -> None:
        self.store, self.identity = store, identity
        self.path = store / "runs" / identity

    def exists(self) -> bool:
        """Whether the run was ever started."""
        return (self.path / STATUS).is_file()

    def create(self, config: dict[str, Any], status: dict[str, Any]) -> None:
        """Write the config and the first status."""
        write_yaml(self.path / "config.yaml", config)
        write_json(self.path / STATUS, {"format": 1, "identity": self.identity, "created": now(), **status})

    def status(self) -> dict[str, Any]:
        """Return ``status.json``."""
        value: dict[str, Any] = read_json(self.path / STATUS)
        return value

    def config(self) -> dict[str, Any]:
        """Return ``config.yaml``."""
        value: dict[str, Any] = read_yaml(self.path / "config.yaml")
        return value

    def update(self, **changes: Any) -> None:
        """Merge ``changes`` into ``status.json`` (top level keys)."""
        write_json(self.path / STATUS, {**self.status(), **changes})

    def state(self) -> str:
        """Return the true state: what the status says, or `killed` if it says `running` and nobody is."""
        said: str = self.status()["state"]
        return "killed" if said == "running" and not self.locked() else said

    def locked(self) -> bool:
        """Whether a living process holds the run."""
        if not (self.path / "lock").exists():
            return False
        with (self.path / "lock").open("a") as file:
            try:
                # Shared: two that look do not see each other, and the holder (exclusive) is seen by both.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @contextmanager
    def counted(self, entry: dict[str, Any]) -> Iterator[None]:
        """Note an evaluation before its rows are written, so that no part was seen more often than is said.

        Cut short in between, it stays ``unfinished``: counted, but nothing that could be relied on.
        """
        done = self.status()["evaluations"]
        self.update(evaluations=[*done, {**entry, "unfinished": True}])
        yield
        self.update(evaluations=[*done, entry])

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Hold the run, as `hold` does."""
        with hold(self.path, wait=wait):
            yield


def latest(evaluations: Sequence[dict[str, Any]], part: str) -> dict[str, dict[str, Any]]:
    """Return for every protocol that a part was scored under the evaluation that its rows are of."""
    return {name: one for one in evaluations if one.get("part") == part for name in one.get("protocols", [])}


class Busy(InputError):
    """Another process holds a folder."""


@contextmanager
def hold(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder; the kernel lets go when the process dies, however it dies.

    Raises:
        Busy: another process holds it and ``wait`` is false.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / "lock").open("a") as file:
        for left in reversed(range(5)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                break
            except OSError:
                # Somebody who merely looked (`RunFolder.locked`) is gone in an instant.
                if not left:
                    raise Busy(f"{path}: another process is working on it; wait for it or stop it") from None
                time.sleep(0.05)
        yield


class MetricsFile:
    """Appends ``step,name,value`` lines; after a resume, lines past the checkpoint are dropped first."""

    HEADER = "step,name,value\n"

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        kept = [self.HEADER]
        if path.is_file() and resume_step > 0:
            with path.open(encoding="utf-8") as file:
                next(file, None)
                kept += [line for line in file if line.endswith("\n") and int(line.split(",", 1)[0]) <= resume_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, path)

    def write(self, values: dict[str, float], step: int) -> None:
        """Append one flush of values, in one write."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{step},{name},{value!r}\n" for name, value in values.items()))


def resolve(store: Path, reference: str) -> RunFolder:
    """Find a run by its identity, a unique beginning of it, or its folder; a bare name is first sought in the store.

    Raises:
        InputError: none or several match, or a folder is no ``STORE/runs/IDENTITY``.
    """
    path = Path(reference)
    known = sorted(p.parent.name for p in (store / "runs").glob(f"*/{STATUS}"))
    found = [name for name in known if reference and name.startswith(reference)]
    if len(found) == 1 and reference == path.name:
        return RunFolder(store, found[0])
    if (path / STATUS).is_file():
        place = path.resolve()
        if place.parent.name != "runs":
            raise InputError(f"{path}: no run of a store; a run lies in STORE/runs/IDENTITY, put it there")
        return RunFolder(place.parent.parent, place.name)
    problem = f"{len(found)} runs begin with it" if found else f"no such run among {len(known)}"
    raise InputError(f"run {reference!r}: {problem} in {store}; 'vqseg records list' shows them")
