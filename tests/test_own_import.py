"""An importer of one's own: what its plan may say, and what is refused before anything is written."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqseg.errors import InputError
from vqseg.importers.foreign import importer, prepare_own
from vqseg.manifest import read_manifest
from vqseg.parts import Part

CODE = """
from functools import partial
import numpy as np
from vqseg.importers.writer import Pending, Plan, Volume, file_state


def scans(source, *, wide: int = -1):
    files = sorted(source.glob("*.npy"))
    reads = [partial(read, path, place == wide) for place, path in enumerate(files)]
    rows = [Pending(path.stem, path.stem, [1, 2], one) for path, one in zip(files, reads)]
    return Plan("mine", ["background", "organ"], {}, file_state(files), rows, FACTS)


def read(path, wide):
    image = np.load(path)
    return Volume(image.astype(np.uint16) if wide else image, (image > 128).astype(np.uint8), (0.0, 255.0))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 255, (2, 8, 8), dtype=np.uint8)
        np.save(tmp_path / "source" / f"p{number}.npy", image)
    return tmp_path / "source"


def own(tmp_path: Path, facts: str = "", **options: Any) -> Part:
    (tmp_path / "mine.py").write_text(CODE.replace("FACTS", facts))
    return importer(f"{tmp_path / 'mine.py'}:scans", options)


def test_scans_of_two_dtypes_are_refused_and_both_named(tmp_path: Path, source: Path) -> None:
    bring = partial(prepare_own, source=source, out=tmp_path / "out")
    with pytest.raises(InputError) as caught:
        bring(own(tmp_path, wide=3))
    assert "mine.py:scans: scan 'p0' is uint8, scan 'p3' is uint16; expected one dtype" in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ('lesions={"tumor": 2.0}', "lesions name 'tumor'; expected foreground classes of the plan: organ"),
        ('lesions={"background": 2.0}', "lesions name 'background'; expected foreground classes of the plan: organ"),
        ('lesions={"organ": 0}', "the lesion 'organ' has 0; expected a tolerance in mm above 0"),
        ('lesions={"organ": "2"}', "the lesion 'organ' has '2'; expected a tolerance in mm above 0"),
        ('lesions=["organ"]', "lesions and attributes: expected {class: mm} and {patient: {column: value}}"),
        (
            'attributes={"p0": {"age": 5}}',
            "attributes of 'p0' are {'age': 5}; expected {column: value}, all of them text",
        ),
        ('attributes={"p0": "old"}', "attributes of 'p0' are 'old'; expected {column: value}, all of them text"),
        ("color=True", "color is True with 1 channels; expected 3, red, green and blue"),
        ("channels=0", "channels is 0; expected 1 to 16"),
        ("channels=17", "channels is 17; expected 1 to 16"),
    ],
)
def test_facts_of_a_plan_are_held_against_the_manifest(tmp_path: Path, source: Path, facts: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        prepare_own(own(tmp_path, facts), source, tmp_path / "out")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_impossible_numbers_are_refused_before_anything_is_written(tmp_path: Path, source: Path) -> None:
    for options, words in (
        ({"labelled": "50"}, "--labelled 50"),
        ({"val": np.nan}, "--val nan"),
        ({"test": 2}, "--test 2"),
    ):
        with pytest.raises(InputError, match=words):
            prepare_own(own(tmp_path), source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_sound_facts_are_written(tmp_path: Path, source: Path) -> None:
    facts = 'lesions={"organ": 1}, attributes={"p0": {"site": "A", "age": ""}}'
    made = prepare_own(own(tmp_path, facts), source, tmp_path / "out").manifest
    assert made.lesions == {"organ": 1.0} and made.attributes == {"p0": {"site": "A", "age": ""}}
    assert read_manifest(tmp_path / "out") == made
