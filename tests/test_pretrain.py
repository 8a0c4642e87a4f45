"""The local prior: trained once, on training images alone, by the one loop."""

import json
import threading

import pytest
import torch

from vqseg import experiment, pretrain
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.manifest import read_manifest, read_split, write_manifest
from vqseg.priors.local import LocalPrior
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
    import shutil

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
