import numpy as np
import pandas as pd
import placed
import pytest

from vqseg.controller import LEAST_RATE, MOST_RATE
from vqseg.report import matched
from vqseg.study.definition import read_definition

TARGETS = (0.1, 0.5, 1.0)


def arms(kinds=("qpm", "dropout", "cluster-qpm"), **dice):
    found = {"none": (80.0, {"family": "none", "overrides": {"perturbation": "none"}})}
    for kind in kinds:
        for target in TARGETS:
            overrides = {"perturbation": {"name": kind}, "method.distortion": target}
            told = {"family": kind, "at": {"D": target}, "overrides": overrides}
            found[f"{kind} D={target:g}"] = (dice.get(kind.replace("-", "_"), 80.0), told)
    return found


def study(store, *, unreachable="cluster-qpm", dice=None, **options):
    made = placed.study(store, arms(**(dice or {})), reference="none", definition="perturbations", **options)
    for label, (_, told) in arms().items():
        if label == "none":
            continue
        target, kind = told["at"]["D"], told["family"]
        short = kind == unreachable and target == 1.0
        reached, end = (0.62, MOST_RATE) if short else (1.04 * target, target / 2)
        rates = [0.5, (0.5 + end) / 2, end, end]
        flips = (0.06 if kind == "qpm" else 0.12) * target
        series = {"perturbation__distortion": reached, "perturbation__rate": rates, "reach__flips_own": flips}
        placed.log(store, made, label, **series)
    return made


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return placed.chosen(store, study(store, dice={"qpm": 90.0}))


@pytest.fixture(scope="module")
def report(selection):
    return matched.build(selection)


def test_the_ends_of_the_rate_are_the_controllers():
    assert LEAST_RATE < matched.ENDS[0] < 2.1 * LEAST_RATE
    assert matched.ENDS[1] < MOST_RATE < matched.ENDS[1] + 0.01


@pytest.mark.parametrize(
    ("distortion", "end", "state"),
    [
        (0.52, 0.4, matched.HELD),
        (0.46, 0.994, matched.HELD),
        (0.44, 0.994, matched.UNREACHABLE),
        (0.60, 1.5e-4, matched.UNREACHABLE),
        (0.44, 0.5, matched.OFF),
        (0.44, np.nan, matched.OFF),
        (np.nan, 0.5, matched.UNKNOWN),
    ],
)
def test_a_target_is_held_off_or_out_of_reach(distortion, end, state):
    assert matched._state({"target": 0.5, "distortion": distortion, "end": end}) == state


def test_the_studys_own_arms_find_their_places():
    _, definition = read_definition("perturbations")
    where = matched.places({"arms": [arm.model_dump() for arm in definition.expand()]})
    crossing = matched.crossed.cross(where, "perturbation", "D")
    assert crossing.columns == [0.1, 0.25, 0.5, 1.0] and "qpm" in crossing.rows and "none" not in where
    assert len(crossing.arms) == len(crossing.rows) * 4 == len(definition.expand()) - 1
    assert matched.ours_of(crossing) == "qpm"


def test_an_arm_is_as_good_as_its_worst_run():
    runs = pd.DataFrame({"arm": ["a", "a", "b", "b"], "state": ["held", "unreachable", "held", "held"]})
    assert matched.states_of(runs) == {"a": "unreachable", "b": "held"}


def test_what_cannot_be_reached_is_named_and_not_compared(selection, report):
    words = placed.words_of(placed.tables_of(report)["matched"])
    assert words["cluster-qpm"]["D 1"] == "unreachable" and "±" in words["cluster-qpm"]["D 0.5"]
    assert "Unreachable, and not compared: cluster-qpm at D = 1." in report.summary
    equal = placed.tables_of(report)["equal-distortion"]
    assert [(row.label, row.cells[0].text) for row in equal.rows] == [
        ("qpm minus dropout", "D = 0.1"), ("qpm minus cluster-qpm", "D = 0.1"),
        ("qpm minus dropout", "D = 0.5"), ("qpm minus cluster-qpm", "D = 0.5"),
        ("qpm minus dropout", "D = 1"),
    ]  # fmt: skip
    held = placed.words_of(placed.tables_of(report)["held"])
    assert held["cluster-qpm D=1"]["state"] == "unreachable" and held["cluster-qpm D=1"]["off"] == "−38 %"
    assert held["qpm D=0.5"] == {
        "target D": "0.5", "distortion": "0.520 ± 0.000", "off": "+4 %", "rate": "0.250 ± 0.000",
        "flipped (%)": "3.00 ± 0.00", "state": "held",
    }  # fmt: skip


