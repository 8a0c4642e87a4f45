import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import fabricated
import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from vqseg.errors import InputError
from vqseg.files import read_json, write_json
from vqseg.records import index
from vqseg.records.run import RunFolder
from vqseg.report import (
    REPORTS,
    ablation,
    arms,
    codebook,
    content,
    curves,
    epsilon,
    numbers,
    published,
    reach,
    sweep,
    table,
    theory,
    wilcoxon,
)
from vqseg.report.make import listing, make
from vqseg.report.selection import Options, select

QUICK = {"seeds": 3, "patients": 4, "parts": ("val", "devtest")}
NASTY = "<script>alert('x')</script> & 50%_$x^{|#~\\ é"


def study(store, labels=fabricated.SMALL, **options):
    return fabricated.study(store, labels, **{**QUICK, **options})


def chosen(store, made, **options):
    return select(store, made, Options(**options))


def first(made, label):
    return next(cell["identity"] for cell in made["cells"] if cell["arm"] == label)


def alter(store, identity, **changes):
    RunFolder(store, identity).update(**changes)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """One whole report of a hostile, synthetic, incomplete study with low reach."""
    store = tmp_path_factory.mktemp("store")
    labels = {"none": 84.0, "qpm eps=0.7": 86.0, "dropout p=0.9": 75.0, NASTY: 80.0}
    made = study(store, labels, synthetic=True, data="phantom", reach=0.01)
    alter(store, first(made, "dropout p=0.9"), state="failed", error="loss is not finite at step 3 <b>")
    return store, made, make("epsilon", store=store)


# numbers


def test_the_table_holds_the_known_numbers_and_their_runs(tmp_path):
    made = study(tmp_path, {"none": 80.0, "qpm eps=0.7": 90.0}, noise=0.0)
    selection = chosen(tmp_path, made)
    assert (selection.part, selection.protocol) == ("devtest", "scan")
    tidy = arms.compute(
        selection.scores, selection.cells, reference="none",
        columns=[
            "dice", "jaccard", "hd95_voxel", "class:RV", "best", "gap", "student", "effect", "p", "parameters", "empty",
        ],
    )  # fmt: skip
    cell = tidy.set_index(["arm", "column"])
    assert cell.loc[("none", "dice"), "value"] == pytest.approx(80.0)
    assert cell.loc[("none", "dice"), "sd"] == pytest.approx(0.0, abs=1e-9)
    assert cell.loc[("none", "class:RV"), "value"] == pytest.approx(77.0)
    assert cell.loc[("none", "jaccard"), "value"] == pytest.approx(
        100 * np.mean([d / (2 - d) for d in (0.77, 0.80, 0.83)])
    )
    assert cell.loc[("none", "hd95_voxel"), "value"] == pytest.approx(6.0)
    assert cell.loc[("none", "best"), "value"] == pytest.approx(80.5)
    assert cell.loc[("none", "gap"), "value"] == pytest.approx(0.5)
    assert cell.loc[("none", "student"), "value"] == pytest.approx(79.0)
    assert cell.loc[("none", "parameters"), "value"] == pytest.approx(0.47)
    assert cell.loc[("none", "empty"), "value"] == 0
    assert cell.loc[("qpm eps=0.7", "effect"), "value"] == pytest.approx(10.0)
    assert ("none", "effect") not in cell.index
    runs = {c["identity"] for c in made["cells"] if c["arm"] == "none"}
    assert set(cell.loc[("none", "dice"), "runs"].split()) == runs
    assert set(cell.loc[("qpm eps=0.7", "effect"), "runs"].split()) == {c["identity"] for c in made["cells"]}


def test_sd_is_over_seeds(tmp_path):
    made = study(tmp_path, {"none": 80.0}, noise=0.0)
    for number, cell in enumerate(made["cells"]):
        path = tmp_path / "runs" / cell["identity"] / "rows.parquet"
        rows = pd.read_parquet(path)
        rows.assign(dice=0.8 + 0.01 * number).to_parquet(path, index=False)
    selection = chosen(tmp_path, made)
    line = arms.compute(selection.scores, selection.cells, reference="none", columns=["dice"]).iloc[0]
    assert line["value"] == pytest.approx(81.0)
    assert line["sd"] == pytest.approx(1.0)
    assert line["seeds"] == 3


