"""The local prior: trained once, on training images alone, by the one loop."""

import json
import shutil
import threading

import numpy as np
import pytest
import torch

from vqseg import experiment, pretrain
from vqseg.build import build_prior
from vqseg.cli import pretraining
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.manifest import read_manifest, read_split, write_manifest
from vqseg.plan import recorded_config
from vqseg.priors.local import LocalPrior
from vqseg.store import TensorStore
from vqseg.train import Interrupted

CPU = torch.device("cpu")
SMALL = "prior={name: local, patch_px: 4, dim: 16, depth: 1, heads: 2, steps: 30, batch: 8}"


@pytest.fixture
def planned(phantom_root, tiny, tmp_path):
    def make(*overrides, root=phantom_root, store=tmp_path):
        return experiment.plan(load_config("smoke", [*tiny, SMALL, *overrides]), root=root, split=None, store=store)

    return make


def test_it_learns_and_is_trained_once(planned):
    plan = planned()
    assert pretrain.ensure_prior(plan, CPU) and not pretrain.ensure_prior(plan, CPU)
    told = json.loads((plan.prior_folder / "prior.json").read_text())
    rows = [line.split(",") for line in (plan.prior_folder / "metrics.csv").read_text().splitlines()[1:]]
    watched = [float(value) for _, name, value in rows if name == "val/reconstruction"]
    assert len(watched) == 10 and watched[-1] < 0.9 * watched[0]
    assert told["validation"]["val/reconstruction"] == pytest.approx(watched[-1])
    assert not (plan.prior_folder / "checkpoint.pt").exists()


def test_every_run_that_wants_it_shares_it_and_the_seed_is_none_of_its_business(planned):
    folder = planned().prior_folder
    assert planned("seed=5").prior_folder == planned("perturbation=qpm").prior_folder == folder
    assert planned("prior.steps=31").prior_folder != folder
    assert planned("data.size_px=32").prior_folder != folder
    assert planned("prior=none").prior_folder is None
    assert planned("prior=none").identity != planned().identity != planned("prior.steps=31").identity


def test_its_places_are_told_apart(planned):
    plan = planned()
    model = pretrain.MaskedAutoencoder(plan, torch.zeros(1), torch.ones(1)).student
    places = model.vit.embeddings.position_embeddings[0, 1:]
    assert torch.cdist(places, places).fill_diagonal_(9).min() > 0.05
    assert not places.requires_grad and not model.decoder.decoder_pos_embed.requires_grad


def test_an_interrupted_training_goes_on_and_ends_bit_for_bit_the_same(planned, tmp_path):
    straight = planned(store=tmp_path / "a")
    pretrain.ensure_prior(straight, CPU)
    broken = planned(store=tmp_path / "b")
    seen = []
    with pytest.raises(Interrupted):
        pretrain.ensure_prior(
            broken, CPU, should_stop=lambda: len(seen) > 11, on_progress=lambda step, steps: seen.append(step)
        )
    assert (broken.prior_folder / "checkpoint.pt").is_file() and not (broken.prior_folder / "prior.json").exists()
    pretrain.ensure_prior(broken, CPU)
    ones, others = ((p.prior_folder / "model.safetensors").read_bytes() for p in (straight, broken))
    assert ones == others


def test_who_comes_second_waits_for_the_first(planned):
    plan, started, trained = planned(), threading.Event(), []
    original = pretrain._train

    def slow(*arguments):
        started.set()
        original(*arguments)
        trained.append(1)

    pretrain._train = slow
    try:
        first = threading.Thread(target=pretrain.ensure_prior, args=(plan, CPU))
        first.start()
        started.wait(20)
        assert not pretrain.ensure_prior(plan, CPU)
        first.join()
    finally:
        pretrain._train = original
    assert trained == [1]


