"""New files through a trained network: read as its data were, label maps on their own grids, nothing done twice."""

import os
import shutil
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from vqseg import experiment, inputs
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.evaluate import label_path, load_label_map
from vqseg.files import read_json, read_yaml, write_json, write_yaml
from vqseg.importers import isic, nifti
from vqseg.importers.layouts import Options
from vqseg.importers.pictures import pixels
from vqseg.inference import Recipe, label_map
from vqseg.intake import Channel, Intake
from vqseg.manifest import Manifest, read_image, read_manifest, read_split, scans_of
from vqseg.predict import class_probabilities, predict
from vqseg.records.run import RunFolder
from vqseg.trained import Trained
from vqseg.volumes import inverse

OBLIQUE = np.array([[0.0, -0.35, 7.9, -30], [-0.7, 0.1, 0.9, 12.5], [0.05, 0.62, 1.4, -88], [0, 0, 0, 1.0]])
SHAPE = (20, 24, 5)


def save(path, values, affine=OBLIQUE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def draw(rng, shape=SHAPE):
    """A volume with a bright box, and the box."""
    values, mask = rng.integers(0, 200, shape).astype(np.int16), np.zeros(shape[:3], np.uint8)
    corner = rng.integers(0, 8, 2)
    box = np.s_[corner[0] : corner[0] + 9, corner[1] : corner[1] + 11, :]
    values[box] += 500
    mask[box] = 1
    return values, mask


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """A folder with images/, masks/ and the prepared data/."""
    root, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    for number in range(6):
        values, mask = draw(rng)
        ending = "nii" if number == 5 else "nii.gz"
        save(root / "images" / f"case_{number}.{ending}", values)
        save(root / "masks" / f"case_{number}.{ending}", mask)
    nifti.prepare(root / "images", root / "data", masks=root / "masks", options=Options(labelled="2"))
    return root


def trained(root, store, tiny, *overrides):
    config = load_config("smoke", [*tiny, "train.steps=4", *overrides])
    return experiment.run(experiment.plan(config, root=root, split=None, store=store), name="tiny", keep="all")


@pytest.fixture(scope="module")
def run(volumes, tiny, tmp_path_factory):
    return trained(volumes / "data", tmp_path_factory.mktemp("store"), tiny)


@pytest.fixture
def copied(run, tmp_path):
    """A run of its own that a test may change."""
    shutil.copytree(run.path, tmp_path / "store" / "runs" / run.identity)
    return RunFolder(tmp_path / "store", run.identity)


@pytest.fixture
def vqseg(command):
    return command


def stamps(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")}


def of_scoring(run, root):
    """The scans of the validation part with the label maps that scoring stored, by name."""
    manifest = read_manifest(root)
    scans = scans_of(manifest, read_split(root, manifest), "val")
    keys = {"part": "val", "checkpoint": "last", "network": "teacher", "geometry": "native"}
    return {scan.scan: (scan, load_label_map(label_path(run.path, scan=scan.scan, **keys))) for scan in scans}


# volumes


def test_label_maps_lie_on_the_files_grids_and_are_those_of_scoring(run, volumes, tmp_path):
    done = predict(run, volumes / "images", tmp_path / "out", probabilities=True)
    assert len(done.made) == 6 and not done.failed and not done.notes
    for path in (volumes / "images").iterdir():
        source, written = nibabel.load(path), nibabel.load(tmp_path / "out" / path.name)
        labels = np.asanyarray(written.dataobj)
        assert labels.shape == SHAPE and labels.dtype == np.uint8 and set(np.unique(labels)) <= {0, 1}
        np.testing.assert_array_equal(written.affine, source.affine)
        stem = path.name.partition(".")[0]
        shares = nibabel.load(tmp_path / "out" / path.name.replace(stem, f"{stem}_probabilities"))
        values = np.asanyarray(shares.dataobj)
        assert values.shape == (*SHAPE, 2) and values.dtype == np.float32
        np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
        np.testing.assert_array_equal(values.argmax(-1), labels)
        np.testing.assert_array_equal(shares.affine, source.affine)
    stored = of_scoring(run, volumes / "data")
    assert stored
    for scan, labels in stored.values():
        (path,) = (tmp_path / "out").glob(f"{scan.scan}.nii*")
        np.testing.assert_array_equal(np.asanyarray(nibabel.load(path).dataobj), inverse(labels, scan.grid))
    about = read_json(tmp_path / "out" / "classes.json")
    assert about["classes"] == {"background": 0, "foreground": 1}
    assert (about["run"], about["checkpoint"], about["network"]) == (run.identity, "last", "teacher")
    # Without probabilities the labels come from the scorer's own function, and are the same.
    predict(run, volumes / "images", tmp_path / "plain")
    for path in (tmp_path / "plain").glob("*.nii*"):
        one, other = (np.asanyarray(nibabel.load(each / path.name).dataobj) for each in (path.parent, tmp_path / "out"))
        np.testing.assert_array_equal(one, other)


def test_the_same_command_does_nothing_and_a_changed_input_is_done_again(run, volumes, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for number in (0, 1, 2):
        (source / "sub").mkdir(parents=True, exist_ok=True)
        name = f"case_{number}.nii.gz"
        shutil.copy(volumes / "images" / name, source / ("sub" if number == 2 else ".") / name)
    assert predict(run, source, out).made == ["case_0.nii.gz", "case_1.nii.gz", "sub/case_2.nii.gz"]
    before = stamps(out)
    assert predict(run, source, out).kept == ["case_0.nii.gz", "case_1.nii.gz", "sub/case_2.nii.gz"]
    assert stamps(out) == before
    (out / "case_0.nii.gz").unlink()
    shutil.copy(volumes / "images" / "case_3.nii.gz", source / "case_1.nii.gz")
    assert predict(run, source, out).made == ["case_0.nii.gz", "case_1.nii.gz"]
    assert stamps(out)["sub/case_2.nii.gz"] == before["sub/case_2.nii.gz"]
    assert predict(run, source, out, probabilities=True).made == ["case_0.nii.gz", "case_1.nii.gz", "sub/case_2.nii.gz"]
    assert predict(run, source, out).made == []
    assert len(predict(run, source, out, overwrite=True).made) == 3
    assert predict(run, source / "case_0.nii.gz", tmp_path / "one").made == ["case_0.nii.gz"]


def test_a_kill_loses_nothing_that_is_recorded(run, volumes, tmp_path, monkeypatch):
    from vqseg.inputs import OpenVolume

    write, calls = OpenVolume.write, []

    def stopping(self, *args):
        calls.append(self.target)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(self, *args)

    monkeypatch.setattr(OpenVolume, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        predict(run, volumes / "images", tmp_path / "out")
    monkeypatch.undo()
    done = predict(run, volumes / "images", tmp_path / "out")
    assert done.kept == calls[:2] and len(done.made) == 4


def test_a_damaged_file_is_one_line_and_loses_no_other(run, volumes, tmp_path, vqseg):
    source = tmp_path / "in"
    shutil.copytree(volumes / "images", source)
    whole = (source / "case_1.nii.gz").read_bytes()
    (source / "case_1.nii.gz").write_bytes(whole[: len(whole) // 2])
    save(source / "case_2.nii.gz", np.zeros((*SHAPE, 2), np.int16))
    code, out, err = vqseg("predict", run.path, source, tmp_path / "out")
    assert code == 2 and "4 predicted, 0 there already, 2 failed" in out and "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("vqseg: error: ")]
    assert len(errors) == 2
    assert "case_1.nii.gz: damaged" in errors[0]
    assert "case_2.nii.gz: the case has 2 channels, expected 1" in errors[1]
    assert len(list((tmp_path / "out").glob("case_*"))) == 4
    shutil.copytree(volumes / "images", source, dirs_exist_ok=True)
    code, out, _ = vqseg("predict", run.identity[:6], source, tmp_path / "out", "--store", run.store)
    assert code == 0 and "2 predicted, 4 there already, 0 failed" in out


def test_the_data_folder_is_not_needed(run, volumes, tmp_path, copied):
    status = copied.status()
    copied.update(data={**status["data"], "root": str(tmp_path / "gone")})
    source = volumes / "images" / "case_0.nii.gz"
    predict(copied, source, tmp_path / "one")
    predict(run, source, tmp_path / "other")
    assert (tmp_path / "one" / source.name).read_bytes() == (tmp_path / "other" / source.name).read_bytes()
    older = {key: value for key, value in status["data"].items() if key not in ("channels", "color", "intake")}
    copied.update(data={**older, "root": str(tmp_path / "gone")})
    with pytest.raises(InputError, match=r"gone is gone; name the data's folder with --data"):
        predict(copied, source, tmp_path / "two")
    predict(copied, source, tmp_path / "two", root=volumes / "data")
    assert (tmp_path / "two" / source.name).read_bytes() == (tmp_path / "one" / source.name).read_bytes()
    copied.update(data={**older, "digest": "0" * 16})
    with pytest.raises(InputError, match=f"but the run was trained on {'0' * 16}"):
        predict(copied, source, tmp_path / "three", root=volumes / "data")
    assert not (tmp_path / "three").exists()


def test_data_that_tell_nothing_are_read_by_their_own_extremes(volumes, tmp_path, copied):
    copied.update(data={**copied.status()["data"], "intake": None})
    done = predict(copied, volumes / "images" / "case_0.nii.gz", tmp_path / "out")
    assert done.notes == [
        "images does not say how its images were read: each file is cut across its coarsest axis and mapped by its own"
        " extremes"
    ]
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(tmp_path / "grey.png")
    done = predict(copied, tmp_path / "grey.png", tmp_path / "pictures")
    assert done.notes == ["images does not say how its images were read: each file is taken as it is"]
    assert Image.open(tmp_path / "pictures" / "grey.png").size == (7, 9)
    save(tmp_path / "both" / "case.nii.gz", np.zeros(SHAPE, np.int16))
    shutil.copy(tmp_path / "grey.png", tmp_path / "both")
    with pytest.raises(InputError, match="holds NIfTI volumes and pictures"):
        predict(copied, tmp_path / "both", tmp_path / "out2")


# what is refused


def test_what_cannot_be_is_refused_before_anything_is_written(run, volumes, tmp_path, copied):
    source, out = volumes / "images", tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    refused = [
        ({"out": tmp_path / "full"}, "exists and holds other files"),
        ({"out": source / "predicted"}, "lies in .* name another folder"),
        ({"source": tmp_path / "nowhere"}, "no such file or folder"),
        ({"source": tmp_path / "empty"}, "expected NIfTI volumes .* found none"),
        ({"source": tmp_path / "full" / "thesis.txt"}, "found none"),
        ({"checkpoint": "first"}, "--checkpoint first: expected last or best"),
        ({"network": "nurse"}, "--network nurse: expected teacher or student"),
        ({"device": "tpu"}, "--device tpu"),
    ]
    for changes, message in refused:
        with pytest.raises(InputError, match=message):
            predict(run, **{"source": source, "out": out, **changes})
    (copied.path / "weights" / "last-teacher.safetensors").unlink()
    with pytest.raises(InputError, match="last-teacher were not kept; kept are best-student, best-teacher, last-stu"):
        predict(copied, source, out)
    (copied.path / "weights" / "best-teacher.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="best-teacher.safetensors: not readable"):
        predict(copied, source, out, checkpoint="best")
    copied.update(code={**copied.status()["code"], "vqseg.network": "another"})
    with pytest.raises(InputError, match=r"vqseg\.network changed since it was trained"):
        predict(copied, source, out, network="student")
    copied.update(state="interrupted")
    with pytest.raises(InputError, match="is interrupted, not finished"):
        predict(copied, source, out)
    copied.update(state="finished", kind="foreign")
    with pytest.raises(InputError, match="was scored from its predictions; it has no network"):
        predict(copied, source, out)
    assert not out.exists()


def test_a_folder_belongs_to_one_network(run, volumes, tmp_path):
    source, out = volumes / "images" / "case_0.nii.gz", tmp_path / "out"
    predict(run, source, out)
    with pytest.raises(InputError, match=f"holds predictions of run {run.identity} .last teacher.; choose another"):
        predict(run, source, out, checkpoint="best", network="student")
    with pytest.raises(InputError, match=r"of other files, such as case_0\.nii\.gz"):
        predict(run, volumes / "images" / "case_1.nii.gz", out, network="student", overwrite=True)
    assert predict(run, source, out, network="student", overwrite=True).made == ["case_0.nii.gz"]
    assert read_json(out / "classes.json")["network"] == read_json(out / "predictions.json")["network"] == "student"
    write_json(out / "predictions.json", ["something else"])
    with pytest.raises(InputError, match="no record of predictions"):
        predict(run, source, out)


def files(out):
    return sorted(path.name for path in out.rglob("*") if path.is_file())


def test_nothing_of_what_is_done_again_stays(run, volumes, tmp_path):
    source, out = tmp_path / "in" / "case_0.nii.gz", tmp_path / "out"
    save(source, draw(np.random.default_rng(3))[0])
    records = ["classes.json", "predictions.json"]
    predict(run, source, out, probabilities=True)
    assert files(out) == ["case_0.nii.gz", "case_0_probabilities.nii.gz", *records]
    predict(run, source, out, network="student", overwrite=True)
    assert files(out) == ["case_0.nii.gz", *records]
    predict(run, source, out, network="student", overwrite=True, probabilities=True)
    save(source, draw(np.random.default_rng(4))[0])
    predict(run, source, out, network="student")
    assert files(out) == ["case_0.nii.gz", *records]
    # No label map outlives a file that cannot be segmented any more.
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    assert predict(run, source, out, network="student").failed
    assert files(out) == records and read_json(out / "predictions.json")["cases"] == {}
    source.write_bytes(whole)
    assert predict(run, source, out, network="student").made == ["case_0.nii.gz"]


@pytest.mark.parametrize("bad", [5, ["../mine.txt"], ["/mine.txt"], [5], [""]])
def test_a_damaged_record_is_one_line_and_takes_nothing_away(run, volumes, tmp_path, vqseg, bad):
    source, out = volumes / "images" / "case_0.nii.gz", tmp_path / "out"
    (tmp_path / "mine.txt").write_text("mine")
    write_json(out / "predictions.json", {"cases": {"case_0.nii.gz": {"files": bad}}})
    code, _, err = vqseg("predict", run.path, source, out, "--overwrite")
    assert code == 2 and err.count("\n") == 1 and "predictions.json: damaged: case 'case_0.nii.gz' has no list" in err
    assert (tmp_path / "mine.txt").is_file()


def test_another_file_of_the_same_name_size_and_time_is_another_file(run, volumes, tmp_path):
    one, other = (save(tmp_path / name / "case.nii", draw(np.random.default_rng(5))[0]) for name in "ab")
    for path in (one, other):
        os.utime(path, ns=(10**18, 10**18))
    assert predict(run, one, tmp_path / "out").made == ["case.nii"]
    assert predict(run, one, tmp_path / "out").kept == ["case.nii"]
    assert predict(run, other, tmp_path / "out").made == ["case.nii"]


def test_a_status_that_does_not_tell_is_one_line(volumes, tmp_path, copied):
    data = copied.status()["data"]
    copied.update(data={key: value for key, value in data.items() if key != "root"})
    with pytest.raises(InputError, match=r"status\.json: damaged: data\.root is missing; restore the file$"):
        predict(copied, volumes / "images" / "case_0.nii.gz", tmp_path / "out")


def test_values_that_are_not_finite_are_told_in_words_of_this_command(run, tmp_path):
    values = np.full(SHAPE, np.nan, np.float32)
    done = predict(run, save(tmp_path / "in" / "case.nii.gz", values), tmp_path / "out")
    (reason,) = done.failed.values()
    assert "not finite" in reason and reason.endswith("; mend the file and run the same command again")
    assert "import" not in reason


def test_code_of_a_users_own_needs_leave(volumes, tmp_path, copied):
    own = tmp_path / "own.py"
    own.write_text("from vqseg.encoders.unet import UNetEncoder\n\nclass Own(UNetEncoder):\n    '''The same.'''\n")
    config = read_yaml(copied.path / "config.yaml")
    config["network"]["encoder"]["name"] = f"{own}:Own"
    write_yaml(copied.path / "config.yaml", config)
    source = volumes / "images" / "case_0.nii.gz"
    with pytest.raises(InputError, match=r"network\.encoder\.name names code, .* --allow-code"):
        predict(copied, source, tmp_path / "out")
    assert predict(copied, source, tmp_path / "out", allow_code=True).made == ["case_0.nii.gz"]


# the geometry


@pytest.mark.parametrize("geometry", ["resize", "crop"])
@pytest.mark.parametrize(("context", "channels"), [(1, 1), (3, 1), (3, 2)])
def test_probabilities_are_of_the_label_maps_that_scoring_makes(geometry, context, channels):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(channels * context, 3, 5, padding=2)
    shape = (7, 30, 21, *([channels] if channels > 1 else []))
    volume = np.random.default_rng(1).integers(0, 2**16, shape).astype(np.uint16)

    def network(images):
        return SimpleNamespace(logits=layer(images))

    recipe = Recipe(16, geometry, context)
    labels, shares = class_probabilities(Trained(network, recipe, torch.device("cpu")), volume, batch=4)
    expected = label_map(layer, volume, "native", recipe, batch=4)
    np.testing.assert_array_equal(labels, expected)
    assert shares.shape == (7, 30, 21, 3) and shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)
    assert (shares.max(-1) == np.take_along_axis(shares, expected[..., None], -1)[..., 0]).all()


# how files are found and read


def about(channels=1, color=False, intake=None):
    return Manifest(
        name="set", classes=["a", "b"], channels=channels, color=color, intake=intake, source={}, default_split="",
        scans=[],
    )  # fmt: skip


def plain(**changes):
    channels = [Channel(name=f"{number}", source=number) for number in range(changes.pop("count", 1))]
    return Intake(axis=2, channels=channels, **changes).model_dump(mode="json")


def test_what_probabilities_would_be_called_is_no_other_files_name(tmp_path):
    for name in ("a.nii.gz", "a_probabilities.nii.gz"):
        save(tmp_path / "two" / name, np.zeros(SHAPE, np.int16))
    manifest = about(intake=plain(frames="scans"))
    assert len(inputs.find(tmp_path / "two", manifest, 1)[0]) == 2
    with pytest.raises(InputError, match=r"a_probabilities\.nii\.gz: in the way of the probabilities of .*a\.nii\.gz"):
        inputs.find(tmp_path / "two", manifest, 1, probabilities=True)
    save(tmp_path / "timed" / "b_t1.nii.gz", np.zeros(SHAPE, np.int16))
    save(tmp_path / "timed" / "b.nii.gz", np.zeros(SHAPE, np.int16))
    assert len(inputs.find(tmp_path / "timed", manifest, 1, probabilities=True)[0]) == 2
    save(tmp_path / "timed" / "b.nii.gz", np.zeros((*SHAPE, 2), np.int16))
    with pytest.raises(InputError, match=r"b_t1\.nii\.gz: in the way of the probabilities of .*b\.nii\.gz; rename"):
        inputs.find(tmp_path / "timed", manifest, 1, probabilities=True)


def test_what_a_mixed_folder_holds_besides_is_told(tmp_path):
    save(tmp_path / "a.nii.gz", np.zeros(SHAPE, np.int16))
    picture(tmp_path / "b.png", np.zeros((9, 7), np.uint8))
    picture(tmp_path / "c.jpg", np.zeros((9, 7), np.uint8))
    _, notes = inputs.find(tmp_path, about(intake=plain()), 1)
    assert notes == ["2 pictures passed over, such as b.png: the run's data were volumes"]
    _, notes = inputs.find(tmp_path, about(intake={"kind": "picture", "max_side": None, "window": None}), 1)
    assert notes == ["1 NIfTI volumes passed over, such as a.nii.gz: the run's data were pictures"]


def test_channels_in_files_of_their_own_are_one_case(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "sub/b_0000.nii.gz", "sub/b_0002.nii.gz"):
        save(tmp_path / name, rng.integers(0, 9, SHAPE).astype(np.int16))
    manifest = about(2, intake=plain(count=2, files="each"))
    found, notes = inputs.find(tmp_path, manifest, 1)
    assert [case.name for case in found] == ["a.nii.gz", "sub/b.nii.gz"] and not notes
    (image,) = found[0].open().images
    assert image.shape[-1] == 2
    with pytest.raises(InputError, match=r"b_0002\.nii\.gz: channel 0001 of the case is missing"):
        found[1].open()
    assert [case.name for case in inputs.find(tmp_path / "a_0001.nii.gz", manifest, 1)[0]] == ["a.nii.gz"]
    # Without an intake the names tell.
    assert [case.name for case in inputs.find(tmp_path, about(2), 1)[0]] == ["a.nii.gz", "sub/b.nii.gz"]


def test_time_points_come_back_in_one_file(tmp_path):
    path = save(tmp_path / "in" / "a.NII.GZ", np.random.default_rng(0).integers(0, 9, (*SHAPE, 3)).astype(np.int16))
    (case,), _ = inputs.find(path, about(intake=plain(frames="scans")), 1)
    opened = case.open()
    assert len(opened.images) == 3 and case.name == "a.nii.gz"
    labels = [np.full(image.shape, number, np.uint8) for number, image in enumerate(opened.images)]
    shares = [np.full((*image.shape, 2), 0.5, np.float32) for image in opened.images]
    written = opened.write(tmp_path / "out", labels, shares)
    assert written == ["a.nii.gz", *(f"a_t{number}_probabilities.nii.gz" for number in (1, 2, 3))]
    back = np.asanyarray(nibabel.load(tmp_path / "out" / "a.nii.gz").dataobj)
    assert back.shape == (*SHAPE, 3)
    assert [np.unique(back[..., number]).tolist() for number in range(3)] == [[0], [1], [2]]
    assert nibabel.load(tmp_path / "out" / written[-1]).shape == (*SHAPE, 2)


def test_resampled_volumes_come_back_on_their_own_grid(tmp_path):
    path = save(
        tmp_path / "a.nii", np.random.default_rng(0).integers(0, 9, SHAPE).astype(np.int16), np.diag([1, 1, 4, 1.0])
    )
    (case,), _ = inputs.find(path, about(intake=plain(spacing_mm=0.5)), 1)
    opened = case.open()
    assert opened.images[0].shape == (5, 48, 40)
    labels = np.zeros((5, 48, 40), np.uint8)
    labels[:, :24] = 1
    shares = np.stack([1 - labels, labels], -1).astype(np.float32)
    opened.write(tmp_path / "out", [labels], [shares])
    back = np.asanyarray(nibabel.load(tmp_path / "out" / "a.nii").dataobj)
    assert back.shape == SHAPE and back.mean() == 0.5
    whole = np.asanyarray(nibabel.load(tmp_path / "out" / "a_probabilities.nii").dataobj)
    np.testing.assert_allclose(whole.sum(-1), 1, atol=1e-5)


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def test_pictures_are_read_one_by_one_but_where_the_scan_matters(tmp_path):
    rng = np.random.default_rng(0)
    for number in (10, 2, 1):
        picture(tmp_path / f"p1_frame01_slice_{number}.png", rng.integers(0, 200 + number, (9, 7)).astype(np.uint8))
    picture(tmp_path / "p2.png", rng.integers(0, 200, (9, 7)).astype(np.uint8))
    intake = {"kind": "picture", "max_side": None, "window": None}
    found, notes = inputs.find(tmp_path, about(intake=intake), 1)
    assert len(found) == 4 and not notes
    found, notes = inputs.find(tmp_path, about(intake=intake), 3)
    assert [path.name for path in found[0].paths] == [f"p1_frame01_slice_{number}.png" for number in (1, 2, 10)]
    assert found[0].open().images[0].shape == (3, 9, 7) and len(notes) == 1
    deep = [rng.integers(0, 1000 * number, (9, 7)).astype(np.uint16) for number in (1, 2)]
    for number, values in enumerate(deep, start=1):
        picture(tmp_path / "deep" / f"p3_frame01_slice_{number}.png", values)
    (case,), _ = inputs.find(tmp_path / "deep", about(intake=intake), 1)
    low, high = np.min(deep), np.max(deep)
    np.testing.assert_array_equal(case.open().images[0], np.rint((np.stack(deep) - low) * (255 / (high - low))))
    windowed = about(intake={**intake, "window": [0, 255]})
    found, _ = inputs.find(tmp_path / "deep", windowed, 1)
    for one, values in zip(found, deep, strict=True):
        np.testing.assert_array_equal(one.open().images[0], np.clip(values, 0, 255)[None])
    picture(tmp_path / "color.png", np.zeros((9, 7, 3), np.uint8))
    with pytest.raises(InputError, match=r"color\.png: is color, the run was trained on grey images"):
        inputs.find(tmp_path / "color.png", about(intake=intake), 1)[0][0].open()
    with pytest.raises(InputError, match="pictures have 1 or 3 channels, the run was trained on 2"):
        inputs.find(tmp_path / "p2.png", about(2, intake=intake), 1)
    save(tmp_path / "v" / "a.nii.gz", np.zeros(SHAPE, np.int16))
    with pytest.raises(InputError, match="expected PNG or JPEG pictures, as the run's data 'set' were"):
        inputs.find(tmp_path / "v", about(intake=intake), 1)


def test_color_pictures_get_label_maps_of_their_own_size(tmp_path, tiny):
    rng, source = np.random.default_rng(0), tmp_path / "source"
    for number in range(8):
        shape = (24, 30 + number) if number % 2 else (80, 60)
        picture(source / "images" / f"ISIC_{number}.jpg", rng.integers(0, 255, (*shape, 3)).astype(np.uint8))
        mask = np.zeros(shape, np.uint8)
        mask[5:20, 4:22] = 255
        picture(source / "masks" / f"ISIC_{number}_segmentation.png", mask)
    isic.prepare(source, tmp_path / "data", max_side=40, labelled="2", val=0.25, test=0.25)
    run = trained(tmp_path / "data", tmp_path / "store", tiny, "train.steps=2")
    shutil.rmtree(tmp_path / "data" / "masks")
    done = predict(run, source / "images", tmp_path / "out", probabilities=True)
    assert len(done.made) == 8 and not done.failed
    for path in (source / "images").iterdir():
        size = Image.open(path).size
        written = Image.open(tmp_path / "out" / f"{path.stem}.png")
        assert (written.size, written.mode) == (size, "L")
        with np.load(tmp_path / "out" / f"{path.stem}_probabilities.npz") as file:
            shares = file["probabilities"]
        assert shares.shape == (*size[::-1], 2) and shares.dtype == np.float32
        np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)
    for scan, labels in of_scoring(run, tmp_path / "data").values():
        image = read_image(tmp_path / "data", scan)[0]
        np.testing.assert_array_equal(image, pixels(source / "images" / f"{scan.scan}.jpg", "RGB", 40))
        written = np.asarray(Image.open(tmp_path / "out" / f"{scan.scan}.png"))
        if written.shape == labels.shape[1:]:
            np.testing.assert_array_equal(written, labels[0])
        else:
            assert written.shape == (80, 60) and abs(written.mean() - labels.mean()) < 0.05
