"""Clocks and memory gauges that compare candidates fairly: in one process, round by round, device drained.

Rounds (A B C, A B C, ...) and not blocks (A A A, B B B, ...), so that a machine that slows down for a while slows
all candidates alike and their ratio stays true.
"""

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vqseg.train import forget_peak_memory, peak_memory_mb

Run = Callable[[], object]
HEAVIEST = 10


class Timing(NamedTuple):
    """Seconds of one candidate over the timed rounds."""

    median: float
    low: float
    high: float
    repeats: int


def drain(device: torch.device | str) -> None:
    """Wait until the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Run, device: torch.device | str = "cpu") -> float:
    """Return how long one call takes, the device drained before and after."""
    drain(device)
    start = time.perf_counter()
    run()
    drain(device)
    return time.perf_counter() - start


def interleaved(
    candidates: Mapping[str, Run], *, repeats: int, warmup: int = 1, device: torch.device | str = "cpu"
) -> dict[str, Timing]:
    """Time candidates in rounds, after ``warmup`` rounds that do not count.

    Raises:
        ValueError: ``repeats`` is not positive.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be positive, got {repeats}")
    for _ in range(warmup):
        for run in candidates.values():
            seconds(run, device)
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            found[name].append(seconds(run, device))
    return {name: timing(values) for name, values in found.items()}


def timing(values: list[float]) -> Timing:
    """Return the summary of seconds that were measured one by one."""
    return Timing(statistics.median(values), min(values), max(values), len(values))


def extra_memory_mb(run: Run, device: torch.device | str = "cpu") -> float:
    """Return the most memory in MiB that a call takes above what was in use before it; NaN where it cannot be told.

    The call is made once before, so that what the first call alone sets up does not count. On a card the allocator's
    statistics are read. On a CPU it is the process's resident memory, whose peak Linux lets a process forget; freed
    memory is handed back to the system first, or reused pages would count for nothing. Tell it of calls that take
    some MiB: Python's own objects are in it.
    """
    device = torch.device(device)
    run()
    drain(device)
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device) / 2**20
        forget_peak_memory(device)
        run()
        drain(device)
        return peak_memory_mb(device) - before
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    forget_peak_memory(device)
    before = resident_mb()
    if math.isnan(before) or peak_memory_mb(device) > before + 1:
        return math.nan  # outside Linux, or where the kernel forbids it, the peak is that of the whole process
    run()
    return max(peak_memory_mb(device) - before, 0.0)


def resident_mb(status: Path = Path("/proc/self/status")) -> float:
    """Return this process's resident memory in MiB, NaN outside Linux."""
    if not status.is_file():
        return math.nan
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def profiled(run: Run, path: Path, device: torch.device | str = "cpu") -> str:
    """Write a trace of one call for chrome://tracing or Perfetto, and return its ten heaviest operators as text."""
    device = torch.device(device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    run()
    drain(device)
    with torch.profiler.profile(activities=activities) as profile:
        run()
        drain(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    profile.export_chrome_trace(str(path))
    return _heaviest(profile.key_averages(), device.type)


def _heaviest(operators: Any, device: str) -> str:
    """The operators with the most time of their own: share, milliseconds, calls, name."""
    field = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    rows = sorted(operators, key=lambda row: getattr(row, field), reverse=True)
    total = sum(getattr(row, field) for row in rows) or 1.0
    lines = [f"{'share':>6} {'ms':>10} {'calls':>7}  operator ({device} time of its own)"]
    for row in rows[:HEAVIEST]:
        time_us = getattr(row, field)
        lines.append(f"{100 * time_us / total:5.1f}% {time_us / 1000:10.2f} {row.count:7d}  {row.key[:60]}")
    return "\n".join(lines)
