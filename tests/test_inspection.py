"""What `check` and `require_sound` find in folders with one fault each."""

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vqseg import inspection, rarity
from vqseg.errors import InputError
from vqseg.files import parse_yaml
from vqseg.manifest import Manifest, Scan, Split, array_sha256, read_split, write_array, write_manifest, write_split

PARTS = {"labelled": ["a"], "unlabelled": ["b", "c"], "val": ["d"], "test": ["e"]}
Arrays = dict[str, tuple[np.ndarray, np.ndarray | None]]


def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    made: Arrays = {}
    for patient in "abcde":
        image = rng.integers(0, 256, (3, 8, 10)).astype(np.uint8)
        image[0] = 0  # a blank slice, which all patients share without leaking
        made[patient] = image, rng.integers(0, 3, (3, 8, 10)).astype(np.uint8)
    return made


def prepared(
    root: Path,
    content: Arrays | None = None,
    parts: dict[str, list[str]] = PARTS,
    *,
    spacing: str = "abcde",
    channels: int = 1,
    lesions: dict[str, float] | None = None,
) -> tuple[Manifest, Split]:
    scans = []
    for patient, (image, mask) in (content or arrays()).items():
        write_array(root / "images" / f"{patient}.npz", image=image)
        if mask is not None:
            write_array(root / "masks" / f"{patient}.npz", mask=mask)
        scans.append(
            Scan(
                scan=patient,
                patient=patient,
                slices=list(range(len(image))),
                shape=image.shape[:3],
                spacing_mm=(9, 1, 1) if patient in spacing else None,
                image=f"images/{patient}.npz",
                image_sha256=array_sha256(image),
                range=(0, 1),
                mask=None if mask is None else f"masks/{patient}.npz",
                mask_sha256=None if mask is None else array_sha256(mask),
                class_voxels=None if mask is None else np.bincount(mask.ravel(), minlength=3)[:3].tolist(),
            )
        )
    manifest = Manifest(
        name="tiny",
        classes=["background", "x", "y"],
        channels=channels,
        lesions=lesions or {},
        source={},
        default_split="s",
        scans=scans,
    )
    split = Split(name="s", data=manifest.digest, parts=parts)
    write_manifest(root, manifest)
    write_split(root, split)
    return manifest, split


def test_sound_folder(tmp_path: Path) -> None:
    manifest, split = prepared(tmp_path, spacing="abd")
    report = inspection.check(tmp_path)
    assert report.problems == []
    assert report.label_share == pytest.approx(1 / 3)
    unlabelled = report.parts["unlabelled"]
    assert (unlabelled.images, unlabelled.patients, unlabelled.scans, unlabelled.images_with_mask) == (6, 2, 2, 6)
    assert [report.parts[part].spacing for part in ("labelled", "unlabelled", "test")] == ["known", "partly", "unknown"]
    assert (unlabelled.rows, unlabelled.columns) == ((8, 8), (10, 10))
    mask = arrays()["a"][1]
    assert mask is not None
    shares = report.parts["labelled"].voxel_share
    assert shares == pytest.approx({"background": (mask == 0).mean(), "x": (mask == 1).mean(), "y": (mask == 2).mean()})
    assert report.parts["labelled"].foreground == pytest.approx((mask > 0).mean())
    inspection.require_sound(tmp_path, manifest, split)


def found(root: Path, *, level: str = "error") -> list[str]:
    return [problem.line() for problem in inspection.check(root).problems if problem.level == level]


def with_image(content: Arrays, patient: str, image: np.ndarray) -> Arrays:
    return {**content, patient: (image, content[patient][1])}


def with_mask(content: Arrays, patient: str, mask: np.ndarray | None) -> Arrays:
    return {**content, patient: (content[patient][0], mask)}


def test_leakage_by_patient(tmp_path: Path) -> None:
    manifest, split = prepared(tmp_path, parts={**PARTS, "val": ["d", "b"]})
    assert "leakage: patient 'b' is in both" in found(tmp_path)[0]
    with pytest.raises(InputError, match="parts unlabelled and val: leakage: patient 'b' is in both"):
        inspection.require_sound(tmp_path, manifest, split)