def test_empties_are_counted_and_the_mean_without_them_stands_beside(tmp_path):
    made = study(tmp_path, {"none": 80.0}, noise=0.0)
    path = tmp_path / "runs" / first(made, "none") / "rows.parquet"
    rows = pd.read_parquet(path)
    hit = (rows["case"] == "p0_ED") & (rows["class_name"] == "RV")
    rows.loc[hit, ["empty_prediction", "dice", "jaccard", "hd95_voxel", "asd_voxel"]] = [True, 0.0, 0.0, 300.0, 300.0]
    rows["asd_mm"] = rows["asd_voxel"]
    rows.to_parquet(path, index=False)
    built = epsilon.build(chosen(tmp_path, made)).sections[0].tables[0]
    words = dict(zip(built.headers, ["", *(cell.text for cell in built.rows[0].cells)]))
    assert words["empties"] == "1"
    assert float(words["HD95 (voxel) non-empty"].split(" ")[0]) == pytest.approx(6.0, abs=0.05)
    assert float(words["HD95 (voxel)"].split(" ")[0]) > 8
    assert float(words["ASD (voxel) non-empty"].split(" ")[0]) == pytest.approx(1.6, abs=0.02)
    assert float(words["ASD (voxel)"].split(" ")[0]) > 3
    asked = ablation.scores_section(chosen(tmp_path, made, columns=("dice", "asd_mm", "effect"))).tables[0]
    assert asked.headers[2:] == ["Dice (%)", "ASD (mm)", "ASD (mm) non-empty", "Δ Dice [95 %]"]
    assert built.rows[0].label == "none (reference) ¶"
    assert "¶ Empties, over classes and runs: none: 1, p0_ED RV (prediction)." in built.footnotes


def test_every_score_carries_its_effect_interval_and_n(tmp_path):
    made = study(tmp_path, {"none": 80.0, "qpm eps=0.7": 90.0, "dropout p=0.9": 60.0})
    main = ablation.scores_section(chosen(tmp_path, made)).tables[0]
    runs = {c["identity"] for c in made["cells"] if c["arm"] == "qpm eps=0.7"}
    for place, header in enumerate(main.headers[2:6], start=1):
        tip = main.rows[1].cells[place].tip
        effect = r"[+−][\d.]+ \[[+−][\d.]+, [+−][\d.]+\] against none \(95 %, not corrected; "
        assert re.match(effect + r"p (= \.\d+|< \.001) after Holm\); 3 seeds x 4 patients; runs ", tip), (header, tip)
        assert set(tip.rpartition("runs ")[2].split()) == runs
        assert main.rows[0].cells[place].tip.startswith("3 seeds x 4 patients; runs ")
    tidy = main.tidy.set_index(["arm", "column"])
    for name, column in {"effect": "value", "effect_low": "low", "effect_high": "high"}.items():
        assert tidy.loc[("qpm eps=0.7", "dice"), name] == tidy.loc[("qpm eps=0.7", "effect"), column]
    two = ablation.scores_section(chosen(tmp_path / "two", study(tmp_path / "two", seeds=2))).tables[0]
    assert "after Holm" not in two.rows[1].cells[1].tip  # no verdict below three seeds


def test_a_test_over_scans_is_shown_on_request_and_says_what_it_speaks_about(tmp_path):
    made = study(tmp_path, {"none": 80.0, "qpm eps=0.7": 90.0, "dropout p=0.9": 80.0}, patients=10)
    plain = ablation.scores_section(chosen(tmp_path, made)).tables[0]
    assert not [words for words in (*plain.headers, *plain.footnotes) if "these weights" in words]
    asked = ablation.scores_section(chosen(tmp_path, made, columns=("dice", "wilcoxon"))).tables[0]
    assert asked.headers[-1] == "Wilcoxon p [these weights, not the method]"
    assert any(note.startswith("Wilcoxon: these weights, not the method.") for note in asked.footnotes)
    assert [row.cells[-1].text for row in asked.rows][:2] == ["—", "<.001"]
    assert "20 scans, 3 pairs of runs" in asked.rows[1].cells[-1].tip
    line = asked.tidy[(asked.tidy["arm"] == "dropout p=0.9") & (asked.tidy["column"] == "wilcoxon")].iloc[0]
    pairs = wilcoxon.compute(chosen(tmp_path, made).headline.assign(value=lambda rows: rows["dice"]), "none")
    own = pairs[pairs["arm"] == "dropout p=0.9"]["p"]
    assert (line["low"], line["high"]) == (own.min(), own.max()) and own.between(0, 1).all()


