"""Which cells a report speaks about, and which differences between runs a table refuses."""

import subprocess
import sys

import fabricated
import pandas as pd
import pytest

from vqseg.errors import InputError
from vqseg.files import write_json
from vqseg.records.run import RunFolder
from vqseg.report import ablation, arms, content, forest, statistics
from vqseg.report.agreement import declares
from vqseg.report.selection import Options, disagreements, select

KEY = "perturbation mask.py:Mask"


def study(**arms):
    rows = [{"label": label, "overrides": overrides} for label, overrides in arms.items()]
    return {"name": "s", "arms": rows, "base_config": {"perturbation": {"name": "none"}}, "overrides": {}}


def named(path, **options):
    return {"perturbation": {"name": f"{path}:Mask", **options}}


def found(record, **hashes):
    """Return the differences between runs ``arm_seed`` with these hashes of the part's code."""
    rows = [
        {"identity": run, "name": run, "arm": run.partition("_")[0], "code": {KEY: code, "vqseg.train": "t"}}
        for run, code in hashes.items()
    ]
    scores = pd.DataFrame({"identity": list(hashes), "scoring": "s"})
    return disagreements(pd.DataFrame(rows), scores, record)


def test_arms_that_name_two_files_of_one_name_are_two_variants():
    record = study(one=named("/a/v1/mask.py"), two=named("/a/v2/mask.py"))
    assert found(record, one_0="1", one_1="1", two_0="2") == []


@pytest.mark.parametrize("two", [named("/a/mask.py", rate=0.3), {"perturbation.name": "/a/mask.py:Mask"}])
def test_one_file_that_changed_between_runs_is_refused_within_an_arm_and_across(two):
    record = study(one=named("/a/mask.py"), two=two)
    (said,) = found(record, one_0="1", one_1="1", two_0="2")
    assert said == f"code of {KEY} 1 ('one_0' and 1 more) against 2 ('two_0')"
    assert found(record, one_0="1", one_1="2") != []
    assert found(record, one_0="1", two_0="1") == []


def test_an_arm_that_takes_the_base_config_means_the_file_that_stands_there():
    record = study(one={}, two={"perturbation.rate": 0.3}, three=named("/a/mask.py"), four=named("/b/mask.py"))
    record["base_config"]["perturbation"]["name"] = "/a/mask.py:Mask"
    assert found(record, one_0="1", two_0="2") != []
    assert found(record, one_0="1", three_0="2") != []
    assert found(record, one_0="1", two_0="1", three_0="1", four_0="2") == []
    typed = {**record, "overrides": {"perturbation": {"name": "/b/mask.py:Mask"}}}
    assert found(typed, one_0="1", four_0="2") != []


def test_installed_code_and_ours_are_compared_between_all():
    record = study(one={"method": "pack.mine:M"}, two={"method": "pack.mine:M"})
    rows = pd.DataFrame(
        [
            {"identity": arm, "name": arm, "arm": arm, "code": {"method pack.mine:M": code, "vqseg.train": code}}
            for arm, code in (("one", "1"), ("two", "2"))
        ]
    )
    said = disagreements(rows, pd.DataFrame({"identity": ["one", "two"], "scoring": "s"}), record)
    assert [text.split(" 1 ")[0] for text in said] == ["code of method pack.mine:M", "code of vqseg.train"]


def test_reports_import_no_torch():
    program = "import sys, vqseg.report.selection; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# agreement


ARMS = {"none": 84.0, "qpm eps=0.7": 86.0}


def fabricate(store, labels=ARMS, **options):
    return fabricated.study(store, labels, **{"seeds": 3, "patients": 4, "parts": ("val", "devtest"), **options})


def chosen(store, record, **options):
    return select(store, record, Options(**options))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"data": {"name": "acdc", "root": "r", "digest": "x", "synthetic": False}},
            "data dddddddddddddddd .* against x",
        ),
        ({"split": {"name": "7", "digest": "x", "parts": {"labelled": {"patients": 7}}}}, "split ssss.* against x"),
        (
            {"split": {"name": "7", "digest": "s" * 16, "parts": {"labelled": {"patients": 3}}}},
            "labelled patients 7 .* 3 ",
        ),
        ({"steps": 999}, "steps 2000 .* against 999"),
        ({"labels": "all"}, "labels labelled .* against all"),
        ({"preset": "paper"}, "preset cpu .* against paper"),
        ({"scoring": "x"}, "scoring code sc1 .* against x"),
        ({"provenance": {"precision": "bf16"}}, "precision fp32 .* against bf16"),
        ({"code": {"vqseg.train": "x"}}, "code of vqseg.train t1 .* against x"),
        ({"code": {"vqseg.perturbations.none": "x"}}, "code of vqseg.perturbations.none p1 .* against x"),
    ],
)
def test_every_undeclared_difference_is_refused_by_name_and_said_in_the_caption_if_asked_for(tmp_path, changes, words):
    made = fabricate(tmp_path)
    RunFolder(tmp_path, made["cells"][0]["identity"]).update(**changes)
    with pytest.raises(InputError, match=f"the runs do not belong in one table: .*{words}"):
        chosen(tmp_path, made)
    caption = content.conditions(chosen(tmp_path, made, allow_mixed=True))
    assert "MIXED RUNS, asked for with --allow-mixed: " in caption and words.partition(" ")[0] in caption


