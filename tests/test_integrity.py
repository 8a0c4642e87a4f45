"""Checks of tables: what cannot be, empties, runs that had not converged; each provoked, silent where all is well."""

from dataclasses import replace

import fabricated
import numpy as np
import pandas as pd
import pytest

from vqseg.report import ablation, companions, integrity, published
from vqseg.report.selection import Options, select

ARMS = {"none": 84.0, "qpm eps=0.7": 86.0}


def chosen(store, **options):
    made = fabricated.study(store, ARMS, seeds=3, patients=4, speed=25.0, **options)
    return made, lambda: select(store, made, Options())


def alter_rows(store, made, arm, change, *, seeds=(0,)):
    """Apply ``change`` to the rows of an arm's runs; it gets them and the mask of the last teacher's on devtest."""
    for cell in made["cells"]:
        if cell["arm"] == arm and cell["seed"] in seeds:
            path = store / "runs" / cell["identity"] / "rows.parquet"
            rows = pd.read_parquet(path)
            mask = (rows["part"] == "devtest") & (rows["checkpoint"] == "last") & (rows["network"] == "teacher")
            change(rows, mask)
            rows.to_parquet(path, index=False)


def found(selection):
    return {(issue.kind, issue.row): issue for issue in integrity.issues(selection)}


def test_a_sound_table_has_no_issues(tmp_path):
    _, selected = chosen(tmp_path)
    assert integrity.issues(selected()) == [] and integrity.banners(selected()) == []
    main = ablation.scores_section(selected()).tables[0]
    assert [row.label for row in main.rows] == ["none (reference)", "qpm eps=0.7"] and main.footnotes == []


def test_a_mean_jaccard_below_that_of_the_mean_dice_is_named(tmp_path):
    made, selected = chosen(tmp_path)

    def lower(rows, mask):
        rows.loc[mask, "jaccard"] -= 0.1

    alter_rows(tmp_path, made, "qpm eps=0.7", lower, seeds=(0, 1, 2))
    issues = found(selected())
    assert list(issues) == [("convexity", "qpm eps=0.7")]
    main = ablation.scores_section(selected()).tables[0]
    assert [row.label for row in main.rows] == ["none (reference)", "qpm eps=0.7 †"]
    assert main.footnotes == [published.BROKEN]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("dice", 1.2, "Dice outside 0-1 in 1 row"),
        ("jaccard", 0.99, "Jaccard above Dice in 1 row"),
        ("hd95_voxel", -1.0, "HD95 (voxel) below 0 in 1 row"),
        ("asd_voxel", -0.1, "ASD (voxel) below 0 in 1 row"),
    ],
)
def test_what_cannot_be_is_named_with_its_runs(tmp_path, column, value, words):
    made, selected = chosen(tmp_path)

    def spoil(rows, mask):
        rows.loc[rows.index[mask][0], column] = value

    alter_rows(tmp_path, made, "none", spoil)
    issue = found(selected())["range", "none"]
    assert words in issue.words and issue.runs == (made["cells"][0]["identity"],)
    main = ablation.scores_section(selected()).tables[0]
    assert main.rows[0].label == "none (reference) †"
    assert any(note.startswith("† Cannot be: none: ") and words in note for note in main.footnotes)


def test_a_mean_percentile_below_the_mean_of_the_same_distances_is_named(tmp_path):
    made, selected = chosen(tmp_path)

    def swap(rows, mask):
        rows.loc[mask, "assd_voxel"] = rows.loc[mask, "hd95_voxel"] + 1

    alter_rows(tmp_path, made, "none", swap, seeds=(0, 1, 2))
    words = "mean HD95 below mean ASSD, voxel"
    assert found(selected())["order", "none"].words == words
    (note,) = ablation.scores_section(selected()).tables[0].footnotes
    assert note.startswith("† Unlikely: all error would lie in less than 5 %") and note.endswith(f": none: {words}.")


def test_empties_are_counted_and_named(tmp_path):
    made, selected = chosen(tmp_path)

    def empty(rows, mask):
        hit = mask & (rows["case"] == "p1_ES") & (rows["class_name"] == "Myo")
        rows.loc[hit, ["empty_prediction", "dice", "jaccard"]] = [True, 0.0, 0.0]
        rows.loc[mask & (rows["case"] == "p2_ED") & (rows["class_name"] == "RV"), "empty_reference"] = True

    alter_rows(tmp_path, made, "qpm eps=0.7", empty, seeds=(0, 2))
    issue = found(selected())["empties", "qpm eps=0.7"]
    assert issue.words == "4, p1_ES Myo (prediction) x2, p2_ED RV (reference) x2"
    main = ablation.scores_section(selected()).tables[0]
    assert main.rows[1].label == "qpm eps=0.7 ¶"
    assert main.footnotes == [f"¶ Empties, over classes and runs: qpm eps=0.7: {issue.words}."]


# convergence


def curve(store, made, arm, values, *, seeds=(0, 1, 2)):
    """Replace the validation curve of an arm's runs, in Dice points."""
    for cell in made["cells"]:
        if cell["arm"] == arm and cell["seed"] in seeds:
            lines = [f"{100 * step},val/dice_teacher,{value / 100}" for step, value in enumerate(values, start=1)]
            (store / "runs" / cell["identity"] / "metrics.csv").write_text("\n".join(["step,name,value", *lines, ""]))


