import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vqseg.report import statistics


def layouts(seed, count, seeds, patients, effect=0.0):
    """Differences of two arms with the field's noise, two scans per patient, in Dice points."""
    draw = np.random.default_rng(seed).normal
    scans = draw(0, 0.6, (count, seeds, patients, 2)).mean(-1)
    by_seed, by_patient = draw(0, 0.35, (count, seeds, 1)), draw(0, 0.6, (count, 1, patients))
    return effect + by_seed + by_patient + draw(0, 0.6, (count, seeds, patients)) + scans


def scores(table, arm):
    return [
        {"arm": arm, "seed": seed, "patient": f"p{patient}", "value": value}
        for seed, row in enumerate(table)
        for patient, value in enumerate(row)
    ]


def test_mean_squares_worked_by_hand():
    # rows 1 2 3 / 3 4 8: grand 3.5, row means 2 and 5, column means 2, 3, 5.5
    (seed, patient, residual), freedom = statistics.mean_squares(np.array([[1.0, 2, 3], [3, 4, 8]]))
    assert freedom == (1, 2, 2)
    assert seed == pytest.approx(3 * (2.25 + 2.25))
    assert patient == pytest.approx(2 * (2.25 + 0.25 + 4.0) / 2)
    # residuals .5 .5 -1 / -.5 -.5 1
    assert residual == pytest.approx(3.0 / 2)


def test_contrast_worked_by_hand():
    result = statistics.contrast(np.array([[1.0, 2, 3], [3, 4, 8]]))
    variance = 13.5 + 6.5 - 1.5
    df = variance**2 / (13.5**2 / 1 + 6.5**2 / 2 + 1.5**2 / 2)
    error = np.sqrt(variance / 6)
    assert result.estimate == pytest.approx(3.5)
    assert result.df == pytest.approx(df)
    assert result.error == pytest.approx(error)
    assert result.high - result.estimate == pytest.approx(stats.t.ppf(0.975, df) * error)
    assert result.p == pytest.approx(2 * stats.t.sf(3.5 / error, df))


def test_the_residual_is_the_floor_of_the_variance():
    table = np.array([[1.0, -1.0], [-1.0, 1.0]])  # nothing but interaction: both main mean squares are 0
    result = statistics.contrast(table)
    assert result.error == pytest.approx(np.sqrt(4.0 / 4))
    assert result.p == pytest.approx(1.0)


def test_one_seed_or_one_patient_gives_no_interval():
    for shape in ((1, 5), (5, 1)):
        result = statistics.contrast(np.ones(shape))
        assert result.estimate == 1.0
        assert np.isnan(result.p)
        assert np.isnan(result.low)


def test_identical_arms_differ_by_nothing():
    result = statistics.contrast(np.zeros((3, 4)))
    assert result.p == 1.0
    assert (result.low, result.high) == (0.0, 0.0)


def test_false_positives_with_the_noise_of_the_field():
    rejected = (statistics.contrast(layouts(0, 4000, 3, 10)).p < 0.05).mean()
    assert 0.01 < rejected < 0.06


# Standard deviations of seed and patient in units of the residual's; nothing differs, in none of seven contrasts.
@pytest.mark.parametrize(("seeds", "most"), [(3, 0.17), (statistics.FEW_SEEDS, 0.085)])
@pytest.mark.parametrize("noise", [(0.85, 0.64), (1.0, 1.0), (3.0, 1.0), (0.0, 3.0)])
def test_the_level_of_a_whole_table_is_what_is_said_of_it(seeds, most, noise):
    draw, shape = np.random.default_rng(5), (1500, 7, seeds, 20)
    by_seed, by_patient = (
        size * draw.normal(size=(*shape[:2], *one)) for size, one in zip(noise, ((seeds, 1), (1, 20)))
    )
    found = statistics.contrast(draw.normal(size=shape) + by_seed + by_patient)
    assert (7 * found.p.min(axis=1) < 0.05).mean() < most
    assert (found.p < 0.05).mean() < 0.08


@pytest.mark.parametrize(("effect", "low", "high"), [(1.0, 0.70, 0.83), (2.0, 0.96, 1.0)])
def test_power_with_the_noise_of_the_field(effect, low, high):
    found = (statistics.contrast(layouts(1, 2000, 3, 20, effect)).p < 0.05).mean()
    assert low <= found <= high


def test_holm_by_hand():
    adjusted = statistics.holm(np.array([0.01, 0.04, np.nan, 0.03]))
    assert adjusted[[0, 1, 3]] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(adjusted[2])
    assert statistics.holm(np.array([])).size == 0


def test_a_patients_scans_and_classes_are_averaged_before_anything_else():
    rows = [{"arm": "a", "seed": 0, "patient": "p", "value": value} for value in (1.0, 2.0, 3.0)] + [
        {"arm": "a", "seed": 0, "patient": "q", "value": 10.0}
    ]
    table = statistics.grids(pd.DataFrame(rows))["a"]
    assert table.loc[0, "p"] == 2.0
    assert table.loc[0].mean() == 6.0


def test_only_common_seeds_and_complete_patients_enter():
    one = scores(np.ones((3, 4)), "a")
    other = [row for row in scores(np.zeros((2, 4)), "b") if (row["seed"], row["patient"]) != (1, "p3")]
    grids = statistics.grids(pd.DataFrame(one + other))
    assert statistics.differences(grids["a"], grids["b"]).shape == (2, 3)
    assert statistics.compare(pd.DataFrame(one + other), "b")[["seeds", "patients"]].to_numpy().tolist() == [[2, 3]]


def test_marks_share_bold_and_underline_the_second():
    noise = np.random.default_rng(3).normal(0, 0.05, (4, 3, 8))
    rows = []
    for arm, shift, error in zip("abcd", (90.0, 90.005, 80.0, 70.0), noise):
        rows += scores(shift + error, arm)
    assert statistics.marks(pd.DataFrame(rows)) == {"a": "bold", "b": "bold", "c": "underline"}
    lower = statistics.marks(pd.DataFrame(rows), higher_is_better=False)
    assert lower["d"] == "bold"
    assert lower["c"] == "underline"
    assert "b" not in lower or lower["b"] != "bold"


def test_no_marks_below_three_seeds():
    frame = pd.DataFrame(scores(np.full((2, 8), 9.0), "a") + scores(np.zeros((2, 8)), "b"))
    assert statistics.marks(frame) == {}


@pytest.mark.parametrize("contrasts", [1, 6])
@pytest.mark.parametrize("patients", [4, 10, 20])
def test_detectable_agrees_with_a_simulation(patients, contrasts):
    difference = statistics.detectable(3, patients, scans_per_patient=2, contrasts=contrasts)
    found = (statistics.contrast(layouts(5, 4000, 3, patients, difference)).p < 0.05 / contrasts).mean()
    assert found == pytest.approx(0.8, abs=0.03)


def test_more_scans_detect_less_and_more_contrasts_need_more():
    least = statistics.detectable(3, 20)
    assert least == statistics.detectable(3, 20)
    assert statistics.detectable(3, 20, scans_per_patient=2) < 0.98 * least
    assert statistics.detectable(3, 20, contrasts=6) > 1.5 * least


def test_more_seeds_and_patients_detect_less():
    assert statistics.detectable(5, 20) < statistics.detectable(3, 20) < statistics.detectable(3, 10)
    assert statistics.detectable(3, 20) < statistics.detectable(2, 20)
    assert np.isnan(statistics.detectable(1, 20))
    assert np.isnan(statistics.detectable(3, 1))