def test_a_test_over_scans_by_hand():
    rows = [("none", 0, f"c{n}", 10.0) for n in range(6)] + [("a", 0, f"c{n}", 11.0 + n) for n in range(6)]
    rows += [("a", 1, f"c{n}", 10.0) for n in range(6)] + [("none", 1, f"c{n}", 10.0) for n in range(5)]
    table = wilcoxon.compute(pd.DataFrame(rows, columns=["arm", "seed", "case", "value"]), "none")
    assert table["seed"].tolist() == [0, 1] and table["scans"].tolist() == [6, 5]
    assert table["p"].tolist() == [pytest.approx(2 / 64), 1.0]  # all six above: two of 2^6 signs are as extreme


def test_the_caption_says_what_the_test_leaves_open(tmp_path):
    made = study(tmp_path, seeds=3)
    caption = ablation.scores_section(chosen(tmp_path, made)).tables[0].caption
    assert "Intervals are single ones, not corrected" in caption and ablation.FEW in caption
    assert ablation.WEIGHTS not in caption
    for cell in made["cells"]:
        path = tmp_path / "runs" / cell["identity"] / "rows.parquet"
        rows = pd.read_parquet(path)
        rows[rows["case"] != "p0_ED"].to_parquet(path, index=False)
    assert ablation.WEIGHTS in ablation.scores_section(chosen(tmp_path, made)).tables[0].caption
    five = tmp_path / "five"
    assert ablation.FEW not in ablation.scores_section(chosen(five, study(five, seeds=5))).tables[0].caption


def test_weights_that_no_run_kept_have_no_columns(tmp_path):
    made = study(tmp_path)
    kept = ablation.scores_section(chosen(tmp_path, made)).tables[1]
    assert {"Dice best", "gap"} < set(kept.headers) and "(best) stands beside it" in kept.caption
    for cell in made["cells"]:
        path = tmp_path / "runs" / cell["identity"] / "rows.parquet"
        rows = pd.read_parquet(path)
        rows[(rows["checkpoint"] == "last") & (rows["network"] == "teacher")].to_parquet(path, index=False)
    left = ablation.scores_section(chosen(tmp_path, made)).tables[1]
    assert not {"Dice best", "gap", "Dice student"} & set(left.headers) and "kept no other weights" in left.caption


def test_no_marks_below_three_seeds(tmp_path):
    selection = chosen(tmp_path, study(tmp_path, seeds=2))
    tidy = arms.compute(selection.scores, selection.cells, reference="none", columns=["dice"])
    assert set(tidy["mark"]) == {""}


def test_columns_metric_and_decimals_are_the_users(tmp_path):
    made = study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0})
    selection = chosen(tmp_path, made, columns=("hd95", "classes", "effect"), metric="hd95", decimals=1)
    keys = arms.columns_of(selection.options.columns, selection.scores)
    assert keys == ["hd95_voxel", "class:RV", "class:Myo", "class:LV", "effect"]
    built = arms.tabulate(selection, name="x", title="x", columns=keys, caption="")
    units = [f"HD95 (voxel){end}" for end in ("", " RV", " Myo", " LV")]
    assert built.headers == ["arm", "seeds", *units, "Δ HD95 (voxel) [95 %]"]
    assert re.fullmatch(r"\d\.\d ± \d\.\d", built.rows[0].cells[1].text)
    with pytest.raises(InputError, match="did you mean 'jaccard'"):
        arms.columns_of(("jacard",), selection.scores)


def test_signs_are_true_minuses_and_zero_has_none():
    assert numbers.signed(-1.234, 1) == "−1.2"
    assert numbers.signed(0.04, 1) == "0.0"
    assert numbers.signed(0.26, 1) == "+0.3"


# what may stand together


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"split": {"name": "7", "digest": "other", "parts": {}}}, "split"),
        ({"data": {"name": "acdc", "root": "r", "digest": "other", "synthetic": False}}, "data"),
        ({"steps": 999}, "steps"),
        ({"preset": "paper"}, "preset cpu"),
        ({"labels": "all"}, "labels labelled"),
        ({"scoring": "other"}, "scoring"),
        ({"code": {"vqseg.train": "t2"}}, "vqseg.train"),
    ],
)
def test_runs_that_disagree_are_refused_by_naming_the_difference(tmp_path, changes, named):
    made = study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0})
    alter(tmp_path, first(made, "qpm eps=0.7"), **changes)
    with pytest.raises(InputError, match=named):
        chosen(tmp_path, made)
    selection = chosen(tmp_path, made, allow_mixed=True)
    assert named in content.conditions(selection)
    assert "MIXED RUNS" in content.conditions(selection)


def test_arms_may_use_different_modules_and_a_study_may_declare_steps(tmp_path):
    made = study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0})
    assert chosen(tmp_path, made).differences == []
    made["arms"][1]["overrides"] = {"train.steps": 999}
    alter(tmp_path, first(made, "qpm eps=0.7"), steps=999)
    assert chosen(tmp_path, made).differences == []