def test_leakage_by_slice_content(tmp_path: Path) -> None:
    content = arrays()
    image = content["e"][0].copy()
    image[2] = content["a"][0][1]
    prepared(tmp_path, with_image(content, "e", image))
    errors = found(tmp_path)
    assert len(errors) == 1
    assert errors[0].startswith("parts labelled and test: leakage: 1 slice of a and e are identical")


def test_leakage_by_scan_content_before_training(tmp_path: Path) -> None:
    content = arrays()
    manifest, split = prepared(tmp_path, with_image(content, "d", content["b"][0]))
    with pytest.raises(InputError, match="unlabelled and val: leakage: 1 scan of b and d are identical"):
        inspection.require_sound(tmp_path, manifest, split)


def test_same_content_within_a_part_is_no_leakage(tmp_path: Path) -> None:
    content = arrays()
    prepared(tmp_path, with_image(content, "c", content["b"][0]))
    assert found(tmp_path) == []


def test_missing_mask_of_a_labelled_patient(tmp_path: Path) -> None:
    manifest, split = prepared(tmp_path, with_mask(arrays(), "a", None))
    assert found(tmp_path)[0].startswith("part labelled, scan a: has no mask; add its mask")
    with pytest.raises(InputError, match="part labelled, scan a: has no mask"):
        inspection.require_sound(tmp_path, manifest, split)


def test_missing_mask_of_an_unlabelled_patient_is_fine(tmp_path: Path) -> None:
    manifest, split = prepared(tmp_path, with_mask(arrays(), "b", None))
    assert found(tmp_path) == []
    inspection.require_sound(tmp_path, manifest, split)
    with pytest.raises(InputError, match="part unlabelled, scan b: has no mask"):
        inspection.require_sound(tmp_path, manifest, split, read_masks_of=("labelled", "unlabelled", "val"))


def delete(path: Path) -> None:
    path.unlink()


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def resize(path: Path) -> None:
    key = path.parent.name.removesuffix("s")
    write_array(path, **{key: np.zeros((3, 5, 5), np.uint8)})


def alter(path: Path) -> None:
    key = path.parent.name.removesuffix("s")
    write_array(path, **{key: np.ones((3, 8, 10), np.uint8)})


def retype(path: Path) -> None:
    write_array(path, **{path.parent.name.removesuffix("s"): np.ones((3, 8, 10), np.float32)})


def widen(path: Path) -> None:
    write_array(path, **{path.parent.name.removesuffix("s"): np.ones((3, 8, 10), np.uint32)})


def recolor(path: Path) -> None:
    write_array(path, image=np.ones((3, 8, 10, 3), np.uint8))


def outside(path: Path) -> None:
    write_array(path, mask=np.full((3, 8, 10), 7, np.uint8))


@pytest.mark.parametrize("name", ["images/a.npz", "masks/a.npz", "images/c.npz", "masks/d.npz"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (delete, "missing"),
        (damage, "not readable"),
        (resize, "shape (3, 5, 5), the manifest says (3, 8, 10)"),
        (alter, "its content is not what the manifest recorded"),
        (retype, "holds float32, expected uint8"),
        (widen, "holds uint32, expected uint8"),
    ],
)
def test_harmed_file_is_named(tmp_path: Path, name: str, harm: Callable[[Path], None], words: str) -> None:
    manifest, split = prepared(tmp_path)
    harm(tmp_path / name)
    errors = found(tmp_path)
    assert len(errors) == 1
    assert errors[0].startswith(f"{name}: {words}")
    assert errors[0].endswith("; import the data again")
    with pytest.raises(InputError) as caught:
        inspection.require_sound(tmp_path, manifest, split)
    assert f"{name}: {words}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_channels_and_mask_values(tmp_path: Path) -> None:
    prepared(tmp_path)
    recolor(tmp_path / "images/a.npz")
    outside(tmp_path / "masks/d.npz")
    errors = found(tmp_path)
    assert "images/a.npz: has 3 channels, the manifest says 1; import the data again" in errors
    assert "masks/d.npz: mask value 7 is outside the classes 0 to 2; correct the source and import again" in errors


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_sixteen_bits_and_several_channels_are_sound(tmp_path: Path, channels: int) -> None:
    shape = (3, 8, 10, channels) if channels > 1 else (3, 8, 10)
    content = {
        patient: (np.random.default_rng(number).integers(0, 65536, shape).astype(np.uint16), mask)
        for number, (patient, (_, mask)) in enumerate(arrays().items())
    }
    manifest, split = prepared(tmp_path, content, channels=channels)
    assert inspection.check(tmp_path).problems == []
    inspection.require_sound(tmp_path, manifest, split)
    write_array(tmp_path / "images" / "a.npz", image=np.ones((3, 8, 10, 4), np.uint16))
    assert f"images/a.npz: has 4 channels, the manifest says {channels}; import the data again" in found(tmp_path)


