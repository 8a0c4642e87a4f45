import inspect
import pathlib

import pytest
import torch

from vqseg import codebook, streams
from vqseg.codebook import nearest_codes, quantize, usage, usage_loss
from vqseg.quantizers import QUANTIZERS


def built(name, num_codes=32, dim=6, seed=0):
    quantizer = QUANTIZERS[name](dim, num_codes=num_codes)
    streams.initialize(quantizer, seed, "quantizer")
    return quantizer


def test_table_and_folder_agree():
    folder = pathlib.Path(inspect.getfile(QUANTIZERS["plain"])).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(QUANTIZERS)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_keeps_the_shape_and_passes_the_gradient_straight_through(name):
    z = torch.randn(2, 5, 6, requires_grad=True)
    out = built(name)(z)
    assert out.tokens.shape == z.shape and out.indices.shape == (2, 5)
    out.tokens.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_codebook_loss_reaches_the_codes_and_the_commitment_the_encoder(name):
    quantizer, z = built(name), torch.randn(2, 5, 6, requires_grad=True)
    out = quantizer(z)
    out.losses["codebook"].backward(retain_graph=True)
    assert z.grad is None
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in quantizer.parameters())
    out.losses["commitment"].backward()
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("name", QUANTIZERS)
def test_same_seed_same_codes(name):
    assert torch.equal(built(name).codes(), built(name).codes())
    assert not torch.equal(built(name).codes(), built(name, seed=1).codes())


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("size", [0, 1])
def test_a_codebook_of_less_than_two_codes_raises(name, size):
    with pytest.raises(ValueError, match="num_codes must be at least 2"):
        QUANTIZERS[name](6, num_codes=size)


def test_a_mapped_book_moves_all_codes_at_once_and_freezes_its_table():
    quantizer = built("mapped")
    assert "table" not in dict(quantizer.named_parameters())
    before = quantizer.codes().detach().clone()
    out = quantizer(torch.randn(1, 3, 6))
    out.losses["codebook"].backward()
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter -= 0.1 * parameter.grad
    assert ((quantizer.codes() - before).abs().sum(1) > 0).all()


def test_four_codes_by_hand():
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    z = torch.tensor([[[0.1, 0.2], [0.9, 0.1], [0.2, 0.7], [2.0, 2.0]]])
    out = quantize(z, codes)
    assert out.indices.tolist() == [[0, 1, 2, 3]]
    assert torch.allclose(out.tokens[0], codes)
    squares = [0.01, 0.04, 0.01, 0.01, 0.04, 0.09, 1.0, 1.0]
    assert out.losses["codebook"] == pytest.approx(sum(squares) / 8)
    assert out.losses["commitment"] == pytest.approx(sum(squares) / 8)


def test_the_search_equals_a_plain_distance_matrix_over_many_chunks():
    z, codes = torch.randn(3, 900, 8), torch.randn(257, 8)
    assert torch.equal(nearest_codes(z, codes), torch.cdist(z.flatten(0, 1), codes).argmin(1).view(3, 900))


def test_the_block_size_does_not_change_the_search(monkeypatch):
    z, codes = torch.randn(3, 900, 8), torch.randn(257, 8)
    found = nearest_codes(z, codes)
    monkeypatch.setattr(codebook, "BLOCK_ENTRIES", 1)
    assert torch.equal(nearest_codes(z, codes), found)


def test_widths_that_differ_raise():
    with pytest.raises(ValueError, match="tokens have 5 channels, the codes 6"):
        quantize(torch.randn(1, 2, 5), torch.randn(4, 6))


def test_usage_loss_is_lowest_when_each_token_is_sure_and_all_codes_are_used():
    codes = torch.eye(4) * 50
    spread, alike = codes[None], codes[:1].expand(4, 4)[None]
    unsure = codes.mean(0).expand(1, 4, 4)
    assert usage_loss(spread, codes) == pytest.approx(-torch.log(torch.tensor(4.0)).item(), abs=1e-4)
    assert usage_loss(alike, codes) == pytest.approx(0, abs=1e-4)
    assert usage_loss(unsure, codes) == pytest.approx(0, abs=1e-4)


def whole_matrix_usage_loss(z, codes):
    """The plain twin: whole matrices, autograd keeps them."""
    log_p = (-torch.cdist(z.flatten(0, 1), codes).square()).log_softmax(1)
    p, mean = log_p.exp(), log_p.exp().mean(0)
    return -(p * log_p).sum(1).mean() + (mean * mean.clamp_min(1e-12).log()).sum()


@pytest.mark.parametrize("entries", [2**22, 4000])
@pytest.mark.parametrize(("size", "spread", "away"), [(37, 1.0, 0.0), (300, 0.3, 5.0), (300, 3.0, 0.0)])
def test_usage_loss_in_blocks_equals_whole_matrices_and_so_do_its_gradients(entries, size, spread, away, monkeypatch):
    """Also where nearly all codes underflow (spread 3), and where the book lies far from the origin."""
    monkeypatch.setattr(codebook, "BLOCK_ENTRIES", entries)
    monkeypatch.setattr(codebook, "KEPT_ENTRIES", 20_000)  # of 7,400 and 60,000: kept, and computed again
    z = (torch.randn(4, 50, 6) * spread + away).requires_grad_()
    codes = (torch.randn(size, 6) * spread + away).requires_grad_()
    found = usage_loss(z, codes)
    twins = [each.detach().double().requires_grad_() for each in (z, codes)]
    expected = whole_matrix_usage_loss(*twins)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    (3 * found).backward()
    (3 * expected).backward()
    for ours, twin in zip((z, codes), twins, strict=True):
        assert torch.allclose(ours.grad.double(), twin.grad, rtol=1e-4, atol=1e-4 * twin.grad.abs().max().item())


def test_usage_loss_has_the_gradient_of_finite_differences():
    generator = torch.Generator().manual_seed(3)
    z, codes = (torch.randn(n, 4, generator=generator, dtype=torch.float64, requires_grad=True) for n in (70, 9))
    assert torch.autograd.gradcheck(codebook._Usage.apply, (z, codes))


def test_what_is_kept_and_what_is_computed_again_give_the_same_bits(monkeypatch):
    found = []
    for bound in (0, 2**25):
        monkeypatch.setattr(codebook, "KEPT_ENTRIES", bound)
        generator = torch.Generator().manual_seed(3)
        z, codes = (torch.randn(n, 4, generator=generator, requires_grad=True) for n in (700, 900))
        loss = usage_loss(z[None], codes)
        found.append([loss.detach(), *torch.autograd.grad(loss, (z, codes))])
    assert all(map(torch.equal, *found))


def test_a_large_usage_loss_keeps_no_token_by_code_matrix_for_its_backward_pass(monkeypatch):
    monkeypatch.setattr(codebook, "KEPT_ENTRIES", 10**6)
    kept = []
    z, codes = torch.randn(2, 500, 4, requires_grad=True), torch.randn(3000, 4, requires_grad=True)

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        usage_loss(z, codes).backward()
    assert kept and max(kept) <= 4 * 3000


def test_usage_by_hand():
    out = usage(torch.tensor([2, 2, 0, 0]))
    assert out["utilization"] == 0.5 and out["dead"] == 2 and out["tokens"] == 4
    assert out["perplexity"] == pytest.approx(2)
    assert out["ceiling"] == pytest.approx(1 - 0.75**4)