def test_our_own_impossible_rows_are_flagged(tmp_path):
    made = study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0}, noise=0.0, seeds=1, speed=25.0)
    path = tmp_path / "runs" / first(made, "none") / "rows.parquet"
    rows = pd.read_parquet(path)
    rows.assign(jaccard=rows["jaccard"] - 0.02).to_parquet(path, index=False)
    main = epsilon.build(chosen(tmp_path, made)).sections[0].tables[0]
    assert [row.label.endswith("†") for row in main.rows] == [True, False]
    assert main.footnotes[0].startswith("† mean Jaccard below")


def test_the_best_part_scored_for_all_is_taken(tmp_path):
    made = study(tmp_path, {"none": 84.0})
    path = tmp_path / "runs" / first(made, "none") / "rows.parquet"
    rows = pd.read_parquet(path)
    rows[rows["part"] == "val"].to_parquet(path, index=False)
    selection = chosen(tmp_path, made)
    assert selection.part == "val"
    assert "devtest is scored for 2 of 3" in selection.notes[0]
    assert chosen(tmp_path, made, part="devtest").part == "devtest"
    with pytest.raises(InputError, match="study evaluate"):
        chosen(tmp_path, made, part="test")
    with pytest.raises(InputError, match="protocol 'ssl4mis' is not among"):
        chosen(tmp_path, made, protocol="ssl4mis")


def test_a_study_without_finished_runs_says_so(tmp_path):
    made = study(tmp_path, {"none": 84.0})
    for cell in made["cells"]:
        alter(tmp_path, cell["identity"], state="interrupted")
    with pytest.raises(InputError, match="3 interrupted"):
        chosen(tmp_path, made)


# published numbers


def test_published_rows_are_marked_where_they_break_convexity():
    rows = published.load()
    broken = {(row.method, row.labelled) for row in rows if row.breaks_convexity}
    assert {("VQ-Seg", 3), ("VQ-Seg", 7), ("ABD", 3), ("Unimatch", 3)} <= broken
    assert not [row for row in rows if row.breaks_convexity and row.data == "lc"]
    assert published.breaks_convexity(0.8, 0.66)
    assert not published.breaks_convexity(0.8, 0.8 / 1.2)


def test_published_rows_stand_in_the_table_only_under_the_same_protocol():
    rows = published.load()
    same = {"data": "acdc", "labelled": 7, "part": "test", "topics": ["epsilon-sweep"]}
    inside, beside = published.split_by_protocol(rows, protocol="vqseg-release", **same)
    assert [row.method for row in inside] == ["VQ-Seg release"]
    assert "QPM eps=0.7" in {row.method for row in beside}
    inside, beside = published.split_by_protocol(rows, protocol="scan", **same)
    assert inside == []
    assert "VQ-Seg release" in {row.method for row in beside}
    assert {row.labelled for row in beside if row.data == "acdc"} == {7}


def test_a_matching_published_row_joins_our_table(tmp_path):
    made = study(tmp_path, {"none": 84.0}, parts=("val", "test"), protocols=("scan", "vqseg-release"))
    tables = epsilon.build(chosen(tmp_path, made, protocol="vqseg-release")).sections[0].tables
    assert tables[0].rows[-1].label == "VQ-Seg release [P]"
    assert tables[0].rows[-1].cells[0].text == "?"
    assert "README screenshots" in tables[0].footnotes[-1]
    tables = epsilon.build(chosen(tmp_path, made, protocol="scan")).sections[0].tables
    assert len(tables[0].rows) == 1
    assert tables[-1].name == "published"


# theory


def test_dropout_kl_has_the_papers_values():
    assert theory.dropout_kl([0.3, 0.5, 0.7, 0.9]) == pytest.approx([0.036, 0.153, 0.565, 3.349], abs=1e-3)


def naive(codes, eps, prior):
    squared = ((codes[:, None] - codes[None]) ** 2).sum(-1)
    weights = np.exp(-squared)
    np.fill_diagonal(weights, 0)
    pi = eps * weights / weights.sum(1, keepdims=True) + (1 - eps) * np.eye(len(codes))
    after = prior @ pi
    joint = prior[:, None] * pi
    terms = np.where(joint > 0, joint * np.log(np.where(joint > 0, joint, 1) / (prior[:, None] * after)), 0)
    return (prior * np.log(prior / after)).sum(), terms.sum() / -(prior * np.log(prior)).sum()


