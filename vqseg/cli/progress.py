"""Progress: bars on a terminal, plain lines elsewhere."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vqseg.records.run import FINAL

LINE_SECONDS = 20.0


def _bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), refresh_per_second=2)


@contextmanager
def stopping() -> Iterator[list[int]]:
    """Yield a list that holds a signal's number once the user (Ctrl-C) or the system asks to stop.

    A run then ends at its next step with a checkpoint; asked a second time, it ends at once.
    """
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def run_bar(name: str, steps: int) -> Iterator[Callable[[int, int], None]]:
    """Yield a callable (step, steps) that shows one run's progress."""
    if not Console().is_terminal:
        said = [time.monotonic()]

        def line(step: int, total: int) -> None:
            if step == total or time.monotonic() - said[0] > LINE_SECONDS:
                said[0] = time.monotonic()
                print(f"{name}: step {step}/{total}", flush=True)

        yield line
        return
    with _bars() as bars:
        task = bars.add_task(escape(name), total=steps)
        yield lambda step, total: bars.update(task, completed=step)


@contextmanager
def study_bars(name: str) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Yield a callable that shows a study's cells: one bar for all of them, one per running cell."""
    if not Console().is_terminal:
        yield _Lines(name)
        return
    with _bars() as bars:
        whole = bars.add_task(f"[bold]{escape(name)}[/]", total=None)
        tasks: dict[str, Any] = {}

        def watch(rows: list[dict[str, Any]]) -> None:
            bars.update(whole, total=len(rows), completed=sum(row["state"] in FINAL for row in rows))
            for row in rows:
                if row["state"] == "running":
                    if row["name"] not in tasks:
                        tasks[row["name"]] = bars.add_task(f"  {escape(row['name'])}", total=row["steps"])
                    bars.update(tasks[row["name"]], completed=row["step"])
                elif row["name"] in tasks:
                    bars.remove_task(tasks.pop(row["name"]))

        yield watch


class _Lines:
    """One line whenever a cell starts or ends, and now and then how far the running ones are."""

    def __init__(self, name: str) -> None:
        self.name, self.states, self.last = name, {}, time.monotonic()  # type: ignore[var-annotated]

    def __call__(self, rows: list[dict[str, Any]]) -> None:
        done = sum(row["state"] in FINAL for row in rows)
        for row in rows:
            before, self.states[row["identity"]] = self.states.get(row["identity"]), row["state"]
            if before != row["state"] and (before or row["state"] not in ("new", "finished")):
                dice = f", val Dice {row['dice']:.4f}" if row["dice"] is not None else ""
                error = f": {row['error']}" if row["error"] else ""
                print(f"[{done}/{len(rows)}] {row['name']}: {row['state']}{dice}{error}", flush=True)
        if time.monotonic() - self.last > LINE_SECONDS:
            self.last = time.monotonic()
            running = [f"{row['name']} {row['step']}/{row['steps']}" for row in rows if row["state"] == "running"]
            print(f"[{done}/{len(rows)}] {'; '.join(running) or 'waiting'}", flush=True)
