import inspect

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch._subclasses.fake_tensor import FakeTensorMode

from vqseg.codebook import Quantized, quantize
from vqseg.config import Choice
from vqseg.parts import resolve
from vqseg.perturbations import PERTURBATIONS
from vqseg.perturbations.cluster_qpm import ClusterQPM
from vqseg.perturbations.mask_and_replace import MaskAndReplace
from vqseg.perturbations.qpm import QPM
from vqseg.perturbations.uniform import Uniform
from vqseg.replacement import changed_share, energies

RATED = {name: kind for name, kind in PERTURBATIONS.items() if "rate" in inspect.signature(kind).parameters}


def sample(codes=32, tokens=48, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(codes, dim, generator=generator)
    z = torch.randn(3, tokens, dim, generator=generator, requires_grad=True)
    return z, quantize(z, table), table


class Elsewhere(torch.Generator):
    device = torch.device("meta")


def stream(seed=1):
    return torch.Generator().manual_seed(seed)


def test_table_and_folder_agree():
    folder = inspect.getfile(PERTURBATIONS["none"]).rsplit("/", 1)[0]
    import pathlib

    files = {path.stem.replace("_", "-") for path in pathlib.Path(folder).glob("*.py")} - {"--init--"}
    assert files == set(PERTURBATIONS)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_keeps_the_shape_and_lets_gradients_through(name):
    z, quantized, table = sample()
    perturbation = PERTURBATIONS[name]()
    out = perturbation.apply(quantized, table, perturbation.draw(quantized, table, stream()))
    assert out.shape == quantized.tokens.shape
    out.square().sum().backward()
    assert z.grad is not None and z.grad.abs().sum() > 0 and torch.isfinite(z.grad).all()


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_same_seed_same_result_and_another_seed_another(name):
    _, quantized, table = sample()
    perturbation = PERTURBATIONS[name]()
    runs = [perturbation.apply(quantized, table, perturbation.draw(quantized, table, stream(s))) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2]) == (name == "none")


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_nothing_waits_for_the_device_and_half_precision_codes_do(name):
    """Tensors without values, on no CPU: reading one, or a shape that depends on one, raises."""
    perturbation = PERTURBATIONS[name]()
    with FakeTensorMode(), torch.device("meta"):
        indices = torch.zeros(2, 600, dtype=torch.long)
        quantized = Quantized(torch.zeros(2, 600, 6), indices, {})
        for codes in (torch.zeros(300, 6), torch.zeros(300, 6, dtype=torch.bfloat16)):
            out = perturbation.apply(quantized, codes, perturbation.draw(quantized, codes, Elsewhere()))
            assert out.shape == (2, 600, 6) and out.dtype == torch.float32


@pytest.mark.parametrize("name", RATED)
def test_rate_zero_is_the_identity(name):
    _, quantized, table = sample()
    perturbation = RATED[name](rate=0.0)
    out = perturbation.apply(quantized, table, perturbation.draw(quantized, table, stream()))
    assert torch.equal(out, quantized.tokens)


@pytest.mark.parametrize("name", RATED)
@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_outside_its_range_raises(name, rate):
    with pytest.raises(ValueError, match="rate must lie in"):
        RATED[name](rate=rate)


@pytest.mark.parametrize("name", ["qpm", "uniform"])
def test_replacement_at_rate_one_changes_every_code_to_an_existing_one(name):
    _, quantized, table = sample()
    drawn = RATED[name](rate=1.0).draw(quantized, table, stream())
    assert (drawn != quantized.indices).all()
    assert drawn.min() >= 0 and drawn.max() < len(table)


def test_shuffle_permutes_the_tokens_of_each_image():
    _, quantized, table = sample()
    drawn = RATED["shuffle"](rate=0.5).draw(quantized, table, stream())
    assert torch.equal(drawn.sort(1).values, torch.arange(drawn.shape[1]).expand_as(drawn))
    moved = (drawn != torch.arange(drawn.shape[1])).float().mean()
    assert 0.3 < moved < 0.6


def test_channel_dropout_drops_whole_channels_of_an_image():
    _, quantized, table = sample(dim=64)
    out = RATED["channel-dropout"](rate=0.5)
    out = out.apply(quantized, table, out.draw(quantized, table, stream()))
    zero = out == 0
    assert torch.equal(zero.all(1), zero.any(1))
    assert 0.35 < zero.float().mean() < 0.65


def test_dropout_keeps_the_mean_and_has_the_distortion_that_theory_says():
    tokens = torch.randn(4, 2000, 8, generator=stream(3))
    quantized = Quantized(tokens, torch.zeros(4, 2000, dtype=torch.long), {})
    dropout = RATED["dropout"](rate=0.7)
    out = dropout.apply(quantized, tokens[0, :4], dropout.draw(quantized, tokens[0, :4], stream()))
    moved, spread = energies(tokens, out)
    assert moved / spread == pytest.approx(0.7 / 0.3, rel=0.03)
    assert out.mean() == pytest.approx(tokens.mean().item(), abs=0.02)
    assert changed_share(tokens, out) > 0.99


