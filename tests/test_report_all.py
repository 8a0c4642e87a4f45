"""The page of everything: what it says first, that it holds all studies, asks for nothing, and reads well."""

import json
import os
import shutil
import subprocess

import fabricated
import pandas as pd
import pytest
import typer
from rendered import CHROMIUM, NASTY, PARTS, Page, measured, quick_figures
from typer.testing import CliRunner

from vqseg import assets
from vqseg.errors import InputError
from vqseg.files import read_json, write_json
from vqseg.records.run import RunFolder
from vqseg.report import REPORTS, book, embedded, gaps
from vqseg.report.make import make
from vqseg.report.options import Options

SMALL = {"seeds": 3, "patients": 4, "parts": ("val", "devtest")}
SWEEP = {"none": 84.0, "qpm eps=0.7": 86.0, "dropout p=0.9": 75.0, "dropout p=0.3": 84.5, NASTY: 80.0}


def runs_of(made, arm):
    return [cell["identity"] for cell in made["cells"] if cell["arm"] == arm]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store of a half-finished study with hostile names, of a synthetic one, and of one without any score."""
    store = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        quick_figures(patched)
        sweep = fabricated.study(store, SWEEP, **SMALL)
        RunFolder(store, runs_of(sweep, "dropout p=0.3")[0]).update(state="failed", error="out of memory <b>")
        shutil.rmtree(store / "runs" / runs_of(sweep, "dropout p=0.3")[1])
        RunFolder(store, runs_of(sweep, "dropout p=0.3")[2]).update(state="interrupted", step=1000)
        fabricated.module_study(store, fabricated.grid(), **{**SMALL, "name": "modules-phantom", "synthetic": True})
        early = fabricated.study(store, {"none": 80.0, "mine": 81.0}, name="early", definition="early", **SMALL)
        for cell in early["cells"]:
            RunFolder(store, cell["identity"]).update(state="interrupted", step=0)
        yield store, make("all", store=store)


@pytest.fixture(scope="module")
def page(whole):
    _, made = whole
    return Page(made.paths[0])


def test_the_page_is_one_file_that_asks_for_nothing_and_its_links_resolve(page):
    page.check()
    assert len(page.images) > 10 and all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert page.path.stat().st_size < 2_000_000


def test_names_from_data_are_escaped_everywhere(whole, page):
    words = page.path.read_text()
    assert "alert('x')" not in words and "&lt;script&gt;alert" in words and "memory <b>" not in words
    assert [tag for tag, _ in page.tags].count("script") == 1
    for path in (page.path.parent / "report.md", page.path.parent / "main.md"):
        assert "<script>" not in path.read_text()
    tex = (page.path.parents[1] / "epsilon-sweep-acdc-cpu" / "arms.tex").read_text()
    printed = [line for line in tex.splitlines() if not line.startswith("%")]
    assert any(r"\textbackslash{}input\{x\}" in line for line in printed)
    assert not any(r"\input{" in line for line in printed)


def test_the_first_screen_answers_then_shows_the_table_the_patients_and_what_is_missing(page):
    text = page.text
    places = [
        text.index("QPM .7 against the best dropout on acdc"),
        text.index("Methods by labels on acdc, 7 labelled patients"),
        text.index("Patient by patient: epsilon-sweep-acdc-cpu"),
        text.index("What is missing and its cost Cells of every study"),
        text.index("How to read this The unit is the patient."),
        text.index("The paper's claims Which of the claims"),
        text.index("Why published numbers stand apart Numbers of papers"),
        text.index("Published on ACDC, Dice (%) by labels"),
        text.index("The data set acdc (Bernard et al. 2018; Luo 2020) was split by patient"),
        text.index("Environment Versions and machines"),
    ]
    assert places == sorted(places)
    assert text.index("modules-phantom phantom") < places[1]  # real images first, then synthetic ones
    assert "Some studies are of synthetic images (phantom) and say nothing about a method: modules-phantom." in text


def test_a_study_that_refuses_says_why_in_one_line(page):
    assert "No report ablation: study 'early': no finished run has scores yet (6 interrupted)" in page.text
    assert page.text.count("no finished run has scores yet (6 interrupted)") >= 2  # on the first screen too


def test_every_report_of_a_study_has_its_place_and_every_run_its_identity(whole, page):
    for about in (REPORTS[kind].about for kind in book.EXTRAS):
        assert page.text.count(about[0].upper() + about[1:]) == 2
    store, _ = whole
    study = read_json(store / "studies" / "epsilon-sweep-acdc-cpu" / "study.json")
    assert all(cell["identity"] in page.text for cell in study["cells"])
    tips = [own["title"] for tag, own in page.tags if tag == "td" and "title" in own]
    assert any(runs_of(study, "qpm eps=0.7")[0] in tip for tip in tips)


def test_the_contents_lead_to_every_part(page):
    listed = [own["href"][1:] for tag, own in page.tags if tag == "a" and own.get("href", "").startswith("#")]
    assert set(listed) >= PARTS
    assert sum(part.startswith("study-") for part in set(listed)) == 3


def test_references_are_those_that_the_text_cites(whole, page):
    bib = (page.path.parent / "references.bib").read_text()
    assert "@article{bernard2018acdc," in bib and "akiba2019optuna" not in bib
    assert bib.strip().splitlines()[0] in page.path.read_text()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_a_document_of_all_tables_and_figures_compiles(whole, tmp_path):
    store, _ = whole
    shutil.copytree(store / "reports", tmp_path / "reports")
    folder = tmp_path / "reports" / "all"
    tables = (folder / "report.tex").read_text().count(r"\input{")
    assert tables > 20
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "multiply defined" not in (folder / "report.log").read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_finds_no_overflow_and_no_error(page, tmp_path, width):
    overflow, _, said = measured(page.path, tmp_path, width=width)
    assert (overflow, said) == (0, [])


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_no_table_is_cut_in_print(page, tmp_path):
    # A4 less its margins of 12 mm, at 96 dots an inch.
    _, cut, _ = measured(page.path, tmp_path, width=703, printed=True)
    assert cut.startswith("cut 0"), cut


def test_what_stands_is_not_made_again_and_what_changes_is(whole, tmp_path, monkeypatch):
    quick_figures(monkeypatch)
    store = tmp_path / "store"
    fabricated.study(store, {"none": 84.0, "qpm eps=0.7": 86.0}, **SMALL)
    first = make("all", store=store)
    again = make("all", store=store)
    assert first.anew and not again.anew and again.words == first.words
    study = read_json(store / "studies" / "epsilon-sweep-acdc-cpu" / "study.json")
    status = store / "runs" / study["cells"][0]["identity"] / "status.json"
    os.utime(status)
    assert make("all", store=store).anew and not make("all", store=store).anew
    claim = store / "claims" / "own.yaml"
    claim.parent.mkdir()
    source = (assets.folder("reports") / "claims" / "qpm-beats-dropout.yaml").read_text()
    claim.write_text(source)
    assert make("all", store=store).anew
    write_json(store / "studies" / "other" / "study.json", {**study, "name": "other"})
    assert "other:" in make("all", store=store).words


def test_an_empty_store_gives_a_useful_page(tmp_path, monkeypatch):
    quick_figures(monkeypatch)
    from vqseg.cli.report import report

    app = typer.Typer()
    app.command()(report)
    for name in ("all", "main", "claims"):
        done = CliRunner().invoke(app, [name, "--store", str(tmp_path)])
        assert done.exit_code == 0, done.output
    page = Page(tmp_path / "reports" / "all" / "index.html")
    page.check()
    assert "This store has no study yet" in page.text and "vqseg study run modules --data FOLDER" in page.text
    assert "Published on ACDC" in page.text and "How to read this" in page.text
    with pytest.raises(InputError, match="report all is of a whole store, got 'modules'"):
        make("all", "modules", store=tmp_path)
    with pytest.raises(InputError, match="no study on data 'isic'"):
        make("all", store=tmp_path, data="isic")


def test_the_reports_can_be_written_elsewhere(whole, tmp_path, monkeypatch):
    quick_figures(monkeypatch)
    store = tmp_path / "store"
    fabricated.study(store, {"none": 84.0}, seeds=1, patients=2)
    made = make("all", store=store, out=tmp_path / "there")
    assert made.paths[0] == tmp_path / "there" / "index.html" and not (store / "reports").exists()
    assert (tmp_path / "there" / "studies" / "epsilon-sweep-acdc-cpu" / "index.html").is_file()


def test_what_is_missing_is_counted_and_its_time_told(whole):
    store, _ = whole
    table = gaps.compute(store, book.ordered([read_json(p) for p in (store / "studies").glob("*/study.json")]))
    line = table.set_index("study").loc["epsilon-sweep-acdc-cpu"]
    assert (line["cells"], line["finished"], line["failed"], line["interrupted"], line["missing"]) == (15, 12, 1, 1, 1)
    # Every finished run took an hour; the interrupted one has done half of its steps.
    assert line["hours"] == pytest.approx(2.5) and gaps.length(line) == "about 2 h"
    assert "--retry failed" in line["command"] and "--name epsilon-sweep-acdc-cpu" in line["command"]
    assert gaps.length(table.set_index("study").loc["modules-phantom"]) == "—"
    sentence = next(each for each in gaps.sentences(table) if each.startswith("epsilon"))
    assert sentence.startswith(
        "epsilon-sweep-acdc-cpu: 1 interrupted, 1 failed, 1 not started of 15 cells; about 2 h: "
    )
    early = table.set_index("study").loc["early"]
    assert early["left"] == 6 and early["hours"] == pytest.approx(6)  # as other runs of its preset took


def test_the_command_that_goes_on_is_the_studys_own(tmp_path):
    made = fabricated.study(tmp_path, {"none": 80.0}, seeds=1, patients=2)
    full = {**made, "study": "mine", "supervised": True, "draws": 3, "overrides": {"train.steps": 100}}
    words = "--data data/acdc --split 7 --preset cpu --name epsilon-sweep-acdc-cpu"
    assert gaps.command(full) == f"vqseg study run mine.yaml {words} --supervised --draws 3 --set train.steps=100"
    assert gaps.command({**made, "study": "protocols", "of": "other"}) == "vqseg study run protocols --of other"
    assert gaps.absent([made]).keys() == set(assets.names("studies")) - {"epsilon-sweep"}


def test_a_time_that_nothing_tells_is_unknown(tmp_path):
    made = fabricated.study(tmp_path, {"none": 80.0}, seeds=2, patients=2)
    for cell in made["cells"]:
        shutil.rmtree(tmp_path / "runs" / cell["identity"])
    line = gaps.compute(tmp_path, [made]).iloc[0]
    assert line["missing"] == 2 and gaps.length(line) == "time unknown"


def test_a_figure_is_embedded_small_and_readable(whole, tmp_path):
    from matplotlib.figure import Figure
    from PIL import Image

    from vqseg.report import style

    figure = Figure(figsize=(7.0, 2.0))
    figure.text(0.5, 0.5, "x")
    style.save(figure, tmp_path, "wide")
    uri, width, height = embedded.data_uri(tmp_path / "wide.png")
    assert (width, height) == (embedded.SHOWN_PX, round(440 * embedded.SHOWN_PX / 1540))
    assert len(uri) < 2 * (tmp_path / "wide.png").stat().st_size
    assert Image.open(tmp_path / "wide.png").width == 1540
    assert embedded.width_px(10) == embedded.SHOWN_PX > embedded.width_px(200) > embedded.width_px(10_000) == 640


def test_the_numbers_of_a_page_are_those_of_the_studies(whole):
    store, _ = whole
    main = pd.read_csv(store / "reports" / "all" / "main-cells.csv")
    arms = pd.read_csv(store / "reports" / "epsilon-sweep-acdc-cpu" / "arms-cells.csv")
    own = arms[(arms["arm"] == "qpm eps=0.7") & (arms["column"] == "dice")].iloc[0]
    line = main[(main["arm"] == "qpm eps=0.7")].iloc[0]
    assert line["value"] == pytest.approx(own["value"]) and line["sd"] == pytest.approx(own["sd"])
    assert json.loads((store / "reports" / "all" / ".drawn.json").read_text())["report"]["words"]


def test_options_reach_every_study(whole, tmp_path, monkeypatch):
    quick_figures(monkeypatch)
    store = tmp_path / "store"
    fabricated.study(store, {"none": 84.0, "qpm eps=0.7": 86.0}, **SMALL)
    made = make("all", store=store, options=Options(metric="hd95", decimals=1, part="val"))
    assert "HD95 (voxel)" in made.words and "(val" in made.words
    # What was asked for this once does not replace what stands under the study's name.
    assert not (store / "reports" / "epsilon-sweep-acdc-cpu").exists()
    assert (store / "reports" / "all" / "studies" / "epsilon-sweep-acdc-cpu" / "index.html").is_file()


def test_the_page_leaves_the_reports_of_a_study_whole(tmp_path, monkeypatch):
    quick_figures(monkeypatch)
    fabricated.study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0}, **SMALL)
    alone = make("codebook", "epsilon-sweep", store=tmp_path)
    before = {path.name: path.read_bytes() for path in alone.paths}
    make("all", store=tmp_path)
    assert {path.name: path.read_bytes() for path in alone.paths} == before
