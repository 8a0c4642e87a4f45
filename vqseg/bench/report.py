"""Reports over many runs: index, tables and page of one fabricated study, for the first time and again.

*Limit* is reading the bytes of the files that each needs, which lie in the page cache. *Naive*, where there is one, is
the same from nothing: what every call would cost that remembered nothing. ``--set runs=N``, ``--set seeds=N``.
"""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from vqseg.bench import fabricate, machine
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row
from vqseg.bench.timing import seconds, timing
from vqseg.records import index

RUNS, QUICK_RUNS, SEEDS, MOST_REPEATS = 1000, 20, 5, 3
STATUS, ROWS, CODES = ("status.json", "metrics.csv"), ("rows.parquet",), ("codebook.parquet", "config.yaml")


class Task(NamedTuple):
    """What is timed: a name, what comes before and does not count, the call, the files it needs, its goal."""

    what: str
    before: Callable[[], object]
    run: Callable[[], object]
    files: tuple[str, ...]
    target: str | None = None
    naive: str | None = None
    note: str = ""


def measure(options: Options) -> Outcome:
    """Time index, tables and page of a study of many runs; a round does all of them in their order.

    Raises:
        InputError: an unknown setting.
    """
    options.require_known("runs", "seeds")
    runs = int(options.number("runs", QUICK_RUNS if options.quick else RUNS))
    seeds = int(options.number("seeds", SEEDS))
    repeats = 1 if options.quick else min(options.repeats, MOST_REPEATS)
    with tempfile.TemporaryDirectory(prefix="vqseg-bench-") as folder:
        store = Path(folder)
        study = fabricate.fabricate(store, runs, seeds=seeds)
        tasks = _tasks(store, study)
        found: dict[str, list[float]] = {task.what: [] for task in tasks}
        for _ in range(repeats):
            for task in tasks:
                task.before()
                found[task.what].append(seconds(task.run))
        medians = {what: timing(values).median for what, values in found.items()}
        limits = {task.files: seconds(partial(_read, store, task.files)) for task in tasks}
        rows = [
            Row(t.what, "s", medians[t.what], medians.get(t.naive or ""), limits[t.files], t.target, t.note)
            for t in tasks
        ]
    settings = {"runs": runs, "arms": len(study["arms"]), "seeds": seeds, "repeats": repeats}
    return Outcome("report", rows, settings, machine.describe())


def _tasks(store: Path, study: dict[str, Any]) -> list[Task]:
    from vqseg.report.make import make

    identities = [cell["identity"] for cell in study["cells"]]
    tables = fabricate.tables()
    changes = iter(range(1, 1000))

    def nothing() -> None:
        return

    def forget() -> None:
        shutil.rmtree(store / "index", ignore_errors=True)
        shutil.rmtree(store / "reports", ignore_errors=True)

    def change() -> None:
        fabricate.write_run(store, fabricate.cell_of(study, -1), *tables, again=next(changes))

    def page() -> None:
        make(study["name"], store=store)

    every, figures = (*STATUS, *ROWS), (*STATUS, *ROWS, *CODES)
    return [
        Task("index, first time", forget, lambda: index.frame(store, identities), STATUS),
        Task("index, again", nothing, lambda: index.frame(store, identities), STATUS, naive="index, first time"),
        Task("tables, first time", forget, lambda: _tables(store, study), every, "<= 5 s"),
        Task("tables, again", nothing, lambda: _tables(store, study), every, "<= 5 s", "tables, first time"),
        Task("whole page, first time", forget, page, figures, "<= 60 s"),
        Task("whole page, nothing changed", nothing, page, figures, naive="whole page, first time"),
        Task("whole page, one run changed", change, page, figures, naive="whole page, first time"),
    ]


def _tables(store: Path, study: dict[str, Any]) -> list[str]:
    """Make all tables in words, and no figure."""
    from vqseg.report import ablation, table
    from vqseg.report.selection import Options as Asked
    from vqseg.report.selection import select

    made = ablation.scores_section(select(store, study, Asked())).tables
    return [form(each) for each in made for form in (table.markdown, table.latex, table.csv_text, table.text)]


def _read(store: Path, names: tuple[str, ...]) -> int:
    return sum(len(path.read_bytes()) for name in names for path in (store / "runs").glob(f"*/{name}"))
