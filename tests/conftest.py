"""Shared: one torch thread, a tiny phantom per session, and a config small enough for seconds."""

import os
import signal
import sys
from itertools import chain

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from vqseg import cli
from vqseg.importers import phantom

TINY = (
    "data.size_px=16",
    "network.encoder={name: unet, widths: [4, 8], dropout: [0.1, 0.0]}",
    "network.quantizer={name: mapped, num_codes: 16}",
    "train.steps=12",
    "train.labelled_batch=2",
    "train.unlabelled_batch=2",
    "train.validate_steps=4",
    "train.flush_steps=2",
    "train.checkpoint_steps=4",
    "method.warmup_steps=3",
    "method.ramp_steps=3",
)

# A shell starts background jobs with SIGINT ignored, and every child inherits that: no test could press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "phantom"
    phantom.prepare(root, patients=8, size=32)
    return root


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls a command of vqseg as a shell would: words in, (exit code, standard output, standard error) out."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["vqseg", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        out = capsys.readouterr()
        return code or 0, out.out, out.err

    return call


LONGEST = (
    "test_study.py", "test_bench_growth.py", "test_own_parts.py", "test_cli.py", "test_search.py",
    "test_study_evaluation.py", "test_report_all.py", "test_bench_report.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Put what takes long where two workers begin, at the start and in the middle: at the end one would wait for it."""
    long = [[item for item in items if item.path.name == name] for name in LONGEST]
    rest = [item for item in items if item.path.name not in LONGEST]
    first, second = ([*chain.from_iterable(long[place::2])] for place in (0, 1))
    half = max(len(items) // 2 - len(first), 0)
    items[:] = [*first, *rest[:half], *second, *rest[half:]]