@pytest.mark.parametrize("counted", [False, True])
def test_kl_and_information_agree_with_the_whole_matrix(counted):
    codes = np.random.default_rng(0).normal(0, 0.7, (7, 3))
    counts = np.arange(1.0, 8) if counted else None
    prior = counts / counts.sum() if counts is not None else np.full(7, 1 / 7)
    for chunk in (1, 3, 512):
        sums = theory.replacement(codes, usage=counts, chunk=chunk)
        for eps in (0.1, 0.7, 1.0):
            kl, information = naive(codes, eps, prior)
            assert theory.replacement_kl(sums, eps)[0] == pytest.approx(kl)
            assert theory.replacement_information(sums, eps)[0] == pytest.approx(information)


def test_the_bound_holds_and_uniform_replacement_has_no_divergence():
    codes = np.random.default_rng(1).normal(0, 0.7, (40, 3))
    rates = np.linspace(0.05, 1, 20)
    sums = theory.replacement(codes)
    assert (theory.replacement_kl(sums, rates) <= theory.replacement_bound(sums, rates) + 1e-12).all()
    assert theory.replacement_bound(sums, 1.0) == pytest.approx(sums.distance_range)
    hot = theory.replacement(codes, temperature=1e9)
    assert theory.replacement_kl(hot, rates) == pytest.approx(0, abs=1e-9)
    assert theory.replacement_information(hot, rates) == pytest.approx(theory.uniform_information(40, rates), abs=1e-6)


def test_the_nearest_neighbor_unit_is_free_of_scale():
    codes = np.random.default_rng(2).normal(0, 1, (30, 4))
    kinds = {"distance": "euclidean", "scale": "nearest-neighbor"}
    one, ten = theory.replacement(codes, **kinds), theory.replacement(10 * codes, **kinds)
    assert theory.replacement_kl(one, 0.7) == pytest.approx(theory.replacement_kl(ten, 0.7))


@pytest.mark.parametrize("size", [2, 3, 8, 600])
def test_the_nearest_neighbor_unit_is_the_perturbations_own(size):
    torch = pytest.importorskip("torch")
    from vqseg.perturbations.qpm import QPM

    codes = np.random.default_rng(size).normal(0, 1, (size, 4)).astype(np.float32)
    own = QPM(distance="euclidean", scale="nearest-neighbor").unit(torch.from_numpy(codes))
    assert theory._nearest(codes.astype(float), "euclidean") == pytest.approx(float(own), rel=1e-5)


# the sweep


def test_the_best_rate_is_chosen_on_validation(tmp_path):
    made = study(tmp_path, {"none": 80.0, "qpm eps=0.7": 85.0, "dropout p=0.3": 82.0, "dropout p=0.9": 70.0}, noise=0.0)
    for cell in made["cells"]:
        path = tmp_path / "runs" / cell["identity"] / "rows.parquet"
        rows = pd.read_parquet(path)
        if cell["arm"] == "dropout p=0.9":  # the better one on devtest, and the worse one on validation
            rows.loc[rows["part"] == "devtest", "dice"] = 0.99
            rows.to_parquet(path, index=False)
    selection = chosen(tmp_path, made)
    assert epsilon.best_on_validation(selection, "dice")["dropout"] == "dropout p=0.3"
    line = epsilon.compute(selection).set_index("arm").loc["dropout p=0.3"]
    assert line["estimate"] == pytest.approx(3.0)
    assert line["low"] <= 3.0 <= line["high"]


def test_sweep_and_reach_compute(tmp_path):
    made = study(tmp_path, {"none": 80.0, "qpm eps=0.7": 85.0}, noise=0.0)
    selection = chosen(tmp_path, made)
    points = sweep.compute(selection.scores, selection.cells, ["dice"])
    own = points[points["arm"] == "qpm eps=0.7"]
    assert own["dice"].tolist() == pytest.approx([85.0] * 3)
    assert own["distortion"].between(1.1, 1.4).all()
    assert reach.reach(reach.compute(selection.cells)) == pytest.approx(0.33, abs=0.01)
    assert reach.banners(selection.cells) == []
    figure = reach.draw(reach.compute(selection.cells))
    assert all(axes.get_legend() is None for axes in figure.axes)  # one below both panels is enough
    assert len(figure.legends) == 1


@pytest.mark.parametrize("metric", ["dice", "hd95", "jaccard", "asd"])
def test_the_sweep_always_draws_dice_and_hd95(tmp_path, metric):
    selection = chosen(tmp_path, study(tmp_path, {"none": 80.0, "qpm eps=0.7": 85.0}, seeds=1), metric=metric)
    section = next(each for each in epsilon.build(selection).sections if each.title == "Rate and distortion")
    drawn = [axes.get_ylabel() for axes in section.pictures[0].figure.axes if axes.get_ylabel()]
    extra = {"jaccard": ["Jaccard (%)"], "asd": ["ASD (voxel)"]}.get(metric, [])
    assert drawn == ["Dice (%)", "HD95 (voxel)", *extra]


