"""Processes that vqseg starts of itself: how they are called, and how many there is room for."""

import os
import sys


def module_command(module: str) -> list[str]:
    """Return what runs a module of vqseg in a process of its own, to be followed by its arguments.

    ``-m`` alone would put the working directory, and whatever lies there, before the libraries; it stays where this
    process has it too.
    """
    safe = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
    return [sys.executable, *safe, "-m", module]


def as_interrupt(*_: object) -> None:
    """Handle a signal as Ctrl-C, so that what is in hand is put down in order."""
    raise KeyboardInterrupt


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
