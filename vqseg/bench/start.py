"""``vqseg bench start``: how long a person waits before a command answers, whole processes from start to end.

Naive is what a command costs that imports torch before it knows what is asked; limit is an empty Python.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial

from vqseg.bench import machine
from vqseg.bench.options import Options
from vqseg.bench.outcome import Outcome, Row
from vqseg.bench.timing import interleaved

GOALS_S = {"vqseg --help": 0.3, "vqseg study list": 0.5}


def measure(options: Options) -> Outcome:
    """Time the commands, process by process, in rounds with an empty Python and one that imports torch.

    Raises:
        RuntimeError: a process fails.
    """
    options.require_known()
    with tempfile.TemporaryDirectory(prefix="vqseg-bench-") as empty:
        store = str(options.store or empty)
        words = {name: ["-m", *name.split(" ")] for name in GOALS_S}
        words["vqseg study list"] += ["--store", store]
        candidates: dict[str, Callable[[], object]] = {
            name: partial(_process, each)
            for name, each in {**words, "limit": ["-c", "pass"], "naive": ["-c", "import torch"]}.items()
        }
        times = interleaved(candidates, repeats=1 if options.quick else options.repeats)
    naive, limit = times["naive"].median, times["limit"].median
    rows = [
        Row(
            name,
            "s",
            times[name].median,
            naive,
            limit,
            f"<= {goal:g} s",
            f"{times[name].low:.2f} to {times[name].high:.2f} s",
        )
        for name, goal in GOALS_S.items()
    ]
    settings = {"naive": "python -c 'import torch'", "limit": "python -c pass", "repeats": options.repeats}
    return Outcome("start", rows, settings, machine.describe())


def _process(words: list[str]) -> None:
    """Run a Python process with this one's modules in reach."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(words)} ended with status {done.returncode}: {done.stderr[-300:]}")