def test_the_first_sentence_counts_and_names_the_least_gain(report):
    assert report.summary[0].startswith(
        "At equal distortion on acdc (devtest) qpm is better in 5, worse in 0 and not told apart in 0 of 5 comparisons;"
        " the least gain, qpm minus "
    )
    assert "3 seeds x 6 patients" in report.summary[0]
    assert any(
        "qpm minus dropout on acdc (devtest) at equal distortion: better at every target" in s for s in report.summary
    )
    one = next(sentence for sentence in report.summary if sentence.startswith("qpm minus cluster-qpm"))
    assert "better at 2, without a verdict at 1 of 3 targets" in one


def test_scores_at_equal_flips_are_interpolated_and_never_extrapolated():
    runs = pd.DataFrame({"arm": ["a", "a", "b", "c"], "flips": [0.01, 0.03, 0.06, 0.10]})
    assert matched.interpolated(runs, 0.03) == pytest.approx({"a": 0.75, "b": 0.25})
    assert matched.interpolated(runs, 0.06) == {"b": 1.0}
    assert matched.interpolated(runs, 0.01) == {} == matched.interpolated(runs, 0.11)
    assert matched.interpolated(runs.assign(flips=np.nan), 0.03) == {}


def test_the_second_view_compares_where_both_sides_cover_a_share(report):
    # QPM flips .6 to 6 %, the others 1.2 to 12 %: 2 and 5 % lie in both.
    table = placed.tables_of(report)["equal-flips"]
    assert [row.cells[0].text for row in table.rows] == 2 * ["2 % flipped"] + 2 * ["5 % flipped"]
    flips = table.tidy.set_index(["group", "arm"])
    assert (flips["value"] > 5).all()
    words = placed.section(report, "Matched flips").paragraphs
    assert "nothing is extrapolated" in words[0] and words[1].startswith(
        "qpm minus dropout on acdc (devtest) at equal flips"
    )


def test_an_interpolated_contrast_is_the_weighted_sum_of_its_arms(selection):
    runs = matched.compute(selection)
    crossing = matched.crossed.cross(matched.places(selection.study), "perturbation", "D")
    wanted = next(each for each in matched.at_equal_flips(crossing, runs) if each.name == "qpm minus dropout")
    means = runs.groupby("arm")["value"].mean()
    expected = sum(weight * means[arm] for arm, weight in wanted.weights.items())
    table = matched.contrasts.assess(selection.headline, [wanted], "dice")
    assert table["estimate"][0] == pytest.approx(expected, abs=1e-6)
    assert sum(wanted.weights.values()) == pytest.approx(0)


def test_figures_show_what_was_reached_and_how_it_was_held(report):
    figures = placed.drawable(report, "distortion-and-flips", "trajectories")
    left, right = figures["distortion-and-flips"].axes
    assert left.get_xscale() == "log" and [t.get_text() for t in left.get_xticklabels()] == ["0.1", "0.5", "1"]
    faces = [line.get_markerfacecolor() for line in left.lines if line.get_linestyle() == "None"]
    assert faces == ["white"]  # the one that was not held
    assert "flipped" in right.get_xlabel()
    panels = figures["trajectories"].axes
    assert [axes.get_title(loc="left") for axes in panels[::2]] == ["QPM", "dropout", "QPM in clusters"]
    ends = [line for line in panels[1].lines if list(line.get_ydata()) == [matched.ENDS[1]] * 2]
    assert len(ends) == 1
    runs = [line for line in panels[0].lines if len(line.get_xdata()) == 4]
    assert len(runs) == 3 * len(TARGETS)


def test_a_study_that_has_just_begun_says_so(tmp_path):
    made = placed.study(tmp_path, arms(kinds=()), reference="none", definition="perturbations", seeds=1)
    report = matched.build(placed.chosen(tmp_path, made))
    assert report.summary == [
        "No comparison at equal distortion on acdc (devtest): QPM and another arm hold no common target yet."
    ]


def test_without_a_logged_distortion_nothing_is_compared(tmp_path):
    made = placed.study(tmp_path, arms(kinds=("qpm", "dropout")), reference="none", definition="perturbations", seeds=1)
    for label in arms(kinds=("qpm", "dropout")):
        placed.log(tmp_path, made, label, perturbation__distortion=[])
    report = matched.build(placed.chosen(tmp_path, made))
    assert "equal-distortion" not in placed.tables_of(report)
    assert {row.cells[-1].text for row in placed.tables_of(report)["held"].rows} == {"not logged"}
