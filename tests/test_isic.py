"""The ISIC importer: published layouts, the photograph that becomes a slice, and what is refused."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_importers import pictures

from vqseg import inspection
from vqseg.errors import InputError
from vqseg.importers import folder, isic
from vqseg.manifest import Manifest, Scan, read_image, read_manifest, read_mask, read_split

TRAINING = ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth")
VALIDATION = ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth")
TEST = ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth")


def photographs(
    source: Path,
    folders: tuple[str, str],
    numbers: Sequence[int],
    *,
    suffix: str = "_segmentation",
    size: tuple[int, int] = (30, 40),
    kind: str = ".jpg",
) -> None:
    """Write images (rows x columns) with a rectangle of a lesion each, different for every number."""
    for place in folders:
        (source / place).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        rng = np.random.default_rng(number)
        image = rng.integers(90, 200, (*size, 3)).astype(np.uint8)
        mask = np.zeros(size, np.uint8)
        mask[5 : 12 + number % 7, 4:20] = 255
        name = f"ISIC_{number:07d}"
        Image.fromarray(image).save(source / folders[0] / f"{name}{kind}")
        Image.fromarray(mask).save(source / folders[1] / f"{name}{suffix}.png")


def scan_of(manifest: Manifest, name: str) -> Scan:
    return next(scan for scan in manifest.scans if scan.scan == name)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """All three parts of 2018: 20 training, 3 validation and 4 test images."""
    root = tmp_path / "isic"
    for folders, numbers in ((TRAINING, range(20)), (VALIDATION, range(20, 23)), (TEST, range(30, 34))):
        photographs(root, folders, numbers)
    (root / TRAINING[0] / "LICENSE.txt").write_text("CC-0")
    return root


def test_published_parts_are_kept_and_an_image_is_a_patient(source: Path, tmp_path: Path) -> None:
    result = isic.prepare(source, tmp_path / "out", labelled="25%")
    manifest = result.manifest
    assert (manifest.name, manifest.classes, manifest.channels, manifest.color) == (
        "isic-2018",
        ["background", "lesion"],
        3,
        True,
    )
    assert manifest.lesions == {}
    assert len(manifest.patients) == 27
    assert result.splits == ["labelled-all", "labelled-5"]
    parts = read_split(tmp_path / "out", manifest).parts
    assert {part: len(patients) for part, patients in parts.items()} == {
        "labelled": 5,
        "unlabelled": 15,
        "val": 3,
        "test": 4,
    }
    assert parts["test"] == [f"ISIC_{number:07d}" for number in range(30, 34)]
    bound = read_split(tmp_path / "out", manifest, "labelled-all").parts
    assert set(parts["labelled"]) <= set(bound["labelled"])
    assert sorted(parts["labelled"]) != [f"ISIC_{number:07d}" for number in range(5)]  # drawn, not the first
    assert inspection.check(tmp_path / "out").problems == []


@pytest.mark.parametrize(
    ("training", "test", "suffix", "name"),
    [
        (
            ("ISBI2016_ISIC_Part1_Training_Data", "ISBI2016_ISIC_Part1_Training_GroundTruth"),
            ("ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"),
            "_Segmentation",
            "isic-2016",
        ),
        (
            ("ISIC2016_Training_Data", "ISBI2016_ISIC_Part1_Training_GroundTruth"),
            ("ISIC2016_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"),
            "_Segmentation",
            "isic-2016",
        ),
        (
            ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"),
            ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth"),
            "_segmentation",
            "isic-2017",
        ),
        (
            ("deep/ISIC-2017_Training_Data", "deep/ISIC-2017_Training_Part1_GroundTruth"),
            ("deep/ISIC-2017_Test_v2_Data", "deep/ISIC-2017_Test_v2_Part1_GroundTruth"),
            "_segmentation",
            "isic-2017",
        ),
    ],
)
def test_layouts_of_the_years(
    tmp_path: Path, training: tuple[str, str], test: tuple[str, str], suffix: str, name: str
) -> None:
    source = tmp_path / "source"
    photographs(source, training, range(10), suffix=suffix)
    photographs(source, test, range(10, 12), suffix=suffix)
    for number in range(10):  # 2017 has superpixels among the images
        Image.new("RGB", (40, 30)).save(source / training[0] / f"ISIC_{number:07d}_superpixels.png")
    result = isic.prepare(source, tmp_path / "out", labelled="2")
    assert result.manifest.name == name
    assert len(result.manifest.scans) == 12
    parts = read_split(tmp_path / "out", result.manifest).parts
    assert {part: len(patients) for part, patients in parts.items()} == {
        "labelled": 2,
        "unlabelled": 7,
        "test": 2,
        "val": 1,
    }


def test_ham_and_plain_folders_draw_their_parts(tmp_path: Path) -> None:
    ham, plain = tmp_path / "ham", tmp_path / "my set"
    drawn = "HAM10000_segmentations_lesion_tschandl"
    photographs(ham, ("HAM10000_images_part_1", drawn), range(6))
    photographs(ham, ("HAM10000_images_part_2", drawn), range(6, 10))
    photographs(plain, ("images", "masks"), range(10), suffix="", kind=".png")
    for source, name in ((ham, "ham10000"), (plain, "my-set")):
        result = isic.prepare(source, tmp_path / name, labelled="all", val=0.2, test=0.3)
        assert result.manifest.name == name
        assert result.splits == ["labelled-all"]
        parts = read_split(tmp_path / name, result.manifest).parts
        assert {part: len(patients) for part, patients in parts.items() if patients} == {
            "labelled": 5,
            "test": 3,
            "val": 2,
        }


def test_a_photograph_is_shrunk_whole_and_its_mask_by_the_nearest_pixel(tmp_path: Path) -> None:
    source = tmp_path / "s"
    photographs(source, ("images", "masks"), range(4), size=(60, 80), kind=".png")
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, ::2] = (100, 200, 50)  # stripes of one pixel: shrunk with antialiasing, they are half as bright
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 40:80] = 255
    Image.fromarray(image).save(source / "images" / "ISIC_0000000.png")
    Image.fromarray(mask).save(source / "masks" / "ISIC_0000000_segmentation.png")
    manifest = isic.prepare(source, tmp_path / "out", labelled="1", max_side=40, val=0.25, test=0.25).manifest
    scan = scan_of(manifest, "ISIC_0000000")
    assert (scan.patient, scan.shape, scan.spacing_mm, scan.slices) == ("ISIC_0000000", (1, 30, 40), None, [1])
    held = read_image(tmp_path / "out", scan)[0]
    assert held.shape == (30, 40, 3)
    assert np.abs(held[:, 2:-2].astype(int) - [50, 100, 25]).max() <= 1
    expected = np.zeros((30, 40), np.uint8)
    expected[10:20, 20:40] = 1
    np.testing.assert_array_equal(read_mask(tmp_path / "out", scan)[0], expected)
    assert manifest.intake == {"kind": "picture", "max_side": 40, "window": None}
    assert manifest.source["max_side"] == 40
    # A smaller one is kept, pixel by pixel.
    whole = isic.prepare(source, tmp_path / "whole", labelled="1", val=0.25, test=0.25).manifest
    kept = read_image(tmp_path / "whole", scan_of(whole, "ISIC_0000000"))[0]
    np.testing.assert_array_equal(kept, image)


def test_a_table_groups_images_and_gives_columns(tmp_path: Path) -> None:
    source = tmp_path / "s"
    photographs(source, ("images", "masks"), range(10))
    rows = [f"ISIC_{n:07d},,HAM_{n // 2},{'nv' if n < 6 else 'mel'},{20 + n}" for n in range(9)]
    table = tmp_path / "metadata.csv"
    head = "image_id,patient_id,lesion_id,dx,age\n"
    table.write_text(head + "\n".join(rows) + "\nISIC_0000009,p9,HAM_9,nv,50\n")
    manifest = isic.prepare(source, tmp_path / "out", labelled="1", patients=table).manifest
    assert manifest.patients == ["HAM_0", "HAM_1", "HAM_2", "HAM_3", "HAM_4", "p9"]
    assert manifest.attributes["HAM_0"] == {"dx": "nv", "age": "20+21"}
    assert manifest.attributes["p9"] == {"dx": "nv", "age": "50"}
    # A changed column comes in by a second call; another patient of an image would be another data set.
    table.write_text(head + "\n".join(rows) + "\nISIC_0000009,p9,HAM_9,bcc,50\n")
    second = isic.prepare(source, tmp_path / "out", labelled="1", patients=table)
    assert (second.written, second.manifest.attributes["p9"]["dx"]) == (0, "bcc")
    assert second.manifest.digest == manifest.digest
    table.write_text(head + "\n".join(rows) + "\nISIC_0000009,p8,HAM_9,bcc,50\n")
    with pytest.raises(InputError, match="'ISIC_0000009' of the source has changed"):
        isic.prepare(source, tmp_path / "out", labelled="1", patients=table)


def test_a_table_without_patients_gives_columns_only(tmp_path: Path) -> None:
    source = tmp_path / "s"
    photographs(source, ("images", "masks"), range(6))
    table = source / "ISIC_metadata.csv"
    table.write_text("image_id,sex\n" + "".join(f"ISIC_{n:07d},{'fm'[n % 2]}\n" for n in range(6)))
    result = isic.prepare(source, tmp_path / "out", labelled="1", patients=table)
    assert len(result.manifest.patients) == 6
    assert any("every image is a patient of its own" in note for note in result.notes)
    hint = isic.prepare(source, tmp_path / "two", labelled="1").notes
    assert any("ISIC_metadata.csv is not used; --patients" in note for note in hint)


def test_the_folder_importer_says_color_and_keeps_the_columns_of_a_table(tmp_path: Path) -> None:
    names = {"train-label": ["a", "b"], "train-unlabel": ["c"], "val": ["d"]}
    source, table = pictures(tmp_path / "s", names, color=True), tmp_path / "table.csv"
    table.write_text("image,patient,site\na,p,x\nb,p,y\nc.png,q,x\nd,r,\n")
    first = folder.prepare(source, tmp_path / "out", patients=table)
    assert (first.manifest.color, first.manifest.intake) == (
        True,
        {"kind": "picture", "max_side": None, "window": None},
    )
    assert first.manifest.attributes == {"p": {"site": "x+y"}, "q": {"site": "x"}, "r": {"site": ""}}
    table.write_text("image,patient,site\na,p,x\nb,p,x\nc.png,q,x\nd,r,y\n")
    second = folder.prepare(source, tmp_path / "out", patients=table)
    assert (second.written, second.manifest.attributes["p"]) == (0, {"site": "x"})
    table.write_text("image,patient,site\na,p,x\nb,,x\nc.png,q,x\nd,r,y\n")
    with pytest.raises(InputError, match="names no patient for image b; fill it in"):
        folder.prepare(source, tmp_path / "out", patients=table)
    gray = folder.prepare(pictures(tmp_path / "g", names), tmp_path / "gray", pattern="(?P<patient>.+)")
    assert (gray.manifest.color, gray.manifest.channels) == (False, 1)


def test_training_images_without_masks_are_unlabelled(source: Path, tmp_path: Path) -> None:
    for number in (3, 4):
        (source / TRAINING[1] / f"ISIC_{number:07d}_segmentation.png").unlink()
    result = isic.prepare(source, tmp_path / "out", labelled="4")
    assert "2 training images have no mask: unlabelled" in result.notes
    for name, count in (("labelled-4", 4), ("labelled-all", 18)):
        parts = read_split(tmp_path / "out", result.manifest, name).parts
        assert len(parts["labelled"]) == count
        assert {"ISIC_0000003", "ISIC_0000004"} <= set(parts["unlabelled"])


def test_images_of_a_part_without_ground_truth_are_left_out(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source / VALIDATION[1])
    result = isic.prepare(source, tmp_path / "out", labelled="2", val=0.2)
    assert f"{VALIDATION[0]}: no ground truth beside it, left out" in result.notes
    parts = read_split(tmp_path / "out", result.manifest).parts
    assert (len(parts["val"]), len(parts["test"])) == (5, 4)
    assert "ISIC_0000020" not in result.manifest.patients


def test_an_image_in_two_published_parts_is_left_out_of_training(source: Path, tmp_path: Path) -> None:
    shutil.copy(source / TEST[0] / "ISIC_0000030.jpg", source / TRAINING[0] / "ISIC_0000005.jpg")
    shutil.copy(source / TEST[0] / "ISIC_0000031.jpg", source / VALIDATION[0] / "ISIC_0000021.jpg")
    result = isic.prepare(source, tmp_path / "out", labelled="2")
    split = read_split(tmp_path / "out", result.manifest)
    everyone = [patient for patients in split.parts.values() for patient in patients]
    assert not {"ISIC_0000005", "ISIC_0000021"} & set(everyone)
    assert split.parts["val"] == ["ISIC_0000020", "ISIC_0000022"]
    assert "left out, the same image as one of val or test: ISIC_0000021, ISIC_0000005" in split.note
    assert inspection.check(tmp_path / "out").errors == []


def test_a_second_call_does_nothing_and_an_interrupted_one_resumes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    whole = isic._read

    def stumble(item: isic.Item, max_side: int) -> object:
        calls.append(item.name)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return whole(item, max_side)

    monkeypatch.setattr(isic, "_read", stumble)
    with pytest.raises(KeyboardInterrupt):
        isic.prepare(source, tmp_path / "out", labelled="2")
    assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.undo()
    resumed = isic.prepare(source, tmp_path / "out", labelled="2")
    assert (resumed.written, resumed.kept) == (20, 7)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again = isic.prepare(source, tmp_path / "out", labelled="2")
    assert (again.written, again.splits) == (0, [])
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    more = isic.prepare(source, tmp_path / "out", labelled="6")
    assert (more.splits, more.manifest.default_split) == (["labelled-6"], "labelled-6")
    with pytest.raises(InputError, match="already holds 'isic-2018'"):
        isic.prepare(source, tmp_path / "out", labelled="2", max_side=20)


def test_marking_the_lesion_is_an_option(source: Path, tmp_path: Path) -> None:
    assert isic.prepare(source, tmp_path / "out", lesion=True).manifest.lesions == {"lesion": 2.0}


def empty(source: Path) -> None:
    shutil.rmtree(source / TRAINING[1])


def another_year(source: Path) -> None:
    photographs(source, ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"), range(50, 52))


def lone_mask(source: Path) -> None:
    (source / TRAINING[0] / "ISIC_0000002.jpg").unlink()


def bare_test_image(source: Path) -> None:
    (source / TEST[1] / "ISIC_0000033_segmentation.png").unlink()


def resized(source: Path) -> None:
    Image.new("L", (40, 31)).save(source / TRAINING[1] / "ISIC_0000002_segmentation.png")


def gray_mask(source: Path) -> None:
    Image.new("L", (40, 30), 128).save(source / TRAINING[1] / "ISIC_0000002_segmentation.png")


def deep_image(source: Path) -> None:
    (source / TRAINING[0] / "ISIC_0000002.jpg").unlink()
    Image.fromarray(np.zeros((30, 40), np.uint16)).save(source / TRAINING[0] / "ISIC_0000002.png")


def cut(source: Path) -> None:
    path = source / TRAINING[0] / "ISIC_0000002.jpg"
    path.write_bytes(path.read_bytes()[:400])


def twice(source: Path) -> None:
    photographs(source, VALIDATION, [2])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (empty, "no training images with ground truth; expected folders such as ISIC2018_Task1-2_Training_Input"),
        (another_year, "holds ISIC 2017 and 2018; give the folder of one year"),
        (lone_mask, "ISIC_0000002_segmentation.png: has no image in"),
        (bare_test_image, "ISIC_0000033.jpg: has no mask in"),
        (resized, "ISIC_0000002_segmentation.png: 31 x 40 pixels, its image has 30 x 40"),
        (gray_mask, "ISIC_0000002_segmentation.png: mask value 128; expected 0 and 255"),
        (deep_image, "ISIC_0000002.png: has more than 8 bits a channel"),
        (cut, "ISIC_0000002.jpg: not readable as an image"),
        (twice, "ISIC_0000002.jpg: the same name as"),
    ],
)
def test_a_bad_source_is_named_in_one_line(source: Path, tmp_path: Path, harm: object, words: str) -> None:
    assert callable(harm)
    harm(source)
    with pytest.raises(InputError) as caught:
        isic.prepare(source, tmp_path / "out", labelled="2")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_options_that_cannot_be(source: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "out", tmp_path / "table.csv"
    with pytest.raises(InputError, match=r"--val 0.2: .*Validation_Input is there already"):
        isic.prepare(source, out, val=0.2)
    with pytest.raises(InputError, match="--max-side 8: expected at least 16"):
        isic.prepare(source, out, max_side=8)
    with pytest.raises(InputError, match="no such folder; expected the folders of an ISIC challenge"):
        isic.prepare(tmp_path / "none", out)
    table.write_text("isic_id,patient_id\n" + "".join(f"ISIC_{n:07d},p{n % 10}\n" for n in range(34)))
    with pytest.raises(InputError, match=r"patient 'p0' has images in .*Training_Input .* and .*Validation_Input"):
        isic.prepare(source, out, patients=table)
    table.write_text("isic_id,patient_id\nISIC_0000000,a\n")
    with pytest.raises(InputError, match=r"table.csv: has no row for image ISIC_0000001.jpg"):
        isic.prepare(source, out, patients=table)
    table.write_text("isic_id,patient_id\nISIC_0000000,a\nISIC_0000000,b\n")
    with pytest.raises(InputError, match="'ISIC_0000000' stands twice, with different contents"):
        isic.prepare(source, out, patients=table)
    assert not out.exists()


def test_the_manifest_on_disk_is_what_was_said(source: Path, tmp_path: Path) -> None:
    result = isic.prepare(source, tmp_path / "out", name="skin", labelled="2")
    held = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (held["name"], held["color"], held["source"]["layout"]) == ("skin", True, "isic-2018")
    assert read_manifest(tmp_path / "out") == result.manifest