# QPM's law. The paper's example: 4 codes, eps .7, the nearest takes .49 of all draws when it holds .7 of the weight.
def pi(table, rate, temperature=1.0):
    d = torch.cdist(table.double(), table.double()).square() / temperature
    weight = torch.exp(-d).fill_diagonal_(0)
    rows = rate * weight / weight.sum(1, keepdim=True)
    return rows.fill_diagonal_(1 - rate)


def draws(qpm, table, own, count, seed=5):
    indices = own.repeat(count // len(own)).view(1, -1)
    quantized = Quantized(table[indices], indices, {})
    return indices.view(-1), qpm.draw(quantized, table, stream(seed)).view(-1)


def chi_square(observed, expected):
    keep = expected >= 5
    observed = np.append(observed[keep], observed[~keep].sum())
    expected = np.append(expected[keep], expected[~keep].sum())
    if expected[-1] < 5:
        observed[-2] += observed[-1]
        expected[-2] += expected[-1]
        observed, expected = observed[:-1], expected[:-1]
    return chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


@pytest.mark.parametrize(("codes", "spread"), [(4, 0.8), (1000, 0.5)])
def test_a_million_draws_follow_pi(codes, spread):
    table = torch.randn(codes, 3, generator=stream(9)) * spread
    own = torch.arange(min(codes, 5))
    before, after = draws(QPM(rate=0.7, chunk=8192), table, own, 1_000_000)
    for code in own.tolist():
        observed = np.bincount(after[before == code].numpy(), minlength=codes).astype(float)
        expected = pi(table, 0.7)[code].numpy() * observed.sum()
        assert chi_square(observed, expected) > 1e-3


def naive(table, own, rate, generator):
    """The release's way: a loop over every distinct code."""
    out = own.clone()
    changed = torch.rand(own.shape, generator=generator) < rate
    for code in own.unique().tolist():
        rows = (own == code) & changed
        weight = torch.exp(-(table - table[code]).square().sum(1))
        weight[code] = 0
        if rows.any():
            out[rows] = torch.multinomial(weight, int(rows.sum()), replacement=True, generator=generator)
    return out


def test_the_loop_over_codes_and_the_fast_sampler_agree_in_distribution():
    from scipy.stats import chi2_contingency

    table = torch.randn(12, 3, generator=stream(2)) * 0.7
    own = torch.arange(12).repeat(8000)
    fast = draws(QPM(rate=0.5), table, torch.arange(12), len(own))[1]
    slow = naive(table, own, 0.5, stream(8))
    for code in range(12):
        counts = np.stack([np.bincount(x[own == code].numpy(), minlength=12) for x in (fast, slow)])
        assert chi2_contingency(counts[:, counts.sum(0) >= 10]).pvalue > 1e-4


@pytest.mark.parametrize("kind", [QPM, ClusterQPM])
@pytest.mark.parametrize("chunk", [1, 7, 100_000])
def test_the_chunk_size_does_not_change_the_draws(chunk, kind):
    _, quantized, table = sample(codes=300, tokens=200)
    reference = kind(rate=0.9).draw(quantized, table, stream())
    assert torch.equal(kind(rate=0.9, chunk=chunk).draw(quantized, table, stream()), reference)


@pytest.mark.parametrize("kind", [QPM, ClusterQPM])
@pytest.mark.parametrize("options", [{}, {"distance": "euclidean", "scale": "nearest-neighbor", "temperature": 0.5}])
@pytest.mark.parametrize("used", [3, 300])
def test_drawing_for_what_changes_alone_draws_the_same(kind, options, used, monkeypatch):
    """A CPU draws for changed tokens, and once per code; a card, which must not wait, for all of them."""
    table = torch.randn(300, 6, generator=stream(2))
    indices = torch.randint(used, (2, 3000), generator=stream(3))
    quantized, arm = Quantized(table[indices], indices, {}), kind(rate=0.4, chunk=100, **options)
    few = arm.draw(quantized, table, stream())
    monkeypatch.setattr(QPM, "_draw_changed", QPM._draw_each)
    assert torch.equal(few, arm.draw(quantized, table, stream()))
    assert 0.3 < (few != indices).float().mean() < 0.5


def test_two_far_codes_never_lose_their_weight_to_rounding():
    table = torch.tensor([[0.0], [200.0], [230.0]])
    _, after = draws(QPM(rate=1.0), table, torch.tensor([0]), 1000)
    assert (after == 1).all()


def test_transitions_are_rows_of_pi_and_the_papers_example_holds():
    table = torch.tensor([[0.0], [1.0], [1.0 + np.log(2.0) ** 0.5], [3.0]])
    rows = QPM(rate=0.7).transitions(table, torch.arange(4))
    assert torch.allclose(rows.double(), pi(table, 0.7), atol=1e-6)
    assert rows[0, 0] == pytest.approx(0.30)
    assert torch.allclose(rows.sum(1), torch.ones(4))


def test_a_scale_free_temperature_gives_the_same_law_at_every_scale():
    table = torch.randn(64, 4, generator=stream(4))
    rows = [
        QPM(rate=0.5, scale="nearest-neighbor", distance="euclidean").transitions(table * s, torch.arange(8))
        for s in (1, 50)
    ]
    assert torch.allclose(rows[0], rows[1], atol=1e-5)


def test_perplexity_runs_from_one_neighbor_to_all_others():
    table = torch.randn(64, 4, generator=stream(4))
    assert QPM(temperature=1e9).perplexity(table) == pytest.approx(63, rel=1e-3)
    assert QPM(temperature=1e-6).perplexity(table) == pytest.approx(1, abs=1e-3)


def test_uniform_reaches_every_other_code_equally():
    table = torch.randn(9, 2, generator=stream(4))
    _, after = draws(Uniform(rate=1.0), table, torch.tensor([3]), 80_000)
    counts = np.bincount(after.numpy(), minlength=9)
    assert counts[3] == 0
    assert chisquare(np.delete(counts, 3)).pvalue > 1e-3


# Mask-and-replace: index V is [MASK].


@pytest.mark.parametrize("mask_share", [0.0, 0.4, 1.0])
def test_what_is_not_masked_is_what_uniform_draws(mask_share):
    _, quantized, table = sample()
    uniform = Uniform(rate=0.6).draw(quantized, table, stream())
    drawn = MaskAndReplace(rate=0.6, mask_share=mask_share).draw(quantized, table, stream())
    masked = drawn == len(table)
    assert torch.equal(drawn[~masked], uniform[~masked])
    assert not masked[uniform == quantized.indices].any()
    assert masked[uniform != quantized.indices].float().mean() == pytest.approx(mask_share, abs=0.15)


def test_mask_and_replace_follows_its_matrix():
    table = torch.randn(9, 2, generator=stream(4))
    _, after = draws(MaskAndReplace(rate=0.7, mask_share=0.4), table, torch.tensor([3]), 200_000)
    expected = np.full(10, 0.7 * 0.6 / 8)
    expected[3], expected[9] = 0.3, 0.7 * 0.4
    assert chisquare(np.bincount(after.numpy(), minlength=10), expected * 200_000).pvalue > 1e-3


@pytest.mark.parametrize("bias", [0.0, 100.0])
def test_a_masked_token_is_the_mean_code_wherever_the_book_lies(bias):
    """So its distortion is 1 where the codes are used evenly; zero's would be 10,000 at this bias."""
    table = torch.randn(64, 6, generator=stream(7)) + bias
    tokens = table.repeat(3, 1)[None].requires_grad_()
    quantized, mask = quantize(tokens, table), MaskAndReplace(rate=1.0, mask_share=1.0)
    out = mask.apply(quantized, table, mask.draw(quantized, table, stream()))
    assert torch.allclose(out, table.mean(0).expand_as(out), atol=1e-4)
    moved, spread = energies(quantized.tokens, out)
    assert moved / spread == pytest.approx(1, rel=1e-3)
    out.sum().backward()
    assert torch.equal(tokens.grad, torch.ones_like(tokens))


def test_masking_moves_less_than_replacing_by_the_variance_of_the_book():
    table = torch.randn(400, 4, generator=stream(7))
    indices = torch.randint(20, (1, 40_000), generator=stream(8))  # a few codes alone are used
    quantized = Quantized(table[indices], indices, {})
    replaced, masked = (
        energies(quantized.tokens, arm.apply(quantized, table, arm.draw(quantized, table, stream())))[0]
        for arm in (MaskAndReplace(rate=1.0, mask_share=share) for share in (0.0, 1.0))
    )
    assert replaced - masked == pytest.approx(table.var(0, correction=0).sum().item(), rel=0.02)


@pytest.mark.parametrize(("name", "module"), [("mask-and-replace", "uniform"), ("cluster-qpm", "qpm")])
def test_what_an_arm_is_built_on_is_part_of_its_identity(name, module):
    assert f"vqseg.perturbations.{module}" in resolve("perturbation", Choice(name=name)).hashes()


@pytest.mark.parametrize("kind", [QPM, ClusterQPM])
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": float("inf")}, {"chunk": 0}])
def test_qpm_refuses_what_has_no_meaning(options, kind):
    with pytest.raises(ValueError, match=next(iter(options))):
        kind(**options)


@pytest.mark.parametrize(
    "name", ["mask-and-replace mask_share=-0.1", "mask-and-replace mask_share=1.1", "cluster-qpm clusters=0"]
)
def test_the_other_arms_refuse_it_too(name):
    arm, option, value = name.replace("=", " ").split()
    with pytest.raises(ValueError, match=f"{option} must"):
        PERTURBATIONS[arm](**{option: float(value)})
