"""The report of a search: on stores of known trials, from one that has hardly begun to one with importances."""

import sys

import fabricated
import numpy as np
import pandas as pd
import pytest
from fabricated import hash_of, rows

from vqseg.errors import InputError
from vqseg.files import write_json
from vqseg.records import trials as records
from vqseg.records.run import RunFolder
from vqseg.report import search, search_figures
from vqseg.report.make import make
from vqseg.report.options import Options
from vqseg.report.selection import select

SPACE = {
    "method.unlabelled_weight": {"symbol": "lambda_u", "low": 0.1, "high": 10.0, "log": True},
    "method.usage_weight": {"symbol": "lambda_h", "low": 0.001, "high": 1.0, "log": True},
    "method.confidence": {"symbol": "tau", "low": 0.0, "high": 0.95, "log": False},
    "perturbation.rate": {"symbol": "eps", "low": 0.05, "high": 0.95, "log": False},
    "method.segmentation": {"symbol": "", "choices": ["ce", "dice_ce"]},
}
OWN = {"lambda_u": 1.0, "lambda_h": 0.0, "tau": 0.0, "eps": 0.7, "segmentation": "ce"}
STEPS = 2000


def drawn(number):
    """The settings of a trial: the first is the preset's own point, whose lambda_h lies outside of the space."""
    draw = np.random.default_rng(number)
    if number == 0:
        return OWN
    return {
        "lambda_u": float(f"{10 ** draw.uniform(-1, 1):.4g}"), "lambda_h": float(f"{10 ** draw.uniform(-3, 0):.4g}"),
        "tau": round(draw.uniform(0, 0.95), 4), "eps": round(draw.uniform(0.05, 0.95), 4),
        "segmentation": str(draw.choice(["ce", "dice_ce"])),
    }  # fmt: skip


def dice(number, at):
    """In points: lambda_u matters most, the rate a little, the others not at all."""
    return 80 - 6 * np.log10(at["lambda_u"] / 0.5) ** 2 - 4 * (at["eps"] - 0.4) ** 2 + 0.3 * np.sin(5 * number)


def search_store(store, count=12, *, finished=None, budget=40, parts=("val",), failed=(), synthetic=False):
    """Write a search of ``count`` trials; those of ``finished`` (default: not every third) are, ``failed`` are that."""
    finished = [n for n in range(count) if n % 3 != 2] if finished is None else finished
    settings = {"parts": parts, "patients": 8, "noise": 0.5, "protocols": ("scan",)}
    arms, cells = [], []
    for number in range(count):
        at, label = drawn(number), f"trial {number}"
        identity = f"{hash_of('search', number):016x}"
        keys = {key: at[axis["symbol"] or key.rpartition(".")[2]] for key, axis in SPACE.items()}
        arms.append({"label": label, "family": "trial", "knob": None, "overrides": keys if number else {}, "at": at})
        cells.append({"arm": label, "seed": 0, "draw": 0, "identity": identity, "name": f"{label}, seed 0"})
        state = "finished" if number in finished else "failed" if number in failed else "pruned"
        write_trial(store, cells[-1], state, dice(number, at), settings, synthetic)
    study = {
        "format": 1, "name": "loss-search-acdc-cpu", "study": "loss-search", "question": "Is there a better point?",
        "data": {"name": "acdc", "root": "r", "digest": "d" * 16, "synthetic": synthetic},
        "split": {"name": "7", "digest": "s" * 16}, "preset": "cpu", "supervised": False, "reference": "trial 0",
        "created": "2026-01-02T00:00:00+00:00", "base": "b" * 16, "seeds": [0], "arms": arms, "cells": cells,
        "search": {"space": SPACE, "budget": budget, "pruner": {}, "startup_trials": 10, "seed": 0},
    }  # fmt: skip
    write_json(store / "studies" / study["name"] / "study.json", study)
    return study