def test_every_report_of_scores_opens_with_the_banner_where_reach_is_low(tmp_path):
    selection = chosen(tmp_path, study(tmp_path, {"none": 80.0, "qpm eps=0.7": 85.0}, seeds=1, reach=0.01))
    for name, entry in REPORTS.items():
        # A search takes studies of its own kind; pictures and costs claim nothing about perturbations.
        if entry.scope == "study" and name not in ("search", "qualitative", "cost"):
            banners = import_module(f"vqseg.report.{entry.module}").build(selection).banners
            assert "cannot answer" in banners[0], name
    silent = selection.cells.drop(columns=[name for name in selection.cells if name.startswith("last:reach/")])
    assert reach.banners(silent) == []
    assert "not logged" in reach.banners(silent, warn_unlogged=True)[0]


def test_equal_means_have_no_best_arm(tmp_path):
    made = study(tmp_path, {"none": 80.0, "qpm eps=0.7": 80.0}, noise=0.0, seeds=1)
    for metric in ("dice", "hd95"):
        sentences = ablation.best_sentence(chosen(tmp_path, made, metric=metric))
        assert len(sentences) == 1
        assert sentences[0].startswith("All arms have the same mean, ")
    alone = study(tmp_path, {"none": 80.0}, name="alone", seeds=1)
    assert ablation.best_sentence(chosen(tmp_path, alone))[0].startswith("Highest mean: none")


def test_reach_takes_arm_none_where_it_has_any():
    lines = [("none", 0.2), ("qpm", 0.4)]
    values = pd.DataFrame([{"family": f, "quantity": "dice", "kind": "uniform", "value": v} for f, v in lines])
    assert reach.reach(values) == 0.2
    assert reach.reach(values[1:]) == 0.4
    assert np.isnan(reach.reach(values[:0]))


def test_the_codebooks_ceiling():
    assert codebook.ceiling(173_568, 65_536) == pytest.approx(0.929, abs=5e-4)
    usage = pd.DataFrame(
        {
            "arm": "a",
            "seed": 0,
            "identity": "i",
            "part": "val",
            "network": "teacher",
            "code": [0, 1, 2, 3],
            "tokens": [1, 0, 2, 1],
        }
    )
    ranked = codebook.compute(usage, "val")
    assert ranked["tokens"].tolist() == [2, 1, 1, 0]
    health = codebook.summarize(ranked).iloc[0]
    assert health["utilization"] == 0.75
    assert health["perplexity"] == pytest.approx(np.exp(1.5 * np.log(2)))


def test_curves_are_in_points():
    logged = pd.DataFrame(
        {"family": ["f"], "arm": ["a"], "knob": [0.1], "seed": [0], "step": [5], "name": [curves.NAME], "value": [0.5]}
    )
    assert curves.compute(logged)["dice"].tolist() == [50.0]


def test_a_curve_of_one_point_is_seen_on_an_axis_from_zero():
    logged = pd.DataFrame({"family": "none", "arm": "none", "knob": np.nan, "seed": [0, 1], "step": 200, "dice": 50.0})
    panel = curves.draw(logged).axes[0]
    assert [line.get_marker() for line in panel.lines] == ["o"]
    assert panel.get_xlim() == pytest.approx((0, 210))
    health = pd.concat([pd.DataFrame({"seed": 0, "step": [200], "name": n, "value": 0.5}) for n in codebook.NAMES])
    panels = codebook.draw(health, pd.DataFrame()).axes
    assert {line.get_marker() for axes in panels[:2] for line in axes.lines} == {"o"}
    assert all(axes.get_xlim() == pytest.approx((0, 210)) for axes in panels[:2])
    long = pd.concat([logged.assign(step=step) for step in (100, 200, 300)])
    assert {line.get_marker() for line in curves.draw(long).axes[0].lines} <= {"", "None"}


@pytest.mark.parametrize(
    ("used", "right", "marker"), [(0, 10.5, "o"), (2, 10.5, "o"), (40, 80.5, ""), (900, 1000.5, "")]
)
def test_the_sorted_usage_of_few_codes_is_readable(used, right, marker):
    tokens = [7] * used + [0] * (1000 - used)
    bars = pd.DataFrame({"seed": 0, "rank": np.arange(1, 1001), "tokens": tokens})
    axes = codebook.draw(pd.DataFrame(columns=["seed", "step", "name", "value"]), bars).axes[2]
    assert axes.get_xlim()[1] == pytest.approx(right)
    assert axes.lines[0].get_marker() == marker
    assert axes.lines[0].get_drawstyle() == ("steps-mid" if marker else "default")


