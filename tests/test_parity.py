"""With the same weights and inputs our formulas give the numbers of VQ-Seg's public release.

`release_parity.json` holds what the release's statements (model/semseg/dpt.py at commit 47a0547: VectorQuantizer,
qpm, loss_pfa, get_entropy_loss) gave on drawn weights and tokens, with gradients of .1 (pfa + usage).
"""

import json
from pathlib import Path

import pytest
import torch

from vqseg.codebook import usage_loss
from vqseg.perturbations import QPM
from vqseg.quantizers import MappedQuantizer
from vqseg.step import CodebookWeights

FIXTURE = json.loads((Path(__file__).parent / "release_parity.json").read_text())
CODES, DIM, IMAGES, TOKENS = (FIXTURE["shape"][name] for name in ("codes", "dim", "images", "tokens"))


def number(name, *shape):
    return torch.tensor(FIXTURE[name]).view(*shape)


@pytest.fixture
def quantizer():
    made = MappedQuantizer(DIM, num_codes=CODES)
    with torch.no_grad():
        made.table.copy_(number("table", CODES, DIM))
        made.map.weight.copy_(number("weight", DIM, DIM))
        made.map.bias.copy_(number("bias", DIM))
    return made


def close(found, name):
    expected = torch.tensor(FIXTURE[name])
    assert torch.allclose(found.detach().flatten(), expected.flatten(), rtol=1e-5, atol=1e-5), name


def test_codes_and_straight_through_tokens(quantizer):
    found = quantizer(number("z", IMAGES, TOKENS, DIM))
    assert found.indices.flatten().tolist() == FIXTURE["indices"]
    assert len(set(FIXTURE["indices"])) > 5
    close(found.tokens, "quantized")


def test_codebook_commitment_and_usage_losses(quantizer):
    z = number("z", IMAGES, TOKENS, DIM)
    found = quantizer(z)
    close(found.losses["codebook"], "embed")
    close(found.losses["commitment"], "commit")
    close(found.losses["codebook"] + 0.25 * found.losses["commitment"], "pfa")
    close(usage_loss(z, quantizer.codes()), "usage")


def test_gradients_of_the_releases_sum(quantizer):
    z = number("z", IMAGES, TOKENS, DIM).requires_grad_()
    found = quantizer(z)
    # The release's .1 (pfa + usage): weights as in the preset of its name.
    sum(CodebookWeights(0.1, 0.25, 0.1).terms(z, found).values()).backward()
    close(z.grad, "grad_z")
    close(quantizer.map.weight.grad, "grad_weight")
    close(quantizer.map.bias.grad, "grad_bias")


def test_where_qpm_sends_a_code(quantizer):
    perturbation = QPM(rate=0.3, distance="squared-euclidean", temperature=1.0)
    rows = perturbation.transitions(quantizer.codes().detach(), torch.arange(CODES))
    pi = number("pi", CODES, CODES)
    away = rows.clone().fill_diagonal_(0)
    assert torch.allclose(away, 0.3 * pi, atol=1e-5)
    assert torch.allclose(rows.diagonal(), torch.full((CODES,), 0.7), atol=1e-6)
    assert pi.diagonal().abs().max() == 0 and away.max() > 0.05
