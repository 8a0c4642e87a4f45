import numpy as np
import torch
from torch import nn

from vqseg import alignment
from vqseg.alignment import Alignment


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, images, grid):
        self.seen += len(images)
        return images.mean((2, 3), keepdim=True).expand(-1, -1, *grid)


def an_alignment(context=1):
    stored = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    prior = Counting()
    made = Alignment(prior, context=context, counts={"labelled": 40}, images=lambda part, rows: stored[rows])
    return made, prior, stored


def test_features_of_stored_images_are_computed_once():
    made, prior, stored = an_alignment()
    rows = torch.tensor([5, 39])
    for _ in range(3):
        found = made.features(stored[rows], (2, 2), "labelled", rows)
        assert torch.equal(found, prior(stored[rows], (2, 2)))
    assert prior.seen == 40 + 1 + 3 * 2
    made.features(stored[:2], (2, 2), "labelled", None)
    assert prior.seen == 40 + 1 + 3 * 2 + 2


def test_features_that_do_not_fit_are_computed_each_time(monkeypatch):
    made, prior, stored = an_alignment()
    monkeypatch.setattr(alignment, "MEMORY_SHARE", 0.0)
    rows = torch.tensor([5, 39])
    assert torch.equal(made.features(stored[rows], (2, 2), "labelled", rows), prior(stored[rows], (2, 2)))


def test_the_prior_sees_the_slice_itself_and_nothing_of_it_is_trained():
    made, _, stored = an_alignment(context=3)
    found = made.features(stored.requires_grad_(), (1, 1), "labelled", None)
    assert found.shape == (40, 1, 1, 1) and not found.requires_grad
    assert torch.allclose(found[:, 0, 0, 0], stored[:, 1].mean((1, 2)))
    assert np.isclose(float(found[0, 0, 0, 0].detach()), float(stored[0, 1].mean().detach()))
