"""Ranks when patients or seeds are drawn again: resampling by hand, and the report on stores of every kind."""

import fabricated
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from vqseg.records.run import RunFolder
from vqseg.report import resampling, stability, style
from vqseg.report.make import make
from vqseg.report.selection import Options, select


def cube(values, arms=None):
    """A cube of scores (A, S, P), one draw."""
    values = np.asarray(values, dtype=float)[:, None]
    names = arms or [f"arm {place}" for place in range(len(values))]
    return resampling.Cube(values, names, list(range(values.shape[2])), 1, values.shape[3], [])


def frame(values, arms="abc"):
    """Scores (A, S, P) as rows."""
    return pd.DataFrame(
        {"arm": arms[arm], "seed": seed, "patient": f"p{patient}", "value": value}
        for (arm, seed, patient), value in np.ndenumerate(np.asarray(values, dtype=float))
    )


def test_resampled_means_are_those_of_what_was_drawn():
    own = cube(np.random.default_rng(0).normal(80, 1, (3, 4, 5)))
    whole = own.values.mean(axis=(1, 2, 3))
    for kind in resampling.KINDS:
        drawn = resampling.means(own, kind)
        assert drawn.shape == (resampling.RESAMPLES, 3)
        assert drawn.mean(axis=0) == pytest.approx(whole, abs=0.03)
        assert np.array_equal(drawn, resampling.means(own, kind))  # seeded
    patients = resampling.means(own, "patients").std(axis=0)
    by_hand = own.values.mean(axis=(1, 2)).std(axis=1) / np.sqrt(5)
    assert patients == pytest.approx(by_hand, rel=0.05)


def test_an_order_that_nothing_can_change_is_certain_whatever_is_drawn():
    table = resampling.summarize(
        cube(np.array([3.0, 2.0, 1.0])[:, None, None] + np.zeros((3, 3, 6))), higher_is_better=True
    )
    assert table["rank"].tolist() == [1, 2, 3]
    for kind in resampling.KINDS:
        assert table[f"first_{kind}"].tolist() == [1.0, 0.0, 0.0]
        assert table[[f"low_{kind}", f"high_{kind}"]].to_numpy().tolist() == [[1, 1], [2, 2], [3, 3]]
    lower = resampling.summarize(cube([[[3.0] * 4] * 2, [[1.0] * 4] * 2]), higher_is_better=False)
    assert lower["rank"].tolist() == [2, 1]


def test_ties_are_shared():
    own = cube(np.full((2, 3, 4), 80.0))
    assert resampling.summarize(own, higher_is_better=True)["first_both"].tolist() == [0.5, 0.5]
    pairs = resampling.beats(own, "both", higher_is_better=True)
    assert pairs[0, 1] == pairs[1, 0] == 0.5 and np.isnan(pairs[0, 0])


def test_how_often_one_arm_beats_another_by_hand():
    """Two patients, one against the other: (+1, -1) of 2 draws is ahead, even, behind with 1/4, 1/2, 1/4."""
    own = cube([[[81.0, 79.0]] * 3, [[80.0, 80.0]] * 3])
    pairs = resampling.beats(own, "patients", higher_is_better=True)
    assert pairs[0, 1] == pytest.approx(0.5, abs=0.02) and pairs[0, 1] + pairs[1, 0] == pytest.approx(1.0)
    ranks = resampling.summarize(own, higher_is_better=True)
    assert ranks.loc[0, ["low_patients", "high_patients"]].tolist() == [1.0, 2.0]
    assert ranks.loc[0, ["low_seeds", "high_seeds"]].tolist() == [1.5, 1.5]  # seeds are all alike, and the arms tie


def test_leaving_out_a_seed():
    values = np.full((2, 3, 4), 80.0)
    values[0, 2] += 3.0
    values[1] += 0.5
    left = resampling.without(cube(values, ["a", "b"]), higher_is_better=True)
    assert left["best"].tolist() == ["a", "a", "b"] and left["moved"].tolist() == [0, 0, 2]


def test_the_seeds_that_keep_the_best_arm_best():
    draw = np.random.default_rng(1)
    seeds = draw.normal(0, 1, (1, 8, 1))
    values = np.concatenate([80.5 + seeds, np.full((1, 8, 1), 80.5 + seeds.mean() - 0.5)]) + np.zeros((2, 8, 4))
    growth = resampling.by_seeds(cube(values), higher_is_better=True)
    assert growth["share"].is_monotonic_increasing
    # A gap of .5 and a normal seed of this sd: the share at n seeds is the normal's at .5 sqrt(n) / sd.
    sd = seeds.std(ddof=1)
    assert growth["share"].tolist() == pytest.approx(norm.cdf(0.5 * np.sqrt(growth["seeds"]) / sd).tolist(), abs=0.02)
    needed = (1.645 * sd / 0.5) ** 2
    assert resampling.enough(growth) == pytest.approx(needed, abs=3)
    assert resampling.enough(growth.assign(share=0.5)) is None
    assert resampling.by_seeds(cube(values[:, :1]), higher_is_better=True).empty


