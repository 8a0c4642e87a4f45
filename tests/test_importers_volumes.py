"""Importers of volumes: the truth comes back as it was; ranges, bits, splits and tables; what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from vqseg import volumes
from vqseg.cli import volumes as commands
from vqseg.errors import InputError
from vqseg.importers import acdc, nifti, nnunet, writer
from vqseg.importers.intensities import bits_for, look
from vqseg.importers.layouts import Options
from vqseg.importers.nifti import IMAGE_WORDS, MASK_WORDS, _plain
from vqseg.importers.parts import Wanted, first
from vqseg.intake import Channel, Intake
from vqseg.manifest import Manifest, read_image, read_manifest, read_mask, read_split
from vqseg.marks import mark

OBLIQUE = np.array(
    [[0.0, -0.35, 7.9, -30], [-0.7, 0.1, 0.9, 12.5], [0.05, 0.62, 1.4, -88], [0, 0, 0, 1]], np.float32
).astype(float)
# Intensities of an MR: whole numbers, more than 256 of them.
MR = (0, 900)


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 5.0, 1.0]) if affine is None else affine), path)
    return path


def blobs(shape: tuple[int, ...], rng: np.random.Generator, classes: int = 3) -> np.ndarray:
    """Boxes of class indices, so that masks have a shape."""
    mask = np.zeros(shape, np.uint8)
    for value in range(1, classes):
        place = tuple(
            slice(at := int(rng.integers(0, max(1, side // 2))), at + max(1, side // 3)) for side in shape[:3]
        )
        mask[place] = value
    return mask


def volumes_of(
    root: Path,
    count: int = 6,
    shape: tuple[int, ...] = (12, 14, 4),
    *,
    affine: np.ndarray | None = None,
    mask_shape: tuple[int, ...] | None = None,
    span: tuple[int, int] = MR,
    dtype: Any = np.int16,
    bare: int = 0,
) -> Path:
    """Write images/case_N.nii.gz and masks/case_N_seg.nii.gz; the last ``bare`` cases have no mask."""
    rng = np.random.default_rng(0)
    for number in range(count):
        values = rng.integers(*span, shape, endpoint=True).astype(dtype)
        values.flat[0], values.flat[-1] = span
        save(root / "images" / f"case_{number}.nii.gz", values, affine)
        if number < count - bare:
            mask = blobs(mask_shape or shape[:3], rng)
            save(root / "masks" / f"case_{number}_seg.nii.gz", mask, affine)
    return root


def bring(root: Path, out: Path, **options: Any) -> Manifest:
    own = {key: options.pop(key) for key in ("classes", "frames") if key in options}
    return nifti.prepare(root / "images", out, masks=root / "masks", options=Options(**options), **own).manifest


def written_back(out: Path, manifest: Manifest, case: str, path: Path) -> Any:
    """Send the stored truth of a case the way that predictions go."""
    scans = [scan for scan in manifest.scans if scan.scan == case or scan.scan.startswith(f"{case}_t")]
    assert all(scan.grid is not None for scan in scans)
    volumes.write_back(path, [read_mask(out, scan) for scan in scans], [scan.grid for scan in scans if scan.grid])
    return nibabel.load(path)


def same(written: Any, truth: Path) -> None:
    expected = nibabel.load(truth)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), np.asanyarray(expected.dataobj))
    np.testing.assert_array_equal(written.affine, expected.affine)


# --- the truth comes back ------------------------------------------------------------------------

SHAPES: dict[str, dict[str, Any]] = {
    "anisotropic": {"affine": np.diag([-0.8, -1.2, 6.0, 1.0])},
    "rotated": {"affine": OBLIQUE},
    "sideways": {"shape": (4, 14, 12), "affine": np.array([[0, 0, 1, 0], [0, -1, 0, 5], [6, 0, 0, 0], [0, 0, 0, 1.0]])},
    "single slice": {"shape": (12, 14, 1), "affine": np.diag([1.0, 1.0, 1.0, 1.0])},
    "one slice, sagittal": {"shape": (1, 14, 12), "affine": np.diag([1.0, 1.0, 1.0, 1.0])},
    "two dimensions": {"shape": (12, 14)},
    "channels": {"shape": (12, 14, 4, 3), "affine": OBLIQUE},
    "time points": {"shape": (12, 14, 4, 11), "mask_shape": (12, 14, 4, 11), "affine": OBLIQUE},
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("finer", [False, True])
def test_truth_comes_back_exactly(tmp_path: Path, kind: str, finer: bool) -> None:
    options = dict(SHAPES[kind])
    root = volumes_of(tmp_path, 4, **options)
    manifest = bring(root, tmp_path / "out", spacing_mm=0.45 if finer else None)
    for number in range(4):
        path = tmp_path / "back" / f"case_{number}.nii.gz"
        same(
            written_back(tmp_path / "out", manifest, f"case_{number}", path),
            root / "masks" / f"case_{number}_seg.nii.gz",
        )
    slices = {scan.shape[0] for scan in manifest.scans}
    assert slices == {4 if kind not in ("single slice", "one slice, sagittal", "two dimensions") else 1}
    assert (manifest.scans[0].grid is not None and manifest.scans[0].grid.resampled is not None) == finer
    assert len(manifest.scans) == (44 if kind == "time points" else 4)
    assert manifest.channels == (3 if kind == "channels" else 1)


def test_truth_comes_back_nearly_after_coarser_pixels(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:160, :150]
    for number in range(3):
        mask = np.zeros((160, 150, 2), np.uint8)
        mask[np.hypot(rows - 80, columns - 75 - number) < 55] = 1
        save(tmp_path / "images" / f"case_{number}.nii.gz", mask.astype(np.int16) * 500, OBLIQUE)
        save(tmp_path / "masks" / f"case_{number}.nii.gz", mask, OBLIQUE)
    manifest = bring(tmp_path, tmp_path / "out", spacing_mm=1.0)
    assert manifest.scans[0].shape == (2, 108, 112)  # sagittal: the head's side first, then front to back
    assert manifest.scans[0].spacing_mm == pytest.approx((8.073, 1.0, 1.0), rel=0.01)
    for number in range(3):
        written = written_back(tmp_path / "out", manifest, f"case_{number}", tmp_path / "b.nii.gz")
        one = np.asanyarray(written.dataobj) > 0
        two = np.asanyarray(nibabel.load(tmp_path / "masks" / f"case_{number}.nii.gz").dataobj) > 0
        assert 2 * (one & two).sum() / (one.sum() + two.sum()) > 0.99


def test_a_new_file_is_treated_as_the_set_was(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 4, (12, 14, 4, 2), affine=OBLIQUE)
    manifest = bring(root, tmp_path / "out", spacing_mm=1.0)
    intake = Intake.model_validate(read_manifest(tmp_path / "out").intake)
    for scan in manifest.scans:
        (taken,) = volumes.take([root / "images" / f"{scan.scan}.nii.gz"], intake)
        np.testing.assert_array_equal(taken.image, read_image(tmp_path / "out", scan))
        assert (taken.grid, taken.range, taken.spacing_mm) == (scan.grid, scan.range, scan.spacing_mm)


def test_acdc_keeps_grid_and_intake(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(1, 11):
        for frame in ("frame01", "frame12"):
            stem = tmp_path / "acdc" / f"patient{number:03d}" / f"patient{number:03d}_{frame}"
            save(stem.with_suffix(".nii.gz"), rng.integers(0, 900, (6, 5, 3)).astype(np.int16), OBLIQUE)
            save(stem.with_name(f"{stem.name}_gt.nii.gz"), rng.integers(0, 4, (6, 5, 3)).astype(np.uint8), OBLIQUE)
    manifest = acdc.prepare(tmp_path / "acdc", tmp_path / "out").manifest
    intake = Intake.model_validate(manifest.intake)
    for scan in manifest.scans:
        stem = tmp_path / "acdc" / scan.patient / scan.scan
        same(
            written_back(tmp_path / "out", manifest, scan.scan, tmp_path / "b.nii.gz"),
            stem.with_name(f"{stem.name}_gt.nii.gz"),
        )
        (taken,) = volumes.take([stem.with_suffix(".nii.gz")], intake)
        np.testing.assert_array_equal(taken.image, read_image(tmp_path / "out", scan))


# --- intensities ---------------------------------------------------------------------------------


def test_a_ct_needs_a_window_and_one_is_proposed(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 4, span=(-1024, 1500))
    for number in range(4):  # the foreground lies around 100 HU
        mask = np.asanyarray(nibabel.load(root / "masks" / f"case_{number}_seg.nii.gz").dataobj)
        path = root / "images" / f"case_{number}.nii.gz"
        values = np.array(nibabel.load(path).dataobj)
        values[mask > 0] = np.random.default_rng(1).integers(80, 121, int((mask > 0).sum()))
        save(path, values)
    with pytest.raises(InputError) as caught:
        bring(root, tmp_path / "out")
    said = str(caught.value)
    assert said.startswith(f"{root / 'images'}: looks like a CT (intensities from -1024 to 1500) and needs a window")
    assert "add --window -20 220 (98 % of the foreground lie within 81 to 118)" in said
    assert "or --percentiles 0.5 99.5" in said and "\n" not in said
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"add --window -160 240 \(abdomen\), --window -1000 400 \(lung\)"):
        nifti.prepare(root / "images", tmp_path / "out")
    manifest = bring(root, tmp_path / "out", windows=[(-160, 240)])
    assert manifest.scans[0].range == (-160, 240)


def test_few_deep_values_are_no_ct(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 5)
    for number in range(2):
        path = root / "images" / f"case_{number}.nii.gz"
        values = np.array(nibabel.load(path).dataobj)
        values[0, 0, 0] = -2000
        save(path, values)
    assert bring(root, tmp_path / "out").intake["channels"] == [  # type: ignore[index]
        {"name": "image", "source": 0, "window": None, "percentiles": [0.5, 99.5]}
    ]


def test_windows_are_channels_and_bits_follow_them(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 4, span=(-1024, 1500))
    three = [(-160.0, 240.0), (-1000.0, 400.0), (0.0, 80.0)]
    manifest = bring(root, tmp_path / "three", windows=three)
    assert manifest.channels == 3 and manifest.intake is not None and manifest.intake["bits"] == 16
    scan = manifest.scans[0]
    image = read_image(tmp_path / "three", scan)
    assert image.dtype == np.uint16 and scan.range == (-1000, 400)
    assert scan.grid is not None
    values = np.asanyarray(nibabel.load(root / "images" / f"{scan.scan}.nii.gz").dataobj)
    for place, (low, high) in enumerate(three):
        expected = (np.clip(values, low, high) - low) / (high - low)
        np.testing.assert_allclose(volumes.inverse(image[..., place], scan.grid) / 65535, expected, atol=1e-5)
    narrow = bring(root, tmp_path / "narrow", windows=[(0, 255)])
    assert read_image(tmp_path / "narrow", narrow.scans[0]).dtype == np.uint8
    assert bring(root, tmp_path / "wider", windows=[(0, 256)]).intake["bits"] == 16  # type: ignore[index]
    assert bring(root, tmp_path / "asked", windows=[(0, 256)], bits=8).intake["bits"] == 8  # type: ignore[index]


def test_bits_are_as_many_as_the_range_needs() -> None:
    own, fixed = Channel(name="a", percentiles=(0.5, 99.5)), Channel(name="a", window=(-100, 155))
    small, large = (look(np.arange(top).reshape(-1, 1, 1), None, "x") for top in (256, 400))
    halves = look(np.arange(0, 9, 0.5).reshape(-1, 1, 1), None, "x")
    whole = look(np.arange(9.0).reshape(-1, 1, 1), None, "x")
    assert bits_for([own], [small, whole]) == 8
    assert bits_for([own], [small, large]) == 16
    assert bits_for([fixed], [large]) == 8
    assert bits_for([fixed], [halves]) == 16


def test_eight_bit_sources_stay_eight_bit(tmp_path: Path) -> None:
    manifest = bring(volumes_of(tmp_path, 4, span=(0, 255), dtype=np.uint8), tmp_path / "out")
    assert manifest.intake is not None and manifest.intake["bits"] == 8
    manifest = bring(volumes_of(tmp_path / "b", 4), tmp_path / "out-b")
    assert manifest.intake is not None and manifest.intake["bits"] == 16


def test_percentiles_are_of_training_volumes_alone(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 8, bare=2)
    manifest = bring(root, tmp_path / "out", percentiles=(1, 99))
    parts = read_split(tmp_path / "out", manifest).parts
    assert manifest.intake is not None
    before = manifest.intake["channels"][0]["window"]
    train = [*parts["labelled"], *parts["unlabelled"]]
    pool = [np.asanyarray(nibabel.load(root / "images" / f"{name}.nii.gz").dataobj).ravel() for name in train]
    assert before == pytest.approx(np.percentile(np.concatenate(pool), (1, 99)).tolist())
    assert manifest.scans[0].range == tuple(before)

    def changed(part: str, out: str) -> list[float]:
        for name in parts[part]:
            path = root / "images" / f"{name}.nii.gz"
            save(path, np.array(nibabel.load(path).dataobj) * 7)
        again = bring(root, tmp_path / out, percentiles=(1, 99))
        assert read_split(tmp_path / out, again).parts == parts and again.intake is not None
        window: list[float] = again.intake["channels"][0]["window"]
        return window

    assert changed("val", "val-changed") == before
    assert changed("test", "test-changed") == before
    assert changed("unlabelled", "unlabelled-changed") != before


def test_windows_go_to_the_channels_that_are_ct(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        values = np.stack([rng.integers(0, 90, (6, 6, 2)), rng.integers(-1000, 900, (6, 6, 2))], -1).astype(np.int16)
        save(tmp_path / "images" / f"c{number}.nii", values)
        save(tmp_path / "masks" / f"c{number}.nii", blobs((6, 6, 2), rng))
    with pytest.raises(InputError, match="looks like a CT"):
        bring(tmp_path, tmp_path / "out")
    manifest = bring(tmp_path, tmp_path / "out", windows=[(-160, 240), (0, 80)])
    assert manifest.intake is not None
    assert [(one["name"], one["source"], one["window"]) for one in manifest.intake["channels"]] == [
        ("channel 0", 0, None),
        ("channel 1 -160 to 240", 1, [-160, 240]),
        ("channel 1 0 to 80", 1, [0, 80]),
    ]


# --- cases, patients, splits ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("case7", "case7"),
        ("case7", "case7_seg"),
        ("case7", "case7-label"),
        ("case7_image", "case7_mask"),
        ("img0007", "label0007"),
        ("volume-0", "segmentation-0"),
        ("a_imaging", "a_segmentation"),
    ],
)
def test_names_of_images_and_masks(image: str, mask: str) -> None:
    assert mask == image or _plain(image, IMAGE_WORDS) == _plain(mask, MASK_WORDS)


def test_masks_beside_images_and_cases_without(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "d"):
        save(tmp_path / "set" / name / "imaging.nii.gz", rng.integers(0, 90, (6, 6, 2)).astype(np.int16))
        if name != "d":
            save(tmp_path / "set" / name / "segmentation.nii.gz", blobs((6, 6, 2), rng))
    manifest = nifti.prepare(tmp_path / "set", tmp_path / "out").manifest
    assert [(scan.scan, scan.mask is not None) for scan in manifest.scans] == [
        ("a_imaging", True),
        ("b_imaging", True),
        ("c_imaging", True),
        ("d_imaging", False),
    ]
    parts = read_split(tmp_path / "out", manifest).parts
    assert parts["unlabelled"] == ["d_imaging"]
    assert {part: len(patients) for part, patients in parts.items()} == {
        "labelled": 1,
        "unlabelled": 1,
        "test": 1,
        "val": 1,
    }


def test_without_masks_everything_is_unlabelled(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 3, bare=3)
    result = nifti.prepare(root / "images", tmp_path / "out")
    assert result.splits == ["unlabelled"]
    assert read_split(tmp_path / "out", result.manifest).parts == {"unlabelled": ["case_0", "case_1", "case_2"]}
    assert result.manifest.classes == ["background", "foreground"]


def test_patients_and_attributes_come_from_a_table(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 6)
    table = tmp_path / "patients.csv"
    rows = [f"case_{n}{'.nii.gz' if n % 2 else ''},p{n // 2},{'A' if n < 4 else 'B'},{n}" for n in range(6)]
    table.write_text("\n".join(["image,patient,site,day", *rows]))
    manifest = bring(root, tmp_path / "out", patients=table, lesions=["class 2=1.5"])
    assert manifest.patients == ["p0", "p1", "p2"]
    assert manifest.attributes["p1"] == {"site": "A", "day": "2+3"}
    assert manifest.lesions == {"class 2": 1.5}
    assert sorted(len(part) for part in read_split(tmp_path / "out", manifest).parts.values()) == [0, 1, 1, 1]
    table.write_text("\n".join(["image,patient,site,day", *rows[1:]]))
    with pytest.raises(InputError, match=r"patients.csv: has no row for case case_0; add one"):
        bring(root, tmp_path / "other", patients=table)


def test_splits_take_masks_where_masks_count(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 12, bare=4)
    result = nifti.prepare(
        root / "images", tmp_path / "out", masks=root / "masks", options=Options(labelled="2", val=2, test=0.25)
    )
    assert result.splits == ["labelled-all", "labelled-2"]
    parts = read_split(tmp_path / "out", result.manifest).parts
    assert [len(parts[part]) for part in ("labelled", "unlabelled", "val", "test")] == [2, 6, 2, 2]
    bare = {f"case_{number}" for number in range(8, 12)}
    assert bare <= set(parts["unlabelled"])
    every = read_split(tmp_path / "out", result.manifest, "labelled-all").parts
    assert set(every["unlabelled"]) == bare and every["val"] == parts["val"] and every["test"] == parts["test"]
    again = nifti.prepare(
        root / "images", tmp_path / "out", masks=root / "masks", options=Options(labelled="3", val=2, test=0.25)
    )
    assert (again.written, again.splits) == (0, ["labelled-3"])
    for options, words in (
        ({"val": 5, "test": 3}, "8 patients with masks do not suffice for 5 for val and 3 for test"),
        ({"val": -0.5}, "--val -0.5: expected a share between 0 and 1, or a number"),
        ({"labelled": "99"}, "--labelled 99"),
    ):
        with pytest.raises(InputError, match=words):
            bring(root, tmp_path / "bad", **options)
        assert not (tmp_path / "bad").exists()
    none = bring(root, tmp_path / "none", val=0, test=0)
    assert set(read_split(tmp_path / "none", none).parts) == {"labelled", "unlabelled"}


def test_twins_stay_on_one_side(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 6)
    content = (root / "images" / "case_0.nii.gz").read_bytes()
    (root / "images" / "case_4.nii.gz").write_bytes(content)
    result = nifti.prepare(root / "images", tmp_path / "out", masks=root / "masks", options=Options(labelled="1"))
    assert result.notes == ["the same images: patients case_0 and case_4; they must not stand in two parts"]
    parts = read_split(tmp_path / "out", result.manifest, "labelled-all").parts
    assert {"case_0", "case_4"} <= set(parts["labelled"])


def test_a_tests_twin_is_left_out_of_training(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 6)
    manifest = bring(root, tmp_path / "out", labelled="1")
    scans = [
        scan.model_copy(update={"image_sha256": "same"}) if scan.scan in ("case_0", "case_4") else scan
        for scan in manifest.scans
    ]
    held = manifest.model_copy(update={"scans": scans})
    split = first(held, tests=["case_4"], wanted=Wanted("1", None, None))[-1]
    assert split.parts["test"] == ["case_4"]
    assert all("case_0" not in patients for patients in split.parts.values())
    assert "left out, the same images as one of val or test: case_0" in split.note


def test_a_second_call_reads_nothing_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = volumes_of(tmp_path, 5, (10, 8, 3, 2))
    first_one = bring(root, tmp_path / "out", percentiles=(1, 99), spacing_mm=0.8)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with monkeypatch.context() as context:
        context.setattr("vqseg.volumes.voxels", None)
        context.setattr("vqseg.importers.survey.voxels", None)
        assert bring(root, tmp_path / "out", percentiles=(1, 99), spacing_mm=0.8) == first_one
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    (tmp_path / "out" / first_one.scans[1].image).unlink()
    result = nifti.prepare(
        root / "images",
        tmp_path / "out",
        masks=root / "masks",
        options=Options(percentiles=(1, 99), spacing_mm=0.8),
    )
    assert (result.written, result.kept) == (1, 4)
    with pytest.raises(InputError, match=r"already holds 'images', made by importer 'nifti' .*spacing_mm=0.8"):
        bring(root, tmp_path / "out", percentiles=(1, 99), spacing_mm=0.9)


def test_an_interrupted_import_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, written, real = volumes_of(tmp_path, 5), [], writer.write_array

    def dying(path: Path, **arrays: np.ndarray) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        real(path, **arrays)

    monkeypatch.setattr(writer, "write_array", dying)
    with pytest.raises(KeyboardInterrupt):
        bring(root, tmp_path / "out")
    monkeypatch.setattr(writer, "write_array", real)
    result = nifti.prepare(root / "images", tmp_path / "out", masks=root / "masks")
    assert result.kept == 2
    assert result.manifest.digest == bring(root, tmp_path / "fresh").digest


def test_marks_set_later_survive_a_second_call(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 5)
    bring(root, tmp_path / "out", lesions=["class 1"])
    mark(tmp_path / "out", lesions=["class 2=3"], no_lesions=["class 1"])
    assert bring(root, tmp_path / "out").lesions == {"class 2": 3.0}
    options = Options(lesions=["class 1"])
    again = nifti.prepare(root / "images", tmp_path / "out", masks=root / "masks", options=options)
    assert again.manifest.lesions == read_manifest(tmp_path / "out").lesions == {"class 2": 3.0}
    assert again.notes == ["lesions stay as they are marked (class 2=3); change them with 'vqseg data mark'"]
    assert bring(root, tmp_path / "fresh", lesions=["class 1"]).lesions == {"class 1": 2.0}


# --- axis and frames -----------------------------------------------------------------------------


def test_one_axis_for_the_whole_set(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 4)
    for folder, name in (("images", "case_3"), ("masks", "case_3_seg")):
        path = root / folder / f"{name}.nii.gz"
        save(path, np.array(nibabel.load(path).dataobj), np.diag([9.0, 1.0, 5.0, 1.0]))
    result = nifti.prepare(root / "images", tmp_path / "out", masks=root / "masks")
    assert result.notes == [
        "1 of 4 volumes are coarsest along another axis than the others: all are cut into axial slices;"
        " --axis chooses another"
    ]
    assert [scan.shape for scan in result.manifest.scans] == [(4, 14, 12)] * 4
    for axis in ("0", "sagittal", "Sagittal"):
        manifest = bring(root, tmp_path / axis, axis=axis)
        assert [scan.shape for scan in manifest.scans] == [(12, 4, 14)] * 4
        assert manifest.intake is not None and manifest.intake["axis"] == 0


def test_four_dimensions_without_a_word(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 4, (6, 6, 2, 3), bare=4)
    with pytest.raises(InputError, match=r"case_0.nii.gz: holds 3 volumes and no mask tells .*--frames channels"):
        nifti.prepare(root / "images", tmp_path / "out")
    manifest = nifti.prepare(root / "images", tmp_path / "out", frames="scans").manifest
    assert [scan.scan for scan in manifest.scans[:4]] == ["case_0_t1", "case_0_t2", "case_0_t3", "case_1_t1"]
    assert manifest.scans[1].patient == "case_0"
    rng = np.random.default_rng(0)
    save(root / "masks" / "case_0.nii.gz", blobs((6, 6, 2), rng))
    with pytest.raises(InputError, match=r"case_0.nii.gz: has one mask for all of its volumes, so they are channels"):
        bring(root, tmp_path / "two", frames="scans")
    save(root / "masks" / "case_1.nii.gz", np.zeros((6, 6, 2, 2), np.uint8))
    with pytest.raises(InputError, match=r"case_1.nii.gz: 2 volumes, its image has 3; expected one for all, or one"):
        bring(root, tmp_path / "two")


# --- what is refused -----------------------------------------------------------------------------


def harmed(harm: Callable[[Path], Any]) -> Callable[[Path], Path]:
    def do(tmp_path: Path) -> Path:
        root = volumes_of(tmp_path, 4)
        harm(root)
        return root

    return do


def mask_with(value: float, dtype: Any = np.uint8) -> Callable[[Path], Any]:
    return lambda root: save(root / "masks/case_1_seg.nii.gz", np.full((12, 14, 4), value, dtype))


@pytest.mark.parametrize(
    ("harm", "options", "words"),
    [
        (
            lambda root: save(root / "masks/case_1_seg.nii.gz", np.zeros((12, 14, 5), np.uint8)),
            {},
            r"case_1_seg.nii.gz: 12 x 14 x 5 voxels, its image has 12 x 14 x 4; make them the same",
        ),
        (
            lambda root: save(root / "masks/case_1_seg.nii.gz", np.zeros((12, 14, 4), np.uint8), np.eye(4)),
            {},
            r"case_1_seg.nii.gz: lies up to 16 mm away from its image, case_1.nii.gz",
        ),
        (
            lambda root: save(root / "masks/case_1_seg.nii", np.zeros((12, 14, 4), np.uint8)),
            {},
            r"case_1_seg.nii.gz: a second mask of case_1_seg, beside .*case_1_seg.nii; keep one",
        ),
        (
            lambda root: (root / "masks/case_9_seg.nii.gz").symlink_to("/nowhere/case_9.nii.gz"),
            {},
            r"case_9_seg.nii.gz: a link to /nowhere/case_9.nii.gz, which is not there; restore or remove it",
        ),
        (
            lambda root: [path.rename(path.with_suffix(".mha")) for path in (root / "masks").iterdir()],
            {},
            r"masks: holds no NIfTI mask \(.nii, .nii.gz\); convert the masks to NIfTI, or leave the folder out",
        ),
        (lambda root: None, {"classes": ["a", "", "b"]}, r"--classes a,,b: expected 2 to 256 different names"),
        (lambda root: None, {"val": np.nan}, r"--val nan: expected a share between 0 and 1, or a number of patients"),
        (lambda root: None, {"test": np.inf}, r"--test inf: expected a share between 0 and 1, or a number of patients"),
        (mask_with(40), {}, r"case_1_seg.nii.gz: mask value 40 is outside the classes 0 to 31"),
        (mask_with(2), {"classes": ["back", "front"]}, r"mask value 2 is outside the classes 0 to 1"),
        (mask_with(0.5, np.float32), {}, r"case_1_seg.nii.gz: mask value 0.5 is outside"),
        (mask_with(-1, np.int16), {}, r"mask value -1 is outside"),
        (mask_with(np.nan, np.float32), {}, r"mask value nan is outside"),
        (
            lambda root: save(root / "masks/stray.nii.gz", np.zeros((2, 2, 2), np.uint8)),
            {},
            r"stray.nii.gz: belongs to no image; give it its image's name",
        ),
        (
            lambda root: save(root / "masks/case_1_mask.nii.gz", np.zeros((2, 2, 2), np.uint8)),
            {},
            r"case_1_seg.nii.gz: a second mask of case_1, beside .*case_1_mask.nii.gz; keep one",
        ),
        (
            lambda root: save(root / "images/case_1.nii", np.zeros((2, 2, 2), np.uint8)),
            {},
            r"case_1.nii.gz: the same case name as .*case_1.nii; rename one",
        ),
        (
            lambda root: (root / "images/case_2.nii.gz").write_bytes(b"no volume"),
            {},
            r"case_2.nii.gz: not readable as NIfTI",
        ),
        (
            lambda root: (root / "images/case_2.nii.gz").write_bytes(
                (root / "images/case_2.nii.gz").read_bytes()[:-300]
            ),
            {},
            r"case_2.nii.gz: damaged",
        ),
        (
            lambda root: save(root / "images/case_2.nii.gz", np.full((12, 14, 4), np.inf, np.float32)),
            {},
            r"case_2.nii.gz: holds values that are not finite",
        ),
        (
            lambda root: save(root / "images/case_2.nii.gz", np.zeros((12, 14, 4, 2), np.int16)),
            {},
            r"case_2.nii.gz: the case has 2 channels, expected 1, as case_0.nii.gz has",
        ),
        (lambda root: None, {"classes": ["a", "a"]}, r"--classes a,a: expected 2 to 256 different names"),
        (lambda root: None, {"axis": "up"}, r"unknown slice axis for --axis 'up'.*axial"),
        (lambda root: None, {"spacing_mm": 0.0}, r"--spacing 0: expected millimeters above 0"),
        (lambda root: None, {"bits": 12}, r"--bits 12: expected 8 or 16"),
        (lambda root: None, {"frames": "movie"}, r"--frames movie: expected channels"),
        (lambda root: None, {"windows": [(5, 1)]}, r"--window 5 1: expected the lower intensity first"),
        (lambda root: None, {"windows": [(0, 1)] * 4}, r"--window: given 4 times; expected at most 3"),
        (lambda root: None, {"percentiles": (0, 101)}, r"--percentiles 0 101: expected two numbers from 0 to 100"),
        (lambda root: None, {"lesions": ["cyst"]}, r"unknown foreground class for --lesion 'cyst'"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    tmp_path: Path, harm: Callable[[Path], Any], options: dict[str, Any], words: str
) -> None:
    root = harmed(harm)(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        bring(root, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder"):
        nifti.prepare(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no NIfTI file"):
        nifti.prepare(tmp_path / "empty", tmp_path / "out")


def test_masks_of_floats_near_whole_numbers_are_taken(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 4)
    path = root / "masks" / "case_0_seg.nii.gz"
    image = nibabel.Nifti1Image((np.arange(12 * 14 * 4) % 3).reshape(12, 14, 4).astype(np.int16) * 10, None)
    image.header.set_sform(np.diag([1.0, 1.0, 5.0, 1.0]), 1)
    image.header.set_slope_inter(0.1, 0.0)
    nibabel.save(nibabel.Nifti1Image.from_bytes(image.to_bytes()), path)
    stored = np.asanyarray(nibabel.load(path).dataobj)
    assert stored.dtype.kind == "f"
    manifest = bring(root, tmp_path / "out")
    written = written_back(tmp_path / "out", manifest, "case_0", tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), np.rint(stored))


# --- nnU-Net and the Decathlon -------------------------------------------------------------------


def nnunet_set(
    root: Path, channels: list[str], *, cases: int = 6, ts: int = 2, ts_labels: int = 0, span: tuple[int, int] = MR
) -> Path:
    rng = np.random.default_rng(0)

    def one(part: str, name: str, label: bool) -> None:
        for place in range(len(channels)):
            values = rng.integers(*span, (10, 12, 3)).astype(np.int16)
            values.flat[0], values.flat[-1] = span
            save(root / f"images{part}" / f"{name}_{place:04d}.nii.gz", values, OBLIQUE)
        if label:
            save(root / f"labels{part}" / f"{name}.nii.gz", blobs((10, 12, 3), rng), OBLIQUE)

    for number in range(cases):
        one("Tr", f"la_{number:03d}", True)
    for number in range(ts):
        one("Ts", f"lb_{number:03d}", number < ts_labels)
    about = {
        "channel_names": {str(place): name for place, name in enumerate(channels)},
        "labels": {"background": 0, "liver": 1, "lesion": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def edited(root: Path, **changes: Any) -> None:
    about = {**json.loads((root / "dataset.json").read_text()), **changes}
    (root / "dataset.json").write_text(json.dumps({key: value for key, value in about.items() if value is not None}))


def test_nnunet_channels_classes_and_truth(tmp_path: Path) -> None:
    root = nnunet_set(tmp_path / "Dataset001_Liver", ["T1", "T2"])
    manifest = nnunet.prepare(root, tmp_path / "out", options=Options(lesions=["lesion"])).manifest
    assert (manifest.name, manifest.channels) == ("Dataset001_Liver", 2)
    assert manifest.classes == ["background", "liver", "lesion"] and manifest.lesions == {"lesion": 2.0}
    assert manifest.intake is not None and manifest.intake["files"] == "each"
    assert [one["name"] for one in manifest.intake["channels"]] == ["T1", "T2"]
    for number in range(6):
        name = f"la_{number:03d}"
        same(
            written_back(tmp_path / "out", manifest, name, tmp_path / "b.nii.gz"),
            root / "labelsTr" / f"{name}.nii.gz",
        )
    intake, scan = Intake.model_validate(manifest.intake), manifest.scans[3]
    (taken,) = volumes.take(volumes_cases(root / "imagesTr")[scan.scan], intake)
    np.testing.assert_array_equal(taken.image, read_image(tmp_path / "out", scan))
    parts = read_split(tmp_path / "out", manifest).parts
    assert {"lb_000", "lb_001"} <= set(parts["unlabelled"])
    assert len(parts["val"]) == 1 and len(parts["test"]) == 1


def volumes_cases(folder: Path) -> dict[str, list[Path]]:
    from vqseg.nifti import cases

    return cases(folder, "each")


def test_nnunet_test_cases_with_labels_are_the_test_part(tmp_path: Path) -> None:
    root = nnunet_set(tmp_path / "a", ["T1"], ts_labels=2)
    manifest = nnunet.prepare(root, tmp_path / "out", options=Options(labelled="2")).manifest
    parts = read_split(tmp_path / "out", manifest).parts
    assert parts["test"] == ["lb_000", "lb_001"] and len(parts["val"]) == 1 and len(parts["labelled"]) == 2
    with pytest.raises(InputError, match=r"--test 0.3: the source has a test part already"):
        nnunet.prepare(root, tmp_path / "two", options=Options(test=0.3))
    table = tmp_path / "t.csv"
    rows = [f"la_{n:03d},p{n}" for n in range(6)]
    table.write_text("\n".join(["image,patient", *rows, "lb_000,p0", "lb_001,p9"]))
    with pytest.raises(InputError, match=r"la_000_0000.nii.gz: is of patient 'p0', of whom the test part has images"):
        nnunet.prepare(root, tmp_path / "two", options=Options(patients=table))
    mixed = nnunet.prepare(nnunet_set(tmp_path / "b", ["T1"], ts_labels=1), tmp_path / "mixed")
    assert mixed.notes == [
        "1 of 2 cases of imagesTs have no label: all are unlabelled, none is a test case, and the labels of the others"
        " are not used",
        "1 case has no mask: unlabelled",
    ]
    parts = read_split(tmp_path / "mixed", mixed.manifest, "labelled-all").parts
    assert {"lb_000", "lb_001"} <= set(parts["unlabelled"]) and len(parts["test"]) == 1
    assert [scan.mask for scan in mixed.manifest.scans if scan.scan.startswith("lb")] == [None, None]


def test_nnunet_ct_needs_a_window_by_its_name(tmp_path: Path) -> None:
    root = nnunet_set(tmp_path / "a", ["CT", "PET"])
    with pytest.raises(InputError, match=r"a: channel 'CT' is a CT \(intensities from 0 to 900\) and needs a window"):
        nnunet.prepare(root, tmp_path / "out")
    manifest = nnunet.prepare(root, tmp_path / "out", options=Options(windows=[(-160, 240)])).manifest
    assert manifest.intake is not None
    assert [(one["name"], one["window"]) for one in manifest.intake["channels"]] == [("CT", [-160, 240]), ("PET", None)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"background": 0, "tumor": [1, 2]}}, r"label 'tumor' is a region of several values"),
        ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, r"labels have 'ignore'"),
        (
            {"labels": {}},
            r"dataset.json: labels are {}; expected a name for background \(0\) and for at least one more",
        ),
        ({"labels": {"background": 0, "liver": 2}}, r"expected a name for each of 0, 1, 2"),
        ({"labels": None}, r"dataset.json: has no 'labels'"),
        ({"file_ending": ".png"}, r"file_ending '.png', expected .nii.gz or .nii; PNG images: import them with 'vqseg"),
        ({"file_ending": ".nrrd"}, r"convert the files to .nii.gz"),
        ({"channel_names": {"1": "T1"}}, r"expected 'channel_names' \(or 'modality'\) with a name for 0, 1"),
        ({"channel_names": {"0": "T1", "1": "T2", "2": "FLAIR"}}, r"la_000_0002.nii.gz: missing, the case's channel"),
        ({"channel_names": {"0": "T1"}}, r"la_000_0001.nii.gz: the case has 2 files, dataset.json names 1 channels"),
        ({"channel_names": None, "modality": {"0": "MRI"}}, r"lists no 'training' cases and has no 'channel_names'"),
    ],
)
def test_bad_nnunet_descriptions(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    root = nnunet_set(tmp_path / "a", ["T1", "T2"], cases=3, ts=0)
    edited(root, **changes)
    with pytest.raises(InputError, match=words) as caught:
        nnunet.prepare(root, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_bad_nnunet_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset.json: missing"):
        nnunet.prepare(tmp_path, tmp_path / "out")
    root = nnunet_set(tmp_path / "a", ["T1"], ts=0)
    save(root / "labelsTr" / "stray.nii.gz", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(InputError, match=r"stray.nii.gz: has no image in imagesTr"):
        nnunet.prepare(root, tmp_path / "out")
    (root / "labelsTr" / "stray.nii.gz").unlink()
    (root / "labelsTr" / "la_001.nii.gz").unlink()
    edited(root, numTraining=9)
    result = nnunet.prepare(root, tmp_path / "out")
    assert result.notes == [
        "dataset.json says 9 training cases, imagesTr holds 6",
        "1 case has no mask: unlabelled",
    ]
    assert "la_001" in read_split(tmp_path / "out", result.manifest).parts["unlabelled"]


def decathlon(root: Path, *, modality: list[str], numbered: bool = False) -> Path:
    rng = np.random.default_rng(0)
    shape = (10, 12, 3, len(modality)) if len(modality) > 1 else (10, 12, 3)
    for number in range(5):
        end = "_0000" if numbered else ""
        save(root / "imagesTr" / f"heart_{number}{end}.nii.gz", rng.integers(0, 900, shape).astype(np.int16), OBLIQUE)
        save(root / "labelsTr" / f"heart_{number}.nii.gz", blobs((10, 12, 3), rng, 2), OBLIQUE)
        (root / "imagesTr" / f"._heart_{number}.nii.gz").write_bytes(b"rubbish")
    save(root / "imagesTs" / f"heart_9{end}.nii.gz", rng.integers(0, 900, shape).astype(np.int16), OBLIQUE)
    about = {
        "name": "Heart",
        "tensorImageSize": "4D",
        "modality": {str(place): name for place, name in enumerate(modality)},
        "labels": {"0": "background", "1": "atrium"},
        "numTraining": 5,
        "training": [
            {"image": f"./imagesTr/heart_{n}.nii.gz", "label": f"./labelsTr/heart_{n}.nii.gz"} for n in range(5)
        ],
        "test": ["./imagesTs/heart_9.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root


@pytest.mark.parametrize(
    ("modality", "numbered"), [(["MRI"], False), (["FLAIR", "T1w", "T2w"], False), (["MRI"], True)]
)
def test_decathlon_truth_channels_and_unlabelled(tmp_path: Path, modality: list[str], numbered: bool) -> None:
    root = decathlon(tmp_path / "Task02_Heart", modality=modality, numbered=numbered)
    manifest = nnunet.prepare(root, tmp_path / "out").manifest
    assert (manifest.channels, manifest.classes) == (len(modality), ["background", "atrium"])
    assert manifest.intake is not None
    assert [one["name"] for one in manifest.intake["channels"]] == modality
    assert manifest.intake["files"] == ("each" if numbered else "one")
    for number in range(5):
        same(
            written_back(tmp_path / "out", manifest, f"heart_{number}", tmp_path / "b.nii.gz"),
            root / "labelsTr" / f"heart_{number}.nii.gz",
        )
    assert read_split(tmp_path / "out", manifest).parts["unlabelled"] == ["heart_9"]


@pytest.mark.parametrize("listed", ["names", "entries"])
@pytest.mark.parametrize("labels", [3, 2, 0])
def test_the_decathlons_test_cases(tmp_path: Path, listed: str, labels: int) -> None:
    root, rng, tests = decathlon(tmp_path / "a", modality=["MRI"]), np.random.default_rng(5), list[Any]()
    for number in range(9, 12):
        tests.append(f"./imagesTs/heart_{number}.nii.gz")
        save(root / tests[-1], rng.integers(0, 900, (10, 12, 3)).astype(np.int16), OBLIQUE)
        if number < 9 + labels:
            label = f"labelsTs/{'t' if listed == 'entries' else 'heart'}_{number}.nii.gz"
            save(root / label, blobs((10, 12, 3), rng, 2), OBLIQUE)
            if listed == "entries":
                tests[-1] = {"image": tests[-1], "label": label}
    edited(root, test=tests)
    result = nnunet.prepare(root, tmp_path / "out", options=Options(labelled="all"))
    parts, everyone = read_split(tmp_path / "out", result.manifest).parts, {f"heart_{n}" for n in range(9, 12)}
    masked = {scan.scan for scan in result.manifest.scans if scan.mask} & everyone
    if labels == 3:
        assert set(parts["test"]) == masked == everyone and result.notes == []
    else:
        assert masked == set() and everyone <= set(parts["unlabelled"])
        assert not everyone & {*parts["labelled"], *parts["val"], *parts["test"]}
        assert any("listed as 'test' have no label: all are unlabelled" in note for note in result.notes) == (
            labels > 0
        )


def test_a_corrected_description_is_another_data_set(tmp_path: Path) -> None:
    root = nnunet_set(tmp_path / "a", ["T1", "T2"], ts=0)
    before = nnunet.prepare(root, tmp_path / "out").manifest
    for change in (
        {"labels": {"background": 0, "lesion": 1, "liver": 2}},
        {"channel_names": {"0": "T2", "1": "T1"}},
    ):
        edited(root, **change)
        with pytest.raises(
            InputError,
            match=r"already holds 'a', made by importer 'nnunet' .*, of another .*; choose another fo",
        ):
            nnunet.prepare(root, tmp_path / "out")
    assert read_manifest(tmp_path / "out") == before


def test_folders_may_be_links(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "a", modality=["MRI"])
    (root / "imagesTr").rename(tmp_path / "elsewhere")
    (root / "imagesTr").symlink_to(tmp_path / "elsewhere")
    assert len(nnunet.prepare(root, tmp_path / "out").manifest.scans) == 6
    plain = volumes_of(tmp_path / "b", 5)
    (plain / "images").rename(tmp_path / "far")
    (plain / "images").mkdir()
    (plain / "images" / "more").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(plain / "images")  # a loop
    (plain / "images" / "sidecar.json").symlink_to("/nowhere/sidecar.json")  # as a set under git-annex has them
    (plain / "images" / "latest").symlink_to(plain / "images" / "more")  # every case a second time
    manifest = nifti.prepare(plain / "images", tmp_path / "out-b").manifest
    assert len(manifest.scans) == 5


def test_a_listed_file_lies_below_whatever_folder_one_stands_in(tmp_path: Path, monkeypatch) -> None:
    root = decathlon(tmp_path / "a", modality=["MRI"])
    edited(root, training=[{"image": "../secret.nii.gz", "label": "x"}])
    monkeypatch.chdir(root)
    with pytest.raises(InputError, match=r"'../secret.nii.gz' lies outside of"):
        nnunet.prepare(Path(), tmp_path / "out")


def test_bad_decathlon_lists(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "a", modality=["MRI"])
    (root / "labelsTr" / "heart_3.nii.gz").unlink()
    with pytest.raises(InputError, match=r"heart_3.nii.gz: missing, although dataset.json lists it"):
        nnunet.prepare(root, tmp_path / "out")
    (root / "imagesTr" / "heart_2.nii.gz").unlink()
    with pytest.raises(InputError, match=r"imagesTr/heart_2.nii.gz: missing, although dataset.json lists it"):
        nnunet.prepare(root, tmp_path / "out")
    edited(root, training=[{"image": "../../secret.nii.gz", "label": "x"}])
    with pytest.raises(InputError, match=r"'../../secret.nii.gz' lies outside of"):
        nnunet.prepare(root, tmp_path / "out")
    edited(root, training=["heart", 3])
    with pytest.raises(InputError, match=r"dataset.json: 3 is no case|heart: missing"):
        nnunet.prepare(root, tmp_path / "out")


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(cls=commands.VolumesCommand)(commands.nifti)
    app.command(cls=commands.VolumesCommand)(commands.nnunet)
    return app


def test_commands_pass_everything_on(tmp_path: Path, app: typer.Typer) -> None:
    root, run = volumes_of(tmp_path, 5, span=(-1024, 1500), bare=1), CliRunner()
    words = ["nifti", str(root / "images"), str(root / "masks"), str(tmp_path / "out"), "--name", "mine"]
    words += ["--classes", "background, liver,lesion", "--lesion", "lesion=3", "--window", "-160", "240"]
    words += ["--window", "0", "80", "--axis", "coronal", "--spacing", "2", "--labelled", "1", "--bits", "8"]
    result = run.invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0 and "5 patients, 5 scans" in result.output
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.name, manifest.channels, manifest.lesions) == ("mine", 2, {"lesion": 3.0})
    assert manifest.classes == ["background", "liver", "lesion"]
    assert manifest.intake is not None
    assert (manifest.intake["axis"], manifest.intake["spacing_mm"], manifest.intake["bits"]) == (1, 2.0, 8)
    two = ["nifti", str(root / "images"), str(tmp_path / "two"), "--percentiles", "0.5", "99.5"]
    assert run.invoke(app, two, catch_exceptions=False).exit_code == 0
    with pytest.raises(InputError, match=r"1 folders given; expected IMAGES \[MASKS\] OUT"):
        run.invoke(app, ["nifti", str(root)], catch_exceptions=False)
    for bad in (["--window", "1"], ["--window", "a", "b"], ["--window"]):
        refused = run.invoke(app, ["nifti", str(root), str(tmp_path / "bad"), *bad])
        assert refused.exit_code == 2 and "expected two numbers, such as --window -160 240" in refused.output
    assert "--window LO HI" in run.invoke(app, ["nifti", "--help"]).output
    dataset = nnunet_set(tmp_path / "n", ["T1"])
    words = ["nnunet", str(dataset), str(tmp_path / "n-out"), "--val", "1", "--test", "0.3", "--labelled", "50%"]
    assert run.invoke(app, words, catch_exceptions=False).exit_code == 0
    assert len(read_split(tmp_path / "n-out", read_manifest(tmp_path / "n-out")).parts["test"]) == 2
