"""Two runs side by side: settings beside scores, paired by patient, and no word about methods."""

import json

import fabricated
import pandas as pd
import pytest

from vqseg.errors import InputError
from vqseg.files import read_yaml, write_yaml
from vqseg.records.run import RunFolder
from vqseg.study.compare import CAUTION, compared, find_run

ARMS = {"none": 84.0, "qpm eps=0.7": 86.0}


@pytest.fixture
def store(tmp_path):
    fabricated.study(tmp_path, ARMS, seeds=2, noise=0.0, patients=4)
    return tmp_path


@pytest.fixture
def pair(store):
    return tuple(find_run(store, f"epsilon-sweep:{arm}, seed 0") for arm in ARMS)


def rewrite(run, change):
    path = run.path / "rows.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def at(found, part="devtest", checkpoint="last"):
    (row,) = [row for row in found["scores"] if (row["part"], row["checkpoint"]) == (part, checkpoint)]
    return row


def test_runs_are_found_by_identity_and_by_the_name_of_their_cell(store, pair):
    assert find_run(store, pair[0].identity[:6]).path == pair[0].path == find_run(store, str(pair[0].path)).path
    assert pair[0].status()["name"] == "none, seed 0"
    with pytest.raises(InputError, match=r"unknown cell of study .* 'nine, seed 0' \(did you mean 'none, seed 0'"):
        find_run(store, "epsilon-sweep:nine, seed 0")
    with pytest.raises(InputError, match="unknown study 'epsilon'"):
        find_run(store, "epsilon:none, seed 0")
    with pytest.raises(InputError, match=r"run 'zz': no such run among 4"):
        find_run(store, "zz")


def test_settings_differ_leaf_by_leaf(pair):
    tree = read_yaml(pair[1].path / "config.yaml")
    write_yaml(pair[1].path / "config.yaml", {**tree, "train": {"steps": 3}})
    settings = compared(*pair)["settings"]
    assert settings == {
        "perturbation.name": ["none", "qpm"],
        "perturbation.rate": [None, 0.7],
        "train.steps": [None, 3],
    }
    assert compared(pair[0], find_run(pair[0].store, "epsilon-sweep:none, seed 1"))["settings"] == {}


def test_scores_are_means_over_patients_and_their_difference_is_paired(pair):
    def third(rows):  # of the second run, one patient is better by .3 and another was not scored
        rows.loc[rows["patient"] == "p3", "dice"] -= 0.3
        return rows[rows["patient"] != "p2"]

    rewrite(pair[1], third)
    found = compared(*pair)
    dice = at(found)["scores"]["dice"]
    assert dice["values"] == pytest.approx([0.84, 0.86 - 0.1]) and dice["difference"] == pytest.approx(0.02 - 0.1)
    assert (dice["n"], dice["larger"]) == (3, 2) and (at(found)["patients"], at(found)["alone"]) == (3, [1, 0])
    assert at(found)["scores"]["hd95_voxel"]["difference"] == pytest.approx(-0.6)
    assert [(row["part"], row["checkpoint"]) for row in found["scores"]] == [
        ("val", "last"), ("val", "best"), ("devtest", "last"), ("devtest", "best"),
    ]  # fmt: skip
    assert at(found, checkpoint="best")["scores"]["dice"]["values"][0] == pytest.approx(0.845)


def test_a_score_that_a_patient_lacks_is_not_paired(pair):
    rewrite(pair[1], lambda rows: rows.assign(asd_voxel=rows["asd_voxel"].where(rows["patient"] != "p0")))
    rewrite(pair[0], lambda rows: rows.assign(jaccard=float("nan")))
    scores = at(compared(*pair))["scores"]
    assert scores["asd_voxel"]["n"] == 3 and scores["dice"]["n"] == 4
    assert scores["jaccard"] == {"values": [None, None], "difference": None, "n": 0, "larger": 0}


def test_patients_of_other_data_are_not_the_same_patients(pair):
    data = pair[1].status()["data"]
    pair[1].update(data={**data, "digest": "other"})
    found = compared(*pair)
    assert found["circumstances"]["data.digest"] == ["d" * 16, "other"]
    dice = at(found)["scores"]["dice"]
    assert dice["values"] == pytest.approx([0.84, 0.86]) and dice["difference"] is None and dice["n"] == 0
    assert at(found)["alone"] == [4, 4]


def test_what_else_differs_is_named(pair):
    status = pair[1].status()
    split = {"name": "8", "digest": "t", "parts": {"labelled": {"patients": 9}}}
    code = {**status["code"], "vqseg.train": "t2"}
    pair[1].update(split=split, code=code, scoring="sc2", provenance={**status["provenance"], "threads": 4})
    assert compared(*pair)["circumstances"] == {
        "split.name": ["7", "8"],
        "split.digest": ["s" * 16, "t"],
        "labelled patients": [7, 9],
        "scoring code": ["sc1", "sc2"],
        "code of vqseg.train": ["t1", "t2"],  # that of a perturbation which one alone has goes without saying
        "threads": [2, 4],
    }


def test_validation_is_that_of_the_curve(pair):
    validation = pair[1].status()["validation"]
    pair[1].update(validation={**validation, "best": {"teacher": {"dice": 0.9, "step": 3}}})
    found = compared(*pair)["validation"]
    assert list(found) == ["last teacher"] and found["last teacher"]["difference"] == pytest.approx(0.02)
    pair[0].update(validation={**validation, "best": {"teacher": {"dice": 0.8, "step": 3}}})
    assert compared(*pair)["validation"]["best teacher"]["difference"] == pytest.approx(0.1)


def test_a_run_that_has_no_scores_yet_is_compared_by_its_settings(pair):
    pair[1].update(state="interrupted", validation=None)
    (pair[1].path / "rows.parquet").unlink()
    found = compared(*pair)
    assert found["settings"] and found["scores"] == [] and found["validation"] == {}
    assert found["runs"][1]["state"] == "interrupted"


def test_a_run_is_not_compared_with_itself(pair):
    with pytest.raises(InputError, match="is compared with itself; name two runs"):
        compared(pair[0], RunFolder(pair[0].store, pair[0].identity))


def test_the_command_says_it_in_words_and_as_json(command, store, pair, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    words = ("study", "compare", pair[0].identity, "epsilon-sweep:qpm eps=0.7, seed 0", "--store", store)
    code, out, _ = command(*words)
    assert code == 0 and CAUTION in " ".join(out.split())
    assert f"A: none, seed 0 ({pair[0].identity}, finished)" in out and "what else does: nothing" in out
    line = next(line for line in out.splitlines() if line.startswith("devtest"))
    assert line.split()[:6] == ["devtest", "scan", "last", "0.8400", "0.8600", "(+0.0200)"] and line.split()[-1] == "4"
    code, out, _ = command(*words, "--json")
    assert code == 0 and json.loads(out) == compared(*pair)
    code, _, err = command("study", "compare", "zz", pair[0].identity, "--store", store)
    assert code == 2 and err.startswith("vqseg: error: run 'zz'") and err.count("\n") == 1
