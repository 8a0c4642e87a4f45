import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from vqseg import experiment
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.evaluate import COLUMNS
from vqseg.manifest import read_manifest, read_split, scans_of, write_array
from vqseg.records.run import RunFolder
from vqseg.train import PROCESS, Diverged, Interrupted, Meter, forget_peak_memory, peak_memory_mb

TIMED = ("speed/", "memory/")


def planned(root, store, tiny, *overrides):
    return experiment.plan(load_config("smoke", [*tiny, *overrides]), root=root, split=None, store=store)


def metrics(folder):
    table = pd.read_csv(folder.path / "metrics.csv")
    return table[~table["name"].str.startswith(TIMED)].reset_index(drop=True)


def weights(folder):
    from safetensors.torch import load_file

    return {path.stem: load_file(path) for path in (folder.path / "weights").glob("*.safetensors")}


class StopAfter:
    def __init__(self, calls):
        self.calls = calls

    def __call__(self):
        self.calls -= 1
        return self.calls < 0


@pytest.fixture(scope="module")
def whole(phantom_root, tiny, tmp_path_factory):
    plan = planned(phantom_root, tmp_path_factory.mktemp("whole"), tiny)
    return experiment.run(plan, name="whole", keep="all")


def test_a_finished_run_has_everything(whole):
    status = whole.status()
    assert whole.state() == "finished" and status["step"] == status["steps"] == 12
    names = {path.name for path in whole.path.iterdir()}
    assert {
        "config.yaml",
        "metrics.csv",
        "rows.parquet",
        "codebook.parquet",
        "codes.npz",
        "overlays",
        "weights",
    } <= names
    assert "checkpoint.pt" not in names
    assert set(weights(whole)) == {"last-teacher", "last-student", "best-teacher", "best-student"}
    rows = pd.read_parquet(whole.path / "rows.parquet")
    assert list(rows.columns) == COLUMNS
    assert set(rows["network"]) == {"teacher", "student"} and set(rows["checkpoint"]) == {"last", "best"}
    last = rows.query("checkpoint == 'last' and network == 'teacher' and protocol == 'scan'")
    assert last["dice"].mean() == pytest.approx(status["validation"]["last"]["teacher"], abs=1e-9)
    logged = set(pd.read_csv(whole.path / "metrics.csv")["name"])
    expected = {"loss/total", "loss/labelled", "loss/strong", "loss/perturbed", "lr", "perturbation/distortion"}
    expected |= {"perturbation/changed", "pseudo/confidence", "pseudo/coverage", "pseudo/foreground", "reach/dice_own"}
    expected |= {
        "reach/dice_uniform",
        "val/dice_teacher",
        "val/dice_student",
        "codebook/utilization",
        "codebook/ceiling",
    }
    assert expected <= logged
    usage = pd.read_parquet(whole.path / "codebook.parquet")
    classes = usage[[column for column in usage if column.startswith("class_")]].sum(axis=1)
    assert (classes == usage["tokens"]).all() and len(usage) == 16


@pytest.mark.parametrize("stops", [[1], [5], [4, 3, 2]])
def test_stopped_and_resumed_equals_never_stopped_bit_for_bit(whole, phantom_root, tiny, tmp_path, stops):
    plan = planned(phantom_root, tmp_path, tiny)
    for calls in stops:
        with pytest.raises(Interrupted, match="same command resumes"):
            experiment.run(plan, name="whole", keep="all", should_stop=StopAfter(calls))
        assert plan.folder.state() == "interrupted" and (plan.folder.path / "checkpoint.pt").is_file()
    folder = experiment.run(plan, name="whole", keep="all")
    assert folder.identity == whole.identity
    pd.testing.assert_frame_equal(metrics(folder), metrics(whole))
    for name, state in weights(whole).items():
        for key, value in weights(folder)[name].items():
            assert torch.equal(value, state[key]), f"{name} {key}"
    rows = [pd.read_parquet(f.path / "rows.parquet").drop(columns="evaluated") for f in (folder, whole)]
    pd.testing.assert_frame_equal(*rows)
    assert len(folder.status()["resumes"]) == len(stops)


