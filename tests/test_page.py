"""The page of one report and what it is reached by: names, files, escapes, links, watermarks, fonts."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import fabricated
import pandas as pd
import placed
import pytest
import seaborn
import typer
from matplotlib.text import Text
from rendered import CHROMIUM, NASTY, Page, measured, quick_figures
from typer.testing import CliRunner

from vqseg.errors import InputError
from vqseg.records import index
from vqseg.records.run import RunFolder
from vqseg.report import REPORTS, bound, drawn, make, page, style, table
from vqseg.report.content import Picture, Report, Section
from vqseg.report.page import Around

SMALL = {"seeds": 2, "patients": 3}


def one_table(name="t", **settings):
    cells = [table.Cell("1.00", "bold", "2 seeds; runs a b"), table.Cell("a very long text, longer than a number is")]
    rows = [table.Row(NASTY, cells), table.Row("b", cells, ruled=True)]
    return table.Table(
        name, "T", ["arm", "Dice (%)", "words"], rows, "Caption.", pd.DataFrame({"arm": [1]}), **settings
    )


def report_of(*tables, pictures=()):
    return Report("R", "Q?", ["Look out."], ["One."], [Section("S", ["P."], list(tables), list(pictures))])


def draw_nothing(words):
    figure = style.sheet(2, 1)
    figure.subplots().set_title(words)
    return figure


@pytest.fixture(scope="module")
def study_page(tmp_path_factory):
    """The page of a synthetic study with hostile names."""
    store = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patched:
        quick_figures(patched)
        fabricated.study(store, {"none": 84.0, "qpm eps=0.7": 86.0, NASTY: 80.0}, synthetic=True, **SMALL)
        made = make.make("epsilon", store=store)
    return store, made, Page(made.paths[0])


def test_a_studys_page_is_whole_and_escapes_names(study_page):
    store, made, own = study_page
    own.check()
    assert [tag for tag, _ in own.tags].count("script") == 0 and "&lt;script&gt;" in own.path.read_text()
    assert page.PHANTOM in own.text and page.PHANTOM in made.words
    links = [link for link in own.links if not link.startswith("data:")]
    assert any(link.startswith("../../runs/") for link in links) and "arms-cells.csv" in links
    assert len([tag for tag, attrs in own.tags if tag == "th" and attrs.get("scope") == "col"]) > 10
    assert store in own.path.parents


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_studys_page_does_not_overflow(study_page, tmp_path, width):
    _, _, own = study_page
    overflow, _, said = measured(own.path, tmp_path, width=width)
    assert overflow == 0 and not [line for line in said if "ERR_FILE_NOT_FOUND" not in line]


def test_a_report_is_written_in_all_its_forms(tmp_path):
    runs = [
        {"arm": "a", "study": study, "seed": "0", "state": "finished", "identity": "ab", "link": None}
        for study in ("one", "two")
    ]
    around = Around(False, 3, ["b is missing"], runs, "torch 2")
    paths = page.write(
        report_of(one_table(), pictures=[Picture("p", "Of p. More.", draw_nothing, ("x",))]),
        around,
        drawn.Drawn(tmp_path),
    )
    names = {path.name for path in paths}
    assert names >= {"index.html", "report.md", "report.tex", "t.md", "t.tex", "t.csv", "t-cells.csv", "t.png", "p.pdf"}
    own = Page(tmp_path / "index.html")
    own.check()
    assert "Missing: 1 entry, of 3 cells" in own.text and "arm study seed state run a one" in own.text
    marked = [attrs for tag, attrs in own.tags if tag == "td" and attrs.get("class")]
    assert {"bold", "words"} == {name for attrs in marked for name in attrs["class"].split()}
    assert "| a | one | 0 | finished | `ab` |" in (tmp_path / "report.md").read_text()


def test_a_table_may_be_of_synthetic_images_where_its_report_is_not(tmp_path, monkeypatch):
    marked = []
    monkeypatch.setattr(style, "watermark", lambda figure: marked.append(figure))
    page.parts(report_of(one_table("real"), one_table("made", phantom=True)), Around(False), drawn.Drawn(tmp_path))
    assert len(marked) == 1
    page.parts(report_of(one_table("other")), Around(True), drawn.Drawn(tmp_path))
    assert len(marked) == 2


def draw_names(names, values):
    frame = pd.DataFrame({"name": names, "value": values})
    with style.house():
        figure = style.sheet(3.4, 2.0)
        axes = figure.subplots()
        seaborn.stripplot(frame, x="value", y="name", hue="name", legend=True, ax=axes)
        axes.set(xscale="log", title=names[0], xlabel=names[0])
    return figure


def test_dollars_in_names_are_no_formulas(tmp_path):
    names = [r"mine $\foo$ x", "$a$"]
    pictures = [Picture("p", "Of p.", draw_names, (names, [1.0, 1000.0]))]
    page.parts(report_of(one_table(), pictures=pictures), Around(False), drawn.Drawn(tmp_path))
    figure = pictures[0].figure
    style.take_literally(figure)
    words = {text.get_text(): text.get_parse_math() for text in figure.findobj(Text)}
    assert not any(words[name] for name in names)
    powers = [own for text, own in words.items() if "mathdefault" in text]
    assert powers and all(powers)


def test_names_that_are_one_file_name_have_files_of_their_own():
    pictures = [Picture("codebook-arm", words, draw_nothing, (words,)) for words in ("α", "β", "γ")]
    sections = [Section("S", [], [one_table("codebook-arm")], pictures[:2]), Section("T", [], [], pictures[2:])]
    found = bound.distinct(Report("R", "Q?", [], [], sections))
    shown = [picture for section in found.sections for picture in section.pictures]
    assert found.sections[0].tables[0].name == "codebook-arm"
    assert [(each.name, each.caption) for each in shown] == [
        ("codebook-arm-2", "α"), ("codebook-arm-3", "β"), ("codebook-arm-4", "γ")
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["=1", "+1+cmd|'/C calc'!A0", "-1+cmd|x", "@x", "+a"])
def test_a_spreadsheet_reads_no_name_as_a_formula(name):
    cells = [table.Cell("+0.70 [−0.1, +1.5]"), table.Cell("-3 ± 2 (−1 %)"), table.Cell(name)]
    tidy = pd.DataFrame({"arm": [name], "value": [-1.5], name: ["x"]})
    own = table.Table("t", "T", [name, "a", "b", "c"], [table.Row(name, cells)], "", tidy)
    for text in (table.csv_text(own), table.tidy_text(own)):
        fields = [field for line in csv.reader(io.StringIO(text, newline="")) for field in line]
        assert f"'{name}" in fields and name not in fields
    assert "+0.70 [−0.1, +1.5]" in table.csv_text(own) and "'-" not in table.csv_text(own).replace(f"'{name}", "")
    assert ",-1.5," in table.tidy_text(own)
    two = table.Table("t", "T", ["arm"], [table.Row("a\r\n=b", [])], "", pd.DataFrame({"arm": ["\r=b"]}))
    assert table.csv_text(two) == "arm\na =b\n" and table.tidy_text(two) == "arm\n'=b\n"


@pytest.mark.parametrize("name", REPORTS)
def test_a_study_that_is_called_like_a_report_has_a_folder_of_its_own(name):
    study = {"name": name, "study": "mine", "arms": []}
    assert make.folder_of(Path("s"), study, "ablation") == Path("s/reports") / f"study-{name}"


def test_what_is_written_again_alike_keeps_its_file(tmp_path):
    ledger = drawn.Drawn(tmp_path)
    stamp = drawn.stamp_of(ledger.put("a.txt", "one"))
    assert drawn.stamp_of(ledger.put("a.txt", "one")) == stamp == ledger.texts["a.txt"]
    assert drawn.stamp_of(ledger.put("a.txt", "two")) != stamp and (tmp_path / "a.txt").read_text() == "two"


def test_fonts_are_embedded_as_truetype_and_in_grey_a_table_is_still_a_table(tmp_path):
    page.parts(report_of(one_table()), Around(False), drawn.Drawn(tmp_path))
    words = (tmp_path / "t.pdf").read_bytes()
    assert b"/FontFile2" in words and b"/Type3" not in words
    if shutil.which("pdffonts"):
        listed = subprocess.run(["pdffonts", tmp_path / "t.pdf"], capture_output=True, text=True).stdout
        lines = [re.split(r"\s+", line) for line in listed.splitlines()[2:]]
        assert lines and all("yes" in line for line in lines)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_a_document_of_several_reports_compiles(tmp_path):
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        page.parts(report_of(one_table()), Around(False), drawn.Drawn(folder))
    text = page.tex(NASTY, [("", report_of(one_table())), ("other", report_of(one_table()))], [NASTY])
    (tmp_path / "report.tex").write_text(text)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "multiply defined" not in (tmp_path / "report.log").read_text(errors="replace")


def test_a_wide_table_is_scaled_and_a_long_name_may_be_broken():
    label = "augment.flip_vertical_probability, which is long"
    wide = [table.Row(label, [table.Cell("a text of some forty letters, more or less")] * 4)]
    tex = table.latex(table.Table("t", "T", ["arm", "a", "b", "c", "d"], wide, "", pd.DataFrame()))
    assert r"\resizebox{\textwidth}" in tex and r"augment.\allowbreak{}flip\_\allowbreak{}vertical\_" in tex
    narrow = [table.Row("arm 0.7", [table.Cell("1.00")] * 4)]
    tex = table.latex(table.Table("t", "T", ["arm", "a", "b", "c", "d"], narrow, "", pd.DataFrame()))
    assert "resizebox" not in tex and "allowbreak" not in tex


# names


@pytest.fixture
def store(tmp_path, monkeypatch):
    quick_figures(monkeypatch)
    fabricated.study(tmp_path, {"none": 84.0, "qpm eps=0.7": 86.0}, **SMALL)
    fabricated.study(tmp_path, {"none": 84.0}, name="mine", definition="own", created="2020", **SMALL)
    return tmp_path


def test_a_report_is_of_the_study_that_is_named(store):
    folder = store / "reports"
    for asked, place in (
        (["epsilon"], folder / "epsilon-sweep-acdc-cpu"),
        (["epsilon-sweep"], folder / "epsilon-sweep-acdc-cpu"),
        (["epsilon", "mine"], folder / "mine" / "epsilon"),
        (["ablation", "own"], folder / "mine"),
        (["ablation"], folder / "epsilon-sweep-acdc-cpu" / "ablation"),
        (["mine"], folder / "mine"),
        (["cost", "epsilon-sweep"], folder / "epsilon-sweep-acdc-cpu" / "cost"),
    ):
        assert make.make(*asked, store=store).paths[0] == place / "index.html", asked


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["epsilom"], "unknown report or study 'epsilom' (did you mean 'epsilon'"),
        (["epsilon", "mien"], "unknown study 'mien'"),
        (["epsilon", "mine", "more"], "the form is 'vqseg report epsilon STUDY'"),
        (["mine", "cost"], "the form is 'vqseg report REPORT mine'"),
        (["main", "mine"], "report main is of a whole store, got 'mine'; 'vqseg report mine' is of that"),
        (["modules"], "unknown study 'modules'"),
    ],
)
def test_what_was_meant_is_said(store, asked, says):
    with pytest.raises(InputError) as error:
        make.make(*asked, store=store)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_the_command_takes_the_study_after_the_report_and_lists_all(store):
    from vqseg.cli.report import report

    app = typer.Typer()
    app.command()(report)
    done = CliRunner().invoke(app, ["ablation", "mine", "--store", str(store), "--no-rivals"])
    assert done.exit_code == 0 and "mine: arms" in done.output, done.output
    listed = CliRunner().invoke(app, ["list", "--store", str(store)]).output
    assert all(f"  {name} " in listed for name in REPORTS) and "vqseg report diff OLD NEW" in listed
    assert "mine                    2/2 cells finished  data acdc  -> ablation" in listed


def test_a_whole_stores_report_may_be_of_some_studies(store):
    placed.keep(store, {**index.find_study(store, "mine"), "data": {"name": "other", "digest": "e" * 16, "root": "r2"}})
    assert "2 methods from 1 study" in make.make("main", store=store, data="acdc").words
    assert "1 method from 1 study" in make.make("main", store=store, data="r2").words
    with pytest.raises(InputError, match="no study on split '3'"):
        make.make("main", store=store, split="3")


def test_a_store_report_is_not_made_again_until_a_run_changes(store):
    first = make.make("main", store=store)
    assert first.anew and not make.make("main", store=store).anew
    assert first.paths[0] == store / "reports" / "main" / "index.html"
    identity = next((store / "runs").iterdir()).name
    RunFolder(store, identity).update(state="interrupted")
    changed = make.make("main", store=store)
    assert changed.anew and "interrupted" in changed.words


def test_captions_end_with_the_commit_of_their_runs(store):
    made = make.make("ablation", "mine", store=store)
    words = (made.paths[0].parent / "arms.md").read_text()
    assert "preset cpu; semi-supervised." in words and "Commit abc1234." in words
    assert "Commit abc1234" not in (made.paths[0].parent / "published.md").read_text()
    identity = next(cell["identity"] for cell in index.find_study(store, "mine")["cells"])
    RunFolder(store, identity).update(provenance={"precision": "fp32", "commit": "0" * 40, "dirty": True})
    make.make("mine", store=store)
    assert "Commits 0000000 and abc1234, changed." in (made.paths[0].parent / "arms.md").read_text()


def test_a_library_that_is_not_there_is_a_refusal(store, monkeypatch):
    from vqseg.report import bound

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="sklearn")

    monkeypatch.setattr(bound, "import_module", missing)
    with pytest.raises(InputError, match="report epsilon: sklearn is not installed"):
        make.make("epsilon", store=store)
