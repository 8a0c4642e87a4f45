"""A report that stands is not made again, and what changed is: no number and no figure is ever stale."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import fabricated
import pandas as pd
import pytest

from vqseg.files import read_json, write_json
from vqseg.records import index
from vqseg.records.run import RunFolder
from vqseg.report import drafting, drawn, style, table
from vqseg.report.make import make
from vqseg.report.options import Options

LABELS = {"none": 84.0, "qpm eps=0.7": 86.0}


REAL = style.save


def placeholder(figure, folder, name):
    """Write files that say whose figure they stand for: what is drawn is of no interest here, only whether."""
    found = {}
    for kind in ("png", "pdf"):
        path = folder / f"{name}.{kind}"
        path.unlink(missing_ok=True)
        path.write_text(f"{name} {kind}")
        found[path.name] = drawn.stamp_of(path)
    return found


@pytest.fixture(scope="module", autouse=True)
def placeholders():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(style, "save", placeholder)
        yield


@pytest.fixture(scope="module")
def made_once(tmp_path_factory, placeholders):
    store = tmp_path_factory.mktemp("made")
    study = fabricated.study(store, LABELS, name="small", definition="small", patients=3, seeds=3)
    make("small", store=store)
    return store, study


@pytest.fixture
def store(made_once, tmp_path):
    """A store whose report stands; its figures are links, so that they are not drawn for every test."""
    source, _ = made_once
    place = tmp_path / "store"
    shutil.copytree(source, place, copy_function=_take)
    make("small", store=place)
    return place


def _take(source, target):
    (os.link if source.endswith((".png", ".pdf")) else shutil.copy2)(source, target)


@pytest.fixture
def drawings(monkeypatch):
    """Names of the pictures that were drawn."""
    names = []
    save = style.save
    monkeypatch.setattr(style, "save", lambda figure, folder, name: names.append(name) or save(figure, folder, name))
    return names


def report(store, **options):
    return make("small", store=store, options=Options(**options))


def runs(store):
    return [cell["identity"] for cell in index.find_study(store, "small")["cells"]]


def files(store):
    folder = store / "reports" / "small"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != drawn.LEDGER}


def afresh(store, tmp_path):
    """What a store of the same runs makes that remembers nothing."""
    place = tmp_path / "afresh" / "store"
    shutil.copytree(store, place, ignore=shutil.ignore_patterns("reports", "index"))
    made = report(place)
    return made.words, files(place)


def rescore(store, identity, dice):
    path = store / "runs" / identity / "rows.parquet"
    pd.read_parquet(path).assign(dice=dice).to_parquet(path, index=False)


def test_what_stands_is_not_made_again(store, drawings):
    before = {path: path.stat().st_mtime_ns for path in (store / "reports").rglob("*")}
    once, again = report(store), report(store)
    assert not once.anew and not again.anew and drawings == []
    assert {path: path.stat().st_mtime_ns for path in (store / "reports").rglob("*")} == before
    assert set(again.paths) == {path for path in before if path.is_file() and path.name != drawn.LEDGER}
    assert again.paths[0].name == "index.html" and again.words.startswith("small: arms\n")


def test_a_changed_row_changes_the_table_and_the_figures_of_it_alone(store, drawings, tmp_path):
    before = report(store).words
    rescore(store, runs(store)[0], 0.5)
    made = report(store)
    assert made.anew and made.words != before
    assert set(drawings) == {"arms", "checkpoints", "effects"}
    assert (made.words, files(store)) == afresh(store, tmp_path)


def test_a_changed_codebook_changes_its_arms_figure_alone(store, drawings, tmp_path):
    path = store / "runs" / runs(store)[0] / "codebook.parquet"
    pd.read_parquet(path).assign(tokens=5).to_parquet(path, index=False)
    made = report(store)
    assert drawings == ["codebook-none"]
    assert (made.words, files(store)) == afresh(store, tmp_path)


@pytest.mark.parametrize("which", ["status.json", "rows.parquet", "metrics.csv", "codebook.parquet", "config.yaml"])
def test_a_touched_file_is_read_again_and_nothing_drawn(store, drawings, which):
    before, words = files(store), report(store).words
    path = store / "runs" / runs(store)[1] / which
    path.write_bytes(path.read_bytes())
    made = report(store)
    assert made.anew and made.words == words and files(store) == before and drawings == []


def test_a_run_that_is_gone_is_missing_and_one_that_came_is_there(store, tmp_path):
    lost = store / "runs" / runs(store)[-1]
    before = report(store).words
    shutil.move(lost, tmp_path / "aside")
    without = report(store).words
    assert "missing" in without and without != before
    shutil.move(tmp_path / "aside", lost)
    assert report(store).words == before
    study = index.find_study(store, "small")
    shutil.copytree(lost, store / "runs" / ("abcd" * 4))
    study["cells"].append({"arm": "none", "seed": 3, "identity": "abcd" * 4, "name": "none, seed 3"})
    write_json(store / "studies" / "small" / "study.json", study)
    made = report(store)
    assert "4/4" in made.words and (made.words, files(store)) == afresh(store, tmp_path)


def test_a_rival_that_came_stands_in_the_table(store):
    assert "nnU-Net" not in report(store).words
    rival = fabricated.rival(store, patients=3)
    assert "nnU-Net" in report(store).words and not report(store).anew
    path = rival.path / "rows.parquet"
    pd.read_parquet(path).assign(dice=0.123).to_parquet(path, index=False)
    assert "12.30" in report(store).words
    assert "nnU-Net" not in report(store, rivals=False).words


def test_other_questions_are_other_reports(store):
    words = {report(store, **asked).words for asked in ({}, {"metric": "hd95"}, {"decimals": 1}, {"part": "val"})}
    assert len(words) == 4
    assert report(store).anew and not report(store).anew
    assert make("small", store=store, width=60).anew


def test_what_reports_show_of_presets_and_studies_counts(tmp_path, monkeypatch):
    for folder in ("reports", "configs", "studies"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.yaml").write_text("a: 1")
    monkeypatch.setattr(drawn.assets, "folder", lambda name: tmp_path / name)
    found = []
    for folder in ("", "reports", "configs", "studies"):
        if folder:
            (tmp_path / folder / "one.yaml").write_text("a: 2")
        drawn.code.cache_clear()
        found.append(drawn.code("report"))
    drawn.code.cache_clear()
    assert len(set(found)) == 4


@pytest.mark.parametrize("name", ["effects.png", "curves.pdf", "report.md", "arms.csv", "index.html"])
@pytest.mark.parametrize("harm", ["deleted", "changed"])
def test_a_file_of_the_report_that_was_lost_is_made_again(store, drawings, name, harm):
    before = files(store)
    path = store / "reports" / "small" / name
    path.unlink()
    if harm == "changed":
        path.write_bytes(b"not this")
    assert report(store).anew and files(store) == before
    assert drawings == ([path.stem] if path.suffix in (".png", ".pdf") else [])


@pytest.mark.parametrize(
    "ledger", ["", "[]", "{", '{"format": 0}', '{"format": 1, "report": 5, "figures": {"arms": 3}}']
)
def test_a_damaged_ledger_is_made_anew(store, drawings, ledger):
    before = files(store)
    path = store / "reports" / "small" / drawn.LEDGER
    path.write_text(ledger)
    assert report(store).anew and files(store) == before and len(drawings) == 8
    assert not report(store).anew and read_json(path)["format"] == drawn.FORMAT


@pytest.mark.parametrize("entry", ["figures", "report"])
def test_entries_that_are_not_what_they_should_be_do_not_count(store, entry):
    path = store / "reports" / "small" / drawn.LEDGER
    known = json.loads(path.read_text())
    known[entry] = {"arms": 3, "key": known["report"]["key"], "files": [1]}
    path.write_text(json.dumps(known))
    assert report(store).anew is (entry == "report") and not report(store).anew


def test_other_code_draws_again(store, drawings, monkeypatch):
    monkeypatch.setattr(drafting, "code", lambda *_: "other")
    monkeypatch.setattr("vqseg.report.make.code", lambda *_: "other")
    assert report(store).anew and len(drawings) == 8


def test_a_report_of_runs_that_are_not_at_rest_is_always_looked_at_again(store):
    run = RunFolder(store, runs(store)[0])
    run.update(state="running")
    with run.lock():
        assert "running" in report(store).words
    assert "killed" in report(store).words
    assert report(store).anew
    run.update(state="finished")
    assert report(store).anew and not report(store).anew


def test_many_figures_are_drawn_by_several_processes_and_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save", REAL)
    rows = [[table.Row(f"arm {n}", [table.Cell(str(n), "bold")])] for n in range(4)]
    pictures = [drafting.Picture(f"t{n}", "", table.draw, (["arm", "n"], own)) for n, own in enumerate(rows)]
    found = []
    for few, name in ((2, "shared"), (99, "alone")):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(drafting, "FEW", few)
        ledger = drawn.Drawn(tmp_path / name)
        paths = drafting.draw(pictures, ledger, phantom=True)
        assert all(ledger.stands(entry, entry["key"]) for entry in ledger.figures.values()) and len(paths) == 8
        found.append([path.read_bytes() for path in paths])
    assert found[0] == found[1]


def test_another_process_says_what_went_wrong(tmp_path):
    picture = drafting.Picture("t", "", table.draw, (["arm"], []))
    asked = drafting._started([picture], tmp_path / "not there" / "\0", False)
    answer = drafting.pickle.loads(asked.stdout.read()) if asked.wait() == 0 else None
    assert answer is None or isinstance(answer, OSError)


@dataclass(frozen=True)
class Thing:
    name: str
    numbers: dict[str, float]


def test_the_digest_of_a_content_tells_what_differs():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"], "c": [[1], [2, 3]]})
    values = [None, 0, 0.0, False, "", "0", [], ["a", "b"], ["ab"], [["a"], "b"], {"a": 1}, {"a": 1.0}, frozenset("a")]
    values += [Thing("a", {"b": 1.0}), Thing("a", {"b": 2.0}), frame, frame[:1], frame.rename(columns={"a": "z"})]
    values += [frame.assign(a=[1.0, 2.5]), frame.assign(a=[1, 2]), frame.assign(b=["x", None])]
    values += [frame.assign(c=[[1], [2]])]
    assert len({drawn.content(value) for value in values}) == len(values)
    assert drawn.content(frame) == drawn.content(frame.copy().set_axis([7, 9]))
    with pytest.raises(TypeError, match="no digest of a PosixPath"):
        drawn.content(["a", Path()])