def test_a_finished_run_is_left_as_it_is(whole, phantom_root, tiny):
    before = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*") if path.is_file()}
    experiment.run(planned(phantom_root, whole.store, tiny), name="whole")
    assert before == {path: path.stat().st_mtime_ns for path in whole.path.rglob("*") if path.is_file()}


def test_a_checkpoint_loads_without_executing_code_and_one_of_another_run_is_refused(phantom_root, tiny, tmp_path):
    plan, other = planned(phantom_root, tmp_path, tiny), planned(phantom_root, tmp_path, tiny, "seed=1")
    for one in (plan, other):
        with pytest.raises(Interrupted):
            experiment.run(one, name="x", should_stop=StopAfter(2))
    state = torch.load(plan.folder.path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2 and state["streams"]["seed"] == 0
    shutil.copy(plan.folder.path / "checkpoint.pt", other.folder.path / "checkpoint.pt")
    with pytest.raises(InputError, match="checkpoint.*another config: seed is 0 there, 1 here"):
        experiment.run(other, name="x")


def test_a_damaged_checkpoint_is_one_clear_line(phantom_root, tiny, tmp_path):
    plan = planned(phantom_root, tmp_path, tiny)
    with pytest.raises(Interrupted):
        experiment.run(plan, name="x", should_stop=StopAfter(2))
    (plan.folder.path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not readable.*delete it"):
        experiment.run(plan, name="x")
    assert plan.folder.state() == "failed"


def test_a_loss_that_is_no_number_fails_the_run(phantom_root, tiny, tmp_path):
    plan = planned(phantom_root, tmp_path, tiny, "optimizer={name: sgd, lr: 1e30}")
    with pytest.raises(Diverged):
        experiment.run(plan, name="x")
    assert plan.folder.state() == "failed" and "loss is" in plan.folder.status()["error"]


def test_hidden_labels_are_never_read_by_a_semi_supervised_run(whole, phantom_root, tiny, tmp_path):
    root = tmp_path / "poisoned"
    shutil.copytree(phantom_root, root)
    manifest = read_manifest(root)
    split = read_split(root, manifest)
    for scan in scans_of(manifest, split, "unlabelled"):
        write_array(root / scan.mask, mask=np.full(scan.shape, 250, np.uint8))
    for scan in scans_of(manifest, split, "test"):
        (root / scan.mask).unlink()
    folder = experiment.run(planned(root, tmp_path / "store", tiny), name="whole", keep="all")
    pd.testing.assert_frame_equal(metrics(folder), metrics(whole))
    supervised = ("method={name: supervised, dual_branch: false}", "data.labels=all")
    plan = planned(root, tmp_path / "store", tiny[:-2], *supervised)
    with pytest.raises(InputError, match="250|class"):
        experiment.run(plan, name="poisoned")


@pytest.mark.parametrize(
    "overrides",
    [
        ("method.dual_branch=true",),
        ("network.norm=group",),
        ("network.statistics=shared",),
        ("network.skips=false",),
        ("network.quantizer.name=plain", "method.usage_weight=0.1", "method.confidence=0.9"),
        ("optimizer={name: sgd}", "train.clip_norm=1.0", "method.segmentation=ce"),
        ("train.precision=bf16", "train.channels_last=false"),
        ("perturbation={name: shuffle}",),
        ("data.foreground_share=0.5", "data.foreground_classes=[myocardium]", "data.geometry=crop"),
    ],
)
def test_every_option_trains(phantom_root, tiny, tmp_path, overrides):
    folder = experiment.run(planned(phantom_root, tmp_path, tiny, "train.steps=5", *overrides), name="x", keep="none")
    table = pd.read_csv(folder.path / "metrics.csv")
    assert np.isfinite(table["value"]).all() and folder.state() == "finished"
    assert not list((folder.path / "weights").glob("*"))


@pytest.mark.parametrize("statistics", ["separate", "shared"])
def test_fully_supervised_with_a_perturbation_trains_on_all_labels(phantom_root, tiny, tmp_path, statistics):
    overrides = (
        "method={name: supervised, dual_branch: true}",
        "data.labels=all",
        "perturbation={name: dropout, rate: 0.5}",
    )
    plan = planned(phantom_root, tmp_path, tiny[:-2], *overrides, f"network.statistics={statistics}")
    folder = experiment.run(plan, name="x")
    table = metrics(folder)
    assert table[table["name"] == "perturbation/distortion"]["value"].iloc[-1] > 0.5
    assert "loss/strong" not in set(table["name"])


def test_open_labels_go_with_supervised_training_only(phantom_root, tiny, tmp_path):
    with pytest.raises(InputError, match=r"data\.labels"):
        planned(phantom_root, tmp_path, tiny, "data.labels=all")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.size_px=17", "no multiple of the encoder's stride 2"),
        ("train.unlabelled_batch=0", "unlabelled_batch"),
        ("data.foreground_classes=[myocardium]", "data.foreground_classes: says what data.foreground_share counts"),
        (
            "data={size_px: 16, foreground_share: 0.5, foreground_classes: [heart]}",
            "unknown class in data.foreground_classes 'heart'; known: right ventricle",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_training(phantom_root, tiny, tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        experiment.run(planned(phantom_root, tmp_path, tiny, override), name="x")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_ends_within_its_warm_up_says_so(phantom_root, tiny, tmp_path):
    idle = planned(phantom_root, tmp_path, tiny, "train.steps=7", "method.warmup_steps=7").idle
    assert idle.startswith("train.steps 7 ends within method.warmup_steps 7: labelled images alone are trained on")
    assert planned(phantom_root, tmp_path, tiny, "train.steps=8", "method.warmup_steps=7").idle == ""


def test_a_share_of_what_no_labelled_image_shows_is_refused(phantom_root, tiny, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(phantom_root, root)
    about = json.loads((root / "manifest.json").read_text())
    for scan in about["scans"]:
        scan["class_voxels"][1] = 0
    (root / "manifest.json").write_text(json.dumps(about))
    asked = ("data.foreground_share=0.5", "data.foreground_classes=[right ventricle]")
    with pytest.raises(InputError, match="no labelled image of split .* shows right ventricle; label a patient"):
        planned(root, tmp_path, tiny, *asked)
    planned(root, tmp_path, tiny, *asked[:1])


def test_a_value_that_a_part_refuses_names_the_part(phantom_root, tiny, tmp_path):
    plan = planned(phantom_root, tmp_path, tiny, "perturbation={name: qpm, rate: 1.5}")
    with pytest.raises(InputError, match=r"perturbation 'qpm': rate must lie in \[0, 1\], got 1.5"):
        experiment.run(plan, name="x")
    assert not plan.folder.exists()


def test_evaluate_scores_the_test_part_once_more_and_counts_repeats(whole):
    for repeat in (0, 1):
        rows = experiment.evaluate(whole, part="test", protocols=["all"])
        assert whole.status()["evaluations"][-1]["repeat"] == repeat
        assert {"scan", "ssl4mis"} <= set(rows["protocol"]) and set(rows["part"]) == {"test"}
    stored = pd.read_parquet(whole.path / "rows.parquet")
    assert set(stored["part"]) == {"val", "test"}
    assert not stored.duplicated(["part", "checkpoint", "network", "protocol", "case", "class_name"]).any()


def test_medpy_as_the_reference_gives_the_same_rows(whole):
    own = experiment.evaluate(whole, part="val", protocols=["scan"])
    reference = experiment.evaluate(whole, part="val", protocols=["scan"], library="medpy")
    numbers = [c for c in own if c.endswith(("_voxel", "_mm")) or c in ("dice", "jaccard")]
    pd.testing.assert_frame_equal(own[numbers], reference[numbers], atol=1e-9, rtol=0)


@pytest.mark.parametrize("part", ["devtest", "nowhere"])
def test_a_part_that_the_split_lacks_is_named(whole, part):
    with pytest.raises(InputError, match=f"part '{part}' is not in split"):
        experiment.evaluate(whole, part=part)


def test_a_run_that_was_killed_is_seen(phantom_root, tiny, tmp_path):
    folder = RunFolder(tmp_path, "abc")
    folder.create({}, {"state": "running"})
    assert folder.state() == "killed"
    with folder.lock():
        assert folder.state() == "running" and folder.locked()
        with pytest.raises(InputError, match="another process"), folder.lock():
            pass


def test_weights_are_scored_only_by_the_code_that_trained_them(whole, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(whole.store, store)
    folder = RunFolder(store, whole.identity)
    folder.update(code={**folder.status()["code"], "vqseg.network": "0" * 16})
    with pytest.raises(InputError, match=r"vqseg.network changed since it was trained \(commit .*train it again"):
        experiment.evaluate(folder, part="test")


def test_truncated_weights_are_named(whole, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(whole.store, store)
    folder = RunFolder(store, whole.identity)
    path = folder.path / "weights" / "last-teacher.safetensors"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"last-teacher.safetensors: not readable .*restore the file"):
        experiment.evaluate(folder, part="test")


def test_the_usage_window_does_not_depend_on_the_flushes():
    def last_window(flush_every):
        meter, said = Meter(4, torch.device("cpu")), {}
        for step in range(1, 13):
            meter.add({}, torch.randint(4, (10,), generator=torch.Generator().manual_seed(step)))
            if step % flush_every == 0:
                said |= meter.flush()
        return said

    assert last_window(1) == last_window(12) and last_window(1)["codebook/tokens"] == 40


@pytest.mark.skipif(not PROCESS.is_dir(), reason="Linux counts per process")
def test_peak_memory_is_the_run_s_own():
    device = torch.device("cpu")
    forget_peak_memory(device)
    before = peak_memory_mb(device)
    block = torch.ones(2**26)  # 256 MiB
    assert peak_memory_mb(device) > before + 200
    del block
    forget_peak_memory(device)
    assert peak_memory_mb(device) < before + 100


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_training_step_does_not_wait_for_the_device(phantom_root, tiny, tmp_path):
    plan = planned(
        phantom_root, tmp_path, tiny, "train.flush_steps=1000", "train.steps=20", "train.validate_steps=1000"
    )
    waits = []

    def watch(step, steps):
        torch.cuda.set_sync_debug_mode("error" if 5 <= step < steps - 1 else "default")
        waits.append(step)

    try:
        experiment.run(plan, name="watched", device="cuda", on_progress=watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits == list(range(1, 21))


def test_a_run_is_scored_from_anywhere_and_without_the_prior_it_was_trained_with(
    phantom_root, tiny, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**shape, image_size=16, patch_size=4)
    for name in ("encoder", "prior"):
        transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "here" / name)
    overrides = (
        "network.encoder={name: vit, weights: encoder}",
        "network.decoder={name: dpt, features: 4, widths: [4, 4, 4, 4]}",
        "prior={name: vit, weights: ./prior}",
    )
    plan = planned(phantom_root, tmp_path, tiny, *overrides)
    whole = [text.replace(": encoder}", f": {tmp_path}/here/encoder}}") for text in overrides]
    assert planned(phantom_root, tmp_path, tiny, *whole).identity == plan.identity
    folder = experiment.run(plan, name="x")
    recorded = folder.config()
    assert recorded["network"]["encoder"]["weights"] == str(tmp_path / "here" / "encoder")
    assert recorded["prior"]["weights"] == str(tmp_path / "here" / "prior")
    before = experiment.evaluate(folder, part="test")
    monkeypatch.chdir(tmp_path / "there")
    shutil.rmtree(tmp_path / "here" / "prior")
    again = experiment.evaluate(folder, part="test")
    assert before.drop(columns="evaluated").equals(again.drop(columns="evaluated"))
    shutil.rmtree(tmp_path / "here" / "encoder")
    with pytest.raises(InputError, match=r"here/encoder: no such folder; expected a transformers folder"):
        experiment.evaluate(folder, part="test")
