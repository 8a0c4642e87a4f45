import pytest
import torch

from vqseg.meter import Meter

CPU = torch.device("cpu")


def test_means_are_those_of_the_steps_that_had_the_value():
    generator = torch.Generator().manual_seed(0)
    meter, plain = Meter(4, CPU), {}
    for step in range(9):
        names = ("loss/total", "loss/labelled") if step < 5 else ("loss/total", "loss/strong", "loss/labelled")
        values = {name: torch.rand((), generator=generator, dtype=torch.float64) for name in names}
        meter.add(values, None)
        for name, value in values.items():
            plain.setdefault(name, []).append(value.item())
    found = meter.flush()
    assert list(found) == ["loss/total", "loss/labelled", "loss/strong"]
    for name, values in plain.items():
        assert found[name] == pytest.approx(sum(values) / len(values), rel=1e-6)
    assert meter.flush() == {}


def test_a_step_without_values_counts_its_codes():
    meter = Meter(3, CPU)
    meter.add({}, torch.tensor([[0, 2], [2, 2]]))
    assert meter.flush() == {} and meter.usage.tolist() == [1, 0, 3]


def test_a_checkpoint_takes_up_where_the_meter_was():
    generator = torch.Generator().manual_seed(1)
    steps = [{"a": torch.rand((), generator=generator), "b": torch.rand((), generator=generator)} for _ in range(6)]
    whole, first, second = (Meter(4, CPU) for _ in range(3))
    for step, values in enumerate(steps):
        whole.add(values, torch.tensor([step % 4]))
        (first if step < 3 else second).add(values, torch.tensor([step % 4]))
        if step == 2:
            second.load(first.state())
    assert second.flush() == whole.flush() and torch.equal(second.usage, whole.usage)
