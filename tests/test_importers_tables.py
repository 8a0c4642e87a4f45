"""Tables of patients: separators, blank patients, lesions that say whose they are."""

from pathlib import Path

import numpy as np
import pytest
from test_importers_volumes import bring, volumes_of
from test_isic import photographs

from vqseg.errors import InputError
from vqseg.importers import isic
from vqseg.importers.names import one_mask_each, read_table


def table(path: Path, head: str, *rows: str) -> Path:
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators(tmp_path: Path, separator: str, mark: str) -> None:
    rows = [
        separator.join(row) for row in (["image", "patient", "site"], ["a", "p", "x, y" if separator != "," else ""])
    ]
    read = read_table(table(tmp_path / "t.csv", mark + rows[0], rows[1]))
    assert read.patients == {"a": "p"}
    assert read.columns == {"a": {"site": "x, y" if separator != "," else ""}}


def test_a_separator_within_a_quoted_header_is_none(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", '"image","note; with; many; ;","patient"', "a,,p")
    assert read_table(path).patients == {"a": "p"}


def test_a_patient_is_one_in_any_case_and_has_a_column(tmp_path: Path) -> None:
    assert read_table(table(tmp_path / "t.csv", "Image,Patient_ID", "a,p")).patients == {"a": "p"}
    with pytest.raises(InputError, match=r"no column patient, patient_id or lesion_id \(it has image, subject\)"):
        read_table(table(tmp_path / "t.csv", "image,subject", "a,p"))


def test_a_table_that_is_none(tmp_path: Path) -> None:
    for text in ("", "\n", "who what\na b\n"):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(InputError, match="expected a CSV with a header row and the columns image and patient"):
            read_table(tmp_path / "t.csv")


def test_a_blank_patient_among_named_ones_is_refused(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 6)
    rows = [f"case_{n},{'' if n == 1 else f'p{n // 2}'},{n}" for n in range(6)]
    named = table(tmp_path / "t.csv", "image,patient,day", *rows)
    with pytest.raises(InputError, match=r"t.csv: names no patient for image case_1; fill it in"):
        bring(root, tmp_path / "out", patients=named)
    assert not (tmp_path / "out").exists()
    blank = table(tmp_path / "t.csv", "image,patient,day", *(f"case_{n},,{n}" for n in range(6)))
    manifest = bring(root, tmp_path / "out", patients=blank)
    assert manifest.patients == [f"case_{n}" for n in range(6)] and manifest.attributes["case_3"] == {"day": "3"}
    photographs(tmp_path / "s", ("images", "masks"), range(6))
    rows = [f"ISIC_{n:07d},{'' if n == 1 else n}" for n in range(6)]
    with pytest.raises(InputError, match=r"names no patient for image ISIC_0000001; fill it in"):
        isic.prepare(tmp_path / "s", tmp_path / "isic", patients=table(tmp_path / "t.csv", "image,patient", *rows))
    assert not (tmp_path / "isic").exists()


def test_rows_of_one_lesion_are_one_patient(tmp_path: Path) -> None:
    head = "image,patient_id,lesion_id"
    read = read_table(table(tmp_path / "t.csv", head, "a,,L0", "b,P0,L0", "c,,L1", "d,,L1", "e,P0,L2", "f,P1,"))
    assert read.patients == {"a": "P0", "b": "P0", "c": "L1", "d": "L1", "e": "P0", "f": "P1"}
    # Lesions may be numbered within each patient, as long as every row says whose it is.
    read = read_table(table(tmp_path / "t.csv", head, "a,P0,1", "b,P1,1"))
    assert read.patients == {"a": "P0", "b": "P1"}
    with pytest.raises(InputError, match="a row of lesion_id '1' may be of 'P0' and 'P1'; fill in patient_id"):
        read_table(table(tmp_path / "t.csv", head, "a,P0,1", "b,P1,1", "c,,1"))


def test_one_mask_each() -> None:
    assert one_mask_each([("a", Path("x")), ("b", Path("y"))]) == {"a": Path("x"), "b": Path("y")}
    with pytest.raises(InputError, match="^y: a second mask of a, beside x; keep one$"):
        one_mask_each([("a", Path("x")), ("a", Path("y"))])


def test_photographs_have_one_mask_each(tmp_path: Path) -> None:
    source = tmp_path / "s"
    photographs(source, ("images", "masks"), range(6))
    content = (source / "masks" / "ISIC_0000002_segmentation.png").read_bytes()
    (source / "masks" / "ISIC_0000002_mask.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a second mask of ISIC_0000002, beside .*ISIC_0000002_mask.png; keep one"):
        isic.prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labelled": "500"}, "--labelled 500: expected 1 to"),
        ({"val": np.nan}, "--val nan: expected a share between 0 and 1"),
        ({"test": np.inf}, "--test inf: expected a share between 0 and 1"),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, str | float], words: str
) -> None:
    photographs(tmp_path / "s", ("images", "masks"), range(10))
    with pytest.raises(InputError, match=words):
        isic.prepare(tmp_path / "s", tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
