"""Verdicts by hand, and by simulation: how often they are said, how often wrongly, and what would settle them."""

import numpy as np
import pytest
from scipy import stats

from vqseg.report import verdict
from vqseg.report.verdict import Estimate, Settling, moments, outcome, rule, rule_each, settle


def of(value, error=1.0, df=10.0):
    return Estimate(np.float64(value), np.float64(error), np.float64(df))


def half(error=1.0, df=10.0, alpha=0.05):
    return stats.t.ppf(1 - alpha / 2, df) * error


def said(kind, *estimates, margin=0.5):
    return outcome(rule(kind, estimates, margin))


def simulated(rng, count, seeds, patients, effect=0.0, *, seed=0.35, patient=0.6, rest=0.73):
    """Differences with the noise of the field, two scans a patient: standard deviations in Dice points."""
    draw = np.random.default_rng(rng).normal
    by_seed, by_patient = draw(0, seed, (count, seeds, 1)), draw(0, patient, (count, 1, patients))
    return effect + by_seed + by_patient + draw(0, rest, (count, seeds, patients))


def share(kind, *given, margin=0.5):
    """How often a claim is confirmed and refuted, over many layouts at once."""
    ruling = rule(kind, [moments(each).observed for each in given], margin)
    assert not (ruling.confirmed & ruling.refuted).any()
    return ruling.confirmed.mean(), ruling.refuted.mean()


# by hand


def test_an_effect_by_hand():
    reach = half()
    assert said("effect", of(reach + 0.01)) == "confirmed"
    assert said("effect", of(reach - 0.01)) == "inconclusive"
    assert said("effect", of(reach + 0.01), margin=reach + 0.02) == "inconclusive"  # told from 0, but smaller than that
    assert said("effect", of(0.5 - reach - 0.01)) == "refuted"
    assert said("effect", of(0.5 - reach + 0.01)) == "inconclusive"
    assert said("effect", of(0.2, error=0.1)) == "refuted"  # told from 0 and surely smaller than the margin: 0.2 + 0.22
    assert said("effect", of(0.2, error=0.14)) == "inconclusive"


def test_a_null_by_hand():
    inner = half(0.2, alpha=0.10)
    assert said("null", of(0.5 - inner - 0.001, 0.2)) == "confirmed"
    assert said("null", of(-0.5 + inner + 0.001, 0.2)) == "confirmed"
    assert said("null", of(0.5 - inner + 0.001, 0.2)) == "inconclusive"
    assert said("null", of(0.0, error=1.0)) == "inconclusive"  # wide around zero confirms nothing
    outer = half(0.2)
    assert said("null", of(0.5 + outer + 0.001, 0.2)) == "refuted"
    assert said("null", of(-0.5 - outer - 0.001, 0.2)) == "refuted"
    assert said("null", of(0.5 + outer - 0.001, 0.2)) == "inconclusive"
    assert said("null", of(0.3, 0.05)) == "confirmed"  # told from 0, and too small to count


def test_a_noninferiority_by_hand():
    assert said("noninferior", of(-0.5 + half(alpha=0.10) + 0.01)) == "confirmed"
    assert said("noninferior", of(-0.5 + half(alpha=0.10) - 0.01)) == "inconclusive"
    assert said("noninferior", of(-0.5 - half() - 0.01)) == "refuted"
    assert said("noninferior", of(9.0, 0.1)) == "confirmed"  # better is not worse


def test_the_best_by_hand():
    # two-sided p of t(10): 3.2 -> .0095, 2.6 -> .0266, 2.2 -> .0524
    assert said("best", of(3.2), of(2.6)) == "confirmed"  # Holm: .0190, .0266
    assert said("best", of(3.2), of(2.2)) == "inconclusive"
    assert said("best", of(2.4), of(2.4)) == "inconclusive"  # .0373 alone, .0746 after Holm
    assert said("best", of(2.4)) == "confirmed"
    assert said("best", of(-3.2), of(2.6)) == "refuted"
    assert said("best", of(-2.4), of(0.1)) == "inconclusive"
    assert rule("best", [of(3.2), of(2.6)], 0.0).p == pytest.approx(2 * stats.t.sf(2.6, 10))
    assert rule("best", [of(3.2), of(-0.1)], 0.0).p == 1.0