def test_a_mask_of_sixteen_bits_is_damaged(tmp_path: Path) -> None:
    prepared(tmp_path)
    write_array(tmp_path / "masks" / "a.npz", mask=np.ones((3, 8, 10), np.uint16))
    assert found(tmp_path) == ["masks/a.npz: holds uint16, expected uint8; import the data again"]


def test_hidden_masks_are_not_opened(tmp_path: Path) -> None:
    manifest, split = prepared(tmp_path)
    for poisoned in ("masks/b.npz", "masks/c.npz", "masks/e.npz"):
        (tmp_path / poisoned).write_bytes(b"poison")
    inspection.require_sound(tmp_path, manifest, split)
    with pytest.raises(InputError, match=r"masks/b.npz: not readable"):
        inspection.require_sound(tmp_path, manifest, split, read_masks_of=("labelled", "unlabelled", "val"))


@pytest.mark.parametrize("part", ["labelled", "unlabelled", "val"])
def test_empty_part(tmp_path: Path, part: str) -> None:
    manifest, split = prepared(tmp_path, parts={**PARTS, part: []})
    level = "warning" if part == "unlabelled" else "error"
    assert any(line.startswith(f"part {part}: is empty") for line in found(tmp_path, level=level))
    with pytest.raises(InputError, match=f"part {part}: is empty"):
        inspection.require_sound(tmp_path, manifest, split)
    inspection.require_sound(tmp_path, manifest, split, parts=[name for name in ("labelled", "val") if name != part])


@pytest.mark.parametrize("part", ["labelled", "val"])
def test_a_part_that_is_not_there_is_an_error_as_it_is_in_training(tmp_path: Path, part: str) -> None:
    manifest, split = prepared(tmp_path, parts={name: who for name, who in PARTS.items() if name != part})
    line = f"part {part}: is empty; choose another split, see 'vqseg data split --help'"
    assert found(tmp_path) == [line]
    with pytest.raises(InputError) as caught:
        inspection.require_sound(tmp_path, manifest, split)
    assert str(caught.value).endswith(line)


def test_scans_of_two_dtypes_are_an_error(tmp_path: Path) -> None:
    content = arrays()
    prepared(tmp_path, with_image(content, "c", content["c"][0].astype(np.uint16) * 257))
    (line,) = found(tmp_path)
    assert line.startswith("images: c is uint16 and a is uint8; expected one of them for all; mend the importer")


def test_slices_of_one_color_are_no_leakage(tmp_path: Path) -> None:
    content = arrays()
    rng = np.random.default_rng(1)
    for patient, (_, mask) in content.items():
        image = rng.integers(0, 256, (3, 8, 10, 3)).astype(np.uint8)
        image[0] = (9, 8, 7)
        content[patient] = image, mask
    prepared(tmp_path, content, channels=3)
    assert inspection.check(tmp_path).problems == []


def test_unknown_and_repeated_patients(tmp_path: Path) -> None:
    manifest, split = prepared(tmp_path, parts={**PARTS, "unlabelled": ["b", "zz", "b"]})
    errors = found(tmp_path)
    assert any("patient 'zz' is not in the data" in line for line in errors)
    assert any("names patient 'b' twice" in line for line in errors)
    with pytest.raises(InputError, match="'zz' is not in the data"):
        inspection.require_sound(tmp_path, manifest, split)


def test_warnings(tmp_path: Path) -> None:
    faint = np.zeros((3, 8, 10), np.uint8)
    faint[0, 0, 0] = 1
    content = with_mask(with_mask(arrays(), "a", faint), "d", faint)
    manifest, split = prepared(tmp_path, content)
    warnings = found(tmp_path, level="warning")
    assert any(line.startswith("part val: foreground is 0.42% of the voxels, under 0.5%") for line in warnings)
    assert any(line.startswith("part labelled: class 'y' never occurs") for line in warnings)
    assert found(tmp_path) == []
    inspection.require_sound(tmp_path, manifest, split)


