"""QPM within coarse clusters: what the clusters are, and that draws follow pi in them."""

import numpy as np
import pytest
import torch
from test_perturbations import chi_square, draws, pi, sample, stream

from vqseg.codebook import Quantized
from vqseg.errors import InputError
from vqseg.perturbations.cluster_qpm import ClusterQPM, coarse_clusters
from vqseg.perturbations.qpm import QPM


def blobs(count=4, size=8, seed=6):
    """Return codes (count * size, 3) in far groups of ``size``, one group after the other."""
    centers = 100 * torch.eye(count, 3 + count)[:, :3] + 50 * torch.arange(count)[:, None]
    return centers.repeat_interleave(size, 0) + 0.5 * torch.randn(count * size, 3, generator=stream(seed))


def test_clusters_are_the_groups_of_near_codes_wherever_the_book_lies():
    for table in (blobs(), 1e-3 * blobs(), blobs() + 1e6):
        assert torch.equal(coarse_clusters(table, 4), torch.arange(4).repeat_interleave(8))
    assert torch.equal(coarse_clusters(torch.ones(6, 3), 2), torch.zeros(6, dtype=torch.long))


def test_one_cluster_is_qpm_draw_by_draw_and_as_many_as_codes_change_nothing():
    _, quantized, table = sample(codes=300, tokens=200)
    options = {"rate": 0.8, "distance": "euclidean", "temperature": 0.5, "scale": "nearest-neighbor"}
    reference = QPM(**options).draw(quantized, table, stream())
    assert torch.equal(ClusterQPM(clusters=1, **options).draw(quantized, table, stream()), reference)
    assert torch.equal(ClusterQPM(clusters=300, **options).draw(quantized, table, stream()), quantized.indices)


@pytest.mark.parametrize("clusters", [1, 5])
def test_cluster_draws_follow_pi_within_the_own_cluster(clusters):
    table = torch.randn(60, 3, generator=stream(9)) * 0.5
    home, own = coarse_clusters(table, clusters), torch.arange(4)
    rows = pi(table, 1.0) * (home[:, None] == home)
    rows = (0.7 * rows / rows.sum(1, keepdim=True)).fill_diagonal_(0.3)
    arm = ClusterQPM(rate=0.7, clusters=clusters, chunk=8192)
    assert torch.allclose(arm.transitions(table, own).double(), rows[own], atol=1e-6)
    before, after = draws(arm, table, own, 400_000)
    assert torch.equal(home[before], home[after])
    for code in own.tolist():
        observed = np.bincount(after[before == code].numpy(), minlength=60).astype(float)
        assert chi_square(observed, rows[code].numpy() * observed.sum()) > 1e-3


def test_a_code_alone_in_its_cluster_stays():
    table = torch.cat([blobs(2), torch.tensor([[900.0, -900.0, 0.0]])])
    table = table[[*range(8), 16, *range(8, 16)]]
    arm, own = ClusterQPM(rate=1.0, clusters=3), torch.tensor([8, 0])
    assert coarse_clusters(table, 3).bincount().tolist() == [8, 1, 8]
    before, after = draws(arm, table, own, 1000)
    assert torch.equal(before == 8, after == 8) and (before != after).float().mean() == 0.5
    assert torch.equal(arm.transitions(table, own).sum(1), torch.ones(2)) and arm.transitions(table, own)[0, 8] == 1
    assert ClusterQPM(clusters=3, temperature=1e9).perplexity(table) == pytest.approx(7 ** (16 / 17), rel=1e-3)


@pytest.mark.parametrize(("codes", "clusters"), [(90, 9), (70_000, 256)])
def test_there_are_as_many_clusters_as_codes_in_each_up_to_a_cap(codes, clusters):
    table = torch.randn(codes, 1, generator=stream(3))
    quantized = Quantized(table[None, :64], torch.arange(64)[None], {})
    default, given = (ClusterQPM(clusters=k).draw(quantized, table, stream()) for k in (None, clusters))
    assert torch.equal(default, given)
    with pytest.raises(InputError, match=rf"perturbation.clusters: {codes + 1}, but the codebook has {codes} codes"):
        ClusterQPM(clusters=codes + 1).draw(quantized, table, stream())
