import numpy as np
import placed
import pytest

from vqseg.report import crossed
from vqseg.report.content import size_words


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A grid of weights with one clear best, one clear worst and a place without an arm."""
    store = tmp_path_factory.mktemp("store")
    arms = placed.weights(u1_a5=92, u10_a10=74)
    del arms["lambda_u=5 lambda_a=10"]
    made = placed.study(store, arms, reference="lambda_u=1 lambda_a=5", definition="loss-weights")
    return placed.chosen(store, made)


def crossing_of(selection):
    return crossed.cross(crossed.places(selection.study), "lambda_u", "lambda_a")


def test_arms_stand_where_the_study_says_and_numbers_are_in_order():
    where = {"a": {"x": 10, "y": "b"}, "c": {"x": 2, "y": "a"}, "d": {"x": 2}, "e": {"x": 2, "y": "a"}}
    found = crossed.cross(where, "x", "y")
    assert (found.rows, found.columns) == ([2, 10], ["b", "a"])  # words as they come
    assert found.arms == {(10, "b"): "a", (2, "a"): "c"}
    assert found.beyond(["a", "d", "z"]) == ["d", "z"]


@pytest.mark.parametrize(
    ("values", "order"),
    [([3, 1.5, 3], [1.5, 3]), (["b", "a", "b"], ["b", "a"]), ([1, "a"], [1, "a"]), ([True, False], [True, False])],
)
def test_numbers_are_sorted_and_words_are_not(values, order):
    assert crossed.ordered(values) == order


def test_every_place_has_its_mean_spread_and_mark(grid):
    crossing = crossing_of(grid)
    table = crossed.compute(grid, crossing, ["dice", "hd95_voxel"])
    assert len(table) == 2 * 9
    dice = table[table["metric"] == "dice"].set_index("arm")
    rows = grid.headline[grid.headline["arm"] == "lambda_u=1 lambda_a=5"]
    by_seed = 100 * rows.groupby("seed")["dice"].mean()
    line = dice.loc["lambda_u=1 lambda_a=5"]
    assert line["value"] == pytest.approx(by_seed.mean())
    assert line["sd"] == pytest.approx(by_seed.std())
    assert line["mark"] == "bold" and dice.loc["lambda_u=10 lambda_a=10", "mark"] != "bold"
    assert np.isnan(dice.loc["", "value"])  # the place without an arm
    assert size_words(line) == "3 seeds x 6 patients"


def test_a_table_of_both_axes_has_tips_and_what_stands_beside(grid):
    crossing = crossing_of(grid)
    table = crossed.compute(grid, crossing, ["dice"])
    table.loc[table["arm"] == "lambda_u=1 lambda_a=1", "beside"] = "(77.20)"
    made = crossed.tabulate(table, crossing, "dice", name="n", title="t", caption="c", decimals=1)
    assert made.headers == ["lambda_u × lambda_a", "lambda_a 1", "lambda_a 5", "lambda_a 10"]
    assert [row.label for row in made.rows] == ["lambda_u 1", "lambda_u 5", "lambda_u 10"]
    first = made.rows[0].cells
    assert first[0].text.endswith("(77.20)") and "±" in first[0].text
    assert first[1].mark == "bold" and "3 seeds x 6 patients; runs" in first[1].tip
    assert made.rows[1].cells[2].text == ""  # nothing stands there
    assert {"lambda_u", "lambda_a", "value"} <= set(made.tidy)


def test_words_stand_alone_and_numbers_with_their_axis():
    crossing = crossed.Crossing("share", "arm", [0.1], ["base"], {}, {0.1: "10 % (7)"})
    assert (crossing.say(0.1), crossing.say("base")) == ("10 % (7)", "base")
    assert crossed._titled("share", 0.1, crossing) == "share 10 % (7)"
    assert crossed._titled("arm", "base", crossing) == "base"


def test_marks_within_a_group_do_not_know_of_the_others(grid):
    poor = ["lambda_u=10 lambda_a=10", "lambda_u=10 lambda_a=1"]
    within = crossed.marks_within(grid, [["lambda_u=1 lambda_a=5"], poor], "dice")
    assert within["lambda_u=10 lambda_a=1"] == "bold" and within["lambda_u=10 lambda_a=10"] == "underline"
    assert "lambda_u=1 lambda_a=5" not in within  # alone in its group
    assert crossed.marks_within(grid, [poor], "hd95_voxel")["lambda_u=10 lambda_a=1"] == "bold"


def test_shades_follow_what_is_better_and_never_stretch_noise(grid):
    low, high = crossed._ends(np.array([80.0, 80.2]), np.array([0.5, 0.5]))
    assert high - low == pytest.approx(crossed.SPAN * 0.5)
    low, high = crossed._ends(np.array([70.0, 90.0]), np.array([0.5, 0.5]))
    assert (low, high) == pytest.approx((70, 90))
    assert crossed._ends(np.array([np.nan]), np.array([np.nan])) == (0.0, 1.0)
    low, high = crossed._ends(np.array([80.0, 80.0]), np.array([np.nan, np.nan]))
    assert low < 80 < high


def test_heat_maps_say_their_numbers_frame_and_hatch(grid):
    crossing = crossing_of(grid)
    table = crossed.compute(grid, crossing, ["dice", "hd95_voxel"])
    table["beside"] = ["gone" if not arm else "" for arm in table["arm"]]
    figure = crossed.draw(table, "lambda_u", "lambda_a", "scan", 2, ("lambda_u=1 lambda_a=5",))
    dice, distance = figure.axes[:2]
    values = dice.collections[0].get_array().reshape(3, 3)
    assert values[0, 1] == values.max()
    distances = distance.collections[0].get_array().reshape(3, 3)
    assert distances[0, 1] == distances.max() < 0  # the smallest distance is the darkest
    notes = [text.get_text() for text in dice.texts]
    shown = table[(table["metric"] == "dice") & (table["arm"] == "lambda_u=1 lambda_a=5")].iloc[0]
    assert f"{shown['value']:.2f}\n±{shown['sd']:.2f}" in notes and "gone" in notes
    bold = [text.get_text() for text in dice.texts if text.get_fontweight() == "bold"]
    assert len(bold) == (table.loc[table["metric"] == "dice", "mark"] == "bold").sum()
    frames = [patch for patch in dice.patches if not patch.get_fill()]
    hatched = [patch for patch in dice.patches if patch.get_hatch()]
    assert [patch.get_xy() for patch in frames] == [(1, 0)]
    assert [patch.get_xy() for patch in hatched] == [(2, 1)]
