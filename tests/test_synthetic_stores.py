"""What reports find in stores of which the truth is known: nothing where nothing was planted, and what was.

Noise is the field's, 3 seeds x 20 patients, four arms. The thousand studies go through the functions that tables are
made of; a few, and under ``slow`` two hundred, are stores on disk that are read as any other.
"""

import numpy as np
import pandas as pd
import pytest

from vqseg.bench import fabricate
from vqseg.report import ablation, arms, statistics
from vqseg.report.power import FIELD_NOISE
from vqseg.report.selection import Options, select

STUDIES, SEEDS, PATIENTS, SCANS = 1000, 3, 20, 2
ARMS = ("none", "qpm", "dropout", "shuffle")
NULL = dict.fromkeys(ARMS, 0.0)
PLANTED = {**NULL, "qpm": 2.0}


def frame(planted, seed):
    """Scored rows of many studies at once, one row per scan; an arm is called ``STUDY/NAME``."""
    draw, shape = np.random.default_rng(seed).normal, (STUDIES, len(planted), SEEDS, PATIENTS, SCANS)
    value = draw(0, FIELD_NOISE["scan"], shape) + draw(0, FIELD_NOISE["patient_seed"], (*shape[:4], 1))
    value += draw(0, FIELD_NOISE["seed"], (*shape[:3], 1, 1)) + draw(
        0, FIELD_NOISE["patient"], (*shape[:2], 1, PATIENTS, 1)
    )
    value = 84 + value / np.sqrt(2) + np.array(list(planted.values()))[:, None, None, None]
    names = [f"{study:04d}/{arm}" for study in range(STUDIES) for arm in planted]
    index = pd.MultiIndex.from_product(
        [names, range(SEEDS), [f"p{n}" for n in range(PATIENTS)], ["ED", "ES"]],
        names=["arm", "seed", "patient", "scan"],
    )
    return pd.DataFrame({"value": value.ravel()}, index=index).reset_index()


def judged(planted, seed):
    """Return one (table of effects, marks) per study."""
    grids = statistics.grids(frame(planted, seed))
    for study in range(STUDIES):
        own = {arm: grids[f"{study:04d}/{arm}"] for arm in planted}
        yield statistics.compare_grids(own, "none", list(planted)), statistics.marks_of_grids(own)


def test_of_a_thousand_nulls_at_most_seven_percent_are_marked():
    found = np.array(
        [((table["p_holm"] < 0.05).any(), "underline" in marks.values()) for table, marks in judged(NULL, 0)]
    )
    told, marked = found.mean(axis=0)
    assert told <= 0.07 and marked <= 0.07
    assert found.any(axis=1).mean() <= 0.07  # either of them
    assert told > 0.005 and marked > 0.001  # nor so few that nothing would ever be found


def test_two_planted_points_are_found_in_at_least_eighty_percent():
    found, alone, estimates = [], [], []
    for table, marks in judged(PLANTED, 1):
        line = table[table["arm"] == "qpm"].iloc[0]
        found.append(line["p_holm"] < 0.05)
        alone.append([arm for arm, mark in marks.items() if mark == "bold"] == ["qpm"])
        estimates.append((line["estimate"], line["low"] < 2.0 < line["high"]))
    mean, covered = np.mean(estimates, axis=0)
    assert np.mean(found) >= 0.8
    assert np.mean(alone) > 0.6  # told from all three others at once
    assert mean == pytest.approx(2.0, abs=0.03) and covered > 0.93


def tabled(store, name, planted):
    """Fabricate a store and return the arms table's numbers, by arm and column."""
    study = fabricate.fabricate(store, SEEDS * len(planted), seeds=SEEDS, name=name, planted=planted)
    selection = select(store, study, Options())
    assert (selection.part, selection.headline["patient"].nunique()) == ("test", PATIENTS)
    table = arms.compute(selection.scores, selection.cells, reference="none", columns=["dice", "effect", "p"])
    return selection, table.set_index(["arm", "column"])


def test_a_store_says_what_was_planted_in_it(tmp_path):
    selection, table = tabled(tmp_path, "planted", {"none": 0.0, "qpm": 4.0, "dropout": -4.0, "shuffle": 0.0})
    assert table.loc[("qpm", "effect"), "value"] == pytest.approx(4.0, abs=0.8)
    assert table.loc[("dropout", "effect"), "value"] == pytest.approx(-4.0, abs=0.8)
    assert (table.loc[[("qpm", "p"), ("dropout", "p")], "value"] < 0.05).all()
    assert table.loc[("qpm", "dice"), "mark"] == "bold"
    assert table.loc[("shuffle", "p"), "value"] > 0.05
    report = ablation.build(selection)
    assert report.summary[0].startswith("Highest mean: qpm") and "better (p" in report.summary[1]
    assert report.banners == []  # and its training had converged


def test_a_store_in_which_nothing_was_planted_marks_nothing(tmp_path):
    selection, table = tabled(tmp_path, "null", NULL)
    dice = table.xs("dice", level="column")
    assert set(dice["mark"]) == {"bold"} and (dice["effect_p"].dropna() > 0.05).all()
    assert dice["value"].to_numpy() == pytest.approx(80.0, abs=2.0)
    assert "cannot be told apart" in " ".join(ablation.best_sentence(selection)) or "none" in dice["value"].idxmax()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("planted", "looked_at", "least", "most"), [(NULL, ARMS[1:], 0.0, 0.07), (PLANTED, ("qpm",), 0.8, 1.0)]
)
def test_a_hundred_stores_on_disk(tmp_path, planted, looked_at, least, most):
    told = []
    for number in range(100):
        _, table = tabled(tmp_path / str(number), f"study-{number}", planted)
        p = table.xs("p", level="column")["value"]
        told.append((p[list(looked_at)] < 0.05).any())
    assert least <= np.mean(told) <= most