# pages


def test_every_report_has_its_module():
    assert all(callable(import_module(f"vqseg.report.{entry.module}").build) for entry in REPORTS.values())


def test_the_report_opens_with_the_banner_and_says_phantom_and_what_is_missing(rendered):
    store, made, result = rendered
    folder = store / "reports" / made["name"]
    assert result.paths[0] == folder / "index.html"
    assert all(path.is_file() for path in result.paths)
    assert result.words.startswith(f"{made['name']}: perturbation rates\n\n!! This study cannot answer")
    assert "failed: loss is not finite" in result.words
    for name in ("index.html", "report.md", "report.tex"):
        words = (folder / name).read_text()
        assert words.index("cannot answer") < words.index("Scores")
        assert "hantom" in words
    for name in ("index.html", "report.md"):
        words = (folder / name).read_text()
        assert "not finite at step 3" in words
    for section in epsilon.build(chosen(store, made)).sections:
        assert all(
            "phantom" in each.caption for each in (*section.tables, *section.pictures) if each.name != "published"
        )


def test_names_from_data_are_escaped_in_html_and_links_resolve(rendered):
    store, made, _ = rendered
    folder = store / "reports" / made["name"]
    page = (folder / "index.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    links = [unquote(link) for link in re.findall(r'(?:href|src)="([^"]+)"', page) if not link.startswith("data:")]
    assert len(links) > 20
    assert all((folder / link).exists() for link in links)


def test_every_number_leads_to_its_runs(rendered):
    store, made, _ = rendered
    cells = pd.read_csv(store / "reports" / made["name"] / "arms-cells.csv")
    known = {cell["identity"] for cell in made["cells"]}
    assert {"arm", "column", "value", "runs"} <= set(cells)
    assert all(set(runs.split()) <= known for runs in cells["runs"])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_the_latex_compiles(rendered, tmp_path):
    store, made, _ = rendered
    folder = tmp_path / "tex"
    shutil.copytree(store / "reports" / made["name"], folder)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "report.pdf").stat().st_size > 10_000


def test_fonts_are_embedded_as_truetype(rendered):
    store, made, _ = rendered
    words = (store / "reports" / made["name"] / "sweep.pdf").read_bytes()
    assert b"/CIDFontType2" in words
    assert b"/Type3" not in words


def test_tables_in_words():
    cells = [table.Cell("1 ± 2", "bold"), table.Cell("−3", "underline")]
    one = table.Table("t", "T", ["arm", "a|b", "c"], [table.Row("=x_y", cells)], "cap", pd.DataFrame())
    assert r"| =x\_y | **1 ± 2** | <u>−3</u> |" in table.markdown(one)
    assert r"=x\_y & \textbf{1 $\pm$ 2} & \underline{$-$3} \\" in table.latex(one)
    assert "'=x_y,1 ± 2,−3" in table.csv_text(one)
    assert "1 ± 2*" in table.text(one)
    assert table.escape("✓ 5 % ☃") == r"\checkmark{} 5 \% ?"


def test_wide_tables_stay_on_the_page():
    headers = ["arm", "HD95 (voxel) non-empty", "Δ ASD (mm) [95 %]", *"abcdefgh"]
    tex = table.latex(table.Table("t", "T", headers, [], "cap", pd.DataFrame()))
    assert r"\shortstack[r]{HD95 (voxel)\\{non-empty}} & \shortstack[r]{$\Delta$ ASD (mm)\\{{[}95 \%]}} & a" in tex
    assert r"\fontsize{6}" in tex
    assert r"\scriptsize\setlength" in table.latex(table.Table("t", "T", headers[:4], [], "cap", pd.DataFrame()))


def app():
    from vqseg.cli.report import report

    own = typer.Typer()
    own.command("report")(report)
    return own


def test_the_command_lists_and_names_the_nearest(tmp_path):
    study(tmp_path, {"none": 84.0}, name="epsilon-sweep-acdc-cpu")
    result = CliRunner().invoke(app(), ["list", "--store", str(tmp_path)])
    assert result.exit_code == 0
    assert "epsilon-sweep-acdc-cpu  3/3 cells finished" in result.stdout
    assert listing(tmp_path / "empty").endswith("makes one")
    with pytest.raises(InputError, match="did you mean 'epsilon'"):
        make("epsilom", store=tmp_path)
    with pytest.raises(InputError, match="unknown metric"):
        make("epsilon", store=tmp_path, options=Options(metric="dize"))
    with pytest.raises(InputError, match="unknown projection 'umap'; known: pca, tsne"):
        make("codebook", "epsilon-sweep-acdc-cpu", store=tmp_path, options=Options(projection="umap"))


def test_the_command_renders_the_newest_study_and_keeps_its_own_report(tmp_path):
    made = study(tmp_path, {"none": 84.0}, name="s", seeds=1)
    (tmp_path / "reports" / "s").mkdir(parents=True)
    result = CliRunner().invoke(app(), ["ablation", "--store", str(tmp_path), "--columns", "dice,empty"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "reports" / "s" / "ablation" / "index.html").is_file()
    assert not (tmp_path / "reports" / "s" / "index.html").exists()
    assert read_json(tmp_path / "studies" / "s" / "study.json") == made


def test_reports_and_the_index_never_import_torch():
    code = (
        "import sys; import vqseg.records.index, vqseg.cli.report; "
        "heavy = {'torch', 'mlflow', 'optuna', 'pandas', 'matplotlib'} & set(sys.modules); assert not heavy, heavy; "
        "import vqseg.report.make, vqseg.report.epsilon, vqseg.report.ablation; "
        "heavy = {'torch', 'mlflow', 'optuna', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr


def test_a_reference_without_scores_still_renders(tmp_path):
    made = study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0}, seeds=1)
    alter(tmp_path, first(made, "none"), state="failed", error="out of memory")
    shutil.rmtree(tmp_path / "runs" / first(made, "none"))
    write_json(tmp_path / "studies" / made["name"] / "study.json", made)
    selection = chosen(tmp_path, index.find_study(tmp_path, made["name"]))
    report = epsilon.build(selection)
    assert report.sections[0].tables[0].rows[0].cells[0].text == "0/1"
    assert any("No effects" in words for words in report.sections[0].paragraphs)
    assert content.missing_words(selection)[0].startswith("none, seed 0: missing")


def test_a_cell_that_failed_before_its_run_began_says_why(tmp_path):
    made = study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0}, seeds=1)
    gone = first(made, "none")
    shutil.rmtree(tmp_path / "runs" / gone)
    write_json(tmp_path / "studies" / made["name"] / "study.json", made)
    write_json(tmp_path / "studies" / made["name"] / "errors" / f"{gone}.json", {"cell": "none", "error": "bad rate"})
    selection = chosen(tmp_path, index.find_study(tmp_path, made["name"]))
    assert content.missing_words(selection) == [f"none, seed 0: failed: bad rate ({gone})"]
    from vqseg.records import views

    note = views.study_view(tmp_path, made).tags["mlflow.note.content"]
    assert "1 finished, 1 failed of 2 cells" in note


