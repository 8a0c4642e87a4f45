"""Methods by labels: what stands in a row, in which column, what is merged, what stands apart; and methods in words."""

import fabricated
import pandas as pd
import placed
import pytest
from rendered import quick_figures

from vqseg.files import read_yaml, write_yaml
from vqseg.records import index
from vqseg.records.run import RunFolder
from vqseg.report import main, main_tables, methods_text, paired
from vqseg.report.make import make
from vqseg.report.options import Options
from vqseg.report.selection import select

SMALL = {"seeds": 3, "patients": 4}
ARMS = {"none": 84.0, "qpm eps=0.7": 86.0, "dropout p=0.9": 75.0, "shuffle rate=1": 83.0}


def alter(store, made, arm, **changes):
    for identity in placed.runs_of(made, arm):
        RunFolder(store, identity).update(**changes)


def built(store, **options):
    return main.build(store, index.studies(store), Options(**options))


def table_of(store, **options):
    return next(table for section in built(store, **options).sections for table in section.tables)


def rows_of(table):
    return {(row.label, row.cells[-1].text): dict(zip(table.headers[1:], row.cells)) for row in table.rows}


def test_of_a_study_stand_its_reference_and_what_was_best_on_validation(tmp_path):
    fabricated.study(tmp_path, ARMS, **SMALL)
    table = table_of(tmp_path)
    rows = rows_of(table)
    assert list(rows) == [("none", "epsilon-sweep-acdc-cpu"), ("qpm eps=0.7", "epsilon-sweep-acdc-cpu")]
    own = rows["qpm eps=0.7", "epsilon-sweep-acdc-cpu"]
    assert own["role"].text == "best on validation" and own["seeds"].text == "3"
    arms = select(tmp_path, index.studies(tmp_path)[0], Options()).headline
    mean = 100 * arms[arms["arm"] == "qpm eps=0.7"].groupby("identity")["dice"].mean()
    assert own["Dice (%)"].text == f"{mean.mean():.2f} ± {mean.std():.2f}"
    assert all(identity in own["Dice (%)"].tip for identity in mean.index)
    assert table.caption.endswith("protocol scan; 2,000 steps; preset cpu; semi-supervised; Commit abc1234.")


def test_a_study_that_has_nothing_to_show_here_is_named_and_breaks_nothing(tmp_path, monkeypatch):
    quick_figures(monkeypatch)
    made = fabricated.study(tmp_path, ARMS, parts=("val", "devtest"), **SMALL)
    placed_elsewhere = {*placed.runs_of(made, "none"), *placed.runs_of(made, "qpm eps=0.7")}
    for identity in placed_elsewhere:
        path = RunFolder(tmp_path, identity).path / "rows.parquet"
        rows = pd.read_parquet(path)
        rows[rows["part"] == "val"].to_parquet(path, index=False)
    report = built(tmp_path, part="devtest")
    said = "neither the reference nor the best arm on validation is scored on devtest"
    assert any(made["name"] in words and said in words for words in report.summary)
    assert not any("No study has scores yet" in words for part in report.sections for words in part.paragraphs)
    assert make("all", store=tmp_path, options=Options(part="devtest")).anew


def test_all_modules_and_training_on_labels_alone_stand_there_too(tmp_path):
    made = fabricated.module_study(tmp_path, {"base": 70.0, "QPM": 71.0, "QPM+DB+PFA": 69.0}, **SMALL)
    alone = fabricated.study(tmp_path, {"none": 60.0, "shuffle rate=1": 55.0}, name="alone", definition="a", **SMALL)
    for identity in placed.runs_of(alone, "shuffle rate=1"):
        path = tmp_path / "runs" / identity / "config.yaml"
        write_yaml(path, {**read_yaml(path), "method": {"name": "supervised"}})
    roles = {key[0]: cells["role"].text for key, cells in rows_of(table_of(tmp_path)).items()}
    assert roles["QPM+DB+PFA"] == "all modules" and roles["shuffle rate=1"] == "labelled only"
    assert roles["base"] == "reference" and made["reference"] == "base"


