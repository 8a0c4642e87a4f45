"""Scoring a run folder: which scans are opened, what is recorded, for resized slices, crops and neighboring slices."""

import numpy as np
import pandas as pd
import pytest
import torch

from vqseg import experiment, scoring
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.evaluate import load_label_map
from vqseg.manifest import read_mask, scans_of
from vqseg.plan import first_status, recorded_config
from vqseg.windows import cut

CPU = torch.device("cpu")


def made(root, store, overrides):
    """A run folder with the weights of an untrained network: plan, network, folder."""
    plan = experiment.plan(load_config("smoke", overrides), root=root, split=None, store=store)
    network = experiment.build_network(plan, CPU)
    plan.folder.create(recorded_config(plan), first_status(plan, "untrained", {}))
    scoring.write_weights(plan.folder, {("last", "teacher"): network.state_dict()}, keep="last")
    return plan, network, plan.folder


def score(run, part, protocols=None):
    plan, network, folder = run
    return scoring.score_part(plan, folder, part, CPU, reuse=network, protocols=protocols)


def names(run, part):
    plan = run[0]
    return [scan.scan for scan in scans_of(plan.manifest, plan.split, part)]


@pytest.fixture
def run(phantom_root, tiny, tmp_path):
    return made(phantom_root, tmp_path, tiny)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(scoring, "write_overlays", lambda *given, **named: None)


@pytest.fixture
def opened(monkeypatch):
    """The scans whose images and masks are read."""
    seen = {"image": set(), "mask": set()}
    for kind in seen:
        read = getattr(scoring, f"read_{kind}")

        def watched(root, scan, read=read, kind=kind):
            seen[kind].add(scan.scan)
            return read(root, scan)

        monkeypatch.setattr(scoring, f"read_{kind}", watched)
    return seen


def test_a_pooled_protocol_opens_validation_and_test_scans_and_no_others(run, opened):
    rows = score(run, "test", ["scan", "unimatch"])
    both = {*names(run, "val"), *names(run, "test")}
    assert opened == {"image": both, "mask": both}
    cases = rows.groupby("protocol")["case"].agg(set)
    assert cases["scan"] == set(names(run, "test"))
    assert cases["unimatch"] == both
    assert set(rows["part"]) == {"test"}


@pytest.mark.parametrize("protocols", [None, ["scan", "ssl4mis", "vqseg-release"]])
def test_every_other_protocol_opens_its_part_alone(run, opened, protocols):
    score(run, "test", protocols)
    assert opened == {"image": set(names(run, "test")), "mask": set(names(run, "test"))}


def test_a_pooled_scans_label_map_is_kept_under_its_own_part(run):
    score(run, "test", ["unimatch"])
    labels = run[2].path / "labels"
    kept = {path.name: sorted(file.stem for file in path.iterdir()) for path in labels.iterdir()}
    expected = {f"{part}-last-teacher-bilinear-256": sorted(names(run, part)) for part in ("val", "test")}
    assert kept == expected


def test_all_scores_what_is_applicable_and_records_why_the_rest_is_not(run):
    rows = score(run, "test", ["all"])
    assert list(dict.fromkeys(rows["protocol"])) == ["scan", "ssl4mis", "unimatch", "vqseg-release"]
    entry = run[2].status()["evaluations"][-1]
    assert entry["protocols"] == ["scan", "ssl4mis", "unimatch", "vqseg-release"]
    assert list(entry["not_applicable"]) == ["image"]
    assert "a case is one 2-D image" in entry["not_applicable"]["image"]
    rows = score(run, "val", ["all"])
    assert set(rows["protocol"]) == {"scan", "ssl4mis", "vqseg-release"}
    reasons = run[2].status()["evaluations"][-1]["not_applicable"]
    assert reasons["unimatch"] == "val and test scans together; score test"
    score(run, "val", ["scan"])
    assert "not_applicable" not in run[2].status()["evaluations"][-1]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), ["scan"]),
        (("data.size_px=256",), ["scan", "ssl4mis"]),  # unimatch is its size too, but must be asked for
        (("data.size_px=224",), ["scan"]),
        (("data.size_px=224", "data.geometry=crop"), ["scan", "vqseg-release"]),
    ],
)
def test_by_default_a_network_is_shown_what_it_was_trained_on(phantom_root, tiny, tmp_path, overrides, expected):
    rows = score(made(phantom_root, tmp_path, [*tiny, *overrides]), "test")
    assert list(dict.fromkeys(rows["protocol"])) == expected


def test_what_cannot_be_scored_is_refused_with_the_reason(run):
    with pytest.raises(InputError, match="'unimatch' is not applicable to val: val and test scans together"):
        score(run, "val", ["unimatch"])
    with pytest.raises(InputError, match="unknown protocol 'unimtach' .did you mean 'unimatch'"):
        score(run, "val", ["unimtach"])
    with pytest.raises(InputError, match="part 'devtest' is not in split"):
        score(run, "devtest")


def test_a_size_that_the_network_cannot_take_is_a_reason(phantom_root, tiny, tmp_path):
    run = made(phantom_root, tmp_path, [*tiny, "data.size_px=28"])
    run[1].encoder.stride = 14  # as a vision transformer's
    with pytest.raises(InputError, match="it shows 256 x 256 pixels, the network takes multiples of 14"):
        score(run, "test", ["unimatch"])
    assert list(dict.fromkeys(score(run, "test", ["all"])["protocol"])) == ["scan", "vqseg-release"]


