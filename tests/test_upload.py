import torch

from vqseg.upload import pack, unpack, upload_all

CPU = torch.device("cpu")


def test_what_is_packed_comes_out_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    values = [
        torch.rand(5, 3, generator=generator),
        torch.rand(7, generator=generator) < 0.5,
        torch.randperm(9, generator=generator),
        torch.rand(4, 2, 3, generator=generator)[:, 1],  # not contiguous
        torch.rand(2, 1, generator=generator, dtype=torch.float64),
        torch.zeros(0, 4),
    ]
    found = unpack(pack(values), values)
    for ours, value in zip(found, values, strict=True):
        assert ours.dtype == value.dtype and torch.equal(ours, value)


def test_on_the_cpu_nothing_is_copied():
    values = [torch.rand(3), torch.arange(4)]
    assert all(ours is value for ours, value in zip(upload_all(values, CPU), values, strict=True))