def test_what_each_contrast_says_is_said_at_its_level_among_them():
    def each(kind, *estimates):
        return [outcome(one) for one in rule_each(kind, estimates, 0.5)]

    assert each("best", of(2.4), of(2.4)) == ["inconclusive", "inconclusive"]  # Holm
    assert each("best", of(4.0), of(-3.2)) == ["confirmed", "refuted"]
    assert each("effect", of(3.0), of(0.5 - half() - 0.01)) == ["confirmed", "inconclusive"]
    assert each("effect", of(0.5 - half() - 0.01)) == ["refuted"]


def test_p_is_the_level_at_which_a_claim_would_be_confirmed():
    assert rule("effect", [of(2.5)], 0.5).p == pytest.approx(2 * stats.t.sf(2.5, 10))
    assert rule("effect", [of(-2.5)], 0.5).p == 1.0
    assert rule("effect", [of(2.5)], 3.0).p == 1.0  # told from 0, and no level makes it the margin
    assert rule("null", [of(0.1, 0.2)], 0.5).p == pytest.approx(stats.t.sf(0.4 / 0.2, 10))
    assert rule("noninferior", [of(-0.1, 0.2)], 0.5).p == pytest.approx(stats.t.sf(0.4 / 0.2, 10))
    assert rule("effect", [of(2.5), of(3.0)], 0.5).p == pytest.approx(2 * stats.t.sf(2.5, 10))


def test_of_several_contrasts_all_must_hold_and_one_may_refute_at_its_share_of_the_level():
    strong, weak = of(3.0), of(1.0)
    assert said("effect", strong, strong) == "confirmed"
    assert said("effect", strong, weak) == "inconclusive"
    alone = 0.5 - half() - 0.01
    assert said("effect", of(alone)) == "refuted"
    assert said("effect", of(alone), strong) == "inconclusive"
    assert said("effect", of(0.5 - half(alpha=0.025) - 0.01), strong) == "refuted"


def test_identical_arms_are_exactly_zero():
    own = moments(np.zeros((3, 4))).observed
    assert (float(own.value), float(own.error)) == (0.0, 0.0)
    assert said("null", own) == "confirmed"
    assert said("effect", own) == "refuted"
    assert said("noninferior", own) == "confirmed"
    assert said("best", own) == "inconclusive"


def test_without_an_interval_nothing_is_said():
    for table in (np.ones((1, 5)), np.ones((5, 1))):
        assert np.isnan(moments(table).observed.error)
        for kind in ("effect", "null", "noninferior", "best"):
            assert said(kind, moments(table).observed) == "inconclusive"


def test_runs_of_one_number_are_an_ordinary_t_test():
    values = np.array([[1.0], [2.0], [4.0]])
    own = moments(values, of_runs=True)
    assert (own.seeds, own.patients) == (3, None)
    result = stats.ttest_1samp(values[:, 0], 0.0)
    low, high = own.observed.interval()
    assert (low, high) == pytest.approx(tuple(result.confidence_interval()))
    assert 2 * own.observed.above(0.0) == pytest.approx(result.pvalue)


# draws of labelled patients


def test_draws_are_a_third_component():
    draw = np.random.default_rng(0).normal
    table = draw(0, 1.0, (4, 1, 1)) + draw(0, 0.05, (1, 3, 1)) + draw(0, 0.3, (4, 3, 20))
    own = moments(table, draws=True)
    assert (own.draws, own.seeds, own.patients) == (4, 3, 20)
    assert own.observed.value == pytest.approx(table.mean())
    assert own.observed.error > 2 * moments(table.mean(axis=0)).observed.error
    assert own.observed.df < 6
    more = own.expected(draw=20)
    assert more.error < 0.6 * own.observed.error


