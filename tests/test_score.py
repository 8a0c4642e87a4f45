"""Label maps of other tools: found, checked, brought to the stored grid, and recorded as a run that tables show."""

import shutil
from itertools import pairwise

import fabricated
import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vqseg import experiment, marks, rivals
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.evaluate import COLUMNS
from vqseg.files import write_yaml
from vqseg.foreign_maps import read
from vqseg.importers import folder as pictures
from vqseg.importers import isic, nifti
from vqseg.importers.layouts import Options
from vqseg.manifest import read_manifest, read_mask, read_split, scans_of
from vqseg.predict import predict
from vqseg.records import exhibits, index
from vqseg.records.mirror import fingerprint
from vqseg.records.run import RunFolder
from vqseg.records.views import run_view
from vqseg.report.selection import Options as Wanted
from vqseg.report.selection import select
from vqseg.rivals import Rival, score_predictions
from vqseg.study.cells import Request, plan_cell, prepare, write

OBLIQUE = np.array([[0.0, -0.35, 7.9, -30], [-0.7, 0.1, 0.9, 12.5], [0.05, 0.62, 1.4, -88], [0, 0, 0, 1.0]])
SHAPE = (20, 24, 5)
STUDY = """
question: Does a rival stand in the table?
preset: tiny.yaml
seeds: [0]
reference: none
arms:
  - {family: none, set: {perturbation: none}}
supervised:
  data.labels: all
  method: {name: supervised, segmentation: dice_ce, dual_branch: false}
"""


def truth(root, part="test", names=None):
    """The scans of a part of the default split, with their masks."""
    manifest = read_manifest(root)
    scans = scans_of(manifest, read_split(root, manifest), part) if names is None else manifest.scans
    return manifest, {scan.scan: (scan, read_mask(root, scan)) for scan in scans}


def as_npz(place, scan, labels):
    np.savez(place / f"{scan.scan}.npz", anything=labels.astype(np.int64))


def as_npy(place, scan, labels):
    np.save(place / f"{scan.scan}_pred.npy", labels.astype(np.float32))


def as_nifti(place, scan, labels):
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.float32), np.eye(4)), place / f"{scan.scan}.nii.gz")


def as_simple_itk(place, scan, labels):
    nibabel.save(nibabel.Nifti1Image(labels.transpose(), np.eye(4)), place / f"{scan.scan}.nii")


def as_slices(place, scan, labels, form="{0}_slice_{1}.png"):
    for number, plane in zip(scan.slices, labels, strict=True):
        path = place / form.format(scan.scan, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plane.astype(np.uint8)).save(path)


def as_dashed(place, scan, labels):
    as_slices(place, scan, labels, "fold0/{0}-{1:03d}.png")


def as_folders(place, scan, labels):
    as_slices(place, scan, labels, "{0}/{1}.png")


FORMS = (as_npz, as_npy, as_nifti, as_simple_itk, as_slices, as_dashed, as_folders)


def written(place, form, maps):
    place.mkdir(parents=True, exist_ok=True)
    for scan, labels in maps.values():
        form(place, scan, labels)
    return place


@pytest.fixture(autouse=True)
def no_overlays(request, monkeypatch):
    """Overlays take longer than all else; those who ask for `overlays` get them."""
    if "overlays" not in request.fixturenames:
        monkeypatch.setattr(rivals, "write_overlays", lambda *args, **options: [])


@pytest.fixture
def overlays():
    return None


