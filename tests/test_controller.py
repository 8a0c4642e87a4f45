import math

import pandas as pd
import pytest
import torch

from vqseg import experiment
from vqseg.codebook import quantize
from vqseg.config import load_config
from vqseg.controller import LEAST_RATE, MOST_RATE, Controller
from vqseg.errors import InputError
from vqseg.perturbations import PERTURBATIONS
from vqseg.records.run import RunFolder
from vqseg.step import held_at, perturb
from vqseg.train import Interrupted

HELD = sorted(set(PERTURBATIONS) - {"none"})


def held(name, target, steps=600, codes=None):
    """Perturb a fixed batch under a controller; the rates and the distortions of the last third."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randn(64, 8, generator=generator) if codes is None else codes
    tokens = quantize(torch.randn(16, 64, 8, generator=generator), codes)
    perturbation = PERTURBATIONS[name]()
    controller = held_at(perturbation, target)
    rates, distortions = [], []
    for _ in range(steps):
        _, logs = perturb(perturbation, tokens, codes, generator, controller)
        rates.append(float(logs["perturbation/rate"]))
        distortions.append(float(logs["perturbation/moved"] / logs["perturbation/spread"]))
    last = steps * 2 // 3
    return rates[last:], distortions[last:]


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("target", [0.1, 0.5])
def test_every_perturbation_is_held_at_the_target(name, target):
    rates, distortions = held(name, target)
    assert sum(distortions) / len(distortions) == pytest.approx(target, rel=0.05)
    assert all(LEAST_RATE < rate < MOST_RATE for rate in rates)


def test_the_rate_that_holds_dropout_is_the_one_that_theory_gives():
    codes = torch.randn(64, 8, generator=torch.Generator().manual_seed(2))
    codes -= codes.mean(0)  # without a common mean, distortion is p / (1 - p) times the tokens' energy over its spread
    rates, _ = held("dropout", 1.0, codes=codes)
    assert sum(rates) / len(rates) == pytest.approx(0.5, abs=0.03)


def test_a_target_out_of_reach_drives_the_rate_to_its_end_and_no_further():
    rates, distortions = held("uniform", 5.0)  # replacement moves a token by twice the spread at most
    assert min(rates) == pytest.approx(MOST_RATE, abs=1e-3) and max(distortions) < 3
    controller = Controller(5.0, 0.5)
    for _ in range(1000):
        controller.observe(torch.tensor(1.0), torch.tensor(1.0))
    for _ in range(40):
        controller.observe(torch.tensor(10.0), torch.tensor(1.0))
    assert float(controller.rate(torch.device("cpu"))) < 0.9  # nothing was wound up at the end


def test_tokens_of_one_code_have_no_distortion_and_move_nothing():
    controller = Controller(0.5, 0.3)
    controller.observe(torch.tensor(1.0), torch.tensor(0.0))
    controller.observe(torch.tensor(0.0), torch.tensor(0.0))
    assert float(controller.rate(torch.device("cpu"))) == pytest.approx(0.3)


def test_the_rate_starts_at_the_perturbation_s_own():
    assert float(held_at(PERTURBATIONS["qpm"](rate=0.2), 0.5).rate(torch.device("cpu"))) == pytest.approx(0.2)
    assert held_at(PERTURBATIONS["qpm"](), None) is None


def plan(root, store, tiny, *overrides):
    return experiment.plan(load_config("smoke", [*tiny, *overrides]), root=root, split=None, store=store)


@pytest.mark.parametrize("method", ["vqseg", "supervised"])
def test_a_run_logs_the_trajectory_and_resumes_it_bit_for_bit(phantom_root, tiny, tmp_path, method):
    changes = ["perturbation={name: qpm, rate: 0.5}", f"method.name={method}", "method.distortion=0.3"]
    if method == "supervised":
        changes[1:2] = ["method={name: supervised, dual_branch: false}"]

    def logged(folder):
        table = pd.read_csv(folder.path / "metrics.csv")
        return table[table["name"].str.startswith("perturbation/")].reset_index(drop=True)

    whole = experiment.run(plan(phantom_root, tmp_path / "a", tiny, *changes), name="whole")
    rates = logged(whole).query("name == 'perturbation/rate'")["value"]
    assert len(rates) > 1 and rates.nunique() > 1
    cut = plan(phantom_root, tmp_path / "b", tiny, *changes)
    calls = iter([False] * 7 + [True])
    with pytest.raises(Interrupted):
        experiment.run(cut, name="cut", should_stop=lambda: next(calls))
    again = experiment.run(cut, name="cut")
    assert isinstance(again, RunFolder) and math.isfinite(rates.iloc[-1])
    pd.testing.assert_frame_equal(logged(whole), logged(again), check_exact=True)


def test_no_perturbation_cannot_be_held(phantom_root, tiny, tmp_path):
    made = plan(phantom_root, tmp_path, tiny, "perturbation=none", "method.distortion=0.3")
    with pytest.raises(InputError, match="distortion: needs a perturbation with a rate above 0"):
        experiment.check_parts(made)