def test_where_the_draws_vary_more_of_them_are_asked_for():
    draw = np.random.default_rng(2).normal
    table = 0.9 + draw(0, 1.5, (4, 1, 1)) + draw(0, 0.05, (4, 3, 20))
    found = settle("effect", [moments(table, draws=True)], 0.5)
    assert found.factor == "draw" and 4 < found.count <= 50
    assert found.words(moments(table, draws=True)) == f"about {found.count} draws (not seeds)"


# by simulation


@pytest.mark.parametrize(("seeds", "patients"), [(3, 20), (5, 20), (3, 10)])
def test_wrong_verdicts_on_effects_are_rare(seeds, patients):
    confirmed, _ = share("effect", simulated(1, 4000, seeds, patients, 0.0))
    assert confirmed <= 0.05  # there is none: 2.5 % by design
    assert share("effect", simulated(2, 4000, seeds, patients, 0.5))[1] <= 0.05  # there is one, at the margin
    assert share("effect", simulated(3, 4000, seeds, patients, 1.0))[1] <= 0.002


def test_a_true_effect_of_twice_the_margin_is_mostly_confirmed_with_ten_seeds():
    confirmed, refuted = share("effect", simulated(4, 3000, 10, 20, 1.0))
    assert confirmed > 0.9 and refuted < 0.001
    confirmed, refuted = share("effect", simulated(5, 3000, 10, 20, 0.0))
    assert confirmed < 0.03 and refuted > 0.5


@pytest.mark.parametrize("kind", ["null", "noninferior"])
def test_wrong_verdicts_on_nulls_are_rare(kind):
    at_margin = simulated(6, 4000, 3, 20, -0.5)
    confirmed, refuted = share(kind, at_margin)
    assert confirmed <= 0.06 and refuted <= 0.05
    confirmed, refuted = share(kind, simulated(7, 4000, 10, 60, 0.0))
    assert confirmed > 0.6 and refuted < 0.001
    assert share(kind, simulated(8, 2000, 10, 20, -2.0))[1] > 0.9


def test_the_best_is_called_so_only_if_it_is():
    noise = [simulated(seed, 3000, 3, 20) for seed in range(4)]
    arms = [own / np.sqrt(2) for own in noise]  # a difference of two has the field's noise
    equal = [arms[0] - other for other in arms[1:]]
    confirmed, refuted = share("best", *equal)
    assert confirmed <= 0.05 and refuted <= 0.08  # Holm's level is approximate with three seeds
    clear = [2.0 + own for own in equal]
    assert share("best", *clear)[0] > 0.85
    beaten = [equal[0], equal[1] - 2.0, equal[2]]
    assert share("best", *beaten)[1] > 0.85


def test_many_contrasts_do_not_refute_what_is_true():
    tables = [simulated(20 + number, 3000, 3, 20, 0.5) for number in range(5)]
    assert share("effect", *tables)[1] <= 0.06


# what would settle it


def test_settling_by_hand_where_seeds_decide():
    table = np.array([[0.0, 0.1, -0.1, 0.0]] * 3) + np.array([[0.0], [1.0], [2.0]])
    own = moments(table)
    found = settle("effect", [own], 0.5)
    assert found.factor == "seed"
    spread = own.squares["seed"]  # nearly all of the variance

    def low(count):
        return 1.0 - stats.t.ppf(0.975, count - 1) * np.sqrt(spread / (4 * count))

    assert low(found.count) > 0 > low(found.count - 2)
    assert found.words(own) == f"about {found.count} seeds"


def test_settling_of_one_number_a_run_by_hand():
    values = np.array([[0.0], [1.0], [2.0]])
    found = settle("effect", [moments(values, of_runs=True)], 0.5)
    ends = {n: 1.0 - stats.t.ppf(0.975, n - 1) / np.sqrt(n) for n in (found.count - 1, found.count)}
    assert ends[found.count] > 0 >= ends[found.count - 1]