def test_labelled_patients_are_columns(tmp_path):
    arms = {}
    for kind in ("base", "qpm"):
        for share in (0.05, 0.1, 0.2):
            own = {"at": {"labels": f"{100 * share:g} %", "method": kind}, "overrides": {"data.labelled_share": share}}
            arms[f"{kind} share={share:g}"] = (70 + 100 * share, own | {"family": kind})
    made = placed.study(tmp_path, arms, reference="base share=0.1", definition="label-ratio", seeds=2)
    for share, count in ((0.05, 3), (0.1, 7), (0.2, 14)):
        for kind in ("base", "qpm"):
            parts = {"labelled": {"patients": count}, "devtest": {"patients": 6}}
            split = {"name": "7", "digest": "s" * 16, "parts": parts}
            alter(tmp_path, made, f"{kind} share={share:g}", split=split)
    table = table_of(tmp_path)
    assert table.headers == ["method", "seeds", *(f"Dice (%), {n} labelled" for n in (3, 7, 14)), "role", "study"]
    rows = {label: cells for (label, _), cells in rows_of(table).items()}
    assert set(rows) == {"base §", "qpm"}
    (note,) = (note for note in table.footnotes if note.startswith("§ "))
    assert "base share=" in note and "qpm share=" not in note
    assert float(rows["qpm"]["Dice (%), 14 labelled"].text.split(" ")[0]) == pytest.approx(90, abs=3)
    assert float(rows["qpm"]["Dice (%), 3 labelled"].text.split(" ")[0]) == pytest.approx(75, abs=3)
    assert "reference" in rows["base §"]["role"].text


def test_shares_that_are_the_same_number_of_patients_keep_their_names(tmp_path):
    arms = {f"base share={s}": (70.0, {"overrides": {"data.labelled_share": s}, "family": "base"}) for s in (0.05, 0.1)}
    placed.study(tmp_path, arms, reference="base share=0.1", definition="label-ratio", seeds=2)
    assert {label for label, _ in rows_of(table_of(tmp_path))} == {"base share=0.05", "base share=0.1"}


def test_rows_of_other_data_split_preset_or_protocol_stand_in_tables_of_their_own(tmp_path):
    first = fabricated.study(tmp_path, ARMS, **SMALL)
    other = fabricated.study(tmp_path, {"none": 60.0}, name="other", definition="other", **SMALL)
    placed.keep(tmp_path, {**other, "split": {"name": "3", "digest": "t" * 16}})
    alter(tmp_path, other, "none", split={"name": "3", "digest": "t" * 16, "parts": {"labelled": {"patients": 3}}})
    report = built(tmp_path)
    ours = [table for section in report.sections for table in section.tables if table.name.startswith("main")]
    assert [len(table.rows) for table in ours] == [2, 1] and len({table.name for table in ours}) == 2
    assert "split 3, 3 labelled patients" in ours[1].caption and first["split"]["name"] == "7"


def test_other_steps_make_another_table_and_other_code_a_note(tmp_path):
    fabricated.study(tmp_path, {"none": 84.0}, **SMALL)
    fabricated.study(tmp_path, {"none": 88.0}, name="longer", definition="longer", steps=5000, **SMALL)
    tables = [section.tables[0] for section in built(tmp_path).sections[:2]]
    assert ["5,000 steps" in table.caption for table in tables].count(True) == 1
    assert [len(table.rows) for table in tables] == [1, 1] and len({table.name for table in tables}) == 2
    other = fabricated.study(tmp_path, {"none": 80.0}, name="other", definition="other", **SMALL)
    assert not table_of(tmp_path).footnotes
    alter(tmp_path, other, "none", code={"vqseg.train": "t2", "vqseg.perturbations.none": "p1"})
    (note,) = table_of(tmp_path).footnotes
    assert note.endswith("not the same in all of them: vqseg.train.")


def test_arms_that_are_the_same_runs_are_one_row(tmp_path):
    made = fabricated.study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0}, **SMALL)
    arms = [{**arm, "label": {"none": "base"}.get(arm["label"], arm["label"])} for arm in made["arms"]]
    cells = [{**cell, "arm": {"none": "base"}.get(cell["arm"], cell["arm"])} for cell in made["cells"]]
    placed.keep(
        tmp_path, {**made, "name": "again", "study": "again", "arms": arms, "cells": cells, "reference": "base"}
    )
    rows = rows_of(table_of(tmp_path))
    assert len(rows) == 2
    label, studies = next(key for key in rows if "base" in key[0])
    assert set(label.split(" = ")) == {"none", "base"}
    assert set(studies.split(", ")) == {"again", "epsilon-sweep-acdc-cpu"}


def test_rivals_stand_below_and_what_they_did_not_tell_is_a_question_mark(tmp_path):
    fabricated.study(tmp_path, ARMS, **SMALL)
    fabricated.rival(tmp_path, patients=4)
    fabricated.rival(tmp_path, "told", patients=4, labelled=7)
    table = table_of(tmp_path)
    assert table.headers[2:4] == ["Dice (%), 7 labelled", "Dice (%), ? labelled"]
    rows = rows_of(table)
    assert rows["nnU-Net ‡", "—"]["Dice (%), ? labelled"].text == "80.00"
    assert rows["told ‡", "—"]["Dice (%), 7 labelled"].text != "—" == rows["told ‡", "—"]["Dice (%), ? labelled"].text
    assert [row.ruled for row in table.rows] == [False, False, True, False]
    assert table.footnotes[0].startswith("‡ scored from predictions")
    assert len(table_of(tmp_path, rivals=False).rows) == 2