def test_images_of_other_parts_never_reach_it(phantom_root, planned, tmp_path):
    root = tmp_path / "other"
    shutil.copytree(phantom_root, root)
    manifest = read_manifest(root)
    split = read_split(root, manifest)
    known = planned(root=root).prior_folder.name
    victim = next(scan for scan in manifest.scans if scan.patient in split.parts["val"])
    (root / victim.image).unlink()
    pretrain.ensure_prior(planned(root=root), CPU)  # it never opens the file
    changed = [
        scan.model_copy(update={"image_sha256": "0" * 32}) if scan == victim else scan for scan in manifest.scans
    ]
    again = manifest.model_copy(update={"scans": changed})
    write_manifest(root, again)
    split_file = root / "splits" / f"{split.name}.json"
    split_file.write_text(json.dumps({**json.loads(split_file.read_text()), "data": read_manifest(root).digest}))
    assert planned(root=root).prior_folder.name == known


def test_the_features_lie_where_the_image_is(planned):
    plan = planned()
    pretrain.ensure_prior(plan, CPU)
    prior = LocalPrior(1, plan.prior_folder, patch_px=4, dim=16, depth=1, heads=2, steps=30, batch=8)
    images = torch.rand(2, 1, 16, 16)
    features = prior(images, (8, 8))
    assert features.shape == (2, 16, 4, 4) and not features.requires_grad
    changed = images.clone()
    changed[:, :, 8:12, 4:8] += 0.5
    moved = (prior(changed, (8, 8)) - features).abs().sum(1)
    assert moved.flatten(1).argmax(1).tolist() == [9, 9]
    prior.train()
    assert not prior.training and not any(p.requires_grad for p in prior.parameters())
    with pytest.raises(InputError, match=r"multiples of prior.patch_px 4"):
        prior(torch.rand(1, 1, 18, 16), (4, 4))


def test_a_prior_of_another_shape_or_none_is_refused(planned, tmp_path):
    plan = planned()
    options = {"patch_px": 4, "dim": 16, "depth": 1, "heads": 2}
    with pytest.raises(InputError, match="not trained; 'vqseg prior pretrain'"):
        LocalPrior(1, plan.prior_folder, **options)
    pretrain.ensure_prior(plan, CPU)
    with pytest.raises(InputError, match="wanted"):
        LocalPrior(1, plan.prior_folder, **{**options, "depth": 2})
    for wrong in ({"dim": 15}, {"mask_ratio": 0.0}):
        with pytest.raises(ValueError, match="must"):
            LocalPrior(1, plan.prior_folder, **{**options, **wrong})


def test_a_run_trains_the_prior_it_needs_aligns_with_it_and_says_so(planned):
    plan = planned("method.dual_branch=true")
    folder = experiment.run(plan, name="x", keep="all")
    lines = (folder.path / "metrics.csv").read_text().splitlines()
    found = {}
    for step, name, value in (line.split(",") for line in lines[1:]):
        found.setdefault(name, []).append((int(step), float(value)))
    assert found["loss/align"][-1][1] < found["loss/align"][0][1]
    assert folder.config()["prior"]["name"] == "local"
    rows = experiment.evaluate(folder, part="test")
    assert set(rows["network"]) == {"student", "teacher"}
    again = planned("method.dual_branch=true")
    assert experiment.run(again, name="x").identity == folder.identity