@pytest.mark.parametrize(("kind", "effect"), [("effect", 1.1), ("effect", 0.1), ("null", 0.1), ("noninferior", 0.0)])
def test_as_many_seeds_as_are_said_to_settle_it_do_so_about_half_the_time(kind, effect):
    noise = {"seed": 0.9, "patient": 0.3, "rest": 0.7}
    # A layout whose mean and mean squares are what they are on average, so that what is reckoned is the truth.
    own = verdict.Moments(
        np.float64(effect),
        {
            "seed": np.float64(noise["rest"] ** 2 + 20 * noise["seed"] ** 2),
            "patient": np.float64(noise["rest"] ** 2 + 3 * noise["patient"] ** 2),
            "seed x patient": np.float64(noise["rest"] ** 2),
        },
        {"seed": 3, "patient": 20},
    )
    assert outcome(rule(kind, [own.observed], 0.5)) == "inconclusive"
    found = settle(kind, [own], 0.5)
    assert found.factor == "seed" and 3 < found.count <= verdict.MOST_SEEDS
    tables = simulated(11, 2000, found.count, 20, effect, **noise)
    confirmed, refuted = share(kind, tables)
    assert 0.35 < confirmed + refuted < 0.75
    fewer = simulated(1, 2000, max(3, found.count // 3), 20, effect, **noise)
    assert sum(share(kind, fewer)) < 0.7 * (confirmed + refuted)


def test_where_the_patients_alone_vary_more_seeds_are_not_asked_for():
    patients = np.array([[-2.0, 3.0, 0.5, 1.0, 1.5, -1.0, 2.5, 0.9]])
    noise = np.random.default_rng(0).normal(0, 0.05, (3, 8))
    own = moments(patients + noise)
    found = settle("effect", [own], 0.5)
    assert found.factor == "patient" and found.count > 8
    assert found.words(own) == f"about {found.count} patients (not seeds)"
    with_that = own.expected(patient=found.count)
    assert outcome(rule("effect", [with_that], 0.5)) == "confirmed"


def test_where_both_vary_too_much_both_are_asked_for():
    own = verdict.Moments(
        np.float64(0.55),
        {"seed": np.float64(400.0), "patient": np.float64(900.0), "seed x patient": np.float64(1.0)},
        {"seed": 3, "patient": 10},
    )
    assert settle("effect", [own], 0.5) == Settling(None)
    assert Settling(None).words(own) == "more patients and seeds"


def test_very_many_seeds_are_said_to_be_very_many():
    own = verdict.Moments(
        np.float64(0.5),
        {"seed": np.float64(400.0), "patient": np.float64(0.1), "seed x patient": np.float64(0.1)},
        {"seed": 3, "patient": 20},
    )
    found = settle("effect", [own], 0.5)
    assert found.endless and found.words(own) == "more than 200 seeds"


@pytest.mark.parametrize("kind", ["effect", "null", "noninferior", "best"])
def test_more_of_anything_settles_no_less(kind):
    """What the search for the smallest number takes for granted."""
    open_ones = 0
    for seed in range(40):
        own = moments(simulated(seed, 1, 3, 12, 0.4, seed=1.0)[0])
        estimates = [own.expected(seed=count) for count in (*range(4, 40), 80, 200)]
        said_so = [outcome(rule(kind, [each], 0.5)) != "inconclusive" for each in estimates]
        assert said_so == sorted(said_so)
        open_ones += not said_so[0]
        if said_so[0] is False and True in said_so[:-2]:
            assert settle(kind, [own], 0.5) == Settling("seed", 4 + said_so.index(True))
    assert open_ones > 5


def test_several_contrasts_are_settled_together():
    easy, hard = moments(simulated(30, 1, 3, 20, 3.0)[0]), moments(simulated(31, 1, 3, 20, 0.9, seed=1.5)[0])
    alone = settle("effect", [hard], 0.5)
    assert alone.factor == "seed"
    assert settle("effect", [easy, hard], 0.5).count >= alone.count
