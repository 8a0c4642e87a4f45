import numpy as np
import pandas as pd
import placed
import pytest

from vqseg.report import contrasts, statistics
from vqseg.report.contrasts import Contrast
from vqseg.report.measures import MEASURES

DICE, DISTANCE = MEASURES["dice"], MEASURES["hd95_voxel"]


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    arms = {"none": (80.0, {}), "qpm": (90.0, {}), "dropout": (80.1, {})}
    return placed.chosen(store, placed.study(store, arms, reference="none", definition="x", patients=8))


def line(**changes):
    base = {"estimate": 1.0, "low": 0.5, "high": 1.5, "p_holm": 0.01, "seeds": 3, "patients": 8, "draws": 1}
    return {"contrast": "a minus b", "group": "", "words": contrasts.BETTER, "runs": "r", **base, **changes}


def test_a_contrast_is_what_statistics_say_of_its_weights(selection):
    rows = selection.headline
    wanted = [
        contrasts.minus("qpm", "none", group="one"),
        Contrast("swing", {"qpm": 1.0, "none": -0.5, "dropout": -0.5}, "two", ("up", "down")),
        contrasts.minus("nobody", "none"),
    ]
    table = contrasts.assess(rows, wanted, "dice")
    assert list(table["contrast"]) == ["qpm minus none", "swing"] and list(table["group"]) == ["one", "two"]
    valued = rows.assign(value=100 * rows["dice"])
    expected = statistics.assess(valued, {"a": wanted[0].weights, "b": wanted[1].weights})
    assert table["estimate"].tolist() == expected["estimate"].tolist()
    assert table["p_holm"].tolist() == expected["p_holm"].tolist()
    assert np.mean(table["by_seed"][0]) == pytest.approx(table["estimate"][0]) and len(table["by_seed"][0]) == 3
    identities = set(rows.loc[rows["arm"].isin(["qpm", "none"]), "identity"])
    assert set(table["runs"][0].split()) == identities


def test_nothing_wanted_is_an_empty_table_with_all_columns(selection):
    table = contrasts.assess(selection.headline, [], "dice")
    assert table.empty and {"contrast", "group", "by_seed", "runs", "p_holm"} <= set(table)


@pytest.mark.parametrize(
    ("changes", "measure", "words", "sign"),
    [
        ({}, DICE, "better", 1),
        ({"estimate": -1.0}, DICE, "worse", -1),
        ({}, DISTANCE, "worse", -1),
        ({"p_holm": 0.2}, DICE, "cannot be told from 0", 0),
        ({"seeds": 2}, DICE, "only 2 seeds, no verdict", 0),
        ({"p_holm": float("nan")}, DICE, "no interval: one seed or one patient", 0),
        ({"words": ("up", "down")}, DICE, "up", 1),
    ],
)
def test_verdicts_need_seeds_and_know_which_way_is_better(changes, measure, words, sign):
    assert contrasts.verdict(line(**changes), measure) == words
    assert contrasts.direction(line(**changes), measure) == sign


def test_a_sentence_has_effect_interval_size_and_verdict(selection):
    assert contrasts.words(line(), selection) == (
        "+1.00 Dice [+0.50, +1.50], 3 seeds x 8 patients: better (p = .010 after Holm)"
    )
    assert "p =" not in contrasts.words(line(seeds=2), selection)
    drawn = contrasts.words(line(draws=4), selection)
    assert "4 draws x 3 seeds x 8 patients" in drawn


def test_along_places_counts_what_is_told_and_what_is_not(selection):
    own = pd.DataFrame([line(group="5 %"), line(group="10 %", p_holm=0.4), line(group="20 %", estimate=-1.0)])
    words = contrasts.along(own, selection, noun="share", of=4)
    assert words.startswith("better at 1, worse at 1, not told from 0 at 1, without a verdict at 1 of 4 shares")
    assert "5 % +1.00 [+0.50, +1.50]; 10 % +1.00" in words and "3 seeds x 8 patients" in words
    assert contrasts.along(own[:1], selection, noun="share", of=1).startswith("better (")
    every = contrasts.along(pd.concat([own[:1]] * 2), selection, noun="share", of=2)
    assert every.startswith("better at every share (")


def test_the_table_marks_what_is_told_and_rules_groups(selection):
    table = contrasts.assess(
        selection.headline,
        [contrasts.minus("qpm", "none", group="a"), contrasts.minus("dropout", "none", group="b")],
        "dice",
    )
    made = contrasts.tabulate(table, selection, name="n", title="t", caption="c", grouped="where")
    assert made.headers[:3] == ["contrast", "where", "Δ Dice"]
    qpm, dropout = made.rows
    assert [qpm.ruled, dropout.ruled] == [False, True]
    assert qpm.cells[1].mark == "bold" and "3 seeds x 8 patients; runs" in qpm.cells[1].tip
    assert dropout.cells[1].mark == "" and dropout.cells[-1].text == "cannot be told from 0"
    assert "by_seed" not in made.tidy and {"arm", "value", "column"} <= set(made.tidy)


def test_the_forest_names_groups_and_fills_what_is_told(selection):
    rows = [line(by_seed=[1.0, 1.1]), line(group="b", p_holm=0.5, by_seed=[0.9])]
    figure = contrasts.draw(pd.DataFrame(rows), "hd95_voxel", "scan")
    axes = figure.axes[0]
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["", "a minus b", "b", "a minus b"]
    assert "better to the left" in axes.get_xlabel()
    faces = [marker.get_markerfacecolor() for marker in axes.lines if marker.get_marker() == contrasts.MARKER]
    assert faces == [contrasts.COLOR, "white"]
    alone = contrasts.draw(pd.DataFrame(rows[:1]), "dice", "scan").axes[0]
    assert [tick.get_text() for tick in alone.get_yticklabels()] == ["a minus b"]
