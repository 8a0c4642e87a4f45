import math

import placed
import pytest

from vqseg.records.run import RunFolder
from vqseg.report import label_ratio
from vqseg.study.definition import read_definition

SHARES = {0.05: 3, 0.1: 7, 0.5: 35}
KINDS = {"labelled only": ("supervised", 0.0), "base": ("none", 5.0), "QPM": ("qpm", 11.0)}


def arms(*, at=True, gain=1.0):
    found = {}
    for kind, (family, more) in KINDS.items():
        for share in SHARES:
            overrides = {"data.labelled_share": share, "perturbation": {"name": family, "rate": 0.1}}
            if family == "supervised":
                overrides["method"] = {"name": "supervised"}
            dice = 60 + 5 * math.log(share / 0.05) + gain * more
            told = {"at": {"method": kind, "share": share}} if at else {}
            found[f"{kind} share={share:g}"] = (dice, {"family": family, "overrides": overrides, **told})
    return found


def study(store, *, reference="base share=0.1", **options):
    given = {key: options.pop(key) for key in ("at", "gain") if key in options}
    made = placed.study(store, arms(**given), reference=reference, definition="label-ratio", **options)
    for label in arms():
        for identity in placed.runs_of(made, label):
            split = RunFolder(store, identity).status()["split"]
            split["parts"]["labelled"]["patients"] = SHARES[float(label.rpartition("=")[2])]
            RunFolder(store, identity).update(split=split)
    return made


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return placed.chosen(store, study(store))


@pytest.fixture(scope="module")
def report(selection):
    return label_ratio.build(selection)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Three draws of the labelled patients that differ more than seeds do."""
    store = tmp_path_factory.mktemp("store")
    made = study(store, draws=3, seeds=2)
    for cell in made["cells"]:
        placed.shift(store, cell["identity"], (-4.0, 0.0, 4.0)[cell["draw"]])
    return placed.chosen(store, made)


@pytest.mark.parametrize("at", [True, False])
def test_the_share_is_one_axis_and_the_rest_the_other(tmp_path, at):
    made = study(tmp_path, at=at, seeds=1)
    where = label_ratio.places(made)
    assert where["QPM share=0.1"] == {"share": 0.1, "arm": "QPM" if at else "qpm"}
    crossing = label_ratio.crossed.cross(where, "share", "arm")
    references = label_ratio.references(placed.chosen(tmp_path, made), crossing)
    assert references == (["base", "labelled only"] if at else ["none", "supervised"])


def test_a_rate_that_equals_a_share_is_no_share():
    arm = {"label": "a", "family": "f", "at": {"share": 0.1, "rate": 0.1}, "overrides": {"data.labelled_share": 0.1}}
    other = {"label": "b", "family": "f", "at": {"share": 0.2, "rate": 0.1}, "overrides": {"data.labelled_share": 0.2}}
    assert label_ratio.places({"arms": [arm, other]})["b"] == {"share": 0.2, "arm": "0.1"}


def test_the_studys_own_arms_find_their_places():
    _, definition = read_definition("label-ratio")
    where = label_ratio.places({"arms": [arm.model_dump() for arm in definition.expand()]})
    assert {place["arm"] for place in where.values()} == {"labelled only", "base", "QPM"}
    assert {place["share"] for place in where.values()} == {0.05, 0.1, 0.2, 0.5, 1.0}
    assert where[definition.reference] == {"share": 0.1, "arm": "base"}


def test_gains_are_within_every_share_and_against_both(selection):
    crossing = label_ratio.crossed.cross(label_ratio.places(selection.study), "share", "arm")
    wanted = label_ratio.wanted(selection, crossing)
    assert [each.name for each in wanted[:3]] == [
        "QPM minus base", "base minus labelled only", "QPM minus labelled only",
    ]  # fmt: skip
    assert len(wanted) == 9
    assert wanted[0].weights == {"QPM share=0.05": 1.0, "base share=0.05": -1.0} and wanted[0].group == "5 %"


def test_the_answer_says_whether_the_gain_persists_and_what_intervals_cover(report):
    assert report.summary[0].startswith("QPM minus base on acdc (devtest): better at every share (Δ Dice: 5 % +")
    assert "3 seeds x 6 patients" in report.summary[0]
    assert "for these labelled patients" in report.summary[-1] and "--draws" in report.summary[-1]


def test_no_gain_is_not_called_one(tmp_path):
    selection = placed.chosen(tmp_path, study(tmp_path, gain=0.0, seeds=3))
    assert "not told from 0 at" in label_ratio.build(selection).summary[0]


def test_marks_are_within_a_share_and_rows_say_the_patients(report):
    words = placed.tables_of(report)["shares"]
    assert [row.label for row in words.rows] == ["share 5 % (3)", "share 10 % (7)", "share 50 % (35)"]
    assert words.headers[1:] == ["labelled only", "base", "QPM"]
    for row in words.rows:
        assert [cell.mark for cell in row.cells][-1] == "bold" and row.cells[0].mark != "bold"


def test_holm_runs_over_all_gains(report):
    table = placed.tables_of(report)["gains"]
    assert len(table.rows) == 9 and "Holm over all 9." in table.caption
    assert [row.cells[0].text for row in table.rows] == 3 * ["5 %"] + 3 * ["10 %"] + 3 * ["50 %"]


def test_figures_have_the_labelled_patients_on_a_log_axis(report):
    figures = placed.drawable(report, "label-ratio", "gains-by-share")
    score, gains = figures["label-ratio"].axes[0], figures["gains-by-share"].axes
    assert score.get_xscale() == "log"
    assert [tick.get_text() for tick in score.get_xticklabels()] == ["3\n5 %", "7\n10 %", "35\n50 %"]
    assert sum(len(dots.get_offsets()) for dots in score.collections) == 27
    assert [axes.get_title(loc="left") for axes in gains] == ["gain over base", "gain over labelled only"]


def test_draws_are_a_component_of_their_own(drawn):
    report = label_ratio.build(drawn)
    assert "new seeds, patients and draws of labelled patients" in report.summary[-1]
    assert "3 draws x 2 seeds x 6 patients" in report.summary[0]
    tables = placed.tables_of(report)
    scores, gains = (placed.words_of(tables[f"components-{kind}"]) for kind in ("scores", "gains"))
    assert {"draw", "seed", "patient", "residual"} <= set(scores["QPM"])
    sds = [float(row.cells[1].text.split(" ")[0]) for row in tables["components-scores"].rows]
    assert min(sds) > 3 and tables["components-scores"].headers[2] == "draw"  # planted: sd of (-4, 0, 4) is 4
    assert float(gains["QPM minus base"]["draw"].split(" ")[0]) < 1  # all arms were shifted alike
    words = placed.section(report, "What it varies with").paragraphs
    assert words[0].startswith("Of the variance of mean scores, who is labelled makes ")


def test_one_draw_has_no_components(report):
    assert not any("components" in name for name in placed.tables_of(report))


def test_nothing_to_hold_against_is_said(tmp_path):
    found = {label: arm for label, arm in arms().items() if label.startswith("base")}
    made = placed.study(tmp_path, found, reference="base share=0.1", definition="label-ratio", seeds=1)
    report = label_ratio.build(placed.chosen(tmp_path, made))
    assert "no share has both an arm and what it is held against" in report.summary[0]
    assert "shares" in placed.tables_of(report)
