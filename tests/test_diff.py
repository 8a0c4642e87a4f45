"""Two stores or two studies: what is new, gone or otherwise, what moved, and that nothing is said to be nothing."""

import shutil

import fabricated
import pandas as pd
import pytest
from rendered import quick_figures

from vqseg.errors import InputError
from vqseg.files import read_json, read_yaml, write_json, write_yaml
from vqseg.records import differences, index
from vqseg.records.run import RunFolder
from vqseg.report import changes, diff
from vqseg.report.make import make
from vqseg.report.options import Options

ARMS = {"none": 84.0, "qpm eps=0.7": 86.0, "dropout p=0.9": 75.0}
NAME = "epsilon-sweep-acdc-cpu"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    store = tmp_path_factory.mktemp("old") / "store"
    fabricated.study(store, ARMS, seeds=3, patients=4)
    return store


@pytest.fixture
def stores(original, tmp_path, monkeypatch):
    """A store as it was, and a copy to be changed; figures cost nothing."""
    quick_figures(monkeypatch)
    shutil.copytree(original, tmp_path / "new")
    return original, tmp_path / "new"


def between(old, new, **options):
    return diff.between(*((store, index.studies(store)) for store in (old, new)), Options(**options))


def record(store):
    return read_json(store / "studies" / NAME / "study.json")


def runs_of(store, arm):
    return [cell["identity"] for cell in record(store)["cells"] if cell["arm"] == arm]


def rescore(store, identity, by):
    path = store / "runs" / identity / "rows.parquet"
    rows = pd.read_parquet(path)
    rows.assign(dice=(rows["dice"] + by).clip(0, 1)).to_parquet(path, index=False)


def tables(report):
    return {table.name: table for section in report.sections for table in section.tables}


def renamed(store, old, new, **settings):
    """Let a cell be another run, with other settings."""
    shutil.copytree(store / "runs" / old, store / "runs" / new)
    config = read_yaml(store / "runs" / new / "config.yaml")
    write_yaml(store / "runs" / new / "config.yaml", {**config, **settings})
    study = record(store)
    cells = [{**cell, "identity": new if cell["identity"] == old else cell["identity"]} for cell in study["cells"]]
    write_json(store / "studies" / NAME / "study.json", {**study, "cells": cells})


def test_two_alike_stores_differ_in_nothing(stores):
    report = between(*stores)
    assert report.sections == [] and len(report.summary) == 1
    assert report.summary[0].startswith("Nothing changed: 1 study, 9 cells, the scores of 3 arms, every printed number")
    made = make("diff", *map(str, stores), store=stores[0])
    assert "Nothing changed" in made.words and made.paths[0] == stores[1] / "reports" / "diff-store-new" / "index.html"
    assert not make("diff", *map(str, stores), store=stores[0]).anew


def test_cells_that_are_new_or_gone_are_named(stores):
    old, new = stores
    study = record(new)
    gone = [cell for cell in study["cells"] if cell["arm"] != "dropout p=0.9" or cell["seed"] != 2]
    shutil.copytree(new / "runs" / runs_of(new, "none")[0], new / "runs" / ("abcd" * 4))
    added = {"arm": "none", "seed": 3, "identity": "abcd" * 4, "name": "none, seed 3"}
    write_json(new / "studies" / NAME / "study.json", {**study, "cells": [*gone, added]})
    report = between(old, new)
    assert "Cells: 8 same, 1 gone, 1 new." in report.summary
    rows = {row.label: [cell.text for cell in row.cells] for row in tables(report)["runs"].rows}
    assert rows["dropout p=0.9"][1:3] == ["gone", "2"] and rows["none"][1:3] == ["new", "3"]
    # The means of both sides are over the seeds that both have.
    assert "Scores moved in 0 of 3 arms that both sides have." in report.summary


def test_other_settings_are_told_leaf_by_leaf(stores):
    old, new = stores
    for number, identity in enumerate(runs_of(new, "qpm eps=0.7")):
        renamed(new, identity, f"{number:016x}", perturbation={"name": "qpm", "rate": 0.5}, network={"skips": False})
    report = between(old, new)
    (row,) = tables(report)["runs"].rows
    assert (row.label, row.cells[1].text, row.cells[2].text) == ("qpm eps=0.7", "other settings", "0, 1, 2")
    assert "perturbation.rate 0.7 → 0.5" in row.cells[3].text and "network.skips none → False" in row.cells[3].text
    assert "0000000000000000" in row.cells[2].tip


def test_other_code_data_or_machine_is_told_without_other_settings(stores):
    old, new = stores
    run = RunFolder(new, runs_of(new, "none")[0])
    status = run.status()
    run.update(code={**status["code"], "vqseg.train": "t2"}, provenance={**status["provenance"], "torch": "2.14.0"})
    rescore(new, run.identity, 0.001)
    report = between(old, new, allow_mixed=True)
    (row,) = tables(report)["runs"].rows
    assert row.cells[1].text == "other circumstances"
    assert row.cells[3].text == "code of vqseg.train t1 → t2; torch 2.13.0 → 2.14.0"


def test_scores_are_paired_and_the_tables_that_print_otherwise_are_named(stores):
    old, new = stores
    for identity in runs_of(new, "none"):
        rescore(new, identity, 0.02)
    report = between(old, new)
    moved = tables(report)["scores"]
    assert [row.label for row in moved.rows] == ["none", "qpm eps=0.7", "dropout p=0.9"]
    line = moved.tidy.set_index("arm").loc["none"]
    assert line["value"] == pytest.approx(2.0, abs=0.05) and line["after"] - line["before"] == pytest.approx(
        line["value"]
    )
    assert (line["seeds"], line["patients"]) == (3, 4) and set(line["runs"].split()) == set(runs_of(old, "none"))
    assert moved.tidy.set_index("arm").loc["qpm eps=0.7", "value"] == 0
    assert "2 of 3 arms scored the same." in report.sections[1].paragraphs
    numbers = tables(report)["printed"]
    assert {cell.cells[1].text for cell in numbers.rows} >= {"arms", "checkpoints", "qpm-against"}
    assert any(row.label == "none (reference)" and row.cells[2].text == "Dice (%)" for row in numbers.rows)
    assert tables(report)["runs"].rows[0].cells[1].text == "other scores"