def spotted() -> Arrays:
    """Patients of 50 slices: class x in every slice, class y as two spots in one slice and a third in another."""
    made: Arrays = {}
    for number, patient in enumerate("abcde"):
        mask = np.zeros((50, 20, 20), np.uint8)
        mask[:, :10] = 1
        mask[number, 15:17, 2:4] = 2
        mask[number, 17, 4] = 2  # touches the first by a corner: one lesion
        mask[number, 15, 15] = 2
        mask[40, 12, 12] = 2
        made[patient] = np.random.default_rng(number).integers(0, 256, mask.shape).astype(np.uint8), mask
    return made


def test_rare_foreground_names_the_settings_that_help(tmp_path: Path) -> None:
    prepared(tmp_path, spotted())
    (line,) = found(tmp_path, level="warning")
    assert line.startswith("part labelled: rare foreground: 'y' in 4.0% of the slices, 0.035% of the voxels; ")
    assert "--set data.foreground_share=0.5 " in line
    assert "--set method.segmentation=dice_ce," in line
    assert "--set method.class_confidence='{y: 0.7}' " in line
    assert f"vqseg data mark {tmp_path} --lesion y" in line
    assert "\n" not in line
    report = inspection.check(tmp_path)
    assert report.parts["labelled"].slice_share == pytest.approx({"x": 1.0, "y": 0.04})
    assert report.parts["labelled"].lesions == {}


def test_marked_lesions_are_counted_where_masks_may_be_opened(tmp_path: Path) -> None:
    content = spotted()
    hidden = content["b"][1]
    assert hidden is not None
    prepared(tmp_path, content, {**PARTS, "test": ["e", "c"], "unlabelled": ["b"]}, lesions={"y": 2.0})
    report = inspection.check(tmp_path)
    assert report.parts["labelled"].lesions == {"y": (3, 3, 3)}
    assert report.parts["test"].lesions == {"y": (6, 3, 3)}
    unlabelled = report.parts["unlabelled"]
    assert (unlabelled.lesions, unlabelled.slice_share) == (None, None)
    (warning,) = [problem for problem in report.problems if problem.level == "warning"]
    assert "vqseg data mark" not in warning.do


def test_lesions_run_through_slices() -> None:
    mask = np.zeros((4, 6, 6), np.uint8)
    mask[0, 1, 1] = mask[1, 2, 2] = 1  # neighbors by a corner, one slice on
    mask[3, 1, 1] = 1
    held = rarity.content(mask, ["background", "x", "y"], ["x", "y"])
    assert held.lesions == {"x": 2, "y": 0}
    assert held.slices.tolist() == [4, 3, 0]
    assert held.voxels.tolist() == [141, 3, 0]


@pytest.mark.parametrize("name", ["nodule", "left lung", "no", "it's", "a: b", "7", "x, y"])
def test_class_names_survive_the_shell_and_yaml(name: str) -> None:
    found = rarity.advice(Path("my data"), {name: 0.01, "big": 0.5}, {name: 0.00001, "big": 0.3}, [])
    assert found is not None
    words = shlex.split(found[1].replace(";", " ; "))
    setting = next(word for word in words if word.startswith("method.class_confidence="))
    assert parse_yaml(setting.split("=", 1)[1]) == {name: 0.7}
    setting = next(word for word in words if word.startswith("data.foreground_classes="))
    assert parse_yaml(setting.split("=", 1)[1]) == [name]
    assert words[-4:] == ["mark", "my data", "--lesion", name]


def test_what_is_not_rare_needs_no_advice() -> None:
    assert rarity.advice(Path("d"), {"x": 0.05, "y": 0.0}, {"x": 0.001, "y": 0.0}, []) is None
    assert rarity.advice(Path("d"), {"x": 0.049}, {"x": 0.01}, []) is not None
    found = rarity.advice(Path("d"), {"x": 1.0}, {"x": 0.0009}, [])
    assert found is not None and "foreground_classes" not in found[1]


def test_not_a_prepared_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a prepared data folder"):
        inspection.check(tmp_path)
    manifest, _ = prepared(tmp_path)
    with pytest.raises(InputError, match="unknown split"):
        inspection.check(tmp_path, "t")
    assert read_split(tmp_path, manifest).name == "s"
