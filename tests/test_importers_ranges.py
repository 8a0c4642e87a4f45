"""What importers compute from several scans: only training scans have a say, and whoever is scored later is named."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from test_importers_volumes import bring, save, volumes_of

from vqseg import folds, inspection, splits
from vqseg.errors import InputError
from vqseg.importers import nifti
from vqseg.importers.intensities import look
from vqseg.importers.layouts import Options
from vqseg.manifest import (
    Manifest,
    annotated,
    looked_at,
    read_image,
    read_manifest,
    read_split,
    write_array,
    write_manifest,
)

CT = (-1024, 1500)


def rewritten(root: Path, name: str, change: Any) -> None:
    path = root / "images" / f"{name}.nii.gz"
    save(path, change(np.array(nibabel.load(path).dataobj)))


def proposal(root: Path, out: Path) -> str:
    with pytest.raises(InputError) as caught:
        bring(root, out)
    return str(caught.value)


def test_the_proposed_window_is_that_of_training_masks(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 8, span=CT)
    parts = read_split(tmp_path / "w", bring(root, tmp_path / "w", windows=[(0, 100)])).parts
    before = proposal(root, tmp_path / "out")
    for part, same in (("test", True), ("val", True), ("labelled", False)):
        for name in parts[part]:
            rewritten(root, name, lambda values: np.clip(values * 9, -9000, 9000).astype(np.int16))
        assert (proposal(root, tmp_path / "out") == before) == same, part


def test_whoever_the_percentiles_have_seen_is_named_when_scored(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 10, bare=1)
    manifest = bring(root, tmp_path / "out", percentiles=(1, 99))
    first = read_split(tmp_path / "out", manifest)
    train = {*first.parts["labelled"], *first.parts["unlabelled"]}
    assert manifest.intake is not None and set(manifest.intake["pooled"]) == train
    assert "percentiles" not in first.note
    assert not [problem for problem in inspection.check(tmp_path / "out").problems if "percentiles" in problem.what]
    made = folds.add(tmp_path / "out", name="cv", count=3, labelled="2", seed=0, pool_test=True)
    new, _ = splits.add(tmp_path / "out", name="re", labelled="2", seed=5, test=0.5)
    for split in [*(split for split, _ in made), new]:
        seen = looked_at(manifest.intake, split.parts)
        assert seen and all(set(patients) <= train for patients in seen.values())
        assert read_split(tmp_path / "out", manifest, split.name).note == split.note
        for part, patients in seen.items():
            assert f"the intensity percentiles have seen {', '.join(patients[:3])}" in split.note
            said = inspection.check(tmp_path / "out", split.name).problems
            (warning,) = [one for one in said if "percentiles" in one.what and one.where == f"part {part}"]
            assert warning.level == "warning" and patients[0] in warning.what and "--window" in warning.do
    assert annotated(new.note, manifest.intake, new.parts) == new.note  # said once
    quiet, _ = splits.add(tmp_path / "out", name="quiet", labelled="3", seed=1)
    assert "percentiles" not in quiet.note


def test_a_received_split_says_it_too(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 8)
    manifest = bring(root, tmp_path / "out", percentiles=(1, 99))
    split = read_split(tmp_path / "out", manifest)
    moved = split.parts["unlabelled"][-1]
    parts = {**split.parts, "test": [moved], "unlabelled": split.parts["unlabelled"][:-1]}
    file = tmp_path / "theirs.json"
    file.write_text(split.model_copy(update={"name": "theirs", "parts": parts, "note": ""}).model_dump_json())
    received, written = splits.receive(tmp_path / "out", file)
    assert written and received.note == f"the intensity percentiles have seen {moved} of test"


def test_sets_without_percentiles_have_looked_at_nobody(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 6)
    for name, options in (("own", {}), ("window", {"windows": [(0, 255)], "percentiles": (1, 99)})):
        manifest = bring(root, tmp_path / name, **options)
        assert manifest.intake is not None and manifest.intake["pooled"] == []
    assert looked_at({"kind": "picture"}, {"test": ["a"]}) == looked_at(None, {"test": ["a"]}) == {}


def test_percentiles_that_are_one_intensity_are_refused(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 6, span=CT)
    for number in range(6):
        rewritten(root, f"case_{number}", lambda values: np.where(np.arange(14)[:, None] < 7, -1024, values))
    with pytest.raises(InputError) as caught:
        bring(root, tmp_path / "out", percentiles=(0, 30))
    assert str(caught.value) == (
        "--percentiles 0 30: in channel 'image' of the training scans both are -1024;"
        " choose percentiles that lie further apart, or give a --window"
    )
    assert not (tmp_path / "out").exists()


def test_one_volume_in_two_types_is_a_twin_everywhere(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16)
    hashes = {look(values.astype(kind), None, "x").sha256 for kind in (np.int16, np.int32, np.float32, np.float64)}
    assert len(hashes) == 1
    assert look(np.zeros((2, 2, 2)), None, "x").sha256 == look(-np.zeros((2, 2, 2)), None, "x").sha256
    assert look(values + 1, None, "x").sha256 not in hashes
    assert look(values.reshape(5, 6, 4), None, "x").sha256 not in hashes
    for pair in ((0, 7), (7, 3), (2, 6)):
        root = volumes_of(tmp_path / f"{pair}", 9)
        rewritten(root, f"case_{pair[0]}", lambda values: values[::-1])
        copy = np.array(nibabel.load(root / "images" / f"case_{pair[0]}.nii.gz").dataobj)
        save(root / "images" / f"case_{pair[1]}.nii.gz", copy.astype(np.float32))
        result = nifti.prepare(
            root / "images", root / "out", masks=root / "masks", options=Options(percentiles=(0.5, 99.5))
        )
        assert any("the same images: patients" in note for note in result.notes)
        split = read_split(root / "out", result.manifest)
        assert looked_at(result.manifest.intake, split.parts) == {}


# --- scans that show nothing ---------------------------------------------------------------------


def test_a_constant_scan_is_named_and_nobodys_twin(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 6)

    def sparse(values: np.ndarray) -> np.ndarray:
        return np.where(np.arange(values.size).reshape(values.shape) == 300, 500, 0).astype(np.int16)

    for name in ("case_1", "case_4"):
        rewritten(root, name, sparse)
    result = nifti.prepare(root / "images", tmp_path / "out", masks=root / "masks")
    assert [scan.scan for scan in result.manifest.scans if scan.constant] == ["case_1", "case_4"]
    assert result.manifest.scans[1].image_sha256 == result.manifest.scans[4].image_sha256
    assert result.notes == [] and splits.twins(result.manifest) == {}
    report = inspection.check(tmp_path / "out")
    assert report.errors == []
    said = [problem for problem in report.problems if "its image is constant" in problem.what]
    assert [(problem.level, problem.where) for problem in said] == [
        ("warning", "scan case_1"),
        ("warning", "scan case_4"),
    ]
    manifest = read_manifest(tmp_path / "out")
    split = read_split(tmp_path / "out", manifest)
    old = [scan.model_copy(update={"constant": False}) for scan in manifest.scans]
    write_manifest(tmp_path / "out", manifest.model_copy(update={"scans": old}))
    (tmp_path / "out" / "images" / "case_0.npz").unlink()
    assert imported(root).manifest == manifest
    apart = {**split.parts, "labelled": ["case_0", "case_1"], "unlabelled": ["case_5"], "val": ["case_2"]}
    split = split.model_copy(update={"parts": {**apart, "test": ["case_4"]}})
    inspection.require_sound(tmp_path / "out", manifest, split)


# --- importing again -----------------------------------------------------------------------------


def imported(root: Path, **options: Any) -> Any:
    return nifti.prepare(root / "images", root / "out", masks=root / "masks", options=Options(**options))


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_importing_again_mends_a_damaged_file(tmp_path: Path, kind: str) -> None:
    root = volumes_of(tmp_path, 5)
    manifest = imported(root).manifest
    path = tmp_path / "out" / kind / "case_1.npz"
    whole = np.load(path)[kind[:-1]]
    for harm in (lambda: path.write_bytes(b"x"), lambda: write_array(path, **{kind[:-1]: whole + 1}), path.unlink):
        harm()
        assert inspection.check(tmp_path / "out").errors
        again = imported(root)
        assert (again.written, again.kept, again.manifest) == (1, 4, manifest)
        assert inspection.check(tmp_path / "out").errors == []
    np.testing.assert_array_equal(np.load(path)[kind[:-1]], whole)


def test_other_shares_of_a_finished_import_are_a_split_of_their_own(tmp_path: Path) -> None:
    root = volumes_of(tmp_path, 8)
    before = imported(root).manifest
    with pytest.raises(
        InputError, match=r"labelled-all.json: is of other patients .*, or make it with 'vqseg data spl"
    ):
        imported(root, val=2)
    assert read_manifest(tmp_path / "out") == before


def test_color_is_in_the_digest_only_where_there_is_color(tmp_path: Path) -> None:
    manifest = imported(volumes_of(tmp_path, 4)).manifest
    assert Manifest.model_validate(manifest.model_dump()).digest == manifest.digest
    colored = Manifest.model_validate({**manifest.model_dump(), "color": True})
    assert colored.digest != manifest.digest
    assert read_image(tmp_path / "out", manifest.scans[0]).ndim == 3
