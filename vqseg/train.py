"""The one training loop. It knows neither MLflow nor Optuna, and waits for the device only when it flushes the log.

Checkpoints hold the student, the teacher, the optimizer, the best weights so far, the meters and the step; the random
streams are functions of (seed, purpose, step), so a resumed run equals an uninterrupted one bit for bit on CPU.
"""

import io
import math
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vqseg import streams
from vqseg.config import Schedule, Train
from vqseg.errors import InputError
from vqseg.files import replacing
from vqseg.meter import Meter
from vqseg.optimizer import set_rate
from vqseg.step import Step

Log = Callable[[dict[str, float], int], None]
PROCESS = Path("/proc/self")


class Method(Protocol):
    """See `vqseg.methods`. One that keeps tensors from step to step beside its networks has a dict of them, ``memory``,
    that can be set.
    """

    student: nn.Module
    teacher: nn.Module

    def losses(self, batch: Any, step: int) -> Step:
        """Return the weighted terms of a step."""
        ...

    def after_step(self, step: int) -> None:
        """Act after the optimizer."""
        ...


class Batches(Protocol):
    """See `vqseg.dataset`."""

    unlabelled: Any

    def at(self, step: int) -> Any:
        """Return the batch of a step."""
        ...


class Interrupted(Exception):
    """The run was asked to stop; a checkpoint was written."""


class Diverged(ArithmeticError):
    """The loss is no number any more."""


@dataclass
class Best:
    """The best validation Dice of a network so far, with its weights."""

    dice: float = -math.inf
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, dice: float, step: int, network: nn.Module) -> None:
        """Keep the weights if ``dice`` beats the best (the earlier one wins a tie)."""
        if dice > self.dice:
            self.dice, self.step = dice, step
            self.weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