def test_rows_of_other_scoring_code_are_refused_whatever_the_status_says(tmp_path):
    made = fabricate(tmp_path)
    path = tmp_path / "runs" / made["cells"][0]["identity"] / "rows.parquet"
    rows = pd.read_parquet(path)
    rows.assign(scoring="x").to_parquet(path, index=False)
    with pytest.raises(InputError, match="scoring of rows sc1 .* against x"):
        chosen(tmp_path, made)


def test_lesions_marked_otherwise_are_refused(tmp_path):
    made = fabricate(tmp_path)
    run = RunFolder(tmp_path, made["cells"][0]["identity"])
    run.update(evaluations=[{**one, "lesions": {"RV": 2.0}} for one in run.status()["evaluations"]])
    with pytest.raises(InputError, match="lesion marks none .* against RV=2"):
        chosen(tmp_path, made)


def declaring(base=None, **arms):
    rows = [{"label": label, "overrides": overrides} for label, overrides in arms.items()]
    return {"arms": rows, "base_config": base or {"preset": "cpu", "train": {"steps": 800, "precision": "fp32"}}}


def test_a_setting_is_declared_where_arms_differ_in_it_not_where_all_set_it_alike():
    assert declares(declaring(one={"train.steps": 5}, two={"train.steps": 9}), "train.steps")
    assert declares(declaring(one={}, two={"train.steps": 9}), "train.steps")
    assert not declares(declaring(one={"train.steps": 9}, two={"train.steps": 9}), "train.steps")
    assert not declares(declaring(one={}, two={"train.steps": 800}), "train.steps")
    assert not declares(declaring(one={"perturbation": "none"}, two={"perturbation": "qpm"}), "train.steps")


def test_an_arm_that_is_a_preset_declares_what_its_sections_set():
    paper = {"preset": "paper", "train": {"steps": 100, "precision": "fp32"}, "data": {"labels": "labelled"}}
    record = declaring(one={}, paper=paper)
    assert declares(record, "preset") and declares(record, "train.steps")
    assert not declares(record, "train.precision")  # the section says what the others have
    kept = declaring(one={}, paper={**paper, "train.steps": 800})
    assert not declares(kept, "train.steps") and declares(kept, "preset")


def test_a_study_of_presets_agrees_but_not_in_code_that_its_runs_share(tmp_path):
    made = fabricate(tmp_path)
    made["base_config"] = {"preset": "cpu", "train": {"steps": 2000}}
    made["arms"][1]["overrides"] = {"preset": "paper", "train": {"steps": 50}, "method": {"name": "paper"}}
    for cell in made["cells"][3:]:
        code = {"vqseg.train": "t1", "vqseg.methods.paper": "m"}
        RunFolder(tmp_path, cell["identity"]).update(preset="paper", steps=50, code=code)
    assert chosen(tmp_path, made).differences == []
    for cell in made["cells"][3:]:
        RunFolder(tmp_path, cell["identity"]).update(code={"vqseg.train": "t2", "vqseg.methods.paper": "m"})
    with pytest.raises(InputError, match="code of vqseg.train"):
        chosen(tmp_path, made)


# cells