@pytest.fixture(scope="module")
def study(phantom_root, tiny, tmp_path_factory):
    """The one run of a study, in a store of its own beside `mini.yaml`."""
    desk = tmp_path_factory.mktemp("desk")
    tree = load_config("smoke", [*tiny, "train.steps=4"]).plain()
    tree.pop("preset")
    write_yaml(desk / "tiny.yaml", tree)
    (desk / "mini.yaml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        folder, record, _ = prepare(Request("mini.yaml", desk / "vqseg-store", phantom_root))
        write(folder, record)
        cell = record["cells"][0]
        return experiment.run(plan_cell(record, folder.store, cell), name=cell["name"], keep="last")


@pytest.fixture
def vqseg(study, tmp_path, monkeypatch, command):
    """Call a command in a copy of the study's folder."""
    shutil.copytree(study.store.parent, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.setenv("COLUMNS", "200")

    return command


def content(store):
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def values(rows):
    """Rows without the moment of their scoring."""
    return rows.drop(columns="evaluated").sort_values(["protocol", "case", "class_index"]).reset_index(drop=True)


# the truth, and a run's own


def test_the_truth_is_perfect_in_every_form_and_always_the_same_run(phantom_root, tmp_path, overlays):
    _, maps = truth(phantom_root)
    found = []
    for form in FORMS:
        place = written(tmp_path / form.__name__, form, maps)
        found.append(score_predictions(place, Rival("truth"), root=phantom_root, store=tmp_path / "store"))
    done = found[0]
    assert done.new and not any(other.new for other in found[1:]) and done.notes == []
    assert {other.folder.identity for other in found} == {done.folder.identity}
    rows = done.rows
    assert list(rows.columns) == COLUMNS and done.part == "test"
    assert len(rows) == len(maps) * 3 and set(rows["case"]) == set(maps)
    assert (rows["dice"] == 1).all() and (rows["hd95_voxel"] == 0).all() and (rows["asd_mm"] == 0).all()
    kinds = rows[["part", "checkpoint", "network", "protocol", "geometry"]].drop_duplicates().to_numpy().tolist()
    assert kinds == [["test", "last", "teacher", "scan", "native"]]
    assert len(list((done.folder.path / "labels" / "test-last-teacher-native").glob("*.npz"))) == len(maps)
    assert len(list((done.folder.path / "overlays").glob("*.png"))) == 3


def test_a_runs_own_label_maps_get_its_own_rows(study, phantom_root, tmp_path):
    own = pd.read_parquet(study.path / "rows.parquet").query("checkpoint == 'last' and network == 'teacher'")
    labels = study.path / "labels" / "val-last-teacher-native"
    done = score_predictions(labels, Rival("self"), root=phantom_root, store=tmp_path, part="val")
    pd.testing.assert_frame_equal(values(done.rows), values(own))


def save(path, values, affine=OBLIQUE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Folders images/ and masks/ of oblique volumes, two of them in a folder of their own."""
    root, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    for number in range(8):
        mask = np.zeros(SHAPE, np.uint8)
        mask[3 : 12 + number % 3, 4:15, 1:4] = 1
        image = (mask * np.int16(500) + rng.integers(0, 200, SHAPE)).astype(np.int16)
        name = f"{'sub/' if number > 5 else ''}case_{number}.nii.gz"
        save(root / "images" / name, image)
        save(root / "masks" / name, mask)
    return root


def test_a_runs_own_predictions_of_the_files_get_its_own_rows(volumes, tiny, tmp_path):
    root, store = tmp_path / "data", tmp_path / "store"
    nifti.prepare(volumes / "images", root, masks=volumes / "masks", options=Options(labelled="2", val=0.25))
    config = load_config("smoke", [*tiny, "train.steps=4"])
    run = experiment.run(experiment.plan(config, root=root, split=None, store=store), name="own")
    predict(run, volumes / "images", tmp_path / "out", probabilities=True)
    done = score_predictions(tmp_path / "out", Rival("exported", seed=0), root=root, store=store, part="val")
    own = pd.read_parquet(run.path / "rows.parquet").query("checkpoint == 'last' and network == 'teacher'")
    pd.testing.assert_frame_equal(values(done.rows), values(own))
    # By the names of the scans alone, folders left out.
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (tmp_path / "out").rglob("case_?.nii.gz"):
        shutil.copy(path, flat / path.name)
    again = score_predictions(flat, Rival("exported", seed=0), root=root, store=store, part="val")
    assert not again.new and again.folder.identity == done.folder.identity


@pytest.mark.parametrize("spacing", [None, 0.4, 1.0])
def test_the_truth_on_the_files_grids_is_perfect(volumes, tmp_path, spacing):
    options = Options(labelled="2", spacing_mm=spacing)
    manifest = nifti.prepare(volumes / "images", tmp_path / "data", masks=volumes / "masks", options=options).manifest
    maps, notes = read(volumes / "masks", manifest, manifest.scans)
    assert not notes
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for scan in manifest.scans:
        np.testing.assert_array_equal(maps[scan.scan], read_mask(tmp_path / "data", scan))
        name = scan.scan.replace("sub_", "sub/")
        values = np.asanyarray(nibabel.load(volumes / "masks" / f"{name}.nii.gz").dataobj)
        np.savez(arrays / f"{scan.scan}.npz", labels=values, softmax=np.zeros(3))
    maps, _ = read(arrays, manifest, manifest.scans)
    for scan in manifest.scans:
        np.testing.assert_array_equal(maps[scan.scan], read_mask(tmp_path / "data", scan))


def test_time_points_may_lie_in_one_file(tmp_path):
    rng, made = np.random.default_rng(0), []
    for number in range(4):
        mask = np.zeros((12, 14, 4, 11), np.uint8)
        for frame in range(11):
            mask[1 : 5 + frame % 5, 2:9, :, frame] = 1
        made.append(mask)
        save(tmp_path / "images" / f"case_{number}.nii.gz", rng.integers(0, 900, mask.shape).astype(np.int16))
        save(tmp_path / "masks" / f"case_{number}.nii.gz", mask)
    out = tmp_path / "data"
    manifest = nifti.prepare(tmp_path / "images", out, masks=tmp_path / "masks").manifest
    assert len(manifest.scans) == 44
    maps, _ = read(tmp_path / "masks", manifest, manifest.scans)
    for scan in manifest.scans:
        np.testing.assert_array_equal(maps[scan.scan], read_mask(out, scan))
    save(tmp_path / "short" / "case_0.nii.gz", made[0][..., :3])
    with pytest.raises(InputError, match="holds 3 volumes; expected at least 4"):
        read(tmp_path / "short", manifest, manifest.scans[:4])


def test_pictures_come_from_their_own_size_and_from_255(tmp_path):
    rng, source = np.random.default_rng(0), tmp_path / "source"
    for number in range(6):
        shape = (80, 60 + number)
        for folder in ("images", "masks"):
            (source / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*shape, 3)).astype(np.uint8)).save(source / "images" / f"I_{number}.jpg")
        mask = np.zeros(shape, np.uint8)
        mask[5:40, 4 : 22 + number] = 255
        Image.fromarray(mask).save(source / "masks" / f"I_{number}_segmentation.png")
    isic.prepare(source, tmp_path / "data", max_side=40, labelled="1", val=0.25, test=0.25)
    done = score_predictions(source / "masks", Rival("truth"), root=tmp_path / "data", store=tmp_path / "store")
    assert set(done.rows["protocol"]) == {"image"} and (done.rows["dice"] == 1).all()
    manifest, _ = truth(tmp_path / "data")
    Image.fromarray(np.zeros((80, 50), np.uint8)).save(tmp_path / "I_0.png")
    with pytest.raises(InputError, match=r"I_0\.png: 80 x 50 pixels, scan 'I_0' has 40 x 30"):
        read(tmp_path / "I_0.png", manifest, manifest.scans[:1])


def test_pictures_named_by_the_imports_pattern_are_found_by_it(tmp_path):
    rng, source = np.random.default_rng(0), tmp_path / "source"
    for place, (part, who) in enumerate([("train-label", "a"), ("train-label", "b"), ("val", "c"), ("test", "d")]):
        for number in (1, 2, 10):
            for kind in ("image", "mask"):
                (source / part / kind).mkdir(parents=True, exist_ok=True)
            mask = np.zeros((8, 9), np.uint8)
            mask[place : place + 4, number % 5 :] = 1
            name = f"{who}z{number}.png"
            Image.fromarray(rng.integers(0, 255, (8, 9)).astype(np.uint8)).save(source / part / "image" / name)
            Image.fromarray(mask).save(source / part / "mask" / name)
    out = tmp_path / "data"
    pictures.prepare(source, out, pattern=r"(?P<scan>(?P<patient>[a-d])z)(?P<slice>\d+)")
    manifest, maps = truth(out)
    assert list(maps) == ["dz"]
    found, _ = read(source / "test" / "mask", manifest, [maps["dz"][0]])
    np.testing.assert_array_equal(found["dz"], maps["dz"][1])


# what is refused


def test_what_does_not_fit_is_one_line_that_names_the_file(phantom_root, tmp_path):
    _, maps = truth(phantom_root)
    (name, (_, labels)), *_ = maps.items()
    store = tmp_path / "store"

    def refused(message, **changes):
        asked = {"rival": Rival("bad"), "root": phantom_root, "store": store, **changes}
        with pytest.raises(InputError, match=message) as caught:
            score_predictions(place, **asked)
        assert "\n" not in str(caught.value) and not (store / "runs").exists()

    place = written(tmp_path / "p", as_npz, maps)
    np.savez(place / f"{name}.npz", labels[:-1])
    refused(rf"{name}\.npz: shape .* scan '{name}' has {labels.shape[0]} x 32 x 32 \(slices, rows, columns\)")
    np.savez(place / f"{name}.npz", labels + np.uint8(4))
    refused(rf"{name}\.npz: value 4 is no class; expected whole numbers 0 to 3")
    np.savez(place / f"{name}.npz", labels * 0.3)
    refused("value 0.6 is no class; .* take the class of the largest probability first")
    np.savez(place / f"{name}.npz", np.where(labels == 1, np.nan, 0))
    refused("value nan is no class")
    np.savez(place / f"{name}.npz", np.full(labels.shape, "heart"))
    refused("holds <U5; expected class indices")
    np.savez(place / f"{name}.npz", one=labels, two=labels)
    refused("holds one, two; expected one array of class indices, or one called labels")
    (place / f"{name}.npz").write_bytes(b"PK broken")
    refused(rf"{name}\.npz: not readable: damaged, or Python objects instead of numbers; restore the file$")
    np.save(place / f"{name}.npz", np.array([{}], dtype=object), allow_pickle=True)
    refused("not readable: damaged, or Python objects instead of numbers; restore the file$")
    (place / f"{name}.npz").unlink()
    refused(rf"p: holds no label map of scan '{name}'; expected {name}\.nii\.gz, \.npz or \.npy, or slices")
    for path in place.iterdir():
        path.write_bytes(b"PK broken")
    refused(f"p: holds no label map of scan '{name}'")
    shutil.rmtree(place)
    place.mkdir()
    refused(r"p: holds no label map \(")
    written(place, as_npz, maps)
    shutil.copytree(place, place / "fold1")
    shutil.copytree(place, place / "fold2")
    (place / f"{name}.npz").unlink()
    refused(rf"fold1/{name}\.npz: scan '{name}' has another one")
    shutil.rmtree(place)
    written(place, as_npz, maps)
    refused("unknown part 'tets'.*known: val, test$", part="tets")
    refused("--part unlabelled: is for training, .*; name val, test or devtest", part="unlabelled")
    refused("unknown split 'other'|unknown split of .* 'other'", split="other")
    refused("unknown protocol 'scam'", protocols=["scam"])
    refused("protocol 'image' is not applicable to test: scan", protocols=["image"])
    refused("unknown distance library", library="theirs")
    refused("expected the method's name", rival=Rival(" "))
    refused("--seed -1: expected 0 or more", rival=Rival("a", seed=-1))
    refused("--steps 0: expected 1 or more", rival=Rival("a", steps=0))
    place = tmp_path / "nowhere"
    refused("no such file or folder")


def test_slices_have_to_be_those_of_the_scan(phantom_root, tmp_path):
    manifest, maps = truth(phantom_root)
    scan, labels = next(iter(maps.values()))
    as_slices(tmp_path, scan, labels)
    first, third = (tmp_path / f"{scan.scan}_slice_{number}.png" for number in (1, 3))
    held = third.read_bytes()
    third.unlink()
    with pytest.raises(InputError, match=rf"no label map of slice 3, {len(labels) - 1} of slices 1 to {len(labels)}"):
        read(tmp_path, manifest, [scan])
    third.write_bytes(held)
    shutil.copy(first, tmp_path / f"{scan.scan}_slice_0.png")
    with pytest.raises(InputError, match=r"slice_0\.png: scan .* has no slice 0, but slices 1 to"):
        read(tmp_path, manifest, [scan])
    (tmp_path / f"{scan.scan}_slice_0.png").unlink()
    shutil.copy(first, tmp_path / f"{scan.scan}-1.png")
    with pytest.raises(InputError, match="the same slice as"):
        read(tmp_path, manifest, [scan])
    (tmp_path / f"{scan.scan}-1.png").unlink()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(first)
    with pytest.raises(InputError, match="is a color picture; expected one class index per pixel"):
        read(tmp_path, manifest, [scan])
    first.write_bytes(held[:40])
    with pytest.raises(InputError, match="slice_1.png: not readable as an image"):
        read(tmp_path, manifest, [scan])


def test_what_could_lie_two_ways_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[1:5, 2:4, 3:8] = 1
        save(
            tmp_path / "images" / f"case_{number}.nii.gz", rng.integers(0, 900, mask.shape).astype(np.int16), np.eye(4)
        )
        save(tmp_path / "masks" / f"case_{number}.nii.gz", mask, np.eye(4))
    manifest = nifti.prepare(tmp_path / "images", tmp_path / "data", masks=tmp_path / "masks").manifest
    scan = manifest.scans[0]
    np.save(tmp_path / "case_0.npy", np.zeros((8, 8, 8), np.uint8))
    with pytest.raises(InputError, match="8 x 8 x 8 fits both the stored slices and the source file; write it as"):
        read(tmp_path / "case_0.npy", manifest, [scan])
    # A file says by its affine which it is; it has to be the source's.
    maps, _ = read(tmp_path / "masks", manifest, [scan])
    np.testing.assert_array_equal(maps[scan.scan], read_mask(tmp_path / "data", scan))
    save(tmp_path / "turned" / "case_0.nii.gz", np.zeros((8, 8, 8), np.uint8), np.diag([-1, 1, 1, 1.0]))
    with pytest.raises(InputError, match="mm away from the file that the scan was made of"):
        read(tmp_path / "turned", manifest, [scan])
    bare = scan.model_copy(update={"grid": None})
    with pytest.raises(InputError, match=r"may be \(S, H, W\) or \(W, H, S\)"):
        read(tmp_path / "masks", manifest, [bare])


def test_square_slices_without_a_source_grid_are_read_as_said(phantom_root, tmp_path):
    manifest, maps = truth(phantom_root)
    assert read(written(tmp_path / "shw", as_nifti, maps), manifest, [scan for scan, _ in maps.values()])[1] == []
    assert read(written(tmp_path / "npz", as_npz, maps), manifest, [scan for scan, _ in maps.values()])[1] == []
    place = written(tmp_path / "whs", as_simple_itk, maps)
    _, notes = read(place, manifest, [scan for scan, _ in maps.values()])
    assert notes == [
        f"4 volumes of square slices were read as (W, H, S), such as {next(iter(maps))}.nii; if rows come first, write"
        " them as npz (S, H, W)"
    ]


# the run


def test_a_rival_is_who_predicted_what(phantom_root, tmp_path, monkeypatch):
    manifest, maps = truth(phantom_root)
    place, store = written(tmp_path / "p", as_npz, maps), tmp_path / "store"

    def scored(*told, where=place, **options):
        return score_predictions(where, Rival(*told), root=phantom_root, store=store, **options)

    first = scored("nnU-Net")
    before, status = content(store), first.folder.status()
    monkeypatch.setattr(rivals, "now", lambda: "2100-01-01T00:00:00+00:00")
    assert not scored("nnU-Net").new
    # Only when it was last asked for: the last command's run stands in a table.
    assert first.folder.status() == {**status, "called": "2100-01-01T00:00:00+00:00"}
    after = content(store)
    assert before.keys() == after.keys()
    assert [path for path in before if before[path] != after[path]] == [f"runs/{first.folder.identity}/status.json"]
    assert (status["kind"], status["state"], status["code"], status["name"]) == ("foreign", "finished", {}, "nnU-Net")
    unknown = ("seed", "steps", "step", "labelled", "labels", "pretrained", "preset", "cost", "validation", "error")
    assert all(status[key] is None for key in unknown)
    split = read_split(phantom_root, manifest)
    assert status["split"]["digest"] == split.digest and status["data"]["digest"] == manifest.digest
    assert status["split"]["parts"]["test"]["patients"] == len(split.parts["test"])
    assert status["predictions"]["path"] == str(place) and status["predictions"]["part"] == "test"
    # Told later: the same run. Another seed, name, split or content: another one.
    assert not scored("nnU-Net", None, 3, 1000, "no").new
    assert first.folder.status()["labelled"] == 3 and first.folder.status()["pretrained"] == "no"
    assert not scored("nnU-Net").new and first.folder.status()["steps"] == 1000
    scan, labels = next(iter(maps.values()))
    changed = written(tmp_path / "q", as_npz, {**maps, scan.scan: (scan, np.zeros_like(labels))})
    runs = [first, scored("nnU-Net", 1), scored("other"), scored("nnU-Net", where=changed)]
    runs.append(scored("nnU-Net", split="labelled-all"))
    assert all(done.new for done in runs) and len({done.folder.identity for done in runs}) == 5
    assert runs[3].rows["dice"].mean() < 1
    assert index.foreign(store, manifest.digest) == sorted(done.folder.identity for done in runs)


def test_other_protocols_are_scored_when_asked_for_from_the_given_label_maps(phantom_root, tmp_path):
    store = tmp_path / "store"
    place = written(tmp_path / "p", as_npz, truth(phantom_root)[1])
    first = score_predictions(place, Rival("a"), root=phantom_root, store=store)
    with pytest.raises(
        InputError, match=r"'unimatch' scores val and test scans together, but .* holds no label map of"
    ):
        score_predictions(place, Rival("a"), root=phantom_root, store=store, protocols=["scan", "unimatch"])
    assert set(pd.read_parquet(first.folder.path / "rows.parquet")["protocol"]) == {"scan"}
    done = score_predictions(place, Rival("a"), root=phantom_root, store=store, protocols=["all"])
    assert set(done.rows["protocol"]) == {"scan", "ssl4mis", "vqseg-release"}
    why = done.folder.status()["evaluations"][-1]["not_applicable"]["unimatch"]
    assert why.startswith("val and test scans together, but ") and why.endswith(" of val")
    assert f"not applicable: unimatch: {why}" in done.notes
    with pytest.raises(InputError, match=r"holds no label map of scan .* and 3 others of 6"):
        score_predictions(
            written(tmp_path / "v", as_npz, truth(phantom_root, "val")[1]),
            *(Rival("a"),), root=phantom_root, store=store, protocols=["all"],
        )  # fmt: skip
    written(place, as_npz, truth(phantom_root, "val")[1])
    done = score_predictions(place, Rival("a"), root=phantom_root, store=store, protocols=["all"])
    assert done.new and done.folder.identity == first.folder.identity
    found = done.rows.drop_duplicates("protocol").set_index("protocol")["geometry"].to_dict()
    assert found == {"scan": "native", "ssl4mis": "given", "unimatch": "given", "vqseg-release": "given"}
    assert (done.rows["part"] == "test").all() and not (done.rows.query("protocol == 'scan'")["dice"] < 1).any()
    assert [note.partition(": ")[0] for note in done.notes] == ["not applicable"]  # image
    for protocols in (None, ["scan", "unimatch"], ["all"]):
        assert not score_predictions(place, Rival("a"), root=phantom_root, store=store, protocols=protocols).new
    repeats = [entry["repeat"] for entry in done.folder.status()["evaluations"]]
    assert repeats == [0, 1, 2]


def test_other_scoring_code_scores_again(phantom_root, tmp_path, monkeypatch):
    place = written(tmp_path / "p", as_npz, truth(phantom_root)[1])
    first = score_predictions(place, Rival("a"), root=phantom_root, store=tmp_path / "store")
    monkeypatch.setattr(rivals, "scoring_hash", lambda: "later")
    again = score_predictions(place, Rival("a"), root=phantom_root, store=tmp_path / "store")
    assert again.new and again.folder.identity == first.folder.identity
    assert again.folder.status()["scoring"] == "later" and len(again.rows) == len(first.rows)


def test_a_protocol_named_twice_has_its_rows_once(phantom_root, tmp_path):
    place = written(tmp_path / "p", as_npz, truth(phantom_root)[1])
    options = {"root": phantom_root, "store": tmp_path / "store"}
    done = score_predictions(place, Rival("a"), protocols=["scan", "scan"], **options)
    assert not done.rows.duplicated(["protocol", "case", "class_index"]).any()
    assert done.folder.status()["evaluations"][0]["protocols"] == ["scan"]


def test_other_lesion_marks_score_again(phantom_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(phantom_root, root)
    place = written(tmp_path / "p", as_npz, truth(root)[1])
    options = {"root": root, "store": tmp_path / "store"}
    first = score_predictions(place, Rival("a"), **options)
    old = [
        {key: value for key, value in one.items() if key != "lesions"} for one in first.folder.status()["evaluations"]
    ]
    first.folder.update(evaluations=old)
    assert not score_predictions(place, Rival("a"), **options).new  # an older entry: no marks
    name = read_manifest(root).classes[1]
    for lesions, new in ((f"{name}=2", True), (f"{name}=2", False), (f"{name}=3", True)):
        marks.mark(root, lesions=[lesions])
        done = score_predictions(place, Rival("a"), **options)
        assert done.new == new and done.folder.identity == first.folder.identity
        assert done.rows.query("class_name == @name")["surface_dice"].notna().all()
    marks.mark(root, no_lesions=[name])
    done = score_predictions(place, Rival("a"), **options)
    assert done.new and done.rows["surface_dice"].isna().all()
    assert [one.get("lesions", {}) for one in done.folder.status()["evaluations"]] == [{}, {name: 2}, {name: 3}, {}]


def test_a_scoring_that_is_killed_is_counted_and_done_again(phantom_root, tmp_path, monkeypatch):
    place = written(tmp_path / "p", as_npz, truth(phantom_root)[1])
    options = {"root": phantom_root, "store": tmp_path / "store"}
    write = rivals.merge_rows

    def killed(path, rows):
        write(path, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(rivals, "merge_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        score_predictions(place, Rival("a"), protocols=["scan", "ssl4mis"], **options)
    monkeypatch.setattr(rivals, "merge_rows", write)
    first = score_predictions(place, Rival("a"), **options)
    assert first.new and set(first.rows["protocol"]) == {"scan"}  # nothing that no evaluation counts
    monkeypatch.setattr(rivals, "merge_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        score_predictions(place, Rival("a"), protocols=["scan", "ssl4mis"], **options)
    assert [one.get("unfinished") for one in first.folder.status()["evaluations"]] == [None, True]
    monkeypatch.setattr(rivals, "merge_rows", write)
    done = score_predictions(place, Rival("a"), **options)
    assert done.new
    assert [(one["repeat"], "unfinished" in one) for one in done.folder.status()["evaluations"]] == [
        (0, False), (1, True), (2, False),
    ]  # fmt: skip


def test_the_mirror_and_the_index_take_a_rival_like_any_run(phantom_root, tmp_path):
    place = written(tmp_path / "p", as_npz, truth(phantom_root)[1])
    run = score_predictions(place, Rival("a", 2), root=phantom_root, store=tmp_path / "store").folder
    view = run_view(run, [], None)
    assert view.name == "a" and view.status == "FINISHED" and view.totals == {"test/dice_teacher": 1.0}
    assert view.tags["seed"] == "2" and view.dataset.digest == read_manifest(phantom_root).digest
    for number, artifact in enumerate(view.artifacts):
        artifact.write(tmp_path / f"{number}{artifact.name.rpartition('/')[2]}")
    assert fingerprint(run, [], None) == fingerprint(run, [], None)
    assert exhibits.scores(run.path) == {"test": 1.0}
    (row,) = index.frame(run.store, [run.identity]).to_dict("records")
    assert row["kind"] == "foreign" and row["state"] == "finished" and row["split.parts.test.patients"] == 2


def test_a_table_shows_the_rival_and_commands_do_not_stumble_over_it(vqseg, phantom_root, tmp_path):
    place = written(tmp_path / "p", as_npz, truth(phantom_root, "val")[1])
    words = ("score", place, "--data", phantom_root, "--name", "nnU-Net v2", "--split", "val", "--labelled", 3)
    code, out, err = vqseg(*words)
    assert code == 0 and "1.0000" in out and not err, err
    assert "teacher" not in out and any(
        line.split()[:4] == ["nnU-Net", "v2", "scan", "1.0000"] for line in out.splitlines()
    )
    identity = out.rsplit("run ", 1)[1].partition(":")[0]
    code, out, _ = vqseg(*words)
    assert code == 0 and out.rstrip().endswith("(there already)") and f"run {identity}" in out
    code, out, err = vqseg("report", "ablation")
    assert code == 0, err
    row = next(line for line in out.splitlines() if line.startswith("nnU-Net v2"))
    assert "‡" in row and "100.00" in row and "?" in row and " 3 " in row
    assert all(one <= other for one, other in pairwise([out.index("none"), out.index(row)]))
    for command in (("records", "list"), ("records", "show", identity), ("doctor",)):
        code, out, err = vqseg(*command)
        assert code == 0 and "Traceback" not in err, err
    code, out, err = vqseg("evaluate", identity)
    assert code == 2 and err.startswith("vqseg: error: ") and err.count("\n") == 1
    code, out, err = vqseg("predict", identity, place, tmp_path / "out")
    assert code == 2 and "was scored from its predictions; it has no network" in err
    code, _, err = vqseg("score", tmp_path / "gone", "--data", phantom_root, "--name", "x")
    assert code == 2 and "no such file or folder" in err


def test_the_last_command_decides_which_predictions_stand_in_the_table(vqseg, phantom_root, tmp_path, monkeypatch):
    _, maps = truth(phantom_root, "val")
    good = written(tmp_path / "good", as_npz, maps)
    bad = written(tmp_path / "bad", as_npz, {name: (scan, labels * 0) for name, (scan, labels) in maps.items()})
    for minute, (place, shown) in enumerate([(good, "100.00"), (bad, " 0.00"), (good, "100.00"), (bad, " 0.00")]):
        monkeypatch.setattr(rivals, "now", lambda minute=minute: f"2100-01-01T00:0{minute}:00+00:00")
        code, out, err = vqseg("score", place, "--data", phantom_root, "--name", "SAM", "--seed", 0, "--part", "val")
        assert code == 0 and out.rstrip().endswith("(there already)") == (minute > 1), err
        code, out, err = vqseg("report", "ablation")
        assert code == 0, err
        assert shown in next(line for line in out.splitlines() if line.startswith("SAM"))


@pytest.mark.parametrize("word", ["scan, scan", "scan,all", "scan,,ssl4mis", ""])
def test_protocols_are_named_once_by_comma(vqseg, phantom_root, tmp_path, word):
    place = written(tmp_path / "p", as_npz, truth(phantom_root)[1])
    code, _, err = vqseg("score", place, "--data", phantom_root, "--name", "a", "--protocol", word)
    if word == "scan, scan":
        assert code == 0, err
    else:
        assert code == 2 and err.startswith(f"vqseg: error: --protocol {word!r}: expected names by comma"), err
        assert err.count("\n") == 1


# which run of a method stands in a table


def chosen(store, made):
    return select(store, made, Wanted(part="devtest"))


def evaluation(**changes):
    return {"part": "devtest", "date": "2026-01-02T00:00:00+00:00", "protocols": ["scan"], "repeat": 0, **changes}


def of(selection):
    return 100 * selection.rivals.scores["dice"].mean()


def test_the_run_that_was_asked_for_last_stands_in_the_table(tmp_path):
    made = fabricated.study(tmp_path, seeds=1, noise=0.0)
    old = fabricated.rival(tmp_path, dice=60.0, created="2026-01-01T00:00:00+00:00", evaluations=[evaluation()])
    fabricated.rival(tmp_path, dice=80.0, created="2026-01-03T00:00:00+00:00")
    assert of(chosen(tmp_path, made)) == pytest.approx(80)
    again = evaluation(date="2026-01-04T00:00:00+00:00", repeat=1)
    old.update(evaluations=[evaluation(), again])  # scored again: 'created' stays
    assert of(chosen(tmp_path, made)) == pytest.approx(60)
    fabricated.rival(
        tmp_path, dice=80.0, created="2026-01-03T00:00:00+00:00", called="2026-01-05T00:00:00+00:00"
    )  # 'there already'
    assert len(index.foreign(tmp_path, "d" * 16)) == 3
    assert of(chosen(tmp_path, made)) == pytest.approx(80)


def test_a_run_that_is_refused_hides_no_older_one(tmp_path):
    made = fabricated.study(tmp_path, seeds=1, noise=0.0)
    fabricated.rival(tmp_path, dice=60.0, created="2026-01-01T00:00:00+00:00")
    newer = fabricated.rival(tmp_path, dice=80.0, created="2026-01-03T00:00:00+00:00")
    rows = pd.read_parquet(newer.path / "rows.parquet")
    rows.assign(scoring="older").to_parquet(newer.path / "rows.parquet", index=False)
    selection = chosen(tmp_path, made)
    assert of(selection) == pytest.approx(60)
    (note,) = selection.notes
    assert note.startswith(
        "nnU-Net, scored from its predictions, is left out: other scoring code scored it than the study; "
    )


def test_rows_of_other_lesion_marks_do_not_stand_beside_the_studys(tmp_path):
    made = fabricated.study(tmp_path, seeds=1, noise=0.0)
    run = fabricated.rival(tmp_path, evaluations=[evaluation(lesions={"LV": 2.0})])
    selection = chosen(tmp_path, made)
    assert selection.rivals.names == []
    assert "lesions were marked LV=2 when it was scored, none for the study; score again" in selection.notes[0]
    for cell in made["cells"]:
        RunFolder(tmp_path, cell["identity"]).update(evaluations=[evaluation(lesions={"LV": 2.0})])
    assert chosen(tmp_path, made).rivals.names == ["nnU-Net"]
    odd = RunFolder(tmp_path, made["cells"][0]["identity"])
    odd.update(evaluations=[evaluation(lesions={"LV": 1.0})])
    with pytest.raises(InputError, match="lesion marks LV=.* against LV=.*run the odd ones again"):
        chosen(tmp_path, made)
    odd.update(evaluations=[evaluation(lesions={"LV": 2.0}, unfinished=True)])
    with pytest.raises(InputError, match="was cut short; finish it: vqseg study evaluate .* --part devtest"):
        chosen(tmp_path, made)
    odd.update(evaluations=[evaluation(lesions={"LV": 2.0})])
    run.update(evaluations=[evaluation(lesions={"LV": 2.0}, unfinished=True)])
    assert "its last scoring was cut short; 'vqseg score' finishes it" in chosen(tmp_path, made).notes[0]