CLAIM = {
    "claim": "QPM .7 helps.", "source": "us", "study": "epsilon-sweep", "kind": "effect", "short": "QPM against none",
    "arm": {"label": "qpm eps=0.7"}, "against": {"label": "none"}, "published": {"where": "nowhere"}, "about": "Ours.",
}  # fmt: skip


def test_a_verdict_that_turned_is_named(stores):
    old, new = stores
    for store in stores:
        write_yaml(store / "claims" / "own.yaml", CLAIM)
    for identity in runs_of(new, "qpm eps=0.7"):
        rescore(new, identity, -0.08)
    report = between(old, new)
    turned = tables(report)["verdicts"]
    assert len(turned.rows) >= 1 and all(row.cells[1].text != row.cells[2].text for row in turned.rows)
    assert all("Dice" in row.cells[4].text for row in turned.rows)
    assert f"{len(turned.rows)} of " in report.summary[-1]


def test_two_studies_of_one_store(stores):
    _, store = stores
    fabricated.study(store, {"none": 84.0, "qpm eps=0.7": 88.0}, name="again", seeds=2, patients=4)
    made = make("diff", NAME, "again", store=store)
    assert made.paths[0].parent.name == f"diff-{NAME}-again"
    report = diff.build(store, [index.find_study(store, name) for name in (NAME, "again")], Options())
    assert report.summary[0] == "Cells: 5 gone, 4 other circumstances."
    assert report.title == f"What changed: {NAME} → again"
    assert {row.label for row in tables(report)["scores"].rows} == {"none", "qpm eps=0.7"}
    as_folders = diff.sides(store, [str(store / "studies" / name) for name in (NAME, "again")])
    assert [side[1][0]["name"] for side in as_folders] == [NAME, "again"]


def test_a_study_that_only_one_store_has_is_named(stores):
    old, new = stores
    fabricated.study(new, {"none": 84.0}, name="more", definition="more", seeds=1, patients=2)
    report = between(old, new)
    assert "New: more." in report.summary
    assert [row.label for row in tables(report)["runs"].rows] == ["every arm"]
    assert "Gone: more." in between(new, old).summary


def test_parts_that_do_not_compare_are_said_not_to(stores):
    old, new = stores
    for identity in [cell["identity"] for cell in record(new)["cells"]]:
        path = new / "runs" / identity / "rows.parquet"
        rows = pd.read_parquet(path)
        rows[rows["part"] == "val"].to_parquet(path, index=False)
    report = between(old, new)
    words = " ".join(words for section in report.sections for words in section.paragraphs)
    assert "scored on devtest by scan before and on val by scan now, which do not compare" in words
    assert "scores" not in tables(report)


def test_a_study_without_scores_on_one_side_says_so(stores):
    old, new = stores
    for cell in record(new)["cells"]:
        RunFolder(new, cell["identity"]).update(state="interrupted")
    report = between(old, new)
    assert any("New epsilon-sweep-acdc-cpu cannot be tabulated" in words for words in report.sections[0].paragraphs)
    assert {row.cells[3].text for row in tables(report)["runs"].rows} == {"finished → interrupted"}


@pytest.mark.parametrize(
    ("subjects", "says"),
    [
        ([], "got 0 names, expected two stores or two studies: vqseg report diff OLD NEW"),
        (["a"], "got 1 name, expected two"),
        ([NAME, "nope"], "unknown study 'nope'"),
        (["STORE", NAME], "are a store and a study"),
    ],
)
def test_what_cannot_be_compared_is_refused(original, subjects, says):
    named = [str(original) if subject == "STORE" else subject for subject in subjects]
    with pytest.raises(InputError) as error:
        make("diff", *named, store=original)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_differences_of_settings_and_of_what_lies_around():
    one = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert differences.settings(one, {"a": 1, "b": {"c": [1], "e": 3}}) == {"b.c": ([1, 2], [1]), "b.e": (None, 3)}
    status = {"data": {"digest": "x"}, "code": {"vqseg.train": "1", "vqseg.perturbations.qpm": "2"}, "scoring": "s"}
    other = {"data": {"digest": "y"}, "code": {"vqseg.train": "1", "vqseg.perturbations.none": "3"}, "scoring": "s"}
    assert differences.circumstances(status, other) == {"data.digest": ("x", "y")}


def test_many_differences_are_shortened():
    found = {f"key{n}": (n, n + 1) for n in range(9)}
    words = changes._told(found)
    assert words.startswith("key0 0 → 1; ") and words.endswith("key5 5 → 6 and 3 more")
    assert changes._shown("x" * 40) == "x" * 21 + "..."


def test_studies_without_a_common_arm_are_said_to_have_none(stores):
    _, store = stores
    fabricated.study(store, {"mine": 84.0}, name="apart", definition="own", reference="mine", seeds=1, patients=2)
    report = diff.build(store, [index.find_study(store, name) for name in (NAME, "apart")], Options())
    assert "No arm is scored on both sides." in report.summary and "All numbers print alike." in report.summary
    assert report.summary[-1] == "No claim is judged on both sides." and list(tables(report)) == ["runs"]