def write_trial(store, cell, state, score, settings, synthetic):
    folder = RunFolder(store, cell["identity"])
    steps = range(250, (STEPS if state == "finished" else 1000) + 1, 250)
    last = score / 100 if state == "finished" else 0.5
    parts = {part: {"patients": settings["patients"], "images": 90} for part in ("labelled", *settings["parts"])}
    folder.create({}, {
        "name": cell["name"], "state": state, "step": max(steps), "steps": STEPS, "seed": 0, "preset": "cpu",
        "error": "the loss is nan around step 3" if state == "failed" else None, "labels": "labelled",
        "pruned": {"by": "loss-search-acdc-cpu", "why": "below the median"} if state == "pruned" else None,
        "data": {
            "name": "acdc", "root": "r", "digest": "d" * 16, "synthetic": synthetic, "classes": fabricated.CLASSES,
        },
        "split": {"name": "7", "digest": "s" * 16, "parts": parts}, "code": {"vqseg.train": "t1"}, "scoring": "sc1",
        "provenance": {"vqseg": "0.1.0", "device": "cpu", "threads": 2, "precision": "fp32"},
        "validation": {"last": {"teacher": last, "student": last}} if state == "finished" else None,
        "evaluations": [
            {"part": part, "date": "2026-01-03", "protocols": ["scan"], "repeat": 0} for part in settings["parts"]
        ],
    })  # fmt: skip
    lines = [f"{step},val/dice_teacher,{float(last * (1 - np.exp(-step / 400)))}\n" for step in list(steps)[:-1]]
    lines += [f"{max(steps)},val/dice_teacher,{float(last)}\n", f"{max(steps)},reach/dice_uniform,0.3\n"]
    (folder.path / "metrics.csv").write_text("step,name,value\n" + "".join(lines))
    if state == "finished":
        rows(folder.path, cell["arm"], 0, score, settings, np.random.default_rng(hash_of(cell["identity"])))


def reported(store, study, **options):
    return search.build(select(store, study, Options(**options)))


def table_of(report):
    return next(table for section in report.sections for table in section.tables)


def words_of(report):
    told = [*report.summary, *(word for section in report.sections for word in section.paragraphs)]
    return " ".join([*told, *(table.caption for s in report.sections for table in s.tables)])


def picture(report, name):
    return next(each for section in report.sections for each in section.pictures if each.name == name)


def test_the_best_trials_stand_above_the_presets_own_point(tmp_path):
    report = reported(tmp_path, search_store(tmp_path, 30))
    table = table_of(report)
    scores = {n: dice(n, drawn(n)) for n in range(30) if n % 3 != 2}
    best = sorted((n for n in scores if n), key=scores.get, reverse=True)[: search.MOST_ROWS]
    assert [row.label for row in table.rows] == [*(f"trial {n}" for n in best), "trial 0 (preset)"]
    assert table.headers == ["trial", "val Dice (%)", "Δ", "lambda_u", "lambda_h", "tau", "eps", "segmentation"]
    top, own = table.rows[0].cells, table.rows[-1].cells
    assert top[0].text == f"{scores[best[0]]:.2f}" and top[2].text == f"{drawn(best[0])['lambda_u']:.4g}"
    gain = scores[best[0]] - scores[0]
    assert top[1].text == f"{gain:+.2f}".replace("-", "−") and own[1].text == "—" and own[3].text == "0*"
    assert "one seed; run " in top[0].tip and "lambda_h of the preset's own point: outside" in table.footnotes[0]
    assert not any(cell.mark for row in table.rows for cell in row.cells)
    assert len(table.tidy) == 30 and set(table.tidy["state"]) == {"finished", "pruned"}


def test_the_page_says_how_far_the_search_came_and_how_optimistic_its_best_is(tmp_path):
    study = search_store(tmp_path, 12, failed=(5,))
    said = words_of(reported(tmp_path, study))
    assert "12 of 40 trials are over: 8 finished, 3 pruned, 1 failed. The search goes on" in said
    assert "winner's curse" in said and "about 1.4 standard deviations" in said
    assert "on the validation part alone; no other part had a say" in said and "no marks, no p values" in said
    assert "No other part is scored" in said or "No trial beat it" in said
    assert "provisional" not in words_of(reported(tmp_path, {**study, "search": {**study["search"], "budget": 12}}))


def test_the_gap_to_another_part_is_told_where_that_was_scored(tmp_path):
    study = search_store(tmp_path, 24, parts=("val", "devtest"))
    report = reported(tmp_path, study)
    table, said = table_of(report), words_of(report)
    assert table.headers[3:5] == ["devtest Dice (%)", "Δ"]
    best, own = (row.cells[2].text for row in (table.rows[0], table.rows[-1]))
    assert f"has {best} % and the preset's own point {own} %" in said and "points on validation are" in said
    assert "Dice on devtest: protocol scan" in table.caption
    again = table_of(reported(tmp_path, study, part="val"))
    assert "devtest Dice (%)" not in again.headers


