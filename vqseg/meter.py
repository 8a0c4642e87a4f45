"""What a run logs between two flushes: summed on the device, read in one transfer.

Letters: V codes.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from vqseg.codebook import usage


class Meter:
    """Sums of logged values and the codebook's usage, on the device, until they are flushed."""

    def __init__(self, num_codes: int, device: torch.device) -> None:
        # Sums of values that come together are one tensor: a step then adds once, not once per name.
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.counts: dict[tuple[str, ...], int] = {}
        self.usage = torch.zeros(num_codes, dtype=torch.int64, device=device)
        self.window: Tensor | None = None
        self.tokens = 0

    def add(self, values: dict[str, Tensor], indices: Tensor | None) -> None:
        """Add one step's values (scalars on the device) and the codes that its tokens took, if any."""
        names = tuple(values)
        together = torch.stack([value.detach().float() for value in values.values()]) if names else torch.zeros(0)
        self.sums[names] = self.sums[names] + together if names in self.sums else together
        self.counts[names] = self.counts.get(names, 0) + 1
        if indices is None:
            return
        flat = indices.flatten()
        self.usage.scatter_add_(0, flat, torch.ones_like(flat))
        self.tokens += flat.numel()
        if self.tokens >= 10 * self.usage.numel():
            # Cut here and not at a flush: how often the log is written must not change what it says.
            self.window, self.usage, self.tokens = self.usage, torch.zeros_like(self.usage), 0

    def flush(self) -> dict[str, float]:
        """Return the means since the last flush, in one transfer; usage over the last full window of 10 V tokens."""
        rows = self._means()
        if "perturbation/moved" in rows:
            moved, spread = rows.pop("perturbation/moved"), rows.pop("perturbation/spread")
            rows["perturbation/distortion"] = moved / spread.clamp_min(1e-12)
        if self.window is not None:
            rows |= {f"codebook/{name}": value for name, value in usage(self.window).items()}
            self.window = None
        self.sums, self.counts = {}, {}
        values = torch.stack([value.double() for value in rows.values()]).tolist() if rows else []
        return dict(zip(rows, values, strict=True))

    def _means(self) -> dict[str, Tensor]:
        """Return each value's mean over the steps that had it."""
        sums: dict[str, Any] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        for names, together in self.sums.items():
            for name, total in zip(names, together.unbind(), strict=True):
                sums[name] = sums[name] + total
                counts[name] += self.counts[names]
        return {name: total / counts[name] for name, total in sums.items()}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        found = {"sums": self.sums, "counts": self.counts, "usage": self.usage, "tokens": self.tokens}
        return {**found, "window": self.window}

    def load(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint's state."""
        self.sums = {names: value.to(self.usage.device) for names, value in state["sums"].items()}
        self.counts, self.tokens = dict(state["counts"]), int(state["tokens"])
        self.usage.copy_(state["usage"])
        self.window = None if state["window"] is None else state["window"].to(self.usage.device)
