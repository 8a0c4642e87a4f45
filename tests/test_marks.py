"""Marking lesions in a prepared folder: what is written, what stays, what is refused."""

from pathlib import Path

import pytest
from test_inspection import prepared

from vqseg.errors import InputError
from vqseg.importers import phantom
from vqseg.manifest import read_manifest, read_split
from vqseg.marks import mark, parse_lesions

CLASSES = ["background", "x", "a = b", "left lung"]


def test_a_lesion_has_a_tolerance() -> None:
    assert parse_lesions(["x", "a = b", "left lung=1.5"], CLASSES) == {"x": 2.0, "a = b": 2.0, "left lung": 1.5}
    assert parse_lesions(["a = b=3"], CLASSES) == {"a = b": 3.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("z", "unknown foreground class for --lesion 'z'; known: x, a = b, left lung"),
        ("background", "unknown foreground class for --lesion 'background'"),
        ("x=", "--lesion x=: expected NAME=TOLERANCE with a tolerance in mm above 0, such as x=2"),
        ("x=0", "--lesion x=0: expected"),
        ("x=-1", "--lesion x=-1: expected"),
        ("x=inf", "--lesion x=inf: expected"),
        ("x=nan", "--lesion x=nan: expected"),
        ("x=two", "--lesion x=two: expected"),
    ],
)
def test_what_is_no_lesion_is_named(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_lesions([text], CLASSES)
    assert words in str(caught.value)


def test_marks_are_written_once_and_change_no_digest(tmp_path: Path) -> None:
    before, split = prepared(tmp_path)
    after, changed = mark(tmp_path, lesions=["y=1", "x"])
    assert (after.lesions, changed, after.digest) == ({"x": 2.0, "y": 1.0}, True, before.digest)
    assert read_manifest(tmp_path) == after
    assert read_split(tmp_path, after) == split
    stamp = (tmp_path / "manifest.json").stat().st_mtime_ns
    assert mark(tmp_path, lesions=["y=1"])[1] is False
    assert (tmp_path / "manifest.json").stat().st_mtime_ns == stamp
    assert mark(tmp_path, lesions=["y=3"], no_lesions=["x"])[0].lesions == {"y": 3.0}
    assert mark(tmp_path, no_lesions=["y"])[0] == before


def test_marks_that_cannot_be(tmp_path: Path) -> None:
    prepared(tmp_path)
    with pytest.raises(InputError, match="--lesion and --no-lesion both name 'x'"):
        mark(tmp_path, lesions=["x"], no_lesions=["x"])
    with pytest.raises(InputError, match="unknown foreground class for --no-lesion 'z'"):
        mark(tmp_path, no_lesions=["z"])
    with pytest.raises(InputError, match="not a prepared data folder"):
        mark(tmp_path / "none", lesions=["x"])
    assert read_manifest(tmp_path).lesions == {}


def test_marks_outlive_a_second_import(tmp_path: Path) -> None:
    phantom.prepare(tmp_path / "p", patients=4, size=32)
    marked, _ = mark(tmp_path / "p", lesions=["myocardium=1"])
    again = phantom.prepare(tmp_path / "p", patients=4, size=32)
    assert (again.written, again.manifest) == (0, marked)
    assert read_manifest(tmp_path / "p").lesions == {"myocardium": 1.0}
