"""docs/own-data.md as a reader follows it, in an empty folder: its files written, its commands typed, its words said.

In blocks of kind ``console`` a line with ``$`` is typed and the others are what it says, ``…`` standing for anything.
Blocks of kind ``text`` are what the last one says too, with numbers of a training that no test repeats: trainings are
cut to a few steps here.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from vqseg import cli
from vqseg.files import read_json
from vqseg.report.statistics import detectable

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs" / "own-data.md"
EXAMPLES = PROJECT / "docs" / "examples"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
FILES = {
    match[1]: body for kind, body in BLOCKS if kind in ("yaml", "python") and (match := re.match(r"# (\S+)", body))
}
# Numbers, dashes for none, and wide gaps (where a table of few steps has one more column, of empty masks).
NUMBERS = re.compile(r"(?<![-\w])[-+−\[]?\d*\.\d+[\]*,]?|(?<=  )(\d+|[-—])(?=\s|$)| {2,}")
# So many steps show that it runs; smoke's first 200 train on labelled images alone.
FEW = "--steps 4 --set method.warmup_steps=1 --set method.ramp_steps=1 --keep last"


def console():
    """Return (what is typed, what it says) of every command of the page, in order."""
    found = []
    for kind, body in BLOCKS:
        for line in body.replace("\\\n", " ").splitlines() if kind in ("console", "text") else ():
            if kind == "console" and line.startswith("$ "):
                found.append((line[2:], []))
            elif line.strip(" -"):
                found[-1][1].append(line if kind == "console" else NUMBERS.sub("…", line))
    return found


COMMANDS = console()


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An empty folder with the files that the page asks for."""
    for name, body in FILES.items():
        (tmp_path / name).write_text(body)
    for script in EXAMPLES.glob("*.py"):
        shutil.copy(script, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQSEG_NO_MIRROR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # for the workers
    return tmp_path


@pytest.fixture
def typed(desk, monkeypatch, capfd):
    """Type a line; returns the exit code and all that it says."""

    def call(line):
        program, *words = shlex.split(line)
        capfd.readouterr()
        if program == "python":
            code = subprocess.run([sys.executable, *words], check=False).returncode
        else:
            assert program == "vqseg", line
            monkeypatch.setattr(sys, "argv", ["vqseg", *words])
            try:
                code = cli.main() or 0
            except SystemExit as end:
                code = end.code or 0
        out, err = capfd.readouterr()
        return code, out + err

    return call


def shortened(line, runs=None):
    """Return a line of the page with few steps, and with a run where it says RUN."""
    line = f"{line} {FEW}" if " study run " in line and "--dry-run" not in line else line
    return line.replace(" RUN ", f" {runs} ") if runs else line


def trains(line):
    return " RUN " in line or "same_grid" in line or re.search(r"vqseg (study (run|evaluate)|report) ", line)


def says(output, lines):
    """Whether every line of the page stands in the output, spaces aside."""
    have = [" ".join(line.split()) for line in output.splitlines()]
    for line in lines:
        pieces = [" ".join(piece.split()) for piece in line.split("…")]
        pattern = ".*".join(re.escape(piece) for piece in pieces)
        assert any(re.search(pattern, one) for one in have), f"{line!r} is not in\n{output}"


def expected_code(lines):
    return 2 if any(line.startswith("vqseg: error") for line in lines) else 0


def runs_of(study):
    return read_json(Path("vqseg-store/studies") / study / "study.json")["cells"]


def the_label_maps_lie_on_the_grid_of_their_files(predicted, images):
    names = sorted(path.name for path in images.iterdir())
    assert sorted(path.name for path in predicted.glob("*.nii.gz")) == names
    for name in names:
        labels, image = nibabel.load(predicted / name), nibabel.load(images / name)
        assert labels.shape == image.shape
        assert np.array_equal(labels.affine, image.affine)
        assert set(np.unique(np.asarray(labels.dataobj))) <= {0, 1, 2}


def the_label_maps_have_the_size_of_their_photographs(predicted, images):
    for path in images.iterdir():
        with Image.open(path) as image, Image.open(predicted / f"{path.stem}.png") as labels:
            assert labels.size == image.size


# Everything but the studies; one training stands for theirs.
def test_from_files_to_prepared_data_and_back(typed, desk):
    for line, lines in COMMANDS:
        if not trains(line) or "--dry-run" in line:
            code, output = typed(line)
            assert code == expected_code(lines), f"{line}\n{output}"
            says(output, lines)
    assert 7 < detectable(3, 3, scans_per_patient=1, contrasts=2) < 8
    few = f"--preset smoke --set data.size_px=32 {FEW} --no-mirror"
    for data, source in (("data/ct", "ct/images"), ("data/skin", "skin/images")):
        code, output = typed(f"vqseg train --data {data} {few} --store one-{data[5:]}")
        assert code == 0, output
        (run,) = Path(f"one-{data[5:]}/runs").iterdir()
        code, output = typed(f"vqseg predict {run} {source} out-{data[5:]}")
        assert code == 0, output
    the_label_maps_lie_on_the_grid_of_their_files(desk / "out-ct", desk / "ct" / "images")
    the_label_maps_have_the_size_of_their_photographs(desk / "out-skin", desk / "skin" / "images")


# One test, for one reading of the page: its steps build on each other.
@pytest.mark.slow
def test_the_page_as_a_reader_follows_it(typed, desk):
    run, said = None, {}
    for line, lines in COMMANDS:
        if " RUN " in line:
            run = runs_of("spots" if "skin" in line else "liver-ct-smoke")[-1]["identity"]
        code, said[line] = typed(shortened(line, run))
        assert code == expected_code(lines), f"{line}\n{said[line]}"
        says(said[line], lines)
    the_label_maps_lie_on_the_grid_of_their_files(desk / "predicted", desk / "ct" / "images")
    the_label_maps_have_the_size_of_their_photographs(desk / "predicted-skin", desk / "skin" / "images")