@dataclass
class Trainer:
    """Everything that one run's loop holds."""

    method: Method
    batches: Batches
    optimizer: torch.optim.Optimizer
    settings: Train
    schedule: Schedule
    seed: int
    num_codes: int
    device: torch.device
    precision: str
    identity: str
    config: dict[str, Any]
    validate: Callable[[int], dict[str, float]]
    log: Log
    checkpoint: Path
    should_stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[int], None] = lambda step: None
    step: int = 0
    seconds: float = 0.0
    best: dict[str, Best] = field(default_factory=lambda: {"teacher": Best(), "student": Best()})

    measured: tuple[int, dict[str, float]] | None = None

    def __post_init__(self) -> None:
        self.meter = Meter(self.num_codes, self.device)

    def run(self) -> None:
        """Train from the current step to the last.

        Raises:
            Interrupted: ``should_stop`` turned true; a checkpoint was written first.
            Diverged: the loss is not finite.
        """
        settings, since, since_step = self.settings, time.perf_counter(), self.step
        while self.step < settings.steps:
            if self.should_stop():
                self.save()
                raise Interrupted(f"stopped at step {self.step} of {settings.steps}; the same command resumes")
            rate = self.one_step()
            if self._due(settings.flush_steps):
                # The flush waits for the device: only after it has the time of these steps passed.
                values = self.meter.flush()
                elapsed = time.perf_counter() - since
                self.seconds += elapsed
                self._record(values, rate, (self.step - since_step) / max(elapsed, 1e-9))
                since, since_step = time.perf_counter(), self.step
            if self._due(settings.validate_steps):
                self.seconds += time.perf_counter() - since
                self._validate()
                since, since_step = time.perf_counter(), self.step
            if self.step % settings.checkpoint_steps == 0 and self.step < settings.steps:
                self.save()
            self.on_progress(self.step)

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.settings.steps

    def one_step(self) -> float:
        """Make the next step; return the learning rate that it took."""
        rate = set_rate(self.optimizer, self.schedule, self.step, self.settings.steps)
        self.method.student.train()
        batch = self.batches.at(self.step)
        torch.manual_seed(streams.key(self.seed, "network", self.step))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            outcome = self.method.losses(batch, self.step)
        total = torch.stack([term.float() for term in outcome.losses.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.method.student.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.method.after_step(self.step)
        terms = {f"loss/{name}": value for name, value in outcome.losses.items()}
        self.meter.add({"loss/total": total, **terms, **outcome.logs}, outcome.indices)
        self.step += 1
        return rate

    def _record(self, values: dict[str, float], rate: float, steps_per_second: float) -> None:
        if not math.isfinite(values.get("loss/total", 0.0)):
            total = values["loss/total"]
            raise Diverged(f"the loss is {total} around step {self.step}; lower the learning rate or clip")
        images = self.settings.labelled_batch + (self.settings.unlabelled_batch if self.batches.unlabelled else 0)
        values["lr"] = rate
        values["speed/images_per_second"] = steps_per_second * images
        values["memory/peak_mb"] = peak_memory_mb(self.device)
        self.log(values, self.step)

    def final(self) -> dict[str, float]:
        """Return what validation says of the networks as they are: measured once, also where a run was resumed."""
        if self.measured is None or self.measured[0] != self.step:
            self.measured = (self.step, self.validate(self.step))
        return self.measured[1]

    def _validate(self) -> None:
        values = self.final()
        self.log(values, self.step)
        for name, best in self.best.items():
            best.offer(values[f"val/dice_{name}"], self.step, getattr(self.method, name))

    def save(self) -> None:
        """Write the checkpoint: whole, or not at all."""
        state = {
            "identity": self.identity,
            "config": self.config,
            "step": self.step,
            "seconds": self.seconds,
            "student": self.method.student.state_dict(),
            "teacher": self.method.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": {name: vars(best) for name, best in self.best.items()},
            "meter": self.meter.state(),
            "memory": getattr(self.method, "memory", {}),
            "streams": {"seed": self.seed, "step": self.step, "purposes": list(streams.PURPOSES)},
        }
        # Through memory: on a full disk a plain file raises an OSError that says so, torch's own writer does not.
        memory = io.BytesIO()
        torch.save(state, memory)
        with replacing(self.checkpoint) as temporary:
            temporary.write_bytes(memory.getbuffer())

    def resume(self) -> bool:
        """Take up the checkpoint if there is one.

        Raises:
            InputError: it is damaged, or of another run.
        """
        if not self.checkpoint.is_file():
            return False
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:  # torch, zipfile and pickle each raise their own for a damaged file
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"{self.checkpoint}: not readable ({reason}); delete it to start this run anew") from None
        if state["identity"] != self.identity:
            where = _differences(state["config"], self.config)
            raise InputError(f"{self.checkpoint}: is of another config: {where}; delete it to start this run anew")
        self.method.student.load_state_dict(state["student"])
        self.method.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = {name: Best(**best) for name, best in state["best"].items()}
        self.meter.load(state["meter"])
        if state["memory"]:
            self.method.memory = state["memory"]  # type: ignore[attr-defined]
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        return True


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory that was in use so far, in MiB: allocated on a card, or resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if PROCESS.is_dir():
        line = next(line for line in (PROCESS / "status").read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak_memory(device: torch.device) -> None:
    """Start the count of `peak_memory_mb` anew, or a worker's later runs would show what its first ones took.

    Outside Linux the count on a CPU stays that of the whole process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif PROCESS.is_dir():
        with suppress(OSError):  # a hardened kernel may forbid it
            (PROCESS / "clear_refs").write_text("5")


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> str:
    """Name the keys in which two configs differ; if none does, the code or the data do."""
    found = []
    for key in dict.fromkeys([*there, *here]):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = _differences(old, new, f"{prefix}{key}.")
            found += [inner] if inner else []
        elif old != new:
            found.append(f"{prefix}{key} is {old} there, {new} here")
    return "; ".join(found) or ("" if prefix else "the same settings, but other code or data")
