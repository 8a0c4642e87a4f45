"""What every bench is asked with: where, how often, how large."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vqseg.errors import InputError, nearest


@dataclass(frozen=True)
class Options:
    """Settings of a bench.

    Args:
        device: where it computes.
        threads: of torch on the CPU, None: as many as torch took.
        repeats: timed rounds; figures are their medians.
        quick: small sizes, to see in a second that it runs; its figures say nothing.
        profile: file for a trace of the timed code (`vqseg.bench.timing.profiled`), for benches that have one.
        data: prepared data folder, None: synthetic data.
        workers: processes, where a bench compares several.
        store: of runs, for benches that read or fill one; None: a temporary one.
        extra: what one bench alone knows, ``KEY=VALUE`` on the command line; `setting` reads it.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int | None = None
    repeats: int = 5
    quick: bool = False
    profile: Path | None = None
    data: Path | None = None
    workers: int = 2
    store: Path | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def set_threads(self) -> None:
        """Give torch the threads that were asked for."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def setting(self, name: str, default: str) -> str:
        """Return an extra setting."""
        return self.extra.get(name, default)

    def number(self, name: str, default: float) -> float:
        """Return an extra setting that is a number.

        Raises:
            InputError: it is none.
        """
        text = self.extra.get(name, str(default))
        try:
            return float(text)
        except ValueError:
            raise InputError(f"--set {name}={text}: expected a number") from None

    def require_known(self, *names: str) -> None:
        """Refuse extra settings that a bench does not read.

        Raises:
            InputError: with the nearest names.
        """
        for name in self.extra:
            if name not in names:
                known = ", ".join(names) or "none"
                raise InputError(f"--set {name}: this bench has no such setting{nearest(name, names)}; known: {known}")