def test_who_of_the_patients_is_labelled_does_not_matter(phantom_root, tiny, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(phantom_root, root)
    split = read_split(root, read_manifest(root))
    told = json.loads((root / "splits" / f"{split.name}.json").read_text())
    pool = [*told["parts"]["labelled"], *told["parts"]["unlabelled"]]
    other = {**told, "name": "drawn", "parts": {**told["parts"], "labelled": pool[-1:], "unlabelled": pool[-2::-1]}}
    (root / "splits" / "drawn.json").write_text(json.dumps(other))
    found = []
    for name in (split.name, "drawn"):
        config = load_config("smoke", [*tiny, SMALL])
        plan = experiment.plan(config, root=root, split=name, store=tmp_path / name)
        pretrain.ensure_prior(plan, CPU)
        found.append((plan.prior_folder.name, (plan.prior_folder / "model.safetensors").read_bytes()))
    assert found[0] == found[1]


def test_without_a_number_the_patch_is_the_divisor_nearest_to_8_and_8_is_no_news_to_the_identity(planned):
    def part(size, *more):
        return planned("prior=local", f"data.size_px={size}", *more).parts["prior"]

    assert {size: part(size).options["patch_px"] for size in (64, 256, 32, 224, 126, 12, 22)} == {
        **dict.fromkeys((64, 256, 32, 224), 8),
        **{126: 7, 12: 6, 22: 11},
    }
    assert part(64).identity() == part(64, "prior.patch_px=8").identity() == {"name": "local"}
    assert part(126).identity() == {"name": "local", "patch_px": 7}
    plan = planned("prior=local", "data.size_px=126")
    assert recorded_config(plan)["prior"]["patch_px"] == pretrain.shape(plan)["patch_px"] == 7


@pytest.mark.parametrize(("patch", "near"), [(5, "4 or 8"), (64, "32"), (24, "16 or 32")])
def test_patches_that_do_not_fill_the_image_are_refused(patch, near, planned):
    with pytest.raises(
        InputError, match=rf"^prior.patch_px: {patch} does not divide data.size_px 32; expected for example {near}$"
    ):
        planned("data.size_px=32", f"prior.patch_px={patch}")


@pytest.mark.parametrize("preset", ["paper", "release", "smoke"])
def test_the_command_needs_no_weights_and_takes_another_priors_place(
    preset, command, phantom_root, tmp_path, monkeypatch
):
    monkeypatch.setenv("VQSEG_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    options = ("depth=1", "dim=16", "heads=2", "steps=2", "batch=2")
    sets = [word for option in options for word in ("--set", f"prior.{option}")]
    words = ("prior", "pretrain", "--data", phantom_root, "--preset", preset, "--store", tmp_path, "--device", "cpu")
    code, out, err = command(*words, *sets)
    assert code == 0 and "trained: " in out, err
    told = json.loads(next((tmp_path / "priors").glob("*/prior.json")).read_text())
    assert told["shape"]["patch_px"] == {"paper": 7, "release": 8, "smoke": 8}[preset] and told["options"]["steps"] == 2
    assert "shards" not in err and "Loading weights" not in err
    code, _, err = command(*words, "--set", "prior=none")
    assert code == 2 and "only 'local' is trained here" in err


def test_a_presets_own_local_prior_keeps_its_options(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("prior: {name: local, steps: 7}\n")
    assert pretraining._settings(str(path), ["prior.batch=3"]).prior.options == {"steps": 7, "batch": 3}


def test_what_pads_crops_is_not_counted(tmp_path):
    images = np.zeros((2, 1, 4, 6), np.uint8)
    images[0, 0, :2, :3] = [[51, 102, 153], [51, 102, 153]]
    images[1, 0] = 102
    store = TensorStore(images, None, CPU, sizes=np.array([[2, 3], [4, 6]]))
    mean, std = pretrain._moments(store, np.arange(2))
    assert mean.item() == pytest.approx(0.4)
    assert std.item() == pytest.approx((4 * 0.2**2 / 30) ** 0.5)
    whole = pretrain._moments(TensorStore(images, None, CPU), np.arange(2))[0]
    assert whole.item() == pytest.approx(0.4 * 30 / 48)


def test_a_training_that_cannot_be_published_is_not_lost(planned, monkeypatch):
    plan, seen = planned(), []

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "write_json", full)
        with pytest.raises(OSError, match="No space"):
            pretrain.ensure_prior(plan, CPU)
    assert pretrain.ensure_prior(plan, CPU, on_progress=lambda step, steps: seen.append(step))
    assert seen == [28, 29, 30]  # a tenth of the training is what can be lost
    assert not (plan.prior_folder / "checkpoint.pt").exists()


def test_a_damaged_prior_is_one_line(planned, capfd):
    plan = planned()
    pretrain.ensure_prior(plan, CPU)
    build_prior(plan)
    assert capfd.readouterr() == ("", "")  # transformers' bars stay off the screen
    weights = plan.prior_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(InputError, match="delete the folder, it is made anew$"):
        build_prior(plan)
    (plan.prior_folder / "prior.json").write_text("[1]")
    with pytest.raises(InputError, match="prior.json: holds a list"):
        build_prior(plan)