def test_a_published_row_stands_among_ours_only_under_the_same_conditions(tmp_path):
    fabricated.study(tmp_path, ARMS, parts=("val", "test"), protocols=("scan", "ssl4mis"), **SMALL)
    scan = built(tmp_path)
    assert len(scan.sections[0].tables[0].rows) == 2
    ssl = built(tmp_path, protocol="ssl4mis").sections[0].tables[0]
    published = [row for row in ssl.rows if row.cells[-2].text == "published"]
    assert {row.label for row in published} >= {"SS-Net [T]", "BCP [T]", "U-Net, labelled only [T]"}
    assert published[0].ruled and all(row.cells[0].text == "?" for row in published)
    values = dict(zip(ssl.headers[1:], next(row for row in published if row.label == "SS-Net [T]").cells))
    assert values["Dice (%)"].text == "86.78" and values["HD95 (voxel)"].text == "6.07"
    assert any("SS-Net: as copied by later papers" in note for note in ssl.footnotes)
    beside = built(tmp_path, protocol="ssl4mis").sections[-1].tables[0]
    inside = [row for row in beside.rows if row.label == "SS-Net"]
    assert len(inside) == 2 and {row.cells[0].text for row in inside} == {"test", "val+test"}
    columns = beside.headers[3:]
    # That of 7 labelled patients stands among ours; those of 3 stay here.
    assert dict(zip(columns, inside[0].cells[2:]))["10 % (7 patients)"].text == "—"


def test_the_panel_of_published_rows_marks_what_cannot_be(tmp_path):
    fabricated.study(tmp_path, ARMS, **SMALL)
    panel = built(tmp_path).sections[-1]
    assert panel.paragraphs == [main_tables.APART]
    table = panel.tables[0]
    cells = [(row.label, cell) for row in table.rows for cell in row.cells if "†" in cell.text]
    assert {label for label, _ in cells} == {
        "VQ-Seg", "ABD", "Unimatch", "nnUNet-F", "ACTION", "ARCO", "Semi-AGCL",
    }  # fmt: skip
    assert sum(label == "VQ-Seg" for label, _ in cells) == 2
    dpms = next(row for row in table.rows if row.label == "DPMS")
    assert any("±" in cell.text for cell in dpms.cells)
    assert "[P] primary source" in table.caption and "?" in {row.cells[1].text for row in table.rows}
    assert {"arm", "column", "value", "runs"} <= set(table.tidy) and len(table.tidy) > len(table.rows)


def test_phantoms_come_last_and_are_watermarked(tmp_path, monkeypatch):
    quick_figures(monkeypatch)
    fabricated.study(tmp_path, {"none": 84.0}, **SMALL)
    fabricated.study(tmp_path, ARMS, name="p", definition="p", data="phantom", synthetic=True, **SMALL)
    report = built(tmp_path)
    tables = [table for section in report.sections for table in section.tables if table.name.startswith("main")]
    assert [table.phantom for table in tables] == [False, True] and tables[0].name == "main"
    made = make("main", store=tmp_path)
    assert "Some studies are of synthetic images (phantom)" in made.words
    names = {path.name for path in made.paths}
    assert {"index.html", "report.md", "report.tex", "main.tex", "main.csv", "main-cells.csv", "published.md"} <= names


def test_what_cannot_be_tabulated_says_why(tmp_path):
    made = fabricated.study(tmp_path, {"none": 84.0}, **SMALL)
    alter(tmp_path, made, "none", state="interrupted", step=1000)
    report = built(tmp_path)
    assert report.sections[0].paragraphs[0].startswith("No study has scores yet")
    assert any(line.startswith("Left out: study 'epsilon-sweep-acdc-cpu': no finished run") for line in report.summary)
    assert any("3 interrupted of 3 cells" in line for line in report.summary)
    assert [section.title for section in report.sections[1:]] == ["Published on ACDC", "Published on LC"]


# the patient-paired figure


def paired_of(tmp_path, weights, **options):
    made = fabricated.study(tmp_path, {"none": 80.0, "qpm eps=0.7": 82.0, "shuffle rate=1": 78.0}, **options)
    selection = select(tmp_path, made, Options())
    return selection, paired.Pair("a", "b", weights)


