import shutil

import placed
import pytest

from vqseg.report import crossed, hyperparameters
from vqseg.report.make import make
from vqseg.study.definition import read_definition

REFERENCE = "lambda_u=1 lambda_a=5"


def study(store, *, seeds=3, extra=True, **dice):
    return placed.study(
        store, placed.weights(extra=extra, **dice), reference=REFERENCE, definition="loss-weights",
        base_config=placed.WEIGHTS_BASE, seeds=seeds,
    )  # fmt: skip


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    dice = {"u1_a5": 90, "u10_a10": 76, "usage_1": 74, "confidence_0.95": 84.2}
    return placed.chosen(store, study(store, **dice))


@pytest.fixture(scope="module")
def report(selection):
    return hyperparameters.build(selection)


def test_the_first_sentence_says_whether_the_weights_matter(report):
    first = report.summary[0]
    assert first.startswith("The weights matter: ") and f"the best, {REFERENCE} (" in first
    assert "the farthest, usage=1, lies −1" in first and "3 seeds x 6 patients" in first and "[−" in first


def test_a_flat_surface_is_called_flat_with_its_farthest_arm(tmp_path):
    selection = placed.chosen(tmp_path, study(tmp_path, extra=False))
    [sentence] = hyperparameters.flatness(selection)
    assert sentence.startswith("Flat within noise: no other arm can be told from the best, ")
    assert "the farthest, lambda_" in sentence and "3 seeds x 6 patients" in sentence
    assert set(hyperparameters.best_by_metric(selection)["tied"]) == {8}


def test_nothing_is_tied_with_an_arm_that_is_not_ranked(tmp_path):
    made = study(tmp_path, extra=False, u10_a10=95)
    for identity in placed.runs_of(made, "lambda_u=10 lambda_a=10")[1:]:
        shutil.rmtree(tmp_path / "runs" / identity)
    selection = placed.chosen(tmp_path, made)
    bests = hyperparameters.best_by_metric(selection).set_index("metric")
    assert bests.loc["dice", "arm"] == "lambda_u=10 lambda_a=10" and bests.loc["dice", "tied"] == -1
    table = placed.tables_of(hyperparameters.build(selection))["best-by-metric"]
    assert table.rows[0].cells[3].text == "—"


def test_two_seeds_give_no_verdict(tmp_path):
    selection = placed.chosen(tmp_path, study(tmp_path, seeds=2, extra=False, u1_a5=95))
    [sentence] = hyperparameters.flatness(selection)
    assert sentence.startswith("No verdict on acdc (devtest)") and REFERENCE in sentence


def test_the_paper_stands_beside_the_cells_that_it_printed(selection, report):
    crossing = hyperparameters.grid_of(selection)
    assert (crossing.down, crossing.across) == ("lambda_u", "lambda_a")
    theirs = {arm: row.values["dice"] for arm, row in hyperparameters.printed(crossing).items()}
    assert theirs == {
        "lambda_u=1 lambda_a=1": 0.7720, REFERENCE: 0.7852, "lambda_u=1 lambda_a=10": 0.7765,
        "lambda_u=5 lambda_a=5": 0.7670, "lambda_u=10 lambda_a=5": 0.7843,
    }  # fmt: skip
    words = placed.words_of(placed.tables_of(report)["weights-dice"])
    assert words["lambda_u 1"]["lambda_a 1"].endswith("(77.20)")
    assert "(" not in words["lambda_u 10"]["lambda_a 10"]
    assert words["lambda_u 10"]["lambda_a 5"].endswith("(78.43)")
    figure = placed.drawable(report, "weights")["weights"]
    dice = figure.axes[0]
    assert sum(not patch.get_fill() for patch in dice.patches) == 5
    assert any(text.get_text().endswith("(77.20)") for text in dice.texts)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Dice (%)", "HD95 (voxel)", "ASD (voxel)"]


def test_the_studys_own_grid_holds_every_cell_that_the_paper_printed():
    _, definition = read_definition("loss-weights")
    where = crossed.places({"arms": [arm.model_dump() for arm in definition.expand()]})
    crossing = crossed.cross(where, "lambda_u", "lambda_a")
    assert len(hyperparameters.printed(crossing)) == 5
    assert crossing.arms[1, 5] == definition.reference


def test_the_best_by_every_metric_and_that_the_papers_differ(report):
    bests = placed.words_of(placed.tables_of(report)["best-by-metric"])
    assert {row["best arm"] for row in bests.values()} == {REFERENCE}
    assert [bests[key]["paper's best"] for key in ("Dice (%)", "HD95 (voxel)", "ASD (voxel)")] == [
        "lambda_a=5", "lambda_a=1", "lambda_u=10",
    ]  # fmt: skip
    assert "All metrics have the same best arm" in report.summary[1]
    assert "The paper's own best depends on it too" in report.summary[2]


def test_a_best_arm_that_depends_on_the_metric_is_said_with_its_rank(selection):
    bests = hyperparameters.best_by_metric(selection)
    bests.loc[bests["metric"] == "hd95_voxel", ["arm", "rank"]] = ["usage=0.01", 4.0]
    sentence = hyperparameters.differing(bests)[0]
    assert sentence == f"The best arm depends on the metric: Dice: {REFERENCE}; HD95: usage=0.01 (number 4 by Dice)."


def test_one_weight_at_a_time_has_the_reference_at_its_own_value(selection, report):
    table = hyperparameters.axis_scores(selection, {"lambda_u", "lambda_a"}, ["dice"])
    usage = table[table["axis"] == "usage"]
    assert set(usage["value"]) == {0.01, 0.1, 1.0} and set(table["axis"]) == {"usage", "confidence"}
    assert set(usage.loc[usage["value"] == 0.1, "arm"]) == {REFERENCE}
    assert set(table.loc[(table["axis"] == "confidence") & (table["arm"] == REFERENCE), "value"]) == {0.0}
    axes = placed.drawable(report, "one-weight")["one-weight"].axes
    assert [tick.get_text() for tick in axes[2].get_xticklabels()] == ["0.01", "0.1", "1"]
    dots = [dot for collection in axes[0].collections for dot in collection.get_offsets()]
    assert len(dots) == 9  # three seeds of three values


def test_a_study_without_a_grid_still_has_a_page(tmp_path):
    made = placed.study(tmp_path, {"none": (80.0, {"at": {}})}, reference="none", definition="loss-weights", seeds=1)
    report = hyperparameters.build(placed.chosen(tmp_path, made))
    section = placed.section(report, "Two weights at a time")
    assert section.paragraphs == ["No two weights are crossed in this study."]
    assert report.summary[0].startswith("Only one arm is scored")


def test_the_study_finds_its_report_by_its_own_name(tmp_path):
    arms = placed.weights(extra=False)
    two = {label: arms[label] for label in (REFERENCE, "lambda_u=1 lambda_a=1")}
    placed.study(tmp_path, two, reference=REFERENCE, definition="loss-weights", seeds=1)
    made = make("loss-weights", store=tmp_path)
    assert "No verdict" in made.words and "lambda_u" in made.words
    assert {"weights.png", "weights-dice.tex", "best-by-metric.csv"} <= {path.name for path in made.paths}