def test_importances_wait_for_thirty_finished_trials(tmp_path):
    few = reported(tmp_path / "few", search_store(tmp_path / "few", 29, finished=range(29)))
    assert "finished so far 29, missing 1" in words_of(few)
    many = reported(tmp_path / "many", search_store(tmp_path / "many", 30, finished=range(30)))
    (shares,) = picture(many, "importances").inputs
    assert shares["symbol"].iloc[0] == "lambda_u" and shares["share"].sum() == pytest.approx(1)
    assert (shares["low"] <= shares["share"]).all() and (shares["share"] <= shares["high"]).all()
    assert "fANOVA, Optuna's, 30 finished trials" in picture(many, "importances").caption
    left = records.of_study(tmp_path / "many", search_store(tmp_path / "many", 30, finished=range(30)))[:29]
    with pytest.raises(InputError, match="29 finished trials; expected 30"):
        records.importances(records.axes_of({"search": {"space": SPACE}}), left)


def test_without_optuna_there_is_a_report_and_it_says_what_it_lacks(tmp_path, monkeypatch):
    study = search_store(tmp_path, 30, finished=range(30))
    monkeypatch.setitem(sys.modules, "optuna", None)
    report = reported(tmp_path, study)
    assert "they need Optuna, which is not installed" in words_of(report) and len(table_of(report).rows) == 11


@pytest.mark.parametrize("count", [1, 3])
def test_a_search_that_has_hardly_begun_has_a_page(tmp_path, count):
    search_store(tmp_path, count)
    made = make("loss-search", store=tmp_path)
    assert {"history.png", "settings.pdf", "validations.png", "trials.tex"} <= {path.name for path in made.paths}
    assert f"{count} of 40 trials are over" in made.words


def test_a_running_or_failed_first_trial_leaves_nothing_to_compare_with(tmp_path):
    study = search_store(tmp_path, 4, finished=[1, 3], failed=[0])
    report = reported(tmp_path, study)
    assert "the preset's own point is not finished" in words_of(report)
    assert table_of(report).rows[0].cells[1].text == "—" and table_of(report).rows[-1].cells[0].text == "—"


def test_a_study_that_does_not_search_is_refused(tmp_path):
    study = fabricated.study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0})
    with pytest.raises(InputError, match="did not search.* try 'vqseg report epsilon-sweep-acdc-cpu'"):
        reported(tmp_path, study)


def test_the_figures_show_what_is_said(tmp_path):
    report = reported(tmp_path, search_store(tmp_path, 12))
    axes = picture(report, "history").figure.axes[0]
    dots, best = axes.lines[0].get_xydata(), axes.lines[1].get_ydata()
    assert len(dots) == 8 and (np.diff(best) >= 0).all() and best[-1] == max(dots[:, 1])
    crosses = next(line for line in axes.lines if line.get_label() == "pruned")
    assert list(crosses.get_xdata()) == [2, 5, 8, 11]
    panels = picture(report, "settings").figure.axes
    scales = {panel.get_xlabel(): panel.get_xscale() for panel in panels if panel.get_xlabel()}
    assert scales == {"lambda_u": "log", "lambda_h": "log", "tau": "linear", "eps": "linear", "segmentation": "linear"}
    assert [label.get_text() for label in panels[4].get_xticklabels()] == ["ce", "dice_ce"]
    own = next(line for line in panels[1].lines if line.get_label() == "preset's own point")
    assert own.get_xdata()[0] == 0.001, "outside of the space: at its edge"
    assert picture(report, "validations").figure.axes[0].lines


def test_the_expected_best_of_many_is_that_of_normal_numbers():
    draw = np.random.default_rng(0)
    for count in (2, 10, 40):
        simulated = draw.normal(size=(20_000, count)).max(axis=1).mean()
        assert search.expected_maximum(count) == pytest.approx(simulated, abs=0.03)


def test_legends_name_every_kind_of_line():
    table = {"number": [0, 1, 2, 3], "arm": ["trial 0", "trial 1", "trial 2", "trial 3"], "step": [5, 5, 5, 5]}
    states = ["finished", "pruned", "failed", "running"]
    frame = pd.DataFrame({**table, "state": states, "dice": [80.0, 70.0, 60.0, 75.0]})
    figure = search_figures.draw_curves(frame, "trial 0", "trial 0")
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(named) == ["best: the preset's own point", "failed", "not over", "pruned"]