def test_patients_are_paired_by_seed(tmp_path):
    selection, pair = paired_of(tmp_path, {"qpm eps=0.7": 1.0, "none": -1.0}, **SMALL)
    pairs = paired.compute(selection.headline, pair, "dice")
    assert len(pairs) == 12 and set(pairs["seed"]) == {0, 1, 2}
    rows = selection.headline
    one = rows[(rows["arm"] == "qpm eps=0.7") & (rows["seed"] == 1) & (rows["patient"] == "p2")]["dice"].mean() * 100
    line = pairs[(pairs["seed"] == 1) & (pairs["patient"] == "p2")].iloc[0]
    assert line["arm"] == pytest.approx(one) and line["difference"] == pytest.approx(line["arm"] - line["against"])
    means = pairs.groupby("patient", sort=False)["difference"].mean()
    assert means.is_monotonic_increasing
    tested = paired.estimate(selection.headline, pair, "dice")
    assert tested["estimate"] == pytest.approx(means.mean())
    picture = paired.picture(selection, pair, "dice")
    assert f"{(means > 0).sum()} of 4 patients are better with a" in picture.caption
    assert picture.caption.endswith("semi-supervised. Commit abc1234.") and "3 seeds x 4 patients" in picture.caption
    left, right = picture.figure.axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["b", "a"]
    assert "mean [95 %]" in [label.get_text() for label in right.get_yticklabels()]


def test_a_side_may_be_the_mean_of_arms(tmp_path):
    weights = {"qpm eps=0.7": 0.5, "shuffle rate=1": 0.5, "none": -1.0}
    selection, pair = paired_of(tmp_path, weights, noise=0.0, **SMALL)
    pairs = paired.compute(selection.headline, pair, "dice")
    assert pairs["arm"].tolist() == pytest.approx([80.0] * 12) and pairs["difference"].abs().max() < 1e-9
    lower = paired.Pair("a", "b", {"qpm eps=0.7": 1.0, "none": -1.0})
    gained = paired.picture(selection, lower, "hd95_voxel").caption
    assert "4 of 4 patients are better with a" in gained and "HD95 (voxel)" in gained


def test_what_no_seed_has_makes_no_figure(tmp_path):
    selection, pair = paired_of(tmp_path, {"nope": 1.0, "none": -1.0}, seeds=1, patients=2)
    assert paired.picture(selection, pair, "dice") is None


# methods in words


def test_the_methods_are_told_from_the_settings_of_the_runs(tmp_path):
    made = fabricated.study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0, "dropout p=0.9": 75.0}, **SMALL)
    for cell in made["cells"]:
        path = tmp_path / "runs" / cell["identity"] / "config.yaml"
        config = read_yaml(path)
        config["network"] |= {"quantizer": {"name": "mapped", "num_codes": 1024}, "decoder": {"name": "unet"}}
        config |= {"train": {"steps": 2000, "teacher_decay": 0.99}, "method": {"name": "vqseg", "dual_branch": True}}
        config |= {"optimizer": {"name": "adamw", "lr": 0.002}, "augment": {"cutmix_probability": 0.5}}
        write_yaml(path, config)
    more = fabricated.study(
        tmp_path, {"none 50": 84.0}, name="more", definition="more", reference="none 50", labelled=35
    )
    both = methods_text.write([select(tmp_path, study, Options()) for study in (made, more)]).paragraphs[0]
    assert "(7: 7 or 35 labelled" in both and "Studies: epsilon-sweep-acdc-cpu and more." in both
    text = methods_text.write([select(tmp_path, made, Options())])
    first, scoring, tests = text.paragraphs
    for words in (
        "The data set acdc (Bernard et al. 2018; Luo 2020) was split by patient (7: 7 labelled",
        "the nearest of 1,024 codes (van den Oord et al. 2017), a frozen random table",
        "a U-Net (Ronneberger et al. 2015)", "for 2,000 steps with AdamW", "decay 0.99 (Tarvainen and Valpola 2017)",
        "CutMix (Yun et al. 2019)", "A second decoder", "no perturbation, QPM, ", "dropout (Srivastava et al. 2014)",
        "Rates: 0.7 or 0.9.", "Studies: epsilon-sweep-acdc-cpu.",
    ):  # fmt: skip
        assert words in first, words
    assert "on devtest by protocol scan: Dice (Dice 1945)" in scoring
    assert "Holm's method (Holm 1979)" in tests and "Optuna" not in tests
    assert {"yang2025vqseg", "gu2022vqdiffusion"} & set(text.keys) == {"yang2025vqseg"}
    assert methods_text.write([]).paragraphs == []


def test_what_no_run_has_is_left_out(tmp_path):
    made = fabricated.study(tmp_path, {"none": 84.0}, seeds=1, patients=2)
    words = " ".join(methods_text.write([select(tmp_path, made, Options())]).paragraphs)
    assert "Rates" not in words and "CutMix" not in words and "prior is used" not in words


def test_the_numbers_of_the_main_table_are_those_behind_it(tmp_path):
    fabricated.study(tmp_path, ARMS, **SMALL)
    tidy = table_of(tmp_path).tidy
    assert {"arm", "column", "value", "sd", "runs", "labelled"} <= set(tidy) and isinstance(tidy, pd.DataFrame)
    assert set(tidy["column"]) == {"dice"} and tidy["value"].between(70, 90).all()
