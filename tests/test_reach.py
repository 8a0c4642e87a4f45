"""Reach, measured once more by explicit passes with replaced codes."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vqseg import experiment, streams
from vqseg.config import load_config
from vqseg.manifest import read_mask, scans_of
from vqseg.perturbations import QPM, Uniform
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