def test_the_weights_come_back_and_all_rows_are_kept(run):
    _, network, folder = run
    with torch.no_grad():
        network.segment_decoder.head.bias.add_(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    score(run, "test", ["scan", "vqseg-release"])
    score(run, "test", ["scan"])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    rows = pd.read_parquet(folder.path / "rows.parquet")
    assert set(rows["protocol"]) == {"scan", "vqseg-release"}
    assert not rows.duplicated(["part", "checkpoint", "network", "protocol", "case", "class_name"]).any()


@pytest.mark.parametrize(("geometry", "context"), [("resize", 3), ("crop", 1), ("crop", 3)])
def test_every_geometry_scores_with_neighboring_slices_too(phantom_root, tiny, tmp_path, geometry, context):
    run = made(phantom_root, tmp_path, [*tiny, f"data.geometry={geometry}", f"data.context={context}"])
    rows = score(run, "test", ["all"])
    assert list(dict.fromkeys(rows["protocol"])) == ["scan", "ssl4mis", "unimatch", "vqseg-release"]
    assert rows["dice"].between(0, 1).all()
    plan, network, folder = run
    scan = scans_of(plan.manifest, plan.split, "test")[0]
    labels = load_label_map(folder.path / "labels" / "test-last-teacher-native" / f"{scan.scan}.npz")
    assert labels.shape == scan.shape
    usage = pd.read_parquet(folder.path / "codebook.parquet")
    slices = sum(len(s.slices) for s in scans_of(plan.manifest, plan.split, "test"))
    windows = 1 if geometry == "resize" else 4  # 32 pixels in windows of 16
    side = 16 // network.encoder.stride
    assert usage["tokens"].sum() == slices * windows * side**2


def test_tokens_of_windows_are_counted_by_the_class_that_they_cover(phantom_root, tiny, tmp_path):
    run = made(phantom_root, tmp_path, [*tiny, "data.geometry=crop"])
    score(run, "test")
    plan, network, folder = run
    classes = plan.manifest.classes
    expected = np.zeros(len(classes), int)
    cells = 16 // network.encoder.stride
    for scan in scans_of(plan.manifest, plan.split, "test"):
        masks = cut(torch.from_numpy(read_mask(phantom_root, scan))[:, None], 16, 16)[:, 0].numpy()
        blocks = masks.reshape(len(masks), cells, 16 // cells, cells, 16 // cells).transpose(0, 1, 3, 2, 4)
        counts = np.stack([(blocks == index).sum((3, 4)) for index in range(len(classes))])
        expected += np.bincount(counts.argmax(0).ravel(), minlength=len(classes))
    usage = pd.read_parquet(folder.path / "codebook.parquet")
    assert [usage[f"class_{name}"].sum() for name in classes] == expected.tolist()


def test_an_evaluation_says_with_what_it_was_made(run):
    plan, network, folder = run
    score(run, "val", ["scan", "scan"])
    entry = folder.status()["evaluations"][-1]
    assert (entry["protocols"], entry["library"], entry["lesions"]) == (["scan"], "own", {})
    manifest = plan.manifest.model_copy(update={"lesions": {plan.manifest.classes[1]: 2.0}})
    marked = type(plan)(**{**vars(plan), "manifest": manifest})
    scoring.score_part(marked, folder, "val", CPU, reuse=network, library="medpy")
    entry = folder.status()["evaluations"][-1]
    assert (entry["library"], entry["lesions"]) == ("medpy", {plan.manifest.classes[1]: 2.0})
    assert not pd.read_parquet(folder.path / "rows.parquet").duplicated(["network", "case", "class_name"]).any()


def test_a_scoring_that_is_killed_is_counted(run, monkeypatch):
    write, folder = scoring.merge_rows, run[2]

    def killed(path, rows):
        write(path, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "merge_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        score(run, "test")
    assert set(pd.read_parquet(folder.path / "rows.parquet")["part"]) == {"test"}
    (entry,) = folder.status()["evaluations"]
    assert (entry["part"], entry["repeat"], entry["unfinished"]) == ("test", 0, True)
    monkeypatch.setattr(scoring, "merge_rows", write)
    score(run, "test")
    assert [one["repeat"] for one in folder.status()["evaluations"]] == [0, 1]
    assert "unfinished" not in folder.status()["evaluations"][-1]


def test_masks_to_train_on_are_not_scored(run, opened):
    for part in ("labelled", "unlabelled"):
        with pytest.raises(InputError, match=f"--part {part}: is for training, .*; name val, test or devtest"):
            score(run, part)
    assert opened == {"image": set(), "mask": set()}


def test_classes_marked_as_lesions_get_their_columns(run):
    plan, network, folder = run
    manifest = plan.manifest.model_copy(update={"lesions": {plan.manifest.classes[1]: 2.0}})
    marked = type(plan)(**{**vars(plan), "manifest": manifest})
    rows = scoring.score_part(marked, folder, "test", CPU, reuse=network)
    known = rows.groupby("class_name")["lesions"].agg(lambda values: values.notna().all())
    assert known[plan.manifest.classes[1]]
    assert known.sum() == 1
    assert rows["slice_consistency_reference"].notna().any()
