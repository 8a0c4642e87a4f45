from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vqseg import validation
from vqseg.config import Schedule, Train
from vqseg.train import Trainer


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("classes", [2, 4, 9])
def test_labels_are_the_argmax_of_bilinear_logits_bit_for_bit(classes, layout, monkeypatch):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(5, classes, 8, 12, generator=generator).contiguous(memory_format=layout)
    monkeypatch.setattr(validation, "LOGITS", 2 * classes * 21 * 30)  # two slices at once
    full = F.interpolate(logits.contiguous(), size=(21, 30), mode="bilinear", align_corners=False)
    found = validation._labels(logits, (21, 30))
    assert found.dtype == "uint8" and torch.equal(torch.from_numpy(found).long(), full.argmax(1))


def test_of_equal_logits_the_first_class_wins():
    logits = torch.randint(3, (4, 5, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    first = (logits == logits.amax(1, keepdim=True)).float().argmax(1)
    assert torch.equal(validation._largest(logits).long(), first)


def test_the_last_networks_are_validated_once():
    calls = []

    def validate(step):
        calls.append(step)
        return {"val/dice_teacher": 0.5, "val/dice_student": 0.4}

    network = nn.Linear(1, 1)
    trainer = Trainer(
        method=SimpleNamespace(student=network, teacher=network),
        batches=None,
        optimizer=None,
        settings=Train(),
        schedule=Schedule(),
        seed=0,
        num_codes=2,
        device=torch.device("cpu"),
        precision="fp32",
        identity="x",
        config={},
        validate=validate,
        log=lambda values, step: None,
        checkpoint=Path("x"),
        step=7,
    )
    trainer._validate()
    assert trainer.final() == trainer.final() == validate(7) and calls == [7, 7]
    trainer.step = 8
    assert trainer.final()["val/dice_teacher"] == 0.5 and calls == [7, 7, 8]
