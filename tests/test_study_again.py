"""A study that trains nothing: the cells of another one, scored again under every protocol."""

import pandas as pd
import pytest

from vqseg import experiment
from vqseg.config import load_config
from vqseg.files import read_json, write_json, write_yaml
from vqseg.study.cells import Request, plan_cell, prepare, write

STUDY = """
question: Does a tiny study work?
preset: tiny.yaml
seeds: [0]
reference: none
arms:
  - {family: none, set: {perturbation: none}}
  - {family: qpm, set: {perturbation: qpm}}
"""
NAME, AGAIN = "mini-phantom-tiny", "protocols-mini-phantom-tiny"


@pytest.fixture(scope="module")
def desk(tmp_path_factory, phantom_root, tiny):
    """A study of two cells of which one is finished, and the folder that it was started in."""
    folder = tmp_path_factory.mktemp("again")
    tree = load_config("smoke", [*tiny, "train.steps=2"]).plain()
    tree.pop("preset")
    write_yaml(folder / "tiny.yaml", tree)
    (folder / "mini.yaml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        study, record, _ = prepare(Request("mini.yaml", folder / "vqseg-store", phantom_root))
        write(study, record)
        cell = record["cells"][0]
        experiment.run(plan_cell(record, study.store, cell), name=cell["name"])
    return folder


@pytest.fixture
def vqseg(desk, command, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("VQSEG_NO_MIRROR", "1")
    return command


def evaluations(desk):
    record = read_json(desk / "vqseg-store" / "studies" / NAME / "study.json")
    status = read_json(desk / "vqseg-store" / "runs" / record["cells"][0]["identity"] / "status.json")
    return record, [one for one in status["evaluations"] if one["part"] == "test"]


def test_a_dry_run_says_what_would_be_scored_and_writes_nothing(vqseg, desk):
    code, out, _ = vqseg("study", "run", "protocols", "--of", "mini", "--dry-run")
    assert code == 0 and f"1 finished cells of {NAME} on test, protocols: all; nothing is trained" in out
    assert not (desk / "vqseg-store" / "studies" / AGAIN).exists()


def test_the_cells_are_scored_under_every_protocol_once_and_are_that_studys(vqseg, desk):
    words = ("study", "run", "protocols", "--of", NAME, "--device", "cpu")
    code, out, err = vqseg(*words)
    assert code == 0, err
    assert f"{NAME}: 1 cells scored on test" in out and "1 cells are not finished and were left out" in err
    path = desk / "vqseg-store" / "studies" / AGAIN / "study.json"
    record, found = read_json(path), evaluations(desk)
    source, (first,) = found
    assert first["protocols"] == ["scan", "ssl4mis", "unimatch", "vqseg-release"]
    rows = desk / "vqseg-store" / "runs" / source["cells"][0]["identity"] / "rows.parquet"
    assert set(pd.read_parquet(rows).query("part == 'test'")["protocol"]) == set(first["protocols"])
    assert (record["study"], record["of"], record["name"]) == ("protocols", NAME, AGAIN)
    assert record["cells"] == source["cells"] and record["question"].startswith("How much of a ranking")
    before = path.stat().st_mtime_ns
    code, out, _ = vqseg(*words)
    assert code == 0 and "0 cells scored on test, 1 had been before" in out
    assert evaluations(desk) == found and path.stat().st_mtime_ns == before
    code, out, _ = vqseg("study", "list")
    assert f"{AGAIN} (2 cells, the runs of {NAME}, split labelled-1," in out
    code, out, _ = vqseg("study", "status", AGAIN)
    assert code == 0 and "finished" in out
    code, _, err = vqseg("study", "run", "protocols", "--of", "protocols")
    assert code == 2 and f"--of protocols: was itself scored again; name the study that was trained, {NAME}" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["protocols"], "--of: is missing; study 'protocols' trains nothing"),
        (["protocols", "--of", "min"], "unknown study 'min'"),
        (["protocols", "--of", "mini", "--part", "devtest"], "part 'devtest' is not in split"),
        (["protocols", "--of", "mini", "--part", "labelled"], "--part labelled: is for training"),
        (["protocols", "--of", "mini", "--seeds", "0"], "--seeds: study 'protocols' trains nothing, and takes all of"),
        (["protocols", "--of", "mini", "--data", "x"], "--data: study 'protocols' trains nothing"),
        (["protocols", "--of", "mini", "--set", "a=1"], "--set: study 'protocols' trains nothing"),
        (["mini.yaml", "--of", "mini"], "--of: study 'mini.yaml' trains its own cells; leave it out"),
        (["mini.yaml", "--part", "test"], "--part: study 'mini.yaml' trains its own cells; leave it out"),
    ],
)
def test_what_does_not_go_together_is_one_line(vqseg, words, message):
    code, _, err = vqseg("study", "run", *words)
    assert code == 2 and err.startswith("vqseg: error: ") and err.count("\n") == 1 and message in err


def test_a_study_without_a_finished_cell_or_a_test_part_is_refused(vqseg, desk, phantom_root):
    record = read_json(desk / "vqseg-store" / "studies" / NAME / "study.json")
    bare = {**record, "name": "bare", "study": "bare", "cells": record["cells"][1:]}
    write_json(desk / "vqseg-store" / "studies" / "bare" / "study.json", bare)
    code, _, err = vqseg("study", "run", "protocols", "--of", "bare")
    assert code == 2 and "study bare: no cell is finished; run it first" in err
    assert not (desk / "vqseg-store" / "studies" / "protocols-bare").exists()


def test_another_study_of_that_name_is_not_written_over(vqseg, desk):
    place = desk / "vqseg-store" / "studies"
    record = {**read_json(place / NAME / "study.json"), "name": "mine", "study": "mine"}
    write_json(place / "mine" / "study.json", record)
    write_json(place / "protocols-mine" / "study.json", {**record, "name": "protocols-mine"})
    before = (place / "protocols-mine" / "study.json").read_text()
    code, _, err = vqseg("study", "run", "protocols", "--of", "mine")
    assert code == 2 and "study protocols-mine: is there already, and is no scoring of mine; rename it" in err
    assert (place / "protocols-mine" / "study.json").read_text() == before


def test_a_study_that_trains_nothing_has_no_cells_of_its_own(desk, phantom_root, monkeypatch):
    from vqseg.errors import InputError

    monkeypatch.chdir(desk)
    with pytest.raises(InputError, match="study 'protocols' trains nothing; it scores another study again"):
        prepare(Request("protocols", desk / "vqseg-store", phantom_root))