def test_runs_of_two_precisions_do_not_share_a_table(tmp_path):
    made = study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0}, seeds=1)
    alter(tmp_path, first(made, "none"), provenance={"precision": "bf16"})
    with pytest.raises(InputError, match="precision"):
        chosen(tmp_path, made)


def test_figures_of_training_do_not_say_that_they_show_the_test_part(tmp_path):
    selection = chosen(tmp_path, study(tmp_path, {"none": 80.0, "qpm eps=0.7": 85.0}))
    captions = {
        picture.name.partition("-")[0]: picture.caption
        for section in ablation.build(selection).sections
        for picture in section.pictures
    }
    assert all("part devtest: 4 patients" in captions[name] for name in ("effects",))
    for name in ("curves", "reach"):
        assert "part val: 4 patients" in captions[name] and "devtest" not in captions[name]
        assert "protocol" not in captions[name]
    assert "On devtest" in captions["codebook"] and "part " not in captions["codebook"]


def test_a_table_that_is_wider_than_the_terminal_goes_on_below():
    rows = [
        table.Row(f"arm {n}", [table.Cell("1.00 ± 0.10", "bold"), table.Cell("2"), table.Cell("3")]) for n in (1, 2)
    ]
    wide = table.Table("t", "T", ["arm", "Dice (%)", "HD95 (voxel)", "p"], rows, "", pd.DataFrame())
    whole = table.text(wide)
    assert max(map(len, whole.splitlines())) > 30 and table.text(wide, 200) == whole
    folded = table.text(wide, 30)
    assert max(map(len, folded.splitlines())) <= 30 and folded.count("arm 1") == 2
    assert set(folded.replace("-", "").split()) == set(whole.replace("-", "").split()) and folded.startswith("T\n")
    assert table.text(wide, 5).count("arm 1") == 3
