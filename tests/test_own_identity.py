"""What of a user's part counts for the identity of a run: every source that it runs, and of its own nothing twice."""

import multiprocessing
import os
import sys

import pytest

from vqseg import foreign_code
from vqseg.config import Choice
from vqseg.foreign_code import load
from vqseg.identity import module_hash, source_hash
from vqseg.parts import resolve

PART = """
from vqseg.replacement import check_rate


class Half:
    def __init__(self, *, rate: float = 0.5) -> None:
        self.rate = check_rate(rate)

    def draw(self, quantized, codes, generator):
        return quantized.indices

    def apply(self, quantized, codes, drawn):
        return quantized.tokens * SCALE
"""


FRESH = multiprocessing.get_context("forkserver")
"""Processes that have imported what every part needs, and nothing of a user's."""
FRESH.set_forkserver_preload(["vqseg.foreign_code", "vqseg.replacement"])


def hashed(folder, files, name):
    """Return the hash of a part in another process, which has imported nothing of it."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    ours, theirs = FRESH.Pipe()
    process = FRESH.Process(target=_tell_hash, args=(str(folder), name, theirs))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def _tell_hash(folder, name, pipe):
    os.chdir(folder)
    sys.path.insert(0, folder)
    pipe.send(load(name).hash)


PACKAGED = {"pack/__init__.py": "SCALE = 1\n", "pack/a/__init__.py": "from .. import SCALE\n"}


@pytest.mark.parametrize(
    ("name", "files", "changed"),
    [
        (
            "p.py:Half",
            {"p.py": f"from .k.sub import SCALE\n{PART}", "k/sub.py": "from . import SCALE\n", "k/__init__.py": ""},
            "k/__init__.py",
        ),
        (
            "p.py:Half",
            {"p.py": f"from .k.sub import SCALE\n{PART}", "k/sub.py": "SCALE = 1\n", "k/__init__.py": ""},
            "k/__init__.py",
        ),
        ("pack.half:Half", {**PACKAGED, "pack/half.py": f"from . import SCALE\n{PART}"}, "pack/__init__.py"),
        ("pack.a.half:Half", {**PACKAGED, "pack/a/half.py": f"from .. import SCALE\n{PART}"}, "pack/__init__.py"),
        ("pack.a.half:Half", {**PACKAGED, "pack/a/half.py": f"SCALE = 1\n{PART}"}, "pack/a/__init__.py"),
        ("pack.a.half:Half", {**PACKAGED, "pack/a/half.py": f"SCALE = 1\n{PART}"}, "pack/__init__.py"),
    ],
)
def test_the_packages_on_the_way_count(tmp_path, name, files, changed):
    files = {path: text or "SCALE = 1\n" for path, text in files.items()}
    before = hashed(tmp_path, files, name)
    assert hashed(tmp_path, {changed: files[changed] + "# words\n"}, name) == before
    assert hashed(tmp_path, {changed: files[changed] + "SCALE = 2\n"}, name) != before


def test_a_package_goes_before_a_module_of_its_name_as_in_python(tmp_path):
    files = {"p.py": f"from .k import SCALE\n{PART}", "k.py": "SCALE = 1\n", "k/__init__.py": "SCALE = 2\n"}
    before = hashed(tmp_path, files, "p.py:Half")
    assert hashed(tmp_path, {"k.py": "SCALE = 3\n"}, "p.py:Half") == before
    assert hashed(tmp_path, {"k/__init__.py": "SCALE = 3\n"}, "p.py:Half") != before


FIELDS = "class Both(NamedTuple):\n    first: float\n    second: float\n"


def test_fields_count_by_their_names_and_order_and_not_by_their_types():
    one = source_hash(FIELDS, defaults=True)
    assert source_hash(FIELDS.replace("first", "x").replace("second", "first"), defaults=True) != one
    assert source_hash(FIELDS.replace("first: float\n    second", "second: float\n    first"), defaults=True) != one
    assert source_hash(FIELDS.replace("float", "int"), defaults=True) == one


def test_our_own_modules_are_hashed_as_they_were():
    """A name that is annotated without a value is dropped there: no identity of a run of ours changes."""
    assert source_hash("x: int\ny: int = 3\n") == source_hash("y = 3\n")
    assert source_hash("x: int\ny: int = 3\n", defaults=True) != source_hash("y = 3\n", defaults=True)


# What it derives from


def part(folder, text, family, **options):
    (folder / "mine.py").write_text(text)
    return resolve(family, Choice(name=f"{folder / 'mine.py'}:Mine", **options))


@pytest.mark.parametrize(
    ("family", "text", "needed"),
    [
        (
            "encoder",
            "from vqseg.encoders.vit import ViTEncoder\n\n\nclass Mine(ViTEncoder):\n    pass\n",
            {"vqseg.encoders.vit", "vqseg.foundation"},
        ),
        (
            "prior",
            "from vqseg.priors.vit import AnyViT\n\n\nclass Mine(AnyViT):\n    pass\n",
            {"vqseg.priors.vit", "vqseg.foundation"},
        ),
        (
            "encoder",
            "from vqseg.encoders import ENCODERS\n\n\nclass Mine(ENCODERS['vit']):\n    pass\n",
            {"vqseg.encoders.vit", "vqseg.foundation"},
        ),
    ],
)
def test_a_class_of_ours_brings_what_it_uses(tmp_path, family, text, needed):
    found = part(tmp_path, text, family, weights="nowhere").hashes()
    assert set(found) == {f"{family} mine.py:Mine", *needed}
    assert found["vqseg.foundation"] == module_hash("vqseg.foundation")


def test_what_a_class_uses_counts_where_it_is_held_and_not_derived_from(tmp_path, monkeypatch):
    head = "from vqseg.perturbations.cluster_qpm import ClusterQPM\n\nSCALE = ClusterQPM().rate\n"
    before = part(tmp_path, head + PART.replace("Half", "Mine"), "perturbation").hashes()
    assert list(before) == ["perturbation mine.py:Mine"]
    changed = {"vqseg.perturbations.qpm": "another"}
    monkeypatch.setattr(foreign_code, "module_hash", lambda module: changed.get(module) or module_hash(module))
    assert part(tmp_path, head + PART.replace("Half", "Mine"), "perturbation").hashes() != before


def test_what_every_run_computes_with_is_not_listed_again(tmp_path):
    text = "from vqseg.optimizer import sgd as Mine\n"
    assert list(part(tmp_path, text, "optimizer").hashes()) == ["optimizer mine.py:Mine"]


# Refused before it is hashed


def test_a_large_library_is_refused_before_it_is_read(monkeypatch):
    def fails(*_):
        raise AssertionError("hashed")

    monkeypatch.setattr(foreign_code, "_module_texts", fails)
    monkeypatch.setattr(foreign_code, "_hash", fails)
    found = load("torch.nn:Linear")
    assert found.label == "torch.nn:Linear" and found.line == 0
    with pytest.raises(AssertionError, match="hashed"):
        _ = found.hash