RISING, FLAT = [40.0, 60.0, 70.0, 74.0, 77.0, 80.0], [60.0, 80.0, 84.0, 84.2, 83.9, 84.1]


def test_runs_whose_validation_still_rose_are_flagged_row_by_row(tmp_path):
    made, selected = chosen(tmp_path)
    curve(tmp_path, made, "qpm eps=0.7", RISING, seeds=(0, 1))
    curve(tmp_path, made, "none", FLAT)
    issue = found(selected())["rising", "qpm eps=0.7"]
    # Three points a step apart of 100, the smaller of the slopes 3 (all) and 3 (the last two): 3 x 600 / 3 / 100.
    assert issue.words == "2 of 3 runs, +6.0"
    assert issue.runs == tuple(c["identity"] for c in made["cells"] if c["arm"] == "qpm eps=0.7" and c["seed"] < 2)
    main = ablation.scores_section(selected()).tables[0]
    assert [row.label for row in main.rows] == ["none (reference)", "qpm eps=0.7 §"]
    assert main.footnotes == [f"{integrity.RISING}: qpm eps=0.7: 2 of 3 runs, +6.0."]
    assert ablation.build(selected()).banners == []


def test_one_run_of_three_flags_no_row_and_most_runs_make_a_banner(tmp_path):
    made, selected = chosen(tmp_path)
    curve(tmp_path, made, "qpm eps=0.7", RISING, seeds=(0,))
    assert integrity.issues(selected()) == []
    curve(tmp_path, made, "qpm eps=0.7", RISING)
    curve(tmp_path, made, "none", RISING, seeds=(0,))
    (banner,) = ablation.build(selected()).banners
    assert banner.startswith("Not converged: validation was still rising at the end of training in 4 of 6 runs (")
    other = replace(selected(), study={**made, "name": "other"})
    (banner,) = integrity.banners(selected(), other, selected())
    assert "in most runs of epsilon-sweep-acdc-cpu, other. What" in banner


def test_too_few_validations_say_nothing(tmp_path):
    made, selected = chosen(tmp_path)
    for arm in ARMS:
        curve(tmp_path, made, arm, [40.0, 60.0, 80.0])
    assert integrity.rising(selected()).empty and integrity.issues(selected()) == []


def test_a_curve_that_bends_is_not_called_rising():
    steps = np.arange(1, 5) * 100.0
    gain, low = integrity.gains(
        steps, np.array([[50.0, 69.0, 71.0, 71.1], [50.0, 60.0, 66.0, 70.0], [50.0, 71, 69, 72]])
    )
    assert (low > 0).tolist() == [True, True, False]
    assert gain[0] == pytest.approx(0.1 * 4 / 3) and gain[1] == pytest.approx(4 * 4 / 3)


@pytest.mark.parametrize(("validations", "most"), [(4, 0.17), (9, 0.17), (10, 0.05), (30, 0.03)])
def test_noise_alone_seldom_rises(validations, most):
    noise = np.random.default_rng(0).normal(0, 1.5, (6000, validations))
    gain, low = integrity.gains(np.arange(1.0, validations + 1), noise)
    up = (low > 0) & (gain > integrity.MARGIN)
    assert up.mean() < most
    assert (up.reshape(-1, 3).sum(axis=1) >= 2).mean() < 0.08  # a row of three runs


# published rows


def row(**values):
    return published.Published("M", "Somewhere, Table 1", "T", "acdc", "10 %", 7, "test", "unknown", values)


def test_published_rows_are_checked_as_far_as_means_allow():
    assert integrity.of_published([row(dice=0.80, jaccard=0.68, hd95_voxel=4.0, asd_voxel=1.0)]) == []
    kinds = {
        "convexity": row(dice=0.80, jaccard=0.60),
        "jaccard": row(dice=0.80, jaccard=0.81),
        "hd95_voxel": row(dice=0.80, hd95_voxel=-1.0),
        "HD95 below ASD": row(dice=0.80, hd95_voxel=1.0, asd_voxel=2.0),
    }
    for words, one in kinds.items():
        (issue,) = integrity.of_published([one])
        assert words in f"{issue.kind} {issue.words}"
        assert companions.panel([one], 2).rows[0].label == "M †"
    assert companions.panel([row(dice=0.80)], 2).footnotes == []


def test_what_is_unknown_of_a_published_row_is_a_question_mark():
    one = companions.row_of(row(dice=0.80), ["dice", "jaccard", "steps", "labelled", "pretrained"], 2, 2, ruled=True)
    assert [cell.text for cell in one.cells] == ["?", "?", "80.00", "?", "?", "7", "?"]
    assert "seeds, steps, preset, precision and code ?" in companions.note_of(row(dice=0.80))


def test_the_built_in_tables_hold_the_rows_that_are_known_to_be_impossible():
    broken = {issue.row for issue in integrity.of_published(published.load()) if issue.kind == "convexity"}
    assert {"VQ-Seg", "ABD", "Unimatch"} <= broken
    assert not [issue for issue in integrity.of_published(published.load()) if issue.kind == "range"]