def test_cells_and_scores_have_draws_and_the_interval_covers_them(tmp_path):
    made = fabricate(tmp_path, draws=3)
    selection = chosen(tmp_path, made)
    assert len(selection.cells) == 18 and selection.draws == 3
    assert selection.scores.groupby("arm")["draw"].nunique().tolist() == [3, 3]
    assert "draws 0-2 of the labelled patients" in content.conditions(selection)
    main = ablation.scores_section(selection).tables[0]
    assert main.headers[1] == "runs" and main.rows[0].cells[0].text == "9/9"
    assert statistics.covers(3) in main.caption and "mean ± sd over runs (draws x seeds)" in main.caption
    assert "; 3 draws x 3 seeds x 4 patients; runs " in main.rows[1].cells[1].tip
    line = arms.compute(selection.scores, selection.cells, reference="none", columns=["dice"]).iloc[0]
    assert line[["draws", "seeds", "patients"]].tolist() == [3, 3, 4] and len(line["runs"].split()) == 9
    means = selection.headline[selection.headline["arm"] == "none"].groupby(["draw", "seed"])["dice"].mean()
    assert line["value"] == pytest.approx(100 * means.mean()) and line["sd"] == pytest.approx(100 * means.std())
    assert len(forest.compute(selection.scores, "none", "dice", selection.arms)["by_seed"].iloc[0]) == 9
    assert "3 draws x 3 seeds x 4 patients" in " ".join(ablation.best_sentence(selection))


def test_one_draw_is_draw_zero_and_changes_no_word(tmp_path):
    made = fabricate(tmp_path)
    selection = chosen(tmp_path, made)
    assert set(selection.cells["draw"]) == set(selection.scores["draw"]) == {0}
    assert "draws" not in content.conditions(selection)
    caption = ablation.scores_section(selection).tables[0].caption
    assert statistics.covers(1) in caption and "mean ± sd over seeds." in caption


def test_rivals_stand_in_a_table_of_draws(tmp_path):
    made = fabricate(tmp_path, draws=2)
    fabricated.rival(tmp_path, patients=4)
    selection = chosen(tmp_path, made)
    assert selection.tabled_scores["draw"].notna().all()
    assert [row.label for row in ablation.scores_section(selection).tables[0].rows][-1] == "nnU-Net ‡"


def test_a_run_that_several_cells_of_an_arm_mean_is_counted_once(tmp_path):
    made = fabricate(tmp_path)
    made["cells"] += [{**cell, "draw": 1} for cell in made["cells"] if cell["arm"] == "qpm eps=0.7"]
    selection = chosen(tmp_path, made)
    assert len(selection.cells) == 9 and selection.draws == 1
    assert selection.headline.groupby("arm").size().nunique() == 1
    assert any("qpm eps=0.7: 3 of its cells are a run that another one is too" in note for note in selection.notes)
    plain = statistics.compare(selection.headline.assign(value=selection.headline["dice"]), "none").iloc[0]
    assert (plain["seeds"], plain["draws"]) == (3, 1)


def test_two_arms_that_are_the_same_run_are_both_rows(tmp_path):
    made = fabricate(tmp_path)
    made["arms"].append({**made["arms"][0], "label": "twin"})
    made["cells"] += [{**cell, "arm": "twin"} for cell in made["cells"] if cell["arm"] == "none"]
    selection = chosen(tmp_path, made)
    assert selection.notes == []
    table = ablation.scores_section(selection).tables[0]
    assert [cell.text for cell in table.rows[0].cells[:3]] == [cell.text for cell in table.rows[2].cells[:3]]


def test_what_was_skipped_or_pruned_is_said(tmp_path):
    made = fabricate(tmp_path, {**ARMS, "trial 1": 70.0, "trial 2": 71.0})
    made["skipped"] = [{"label": "dinov2", "reason": "no weights at /w; vqseg priors says how"}]
    for cell in made["cells"]:
        if cell["arm"].startswith("trial"):
            RunFolder(tmp_path, cell["identity"]).update(state="pruned", pruned={"by": "s", "why": "others did better"})
        if (cell["arm"], cell["seed"]) in (("none", 1), ("none", 2)):
            RunFolder(tmp_path, cell["identity"]).update(state="interrupted")
    selection = chosen(tmp_path, made)
    assert selection.skipped == {"dinov2": "no weights at /w; vqseg priors says how"}
    assert set(selection.missing.loc[selection.missing["state"] == "pruned", "error"]) == {"others did better"}
    runs = [cell["identity"] for cell in made["cells"] if cell["arm"] == "none"]
    assert content.missing_words(selection) == [
        f"none, seed 1: interrupted ({runs[1]})",
        f"none, seed 2: interrupted ({runs[2]})",
        "pruned by the search: trial 1, trial 2",
        "dinov2: skipped: no weights at /w; vqseg priors says how",
    ]


def test_a_study_of_another_ones_cells_is_read_as_any(tmp_path):
    made = fabricate(tmp_path, protocols=("scan", "ssl4mis"))
    again = {**made, "name": "protocols-of-it", "study": "protocols", "of": made["name"]}
    write_json(tmp_path / "studies" / again["name"] / "study.json", again)
    selection = chosen(tmp_path, again, protocol="ssl4mis")
    assert selection.protocol == "ssl4mis" and len(selection.used) == 6
