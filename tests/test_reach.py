"""Reach, measured once more by explicit passes with replaced codes; and what reports say where there is none."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from vqseg import experiment, streams
from vqseg.config import load_config
from vqseg.manifest import read_image, read_mask, scans_of
from vqseg.perturbations import QPM, Uniform
from vqseg.report.reach import banners, learned
from vqseg.store import to_unit, with_context
from vqseg.validation import Validation

SEED = 3


@pytest.fixture(scope="module")
def scene(phantom_root, tiny, tmp_path_factory):
    store = tmp_path_factory.mktemp("reach")
    plan = experiment.plan(
        load_config("smoke", [*tiny, "network.skips=false"]), root=phantom_root, split=None, store=store
    )
    scans = scans_of(plan.manifest, plan.split, "val")
    device = torch.device("cpu")
    validation = Validation(phantom_root, scans, size_px=16, classes=plan.manifest.classes, device=device, seed=SEED)
    teacher = experiment.build_network(plan, device).eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        teacher.segment_decoder.head.bias.zero_()
        student.segment_decoder.head.weight.mul_(-1)
    masks = [read_mask(phantom_root, scan) for scan in scans]
    return validation, teacher, student, masks, len(plan.manifest.classes)


def dice(labels, mask, classes):
    found = []
    for index in range(1, classes):
        a, b = labels == index, mask == index
        found.append(2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else 1.0)
    return found


@torch.no_grad()
def passes(network, images, mask, arm, perturbation, number):
    encoded = network.encode(images)
    quantized = network.quantize(encoded.tokens)
    codes = network.codes()
    stream = streams.generator(SEED, "validation", arm, number)
    replaced = codes[perturbation.draw(quantized, codes, stream)]
    full = [
        F.interpolate(network.segment(t, encoded), mask.shape[1:], mode="bilinear", align_corners=False)
        for t in (codes[quantized.indices], replaced)
    ]
    return [logits.argmax(1).numpy() for logits in full]


@pytest.mark.parametrize(("arm", "perturbation"), [("uniform", Uniform(rate=1.0)), ("own", QPM(rate=0.5))])
def test_reach_is_the_dice_lost_and_the_share_of_pixels_flipped_by_replaced_codes(scene, arm, perturbation):
    validation, teacher, student, masks, classes = scene
    values = validation.measure(teacher, student, QPM(rate=0.5))
    clean, shaken, flipped, pixels = [], [], 0, 0
    for number, (images, mask) in enumerate(zip(validation.images, masks, strict=True)):
        before, after = passes(teacher, images, mask, arm, perturbation, number)
        clean.append(dice(before, mask, classes))
        shaken.append(dice(after, mask, classes))
        flipped, pixels = flipped + (before != after).sum(), pixels + mask.size
    assert 0 < flipped < pixels
    assert values["val/dice_teacher"] == pytest.approx(np.mean(clean))
    assert values[f"reach/dice_{arm}"] == pytest.approx(np.mean(clean) - np.mean(shaken))
    assert values[f"reach/dice_{arm}"] != 0
    assert values[f"reach/flips_{arm}"] == pytest.approx(flipped / pixels)


def test_the_students_dice_is_its_own_and_a_class_has_its_column(scene):
    validation, teacher, student, masks, classes = scene
    values = validation.measure(teacher, student, QPM(rate=0.5))
    scores = {
        name: [
            dice(passes(network, images, mask, "own", QPM(), 0)[0], mask, classes)
            for images, mask in zip(validation.images, masks, strict=True)
        ]
        for name, network in (("teacher", teacher), ("student", student))
    }
    for name, rows in scores.items():
        assert values[f"val/dice_{name}"] == pytest.approx(np.mean(rows))
    assert values["val/dice_student"] != values["val/dice_teacher"]
    for index, label in enumerate(validation.classes[1:]):
        assert values[f"val/dice_teacher_{label}"] == pytest.approx(np.mean([row[index] for row in scores["teacher"]]))
    assert values["perturbation/pi_perplexity"] == pytest.approx(QPM().perplexity(teacher.codes()).item())


def networks(root, overrides, store):
    """Return the plan, two networks that do not segment alike, and a maker of validations."""
    plan = experiment.plan(load_config("smoke", overrides), root=root, split=None, store=store)
    scans = scans_of(plan.manifest, plan.split, "val")
    teacher = experiment.build_network(plan, torch.device("cpu")).eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        teacher.segment_decoder.head.bias.zero_()
        student.segment_decoder.head.weight.mul_(-1)

    def validation(**options):
        keys = {"classes": plan.manifest.classes, "device": torch.device("cpu"), "seed": SEED}
        return Validation(root, scans, **keys, **options)

    return scans, teacher, student, validation


@pytest.mark.parametrize("context", [1, 3])
def test_windows_as_large_as_the_slices_measure_what_resizing_does(phantom_root, tiny, tmp_path, context):
    overrides = [*tiny, "data.size_px=32", f"data.context={context}", "network.skips=false"]
    _, teacher, student, validation = networks(phantom_root, overrides, tmp_path)
    measured = [
        validation(size_px=32, geometry=geometry, context=context).measure(teacher, student, QPM(rate=0.5))
        for geometry in ("resize", "crop")
    ]
    assert measured[0] == measured[1]
    assert measured[0]["reach/flips_uniform"] > 0


@torch.no_grad()
def windows_one_by_one(network, volume, number, arms):
    """Four slices of 32 pixels are sixteen windows of 16: one pass. Labels (S, H, W), undisturbed and per arm."""
    images, codes = to_unit(volume), network.codes()
    streamed = [(arm, streams.generator(SEED, "validation", name, number)) for name, arm in arms.items()]
    labels = [np.zeros((len(images), 32, 32), np.uint8) for _ in range(1 + len(arms))]
    for start in range(0, len(images), 4):
        places = [
            (image, top, left)
            for image in range(start, min(start + 4, len(images)))
            for top in (0, 16)
            for left in (0, 16)
        ]
        batch = torch.stack([images[i, :, y : y + 16, x : x + 16] for i, y, x in places])
        encoded = network.encode(batch)
        quantized = network.quantize(encoded.tokens)
        tokens = [codes[quantized.indices]]
        tokens += [codes[arm.draw(quantized, codes, stream)] for arm, stream in streamed]
        for own, each in zip(labels, tokens):
            for (i, y, x), window in zip(places, network.segment(each, encoded).argmax(1).numpy()):
                own[i, y : y + 16, x : x + 16] = window
    return labels


@pytest.mark.parametrize("context", [1, 3])
def test_crops_are_measured_in_windows_side_by_side(phantom_root, tiny, tmp_path, context):
    overrides = [*tiny, "data.geometry=crop", f"data.context={context}", "network.skips=false"]
    scans, teacher, student, validation = networks(phantom_root, overrides, tmp_path)
    arms = {"own": QPM(rate=0.5), "uniform": Uniform(rate=1.0)}
    values = validation(size_px=16, geometry="crop", context=context).measure(teacher, student, arms["own"])
    clean, taught, shaken, flipped, pixels = [], [], {name: [] for name in arms}, dict.fromkeys(arms, 0), 0
    for number, scan in enumerate(scans):
        volume, mask = with_context(read_image(phantom_root, scan), context), read_mask(phantom_root, scan)
        labels, *others = windows_one_by_one(teacher, volume, number, arms)
        clean.append(dice(labels, mask, 4))
        taught.append(dice(windows_one_by_one(student, volume, number, {})[0], mask, 4))
        for name, found in zip(arms, others):
            shaken[name].append(dice(found, mask, 4))
            flipped[name] += (found != labels).sum()
        pixels += mask.size
    assert values["val/dice_teacher"] == pytest.approx(np.mean(clean))
    assert values["val/dice_student"] == pytest.approx(np.mean(taught))
    for name in arms:
        assert 0 < flipped[name] < pixels
        assert values[f"reach/flips_{name}"] == pytest.approx(flipped[name] / pixels)
        assert values[f"reach/dice_{name}"] == pytest.approx(np.mean(clean) - np.mean(shaken[name]))


def test_many_slices_and_large_planes_go_in_several_runs(scene, monkeypatch):
    inputs, teacher, student, _, _ = scene
    whole = inputs.measure(teacher, student, QPM(rate=0.0))
    monkeypatch.setattr("vqseg.validation.LOGITS", 1)
    assert inputs.measure(teacher, student, QPM(rate=0.0)) == whole
    monkeypatch.setattr("vqseg.validation.SLICES", 2)
    parts = inputs.measure(teacher, student, QPM(rate=0.0))
    for name in ("val/dice_teacher", "val/dice_student", "reach/flips_own"):
        assert parts[name] == pytest.approx(whole[name], abs=1e-6)


# the banner of reports


def finished(**columns):
    """Two seeds of two arms; a column is one value per arm."""
    table = pd.DataFrame({"arm": ["none", "none", "qpm", "qpm"], "family": ["none", "none", "qpm", "qpm"]})
    table = table.assign(seed=[0, 1, 0, 1], identity=list("abcd"), state="finished")
    return table.assign(**{name.replace("__", "/"): [a, a, b, b] for name, (a, b) in columns.items()})


def test_where_nothing_was_learned_the_banner_says_that_instead_of_reach():
    cells = finished(**{"last:val__dice_teacher": (0.01, 0.04), "last:reach__dice_uniform": (0.0, 0.0)})
    [banner] = banners(cells, warn_unlogged=True)
    assert banner.startswith("This study cannot answer: nothing was learned.") and "0.040" in banner
    assert "reach" not in banner


@pytest.mark.parametrize("dice", [(0.01, 0.6), (0.6, 0.01)])
def test_one_arm_that_learned_is_enough_to_speak_of_reach(dice):
    cells = finished(**{"last:val__dice_teacher": dice, "last:reach__dice_uniform": (0.01, 0.3)})
    [banner] = banners(cells)
    assert "reach is 0.010 Dice" in banner
    assert banners(cells.assign(**{"last:reach/dice_uniform": 0.3})) == []


def test_learning_is_read_from_the_status_where_no_curve_was_logged_and_only_of_finished_runs():
    cells = finished(**{"validation.last.teacher": (0.7, 0.8)})
    assert learned(cells) == pytest.approx(0.8)
    cells.loc[cells["arm"] == "qpm", "state"] = "failed"
    assert learned(cells) == pytest.approx(0.7)
    assert np.isnan(learned(finished())) and banners(finished()) == []
