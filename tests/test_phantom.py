"""The phantom: deterministic, anatomically ordered, varied, and hard with one labelled patient."""

from pathlib import Path

import numpy as np
import pytest

from vqseg.errors import InputError
from vqseg.importers import phantom
from vqseg.manifest import read_image, read_mask, read_split


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, phantom.Imported]:
    out = tmp_path_factory.mktemp("data") / "phantom"
    return out, phantom.prepare(out, patients=6, size=48)


def test_same_seed_same_data(small: tuple[Path, phantom.Imported], tmp_path: Path) -> None:
    again = phantom.prepare(tmp_path / "again", patients=6, size=48).manifest
    assert again.digest == small[1].manifest.digest
    assert phantom.prepare(tmp_path / "other", patients=6, size=48, seed=1).manifest.digest != again.digest


def test_second_call_writes_nothing(small: tuple[Path, phantom.Imported]) -> None:
    out, first = small
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    result = phantom.prepare(out, patients=6, size=48)
    assert (result.written, result.manifest) == (0, first.manifest)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(InputError, match="choose another folder"):
        phantom.prepare(out, patients=6, size=48, seed=2)


def test_manifest_says_phantom_and_spacing(small: tuple[Path, phantom.Imported]) -> None:
    manifest = small[1].manifest
    assert manifest.synthetic
    assert manifest.classes == ["background", "right ventricle", "myocardium", "left ventricle"]
    assert len(manifest.patients) == 6
    assert len(manifest.scans) == 12
    for scan in manifest.scans:
        assert scan.spacing_mm is not None
        assert 8 <= scan.spacing_mm[0] <= 10
        assert scan.spacing_mm[1] == scan.spacing_mm[2] > 0
        assert scan.shape[0] == len(scan.slices) >= 6


def test_splits_by_patient(small: tuple[Path, phantom.Imported]) -> None:
    out, result = small
    parts = read_split(out, result.manifest).parts
    assert result.manifest.default_split == "labelled-1"
    assert [len(parts[part]) for part in ("labelled", "unlabelled", "val", "test")] == [1, 2, 1, 2]
    everything = read_split(out, result.manifest, "labelled-all").parts
    assert (everything["labelled"], everything["unlabelled"]) == (parts["labelled"] + parts["unlabelled"], [])


def test_anatomy(small: tuple[Path, phantom.Imported]) -> None:
    out, result = small
    scans = result.manifest.scans
    for diastole, systole in zip(scans[::2], scans[1::2]):
        relaxed, tense = read_mask(out, diastole), read_mask(out, systole)
        assert (relaxed == 3).sum() > (tense == 3).sum() > 0  # the cavity empties
        assert (relaxed[0] > 0).sum() > (relaxed[-1] > 0).sum() > 0  # from base to apex
        assert (relaxed[0] == 1).any()
        for plane in relaxed:  # myocardium encloses the cavity: no left ventricle beside background
            cavity = plane == 3
            for axis in (0, 1):
                for step in (-1, 1):
                    assert not (cavity & (np.roll(plane, step, axis) == 0)).any()


def test_patients_vary_and_intensities_overlap(small: tuple[Path, phantom.Imported]) -> None:
    out, result = small
    means = []
    for scan in result.manifest.scans[::2]:
        image, mask = read_image(out, scan), read_mask(out, scan)
        assert image.dtype == np.uint8
        means.append([float(image[mask == index].mean()) for index in range(4)])
    table = np.array(means)
    assert (table[:, 3] > table[:, 2]).all()  # blood is brighter than muscle in every patient
    assert table[:, 2].max() > table[:, 3].min()  # but no grey level separates them in all
    assert len({scan.class_voxels[3] for scan in result.manifest.scans if scan.class_voxels}) == 12


def test_partial_volume_leaves_intermediate_intensities() -> None:
    who = phantom._patient(0, 1)
    behind = phantom._surroundings(who, 96)
    fine = who.intensity[phantom._painted(who, 0, 0.3, behind)]
    coarse = phantom._averaged(fine, 32)
    assert len(np.unique(coarse.round(4))) > len(np.unique(fine.round(4)))


@pytest.mark.parametrize(
    "options", [{"patients": 3}, {"size": 16}, {"seed": -1}, {"labelled": "99"}, {"labelled": "x"}]
)
def test_numbers_out_of_range(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        phantom.prepare(tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_one_labelled_patient_is_not_enough(tmp_path: Path) -> None:
    """Supervised on one patient against all training patients, with the project's own trainer."""
    torch = pytest.importorskip("torch")
    from vqseg import experiment
    from vqseg.config import load_config

    torch.set_num_threads(1)
    root = tmp_path / "phantom"
    phantom.prepare(root)
    config = load_config(
        "cpu", ["method={name: supervised, segmentation: dice_ce}", "perturbation=none", "train.steps=400"]
    )
    dice = {}
    for split in ("labelled-1", "labelled-all"):
        plan = experiment.plan(config, root=root, split=split, store=tmp_path / "store")
        folder = experiment.run(plan, name=split, keep="none")
        last = folder.status()["validation"]["last"]
        dice[split] = max(last["student"], last["teacher"])
    assert dice["labelled-all"] > 0.6
    assert dice["labelled-all"] - dice["labelled-1"] >= 0.15
