"""Importers on small sources of their own making: what they write, what they refuse, how they resume."""

import json
import os
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from vqseg.errors import InputError
from vqseg.importers import IMPORTERS, acdc, folder, writer
from vqseg.manifest import Manifest, Scan, array_sha256, read_image, read_manifest, read_mask, read_split, scans_of

REAL = Path(__file__).parents[2] / "shared" / "data" / "acdc"
TRAIN = ["patient009", "patient002", "patient007", "patient004", "patient001", "patient005", "patient003"]


def times(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in sorted(root.rglob("*")) if path.is_file()}


def scan_of(manifest: Manifest, name: str) -> Scan:
    return next(scan for scan in manifest.scans if scan.scan == name)


# --- ACDC, HDF5 ----------------------------------------------------------------------------------


def write_h5(path: Path, rng: np.random.Generator, shape: tuple[int, ...], label: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = rng.integers(0, 4, shape).astype(np.uint8)
    if label is not None:
        mask.flat[0] = label
    with h5py.File(path, "w") as file:
        file["image"] = rng.random(shape, dtype=np.float32)
        file["label"] = mask


def acdc_h5(source: Path, *, slices_folder: bool = False, test: bool = False) -> Path:
    """Write 7 training patients (11 slices a scan, listed in string order) and validation and test patients."""
    rng = np.random.default_rng(3)
    data = source / "data"
    lines, scans = [], []
    for patient in TRAIN:
        start = 4 if patient == "patient007" else 1
        for frame in ("frame01", "frame12"):
            scans.append(f"{patient}_{frame}")
            for number in sorted(range(start, start + 11), key=str):
                name = f"{patient}_{frame}_slice_{number}"
                write_h5((data / "slices" if slices_folder else data) / f"{name}.h5", rng, (6, 5))
                lines.append(name)
    (source / "train_slices.list").write_text("\n".join(lines) + "\n")
    (source / "train.list").write_text("\n".join(scans) + "\n")
    for part, patient in (("val", "patient028"), *([("test", "patient050")] if test else [])):
        names = [f"{patient}_frame01", f"{patient}_frame09"]
        for name in names:
            write_h5(data / f"{name}.h5", rng, (3, 7, 8))
        (source / f"{part}.list").write_text("\n".join(names) + "\n")
    return source


@pytest.fixture
def h5(tmp_path: Path) -> Path:
    return acdc_h5(tmp_path / "source")


def test_table_and_folder_agree() -> None:
    files = Path(writer.__file__).parent.glob("*.py")
    rows = {path.stem for path in files if "\ndef prepare(" in path.read_text(encoding="utf-8")}
    assert rows == set(IMPORTERS)


@pytest.mark.parametrize("slices_folder", [False, True])
def test_slices_are_stacked_in_numeric_order_with_their_numbers(tmp_path: Path, slices_folder: bool) -> None:
    source, out = acdc_h5(tmp_path / "source", slices_folder=slices_folder), tmp_path / "out"
    manifest = acdc.prepare(source, out, labelled="2").manifest
    scan = scan_of(manifest, "patient007_frame12")
    assert scan.slices == list(range(4, 15))
    assert scan.shape == (11, 6, 5)
    assert scan.spacing_mm is None
    folder_ = source / "data" / "slices" if slices_folder else source / "data"
    labels, images = [], []
    for number in range(4, 15):
        with h5py.File(folder_ / f"patient007_frame12_slice_{number}.h5") as file:
            images.append(file["image"][()])
            labels.append(file["label"][()])
    values = np.stack(images).astype(np.float64)
    low, high = values.min(), values.max()
    assert scan.range == (low, high)
    np.testing.assert_array_equal(read_image(out, scan), np.rint((values - low) / (high - low) * 255))
    np.testing.assert_array_equal(read_mask(out, scan), np.stack(labels))
    assert scan.class_voxels == np.bincount(np.stack(labels).ravel(), minlength=4).tolist()
    assert scan_of(manifest, "patient028_frame01").slices == [1, 2, 3]
    assert manifest.patients == [*TRAIN, "patient028"]


def test_splits_follow_the_list_and_hold_patients_out(h5: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = acdc.prepare(h5, out, labelled="2")
    assert result.splits == ["labelled-2", "labelled-2-devtest"]
    standard = read_split(out, result.manifest, "labelled-2").parts
    assert standard == {"labelled": TRAIN[:2], "unlabelled": TRAIN[2:], "val": ["patient028"]}
    held = read_split(out, result.manifest)
    assert held.name == "labelled-2-devtest"
    assert held.parts == {**standard, "unlabelled": TRAIN[2:5], "devtest": TRAIN[5:]}


def test_another_count_only_adds_splits(h5: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    acdc.prepare(h5, out, labelled="2")
    before = times(out)
    result = acdc.prepare(h5, out, labelled="all")
    assert (result.written, result.kept, result.splits) == (0, 16, ["labelled-all", "labelled-all-devtest"])
    assert result.manifest.default_split == "labelled-all-devtest"
    after = times(out)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: before[name] for name in before if name != "manifest.json"
    }
    assert read_split(out, result.manifest, "labelled-all").parts["labelled"] == TRAIN
    parts = read_split(out, result.manifest).parts
    assert (parts["labelled"], parts["unlabelled"], parts["devtest"]) == (TRAIN[:5], [], TRAIN[5:])
    # More labelled patients than stay in training: only the standard split is possible.
    assert acdc.prepare(h5, out, labelled="6").splits == ["labelled-6"]


def test_test_scans_make_a_test_part_and_no_devtest(tmp_path: Path) -> None:
    source, out = acdc_h5(tmp_path / "source", test=True), tmp_path / "out"
    result = acdc.prepare(source, out, labelled="3")
    assert result.splits == ["labelled-3"]
    assert read_split(out, result.manifest).parts["test"] == ["patient050"]


def test_second_call_changes_no_file(h5: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    acdc.prepare(h5, out, labelled="2")
    before = times(out)
    assert acdc.prepare(h5, out, labelled="2").written == 0
    assert times(out) == before
    for path in h5.rglob("*.h5"):  # other times, same content: everything is compared, nothing is written
        os.utime(path, (1, 1))
    assert acdc.prepare(h5, out, labelled="2").written == 0
    assert {k: v for k, v in times(out).items() if k != "manifest.json"} == {
        k: v for k, v in before.items() if k != "manifest.json"
    }


def test_interrupted_import_resumes(h5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, written = tmp_path / "out", []
    real = writer.write_array

    def dying(path: Path, **arrays: np.ndarray) -> None:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        real(path, **arrays)

    monkeypatch.setattr(writer, "write_array", dying)
    with pytest.raises(KeyboardInterrupt):
        acdc.prepare(h5, out, labelled="2")
    monkeypatch.setattr(writer, "write_array", real)
    assert not (out / "manifest.json").exists()
    (out / "images" / ".left.npz.tmp").write_bytes(b"cut")
    written[0].write_bytes(b"damaged by the crash")
    before = times(out)
    result = acdc.prepare(h5, out, labelled="2")
    after = times(out)
    assert result.kept == 2  # of 3 whole scans one was damaged; the fourth had an image only
    assert all(after[str(path.relative_to(out))] == before[str(path.relative_to(out))] for path in written[1:])
    assert not list(out.rglob("*.tmp"))
    assert not (out / writer.MARKER).exists()
    assert acdc.prepare(h5, tmp_path / "fresh", labelled="2").manifest.digest == result.manifest.digest


def test_identical_patients_stay_on_one_side(h5: Path, tmp_path: Path) -> None:
    for path in (h5 / "data").glob("patient002_*"):
        twin = path.with_name(path.name.replace("patient002", "patient003"))
        with h5py.File(path) as one, h5py.File(twin, "r+") as two:
            two["image"][...] = one["image"][()]
    result = acdc.prepare(h5, tmp_path / "out", labelled="1")
    assert result.notes == ["the same images: patients patient002 and patient003; they must not stand in two parts"]
    held = read_split(tmp_path / "out", result.manifest, "labelled-1-devtest").parts
    assert held["devtest"] == ["patient001", "patient005"]
    assert held["unlabelled"] == ["patient002", "patient007", "patient004", "patient003"]
    acdc.prepare(h5, tmp_path / "out", labelled="2")
    split = read_split(tmp_path / "out", result.manifest, "labelled-2")
    assert "patient003" not in split.parts["unlabelled"]
    assert "patient003" in split.note


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_label(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["label"]


def reshaped(path: Path) -> None:
    write_h5(path, np.random.default_rng(0), (4, 4))


def valued(path: Path) -> None:
    write_h5(path, np.random.default_rng(0), (6, 5), label=9)


def mismatched(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["label"]
        file["label"] = np.zeros((2, 2), np.uint8)


SLICE = "data/patient002_frame12_slice_3.h5"


@pytest.mark.parametrize(
    ("name", "harm", "words"),
    [
        ("train_slices.list", Path.unlink, ["train_slices.list: missing"]),
        ("val.list", Path.unlink, ["val.list: missing"]),
        ("val.list", lambda path: path.write_text(""), ["val.list: empty"]),
        ("val.list", lambda path: path.write_text("patient028"), ["'patient028' is not of the form"]),
        ("val.list", lambda path: path.write_text("patient002_frame01"), ["patient002 stands in two"]),
        ("train.list", lambda path: path.write_text("patient002_frame01"), ["stands in only one of"]),
        ("train_slices.list", lambda path: path.write_text("patient1_frame1_slice_1\n" * 2), ["stands twice"]),
        ("train_slices.list", lambda path: path.write_text("slice_1\n"), ["patientNNN_frameNN_slice_K"]),
        (SLICE, Path.unlink, ["patient002_frame12_slice_3.h5: missing"]),
        ("data/patient028_frame01.h5", Path.unlink, ["patient028_frame01.h5: missing"]),
        (SLICE, cut, ["patient002_frame12_slice_3.h5: not readable as HDF5"]),
        (SLICE, without_label, ["patient002_frame12_slice_3.h5: holds no 'label' (it has image)"]),
        (SLICE, reshaped, ["slice_3.h5: 4 x 4 pixels, but patient002_frame12_slice_1.h5", "6 x 5"]),
        (SLICE, mismatched, ["slice_3.h5: image is 6 x 5, label is 2 x 2"]),
    ],
)
def test_bad_hdf5_source_is_named_before_anything_is_written(
    h5: Path, tmp_path: Path, name: str, harm: object, words: list[str]
) -> None:
    harm(h5 / name)  # type: ignore[operator]
    with pytest.raises(InputError) as caught:
        acdc.prepare(h5, tmp_path / "out")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_mask_value_outside_the_classes_is_named_and_mended_by_a_second_call(h5: Path, tmp_path: Path) -> None:
    valued(h5 / SLICE)
    with pytest.raises(InputError, match=r"patient002_frame12_slice_3.h5: mask value 9 is outside the classes 0 to 3"):
        acdc.prepare(h5, tmp_path / "out", labelled="2")
    assert not (tmp_path / "out" / "manifest.json").exists()
    write_h5(h5 / SLICE, np.random.default_rng(0), (6, 5))
    assert acdc.prepare(h5, tmp_path / "out", labelled="2").kept == 3


def test_labelled_out_of_range(h5: Path, tmp_path: Path) -> None:
    for text in ("0", "8", "many", "0%"):
        with pytest.raises(InputError, match="expected 1 to 7 patients"):
            acdc.prepare(h5, tmp_path / "out", labelled=text)


def test_out_that_holds_something_else(h5: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(InputError, match="notes: exists and holds other files"):
        acdc.prepare(h5, tmp_path / "notes", labelled="1")
    acdc.prepare(h5, tmp_path / "out", labelled="1")
    other = acdc_h5(tmp_path / "other")
    with pytest.raises(InputError, match=r"already holds 'acdc', made by importer 'acdc' from .*source"):
        acdc.prepare(other, tmp_path / "out", labelled="1")
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / writer.MARKER).write_text(json.dumps({"importer": "acdc", "path": "elsewhere"}))
    with pytest.raises(InputError, match="unfinished import from elsewhere"):
        acdc.prepare(h5, tmp_path / "out", labelled="1")


def test_changed_source_is_refused_and_a_lost_file_restored(h5: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = acdc.prepare(h5, out, labelled="1").manifest
    (out / manifest.scans[2].image).unlink()
    assert acdc.prepare(h5, out, labelled="1").written == 1
    assert array_sha256(read_image(out, manifest.scans[2])) == manifest.scans[2].image_sha256
    write_h5(h5 / SLICE, np.random.default_rng(5), (6, 5))
    with pytest.raises(InputError, match="scan 'patient002_frame12' of the source has changed"):
        acdc.prepare(h5, out, labelled="1")
    assert read_manifest(out) == manifest


def test_disk_full_is_one_line(h5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, **arrays: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "write_array", full)
    with pytest.raises(InputError, match="No space left on device; mend it and run the same command again"):
        acdc.prepare(h5, tmp_path / "out", labelled="1")


# --- ACDC, NIfTI ---------------------------------------------------------------------------------


def write_nifti(folder_: Path, scan: str, rng: np.random.Generator, shape: tuple[int, int, int] = (4, 5, 3)) -> None:
    folder_.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(rng.integers(-50, 900, shape).astype(np.int16), np.diag([1.5, 1.25, 10.0, 1.0]))
    image.header.set_zooms((1.5, 1.25, 10.0))
    mask = nibabel.Nifti1Image(rng.integers(0, 4, shape).astype(np.uint8), image.affine)
    nibabel.save(image, folder_ / f"{scan}.nii.gz")
    nibabel.save(mask, folder_ / f"{scan}_gt.nii.gz")


def acdc_nifti(source: Path, patients: int = 10, where: str = "") -> Path:
    rng = np.random.default_rng(8)
    for number in range(1, patients + 1):
        name = f"patient{number:03d}"
        for frame in ("frame01", "frame13"):
            write_nifti(source / where / name, f"{name}_{frame}", rng)
    return source


def test_nifti_becomes_slices_rows_columns_with_spacing(tmp_path: Path) -> None:
    source, out = acdc_nifti(tmp_path / "source"), tmp_path / "out"
    manifest = acdc.prepare(source, out, labelled="2").manifest
    scan = scan_of(manifest, "patient003_frame13")
    assert (scan.shape, scan.spacing_mm, scan.slices) == ((3, 5, 4), (10.0, 1.25, 1.5), [1, 2, 3])
    values = np.asarray(nibabel.load(source / "patient003" / "patient003_frame13.nii.gz").dataobj)
    labels = np.asarray(nibabel.load(source / "patient003" / "patient003_frame13_gt.nii.gz").dataobj)
    assert scan.range == (values.min(), values.max())
    np.testing.assert_array_equal(read_mask(out, scan), labels.T)
    expected = np.rint((values.T.astype(float) - values.min()) * (255 / (int(values.max()) - int(values.min()))))
    np.testing.assert_array_equal(read_image(out, scan), expected)


def test_nifti_parts_without_lists(tmp_path: Path) -> None:
    names = [f"patient{number:03d}" for number in range(1, 11)]
    acdc_nifti(tmp_path / "source")
    manifest = acdc.prepare(tmp_path / "source", tmp_path / "out", labelled="2").manifest
    assert read_split(tmp_path / "out", manifest).parts == {
        "labelled": names[:2],
        "unlabelled": names[2:7],
        "val": names[7:8],
        "test": names[8:],
    }


def test_nifti_testing_folder_is_the_test_part(tmp_path: Path) -> None:
    source = acdc_nifti(tmp_path / "source", 8, "training")
    write_nifti(source / "testing" / "patient101", "patient101_frame01", np.random.default_rng(0))
    manifest = acdc.prepare(source, tmp_path / "out", labelled="1").manifest
    parts = read_split(tmp_path / "out", manifest).parts
    assert (parts["test"], parts["val"], len(parts["unlabelled"])) == (["patient101"], ["patient008"], 6)


def test_nifti_follows_lists(tmp_path: Path) -> None:
    source = acdc_nifti(tmp_path / "source", 4)
    (source / "train.list").write_text(
        "patient003_frame01\npatient003_frame13\npatient001_frame01\npatient004_frame01\n"
    )
    (source / "val.list").write_text("patient002_frame01\n")
    manifest = acdc.prepare(source, tmp_path / "out", labelled="1").manifest
    parts = read_split(tmp_path / "out", manifest, "labelled-1").parts
    assert parts == {"labelled": ["patient003"], "unlabelled": ["patient001", "patient004"], "val": ["patient002"]}


def test_bad_nifti_is_named(tmp_path: Path) -> None:
    source = acdc_nifti(tmp_path / "source")
    mask = source / "patient002" / "patient002_frame01_gt.nii.gz"
    content = mask.read_bytes()
    mask.unlink()
    with pytest.raises(InputError, match=r"patient002_frame01_gt.nii.gz: missing"):
        acdc.prepare(source, tmp_path / "out", labelled="1")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 2), np.uint8), np.eye(4)), mask)
    with pytest.raises(InputError, match=r"patient002_frame01_gt.nii.gz: 4 x 5 x 2 voxels, its image has 4 x 5 x 3"):
        acdc.prepare(source, tmp_path / "out", labelled="1")
    mask.write_bytes(content[:20])
    with pytest.raises(InputError, match=r"patient002_frame01_gt.nii.gz: (not readable|damaged)"):
        acdc.prepare(source, tmp_path / "out", labelled="1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"neither SSL4MIS's HDF5 .* nor ACDC's NIfTI"):
        acdc.prepare(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        acdc.prepare(tmp_path / "absent", tmp_path / "out")


# --- a folder of images --------------------------------------------------------------------------


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)


def pictures(
    source: Path, names: dict[str, list[str]], *, color: bool = False, mask: str = ".png", top: int = 3
) -> Path:
    rng = np.random.default_rng(1)
    for part, stems in names.items():
        for stem in stems:
            size = (6, 9)
            save(
                source / part / "image" / f"{stem}.png",
                rng.integers(0, 256, (*size, 3) if color else size).astype(np.uint8),
            )
            if part != "train-unlabel":
                save(source / part / "mask" / f"{stem}{mask}", rng.integers(0, top, size).astype(np.uint8))
    return source


NAMES = {"train-label": ["a_1", "a_2", "b_1"], "train-unlabel": ["c_1", "d_1"], "val": ["e_1"], "test": ["f_1", "g"]}


@pytest.mark.parametrize(("color", "mask"), [(False, ".png"), (True, ".npy")])
def test_folder_keeps_parts_pixels_and_classes(tmp_path: Path, color: bool, mask: str) -> None:
    source, out = pictures(tmp_path / "s", NAMES, color=color, mask=mask), tmp_path / "out"
    result = folder.prepare(source, out)
    manifest = result.manifest
    assert manifest.channels == (3 if color else 1)
    assert manifest.classes == ["background", "class 1", "class 2"]
    assert read_split(out, manifest).name == "folder"
    assert read_split(out, manifest).parts == {
        "labelled": ["a", "b"],
        "unlabelled": ["c", "d"],
        "val": ["e"],
        "test": ["f", "g"],
    }
    scan = scan_of(manifest, "a_2")
    assert (scan.patient, scan.slices, scan.range, scan.shape) == ("a", [1], (0.0, 255.0), (1, 6, 9))
    np.testing.assert_array_equal(
        read_image(out, scan)[0], np.asarray(Image.open(source / "train-label/image/a_2.png"))
    )
    assert scan_of(manifest, "c_1").mask is None
    before = times(out)
    assert folder.prepare(source, out).written == 0
    assert times(out) == before


def test_folder_stacks_slices_of_volumes(tmp_path: Path) -> None:
    stems = [f"p1_frame02_slice_{number}" for number in (10, 9, 2)]
    source = pictures(tmp_path / "s", {"train-label": stems, "val": ["p2_frame01_slice_1"]})
    manifest = folder.prepare(source, tmp_path / "out").manifest
    assert [(s.scan, s.patient, s.slices) for s in manifest.scans] == [
        ("p1_frame02", "p1", [2, 9, 10]),
        ("p2_frame01", "p2", [1]),
    ]
    save(source / "train-label/image/p1_frame02_slice_9.png", np.zeros((4, 4), np.uint8))
    save(source / "train-label/mask/p1_frame02_slice_9.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"slice_9.png: another size than p1_frame02_slice_2.png"):
        folder.prepare(source, tmp_path / "other")


def test_binary_masks_become_classes_and_it_is_said(tmp_path: Path) -> None:
    source = pictures(tmp_path / "s", {"train-label": ["a_1", "b_1"], "val": ["c_1"]}, top=2)
    for path in source.glob("*/mask/*.png"):
        save(path, np.asarray(Image.open(path)) * np.uint8(255))
    result = folder.prepare(source, tmp_path / "out", classes=["background", "lesion"])
    assert result.manifest.classes == ["background", "lesion"]
    assert "255 became class 1" in result.notes[0]
    assert set(np.unique(read_mask(tmp_path / "out", result.manifest.scans[0]))) == {0, 1}
    save(source / "val/mask/c_1.png", np.full((6, 9), 7, np.uint8))
    with pytest.raises(InputError, match=r"mask value 255 is outside class indices 0 to 31; name more with --classes"):
        folder.prepare(source, tmp_path / "other")


def test_sixteen_bits_are_mapped_by_range_or_window(tmp_path: Path) -> None:
    source = pictures(tmp_path / "s", {"train-label": ["a_1", "b_1"], "val": ["c_1"]})
    values = np.linspace(100, 60000, 54).astype(np.uint16).reshape(6, 9)
    for path in source.glob("*/image/*.png"):
        save(path, values)
    own = folder.prepare(source, tmp_path / "own").manifest.scans[0]
    assert own.range == (100, 60000)
    windowed = folder.prepare(source, tmp_path / "windowed", window=(0, 1000)).manifest.scans[0]
    assert windowed.range == (0, 1000)
    assert read_image(tmp_path / "windowed", windowed).max() == 255
    assert read_image(tmp_path / "windowed", windowed)[0, 0, 0] == round(100 / 1000 * 255)


def test_isic_names_need_a_pattern_or_a_table(tmp_path: Path) -> None:
    names = {"train-label": ["ISIC_0001", "ISIC_0002"], "train-unlabel": ["ISIC_0003"], "val": ["ISIC_0004"]}
    source = pictures(tmp_path / "s", names, color=True)
    with pytest.raises(InputError, match=r"every part is a single patient, such as 'ISIC'; .*--pattern"):
        folder.prepare(source, tmp_path / "out")
    manifest = folder.prepare(source, tmp_path / "out", pattern=r"(?P<patient>.+)").manifest
    assert len(manifest.patients) == 4
    table = tmp_path / "patients.csv"
    table.write_text("image,patient\nISIC_0001,x\nISIC_0002.png,x\nISIC_0003,y\nISIC_0004,z\n")
    assert folder.prepare(source, tmp_path / "two", patients=table).manifest.patients == ["x", "y", "z"]
    table.write_text("image,patient\nISIC_0001,x\n")
    with pytest.raises(InputError, match=r"patients.csv: has no row for image ISIC_0002.png"):
        folder.prepare(source, tmp_path / "three", patients=table)
    table.write_text("file,who\nISIC_0001,x\n")
    with pytest.raises(InputError, match="the columns image and patient"):
        folder.prepare(source, tmp_path / "three", patients=table)
    for pattern, words in (
        (r"(", "not a regular expression"),
        (r".+", "needs a group"),
        (r"(?P<patient>X.+)", "does not match"),
    ):
        with pytest.raises(InputError, match=words):
            folder.prepare(source, tmp_path / "three", pattern=pattern)


def test_pattern_with_scan_and_slice(tmp_path: Path) -> None:
    source = pictures(tmp_path / "s", {"train-label": ["ct-7-ED-z2", "ct-7-ED-z1"], "val": ["ct-8-ED-z1"]})
    manifest = folder.prepare(
        source, tmp_path / "out", pattern=r"ct-(?P<patient>\d+)-(?P<scan>E\w)-z(?P<slice>\d)"
    ).manifest
    assert [(s.scan, s.slices) for s in manifest.scans] == [("7_ED", [1, 2]), ("8_ED", [1])]


def test_val_is_needed_or_held_out(tmp_path: Path) -> None:
    source = pictures(tmp_path / "s", {"train-label": ["a_1", "b_1", "c_1"]})
    with pytest.raises(InputError, match=r"val: missing; .* --val 0.2"):
        folder.prepare(source, tmp_path / "out")
    manifest = folder.prepare(source, tmp_path / "out", val=0.3).manifest
    assert read_split(tmp_path / "out", manifest).parts == {"labelled": ["a", "b"], "unlabelled": [], "val": ["c"]}
    for val in (1.5, np.nan, np.inf, -1, 0):
        with pytest.raises(InputError, match=f"--val {val:g}: expected a share between 0 and 1"):
            folder.prepare(source, tmp_path / "two", val=val)


ODD = {"nan": np.nan, "inf": np.inf, "text": "x", "complex": 1j}


def harm_masks(source: Path, how: str) -> None:
    mask, image = source / "train-label/mask/a_1.png", source / "train-label/image/a_1.png"
    if how == "missing":
        mask.unlink()
    elif how == "size":
        save(mask, np.zeros((2, 3), np.uint8))
    elif how == "value":
        save(mask, np.full((6, 9), 40, np.uint8))
    elif how == "rgb mask":
        save(mask, np.zeros((6, 9, 3), np.uint8))
    elif how == "orphan":
        save(source / "val/mask/z_1.png", np.zeros((6, 9), np.uint8))
    elif how == "two masks":
        save(source / "train-label/mask/a_1.npy", np.zeros((6, 9), np.uint8))
    elif how == "unreadable":
        image.write_bytes(b"not a picture")
    elif how == "channels":
        save(source / "val/image/e_1.png", np.zeros((6, 9, 3), np.uint8))
    elif how == "straddle":
        save(source / "val/image/a_9.png", np.zeros((6, 9), np.uint8))
        save(source / "val/mask/a_9.png", np.zeros((6, 9), np.uint8))
    elif how == "pickle":
        mask.unlink()
        np.save(mask.with_suffix(".npy"), np.array([{"run": "me"}]), allow_pickle=True)
    elif how in ODD:
        mask.unlink()
        np.save(mask.with_suffix(".npy"), np.full((6, 9), ODD[how]))
    elif how == "empty":
        for path in (source / "test").rglob("*.png"):
            path.unlink()
    elif how == "no train":
        (source / "train-label").rename(source / "train")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", r"train-label/mask/a_1.png: missing"),
        ("size", r"a_1.png: 2 x 3 pixels, its image has 6 x 9"),
        ("value", r"a_1.png: mask value 40 is outside class indices"),
        ("rgb mask", r"a_1.png: mask of shape \(6, 9, 3\)"),
        ("orphan", r"val/mask/z_1.png: has no image"),
        ("two masks", r"a_1.png: the same name as a_1.npy"),
        ("unreadable", r"image/a_1.png: not readable as an image"),
        ("channels", r"e_1.png: is color, but a_1.png is grey"),
        ("straddle", r"patient 'a' is in train-label \(a_1.png\) and val \(a_9.png\)"),
        ("pickle", r"a_1.npy: not readable as a mask"),
        ("nan", r"mask/a_1.npy: mask of values that are not finite; expected one class index per pixel"),
        ("inf", r"mask/a_1.npy: mask of values that are not finite; expected one class index per pixel"),
        ("text", r"mask/a_1.npy: mask of <U1; expected one class index per pixel, correct the mask"),
        ("complex", r"mask/a_1.npy: mask of complex128; expected one class index per pixel, correct the mask"),
        ("empty", r"test/image: holds no PNG or JPEG image"),
        ("no train", r"train-label/image: no such folder"),
    ],
)
def test_bad_folder_is_named_before_anything_is_written(tmp_path: Path, how: str, words: str) -> None:
    source = pictures(tmp_path / "s", NAMES)
    harm_masks(source, how)
    with pytest.raises(InputError, match=words):
        folder.prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_hidden_masks_are_kept_and_classes_checked(tmp_path: Path) -> None:
    source = pictures(tmp_path / "s", NAMES)
    for stem in NAMES["train-unlabel"]:
        save(source / "train-unlabel/mask" / f"{stem}.npy", np.ones((6, 9), np.int64))
    manifest = folder.prepare(source, tmp_path / "out").manifest
    assert read_mask(tmp_path / "out", scan_of(manifest, "c_1")).sum() == 54
    with pytest.raises(InputError, match="mask value 2 is outside the 2 classes of --classes"):
        folder.prepare(source, tmp_path / "two", classes=["background", "lesion"])
    with pytest.raises(InputError, match="--classes a,a: expected"):
        folder.prepare(source, tmp_path / "two", classes=["a", "a"])
    with pytest.raises(InputError, match="--classes a,,b: expected"):
        folder.prepare(source, tmp_path / "two", classes=["a", "", "b"])
    for window in ((5, 1), (-np.inf, 1), (0, np.nan)):
        with pytest.raises(InputError, match=f"--window {window[0]:g} {window[1]:g}: expected"):
            folder.prepare(source, tmp_path / "two", window=window)


# --- the real data -------------------------------------------------------------------------------


def fast_write(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


@pytest.mark.skipif(not REAL.is_dir(), reason="ACDC is not beside the checkout")
def test_real_acdc_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "write_array", fast_write)
    out = tmp_path / "acdc"
    manifest = acdc.prepare(REAL, out, labelled="3").manifest
    for count in (7, 14):
        acdc.prepare(REAL, out, labelled=str(count))
    facts = manifest.fingerprint()
    assert (facts["patients"], facts["scans"], facts["images"]) == (80, 160, 1312 + 210)
    for count, images in ((3, 68), (7, 136), (14, 256)):
        standard, held = (read_split(out, manifest, f"labelled-{count}{end}") for end in ("", "-devtest"))
        assert sum(len(scan.slices) for scan in scans_of(manifest, standard, "labelled")) == images
        assert standard.parts["labelled"] == held.parts["labelled"]
        assert [len(part) for part in standard.parts.values()] == [count, 70 - count, 10]
        assert [len(part) for part in held.parts.values()] == [count, 50 - count, 10, 20]
    listed = [line.rsplit("_slice_", 1) for line in (REAL / "train_slices.list").read_text().split()]
    for scan in scans_of(manifest, standard, "unlabelled"):
        assert scan.slices == sorted(int(number) for name, number in listed if name == scan.scan)
    # Two patients of the public data have the same images: they stay on the same side.
    assert {"patient074", "patient076"} <= set(held.parts["unlabelled"])