def test_the_cube_has_what_all_arms_share():
    rows = frame(np.random.default_rng(0).normal(size=(3, 3, 4)))
    rows = rows[~((rows["arm"] == "b") & (rows["seed"] == 2))]
    rows = rows[~((rows["arm"] == "a") & (rows["patient"] == "p3"))]
    own = resampling.cube(rows, ["a", "b", "c", "absent"])
    assert own.values.shape == (3, 1, 2, 3) and own.seeds == [0, 1] and own.lost == ["absent"] and own.left_out == 2
    # One seed of an arm that has just begun does not take the others' seeds away.
    begun = rows[~((rows["arm"] == "b") & (rows["seed"] == 1))]
    own = resampling.cube(begun, ["a", "b", "c"])
    assert own.arms == ["a", "c"] and own.seeds == [0, 1, 2] and own.lost == ["b"]
    assert resampling.cube(rows[:0], ["a"]) is None


def test_an_arm_of_one_draw_does_not_take_the_others_draws_away():
    values = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
    rows = pd.concat([frame(values[:, number]).assign(draw=number) for number in range(3)])
    own = resampling.cube(rows[(rows["arm"] != "c") | (rows["draw"] == 0)], ["a", "b", "c"])
    assert own.arms == ["a", "b"] and own.draws == 3 and own.lost == ["c"] and own.left_out == 0


def test_draws_of_labelled_patients_are_drawn_again_with_the_seeds():
    values = np.random.default_rng(0).normal(size=(2, 3, 3, 5))
    rows = pd.concat([frame(values[:, number], "ab").assign(draw=number) for number in range(3)])
    own = resampling.cube(rows, ["a", "b"])
    assert own.values.shape == (2, 3, 3, 5) and own.draws == 3
    assert np.array_equal(own.values, values)


# the report


def built(store, labels, **options):
    made = fabricated.study(store, labels, **{"seeds": 3, "patients": 6, "parts": ("val", "devtest"), **options})
    selection = select(store, made, Options())
    return selection, stability.build(selection)


def test_the_report_has_its_table_and_figures_and_says_that_it_is_no_test(tmp_path):
    arms = {"none": 84.0, "qpm eps=0.7": 94.0, "dropout p=0.3": 84.1, "shuffle rate=1": 70.0}
    selection, report = built(tmp_path, arms)
    assert report.summary[0].startswith(
        "qpm eps=0.7 is first of 4 arms on acdc (devtest), and stays first in resamples:"
    )
    assert report.summary[1] == "Leaving out one seed at a time: the same arm is first every time."
    assert "It is no test" in report.summary[-1] and "It is no test" in report.sections[0].tables[0].caption
    (table,) = report.sections[0].tables
    assert table.rows[0].label == "qpm eps=0.7"
    assert table.rows[0].cells[1].text == "1" and [cell.text for cell in table.rows[0].cells[2:5]] == ["100 %"] * 3
    runs = {cell["identity"] for cell in selection.study["cells"] if cell["arm"] == "qpm eps=0.7"}
    assert set(table.tidy["runs"].iloc[0].split()) == runs
    names = [picture.name for picture in report.sections[0].pictures]
    assert names == ["stability-ranks", "stability-pairs", "stability-seeds"]
    for picture in report.sections[0].pictures:
        assert "part devtest: 6 patients" in picture.caption
        style.save(picture.figure, tmp_path, picture.name)
        assert (tmp_path / f"{picture.name}.png").stat().st_size > 5000


def test_many_arms_are_cut_to_the_best_in_figures_but_not_in_the_table(tmp_path):
    arms = {"none": 84.0, **{f"qpm eps={n / 100:g}": 84 + n / 10 for n in range(1, 25)}}
    _, report = built(tmp_path, arms, seeds=2, patients=3)
    section = report.sections[0]
    assert len(section.tables[0].rows) == 25
    assert section.pictures[0].caption.startswith("The best 20 of 25 arms.")
    assert len(section.pictures[1].inputs[0]) == 20


def test_one_arm_has_no_order(tmp_path):
    _, report = built(tmp_path, {"none": 84.0})
    assert "only none is scored" in report.summary[0] and report.sections[0].tables == []


def test_one_seed_and_half_a_store_still_say_something(tmp_path):
    _, report = built(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0}, seeds=1)
    assert "One seed: drawing seeds again changes nothing." in report.sections[0].paragraphs
    assert len(report.summary) == 2
    made = fabricated.study(tmp_path / "half", {"none": 84.0, "qpm eps=0.7": 86.0, "dropout p=0.3": 80.0}, patients=4)
    for cell in made["cells"]:
        if cell["arm"].startswith("dropout"):
            RunFolder(tmp_path / "half", cell["identity"]).update(state="interrupted")
    report = stability.build(select(tmp_path / "half", made, Options()))
    assert report.sections[0].paragraphs == ["Left out, for want of runs that the others have too: dropout p=0.3."]


def test_it_is_reached_by_name_and_stands_beside_the_studys_own_report(tmp_path):
    fabricated.study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0}, patients=4, synthetic=True, data="phantom")
    made = make("stability", store=tmp_path)
    assert made.paths[0] == tmp_path / "reports" / "epsilon-sweep-acdc-cpu" / "stability" / "index.html"
    assert "Stability of ranks" in made.words and "Phantom" in made.words
