import pytest

from vqseg import experiment
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.manifest import read_manifest, read_split
from vqseg.plan import relabelled


def plan(root, store, tiny, *overrides):
    return experiment.plan(load_config("smoke", [*tiny, *overrides]), root=root, split=None, store=store)


@pytest.fixture
def planned(phantom_root, tiny, tmp_path):
    return lambda *overrides: plan(phantom_root, tmp_path, tiny, *overrides)


def pool(made):
    return {*made.split.parts["labelled"], *made.split.parts["unlabelled"]}


def test_a_share_labels_the_first_patients_of_the_pool(planned, phantom_root):
    base = planned()
    half = planned("data.labelled_share=0.5")
    manifest = read_manifest(phantom_root)
    order = [patient for patient in manifest.patients if patient in pool(base)]
    assert half.split.parts["labelled"] == order[: len(order) // 2]
    assert pool(half) == pool(base)
    assert half.split.parts["val"] == base.split.parts["val"]
    assert half.chosen == read_split(phantom_root, manifest, None)


def test_who_is_labelled_decides_the_identity_and_not_the_rule(planned):
    base = planned()
    count, total = len(base.split.parts["labelled"]), len(pool(base))
    assert planned(f"data.labelled_share={count / total}").identity == base.identity
    assert planned("data.labelled_share=1.0").identity != base.identity


def test_draws_differ_repeat_and_are_nested(planned):
    small, large = (planned(f"data.labelled_share={share}", "data.draw=2") for share in (0.34, 0.67))
    assert set(small.split.parts["labelled"]) < set(large.split.parts["labelled"])
    sets = {tuple(planned("data.labelled_share=0.34", f"data.draw={n}").split.parts["labelled"]) for n in range(8)}
    assert len(sets) > 1
    again = planned("data.labelled_share=0.34", "data.draw=2")
    assert again.identity == small.identity and again.split.parts == small.split.parts


def test_the_same_patients_are_the_same_run_whatever_draw_they_came_of(planned):
    seen = {}
    for number in range(24):
        made = planned("data.labelled_share=0.34", f"data.draw={number}")
        order = {part: made.split.parts[part] for part in ("labelled", "unlabelled")}
        assert seen.setdefault(made.identity, order) == order
    assert 1 < len(seen) < 24
    base = planned()
    count, total = len(base.split.parts["labelled"]), len(pool(base))
    again = planned(f"data.labelled_share={count / total}")
    assert again.identity == base.identity and again.split == base.split


def test_a_share_that_has_no_masks_is_named(planned):
    base = planned()
    kept = {*base.split.parts["labelled"], *base.split.parts["val"], *base.split.parts["test"]}
    bare = {"mask": None, "mask_sha256": None, "class_voxels": None}
    scans = [scan if scan.patient in kept else scan.model_copy(update=bare) for scan in base.manifest.scans]
    manifest = base.manifest.model_copy(update={"scans": scans})
    config = load_config("smoke", ["data.labelled_share=1.0"])
    with pytest.raises(InputError, match=r"labelled_share 1 \(\d+ of \d+ patients\): .*masks; leave it, or its arm"):
        relabelled(manifest, base.split, config)


def test_a_share_is_rounded_down_and_never_nobody(planned):
    total = len(pool(planned()))
    assert len(planned("data.labelled_share=0.01").split.parts["labelled"]) == 1
    assert len(planned(f"data.labelled_share={1.9 / total}").split.parts["labelled"]) == 1
    assert len(planned(f"data.labelled_share={2 / total}").split.parts["labelled"]) == 2


def test_with_all_labelled_a_semi_supervised_run_sees_their_images_again(planned):
    made = planned("data.labelled_share=1.0", "train.steps=4")
    assert not made.split.parts["unlabelled"] and made.unlabelled_part == "labelled"
    folder = experiment.run(made, name="all")
    assert folder.state() == "finished"
    status = folder.status()
    assert status["split"]["parts"]["labelled"]["patients"] == len(pool(planned()))
    assert status["split"]["digest"] == made.chosen.digest
    # and it is scored on the split that it was trained on
    assert len(experiment.evaluate(folder, part="val"))


@pytest.mark.parametrize("change", ["data.labelled_share=0", "data.labelled_share=1.2", "data.draw=-1"])
def test_bad_values_are_refused(planned, change):
    with pytest.raises(InputError, match=change.partition("=")[0].replace(".", r"\.")):
        planned(change)
