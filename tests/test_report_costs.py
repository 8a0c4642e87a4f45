import fabricated
import numpy as np
import pandas as pd
import placed
import pytest

from vqseg.records.run import RunFolder
from vqseg.report import costs, machines
from vqseg.report.measures import MEASURES

ARMS = {"none": 80.0, "qpm eps=0.7": 90.0, "dropout p=0.9": 70.0}
HOURS = {"none": 1.0, "qpm eps=0.7": 1.5, "dropout p=0.9": 3.0}


def study(store, *, seeds=3, apart=True, **options):
    """Write a study whose runs take known times, one after the other unless they are not to be ``apart``."""
    made = fabricated.study(store, ARMS, seeds=seeds, **{"patients": 6, "parts": ("devtest",), **options})
    for place, cell in enumerate(made["cells"]):
        hours = HOURS[cell["arm"]]
        start = pd.Timestamp("2026-01-02T00:00:00+00:00") + pd.Timedelta(hours=5 * place if apart else 0.5 * place)
        cost = {"parameters": 470_000, "ms_per_step": 100 * hours, "peak_memory_mb": 900 + 100 * hours}
        RunFolder(store, cell["identity"]).update(
            cost={**cost, "train_seconds": 3600 * hours},
            started=start.isoformat(), finished=(start + pd.Timedelta(hours=hours + 0.1)).isoformat(),
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return placed.chosen(store, study(store))


@pytest.fixture(scope="module")
def report(selection):
    return costs.build(selection)


def provenance(store, made, arm, **changes):
    for identity in placed.runs_of(made, arm):
        told = RunFolder(store, identity).status()["provenance"]
        RunFolder(store, identity).update(provenance={**told, **changes})


def test_the_table_says_what_an_arm_costs_and_what_a_point_does(report):
    rows = placed.words_of(placed.tables_of(report)["costs"])
    qpm = rows["qpm eps=0.7"]
    assert (qpm["params (M)"], qpm["ms per step"], qpm["peak MB"]) == ("0.470", "150.0 ± 0.0", "1050 ± 0")
    assert (qpm["hours"], qpm["time / reference"]) == ("1.500 ± 0.000", "1.50")
    gain = float(qpm["Δ Dice [95 %]"].split(" ")[0])
    assert float(qpm["hours per point"]) == pytest.approx(0.5 / gain, abs=1e-3)
    assert rows["dropout p=0.9"]["hours per point"] == "no gain" and rows["none (reference)"]["hours per point"] == "—"


@pytest.mark.parametrize(
    ("estimate", "p", "more", "metric", "words"),
    [
        (2.0, 0.01, 1.0, "dice", "+0.500"),
        (2.0, 0.5, 1.0, "dice", "(+0.500)"),
        (2.0, 0.01, -1.0, "dice", "better and not dearer"),
        (-2.0, 0.01, 1.0, "dice", "no gain"),
        (-2.0, 0.01, 1.0, "hd95_voxel", "+0.500"),
        (2.0, 0.01, float("nan"), "dice", "—"),
    ],
)
def test_a_point_costs_only_where_there_is_one(estimate, p, more, metric, words):
    assert costs.per_point({"estimate": estimate, "p_holm": p, "seeds": 3}, more, MEASURES[metric]) == words


def test_sentences_say_the_dearest_arm_and_the_whole(report):
    assert report.summary[0].startswith(
        "The dearest arm on acdc (devtest), dropout p=0.9, takes 3.00 times the hours of none (3 against 1 h a run) "
        "for −"
    )
    assert "3 seeds x 6 patients: worse" in report.summary[0]
    assert report.summary[1] == (
        "The study's 9 finished runs trained for 16.5 h, 17.4 h from start to end with validation and scoring."
    )
    assert len(report.summary) == 2  # one machine, one run at a time, even times


def test_a_shared_machine_several_machines_and_uneven_times_are_said(tmp_path):
    made = study(tmp_path, apart=False)
    provenance(tmp_path, made, "dropout p=0.9", host="other", device="NVIDIA H100")
    first = placed.runs_of(made, "qpm eps=0.7")[0]
    RunFolder(tmp_path, first).update(cost={"ms_per_step": 200.0, "train_seconds": 5400.0})
    report = costs.build(placed.chosen(tmp_path, made))
    caveats = report.summary[2:]
    assert caveats[0].startswith("Times come from 2 machines or versions")
    assert caveats[1].startswith("Up to ") and "runs shared a machine at a time" in caveats[1]
    assert caveats[2] == "Times per step differ by more than 15 % between runs of qpm eps=0.7."
    caption = placed.tables_of(report)["costs"].caption
    assert all(line in caption for line in caveats)
    table = placed.tables_of(report)["machines"]
    assert [row.label for row in table.rows] == ["machine 1", "machine 2"]
    assert table.rows[1].cells[0].text == "NVIDIA H100" and "other" not in str(table.rows)  # hosts are not named


def test_runs_that_follow_each_other_share_nothing():
    times = [("2026-01-01T00:00:00", "2026-01-01T01:00:00"), ("2026-01-01T01:00:00", "2026-01-01T02:00:00")]
    runs = pd.DataFrame(times, columns=["started", "finished"]).assign(**{"provenance.host": ["a", "a"]})
    assert machines.most_at_once(runs) == 1
    runs.loc[1, "started"] = "2026-01-01T00:30:00"
    assert machines.most_at_once(runs) == 2
    assert machines.most_at_once(runs.assign(**{"provenance.host": ["a", "b"]})) == 1
    assert machines.most_at_once(runs.assign(started=None)) == 0


def test_the_front_holds_what_none_beats_in_both():
    means = pd.DataFrame({"arm": list("abcd"), "hours": [1.0, 2.0, 3.0, 3.0], "value": [80.0, 79.0, 85.0, 90.0]})
    assert list(costs.frontier(means, "hours", higher=True)["arm"]) == ["a", "d"]
    assert list(costs.frontier(means, "hours", higher=False)["arm"]) == ["a", "b"]


def test_the_figure_names_the_front_above_both_panels(report):
    figure = placed.drawable(report, "cost")["cost"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == 2 * ["dotted: none, qpm eps=0.7"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["hours of training", "peak memory (MB)"]
    dots = sum(len(collection.get_offsets()) for collection in figure.axes[0].collections)
    assert dots == 9


def test_a_study_that_measured_nothing_says_so(tmp_path):
    made = fabricated.study(tmp_path, {"none": 80.0}, seeds=1, patients=2)
    placed.tell(tmp_path, made, "none", cost={}, provenance={}, started=None, finished=None)
    report = costs.build(placed.chosen(tmp_path, made))
    assert report.summary == ["No finished run on acdc (devtest) measured what it costs."]
    assert placed.section(report, "Cost").paragraphs == ["No finished run measured what it costs."]
    assert placed.words_of(placed.tables_of(report)["machines"])["machine 1"]["device"] == "?"


def test_hours_without_memory_are_one_panel(tmp_path):
    made = study(tmp_path, seeds=1)
    for label in ARMS:
        placed.tell(tmp_path, made, label, cost={"train_seconds": 3600.0})
    report = costs.build(placed.chosen(tmp_path, made))
    assert len(placed.drawable(report, "cost")["cost"].axes) == 1
    assert not np.isnan(costs.points(placed.chosen(tmp_path, made))["hours"]).any()
