"""The report of codebooks: size and use side by side, every utilization with its ceiling and its number of tokens."""

import re
from dataclasses import replace

import fabricated
import numpy as np
import pandas as pd
import pytest

from vqseg.errors import InputError
from vqseg.files import read_yaml, write_yaml
from vqseg.manifest import write_array
from vqseg.records import tokens
from vqseg.records.run import RunFolder
from vqseg.report import codebook, codebook_size, codes, page, use
from vqseg.report.drawn import Drawn
from vqseg.report.selection import Options, select

SIZES = {"V=20": (20, None), "V=100": (100, None), "V=400": (400, None), "V=100 d=3": (100, 3)}
WIDTH = 8
PARTS = {"val": 990, "devtest": 4000}
CLASSES = ("background", *fabricated.CLASSES)


def study(store, labels=None, **options):
    """A study of sizes: every run uses three quarters of its codes evenly, the first one by the foreground alone."""
    labels = labels or dict.fromkeys(SIZES, 80.0)
    names = {"name": "codebook-size-acdc-cpu", "definition": "codebook-size", "reference": "V=100"}
    made = fabricated.study(store, labels, **{"seeds": 3, "patients": 4, **names, **options})
    for cell in made["cells"]:
        folder = RunFolder(store, cell["identity"])
        size, rank = SIZES[cell["arm"]]
        write_array(folder.path / "codes.npz", codes=np.random.default_rng(cell["seed"]).normal(0, 1, (size, WIDTH)))
        config = folder.config()
        config["network"]["quantizer"] = {"name": "mapped", "num_codes": size, "code_dim": rank}
        config["perturbation"] = {"name": "qpm", "rate": 0.7}
        write_yaml(folder.path / "config.yaml", config)
        histogram(folder.path, size)
        logged(folder.path, size, cell["seed"])
    return made


def histogram(path, size, parts=PARTS):
    used = 3 * size // 4
    tables = []
    for part, total in parts.items():
        counts = np.zeros(size, dtype=int)
        counts[:used] = total // used
        counts[0] += total - counts.sum()
        classes = np.zeros((len(CLASSES), size), dtype=int)
        classes[0] = counts
        # Code 0 is the left ventricle's, codes 1 and 2 are shared by it and the background.
        for code, share in ((0, 1.0), (1, 0.5), (2, 0.25)):
            moved = int(share * counts[code])
            classes[0, code] -= moved
            classes[3, code] += moved
        columns = {f"class_{name}": row for name, row in zip(CLASSES, classes)}
        table = {"part": part, "network": "teacher", "code": np.arange(size), "tokens": counts, **columns}
        tables.append(pd.DataFrame(table))
    pd.concat(tables).to_parquet(path / "codebook.parquet", index=False)


def logged(path, size, seed):
    text = (path / "metrics.csv").read_text().splitlines()
    kept = [line for line in text if ",codebook/" not in line]
    values = {
        "tokens": 10 * size, "utilization": 0.5 + 0.01 * seed, "ceiling": codebook.ceiling(10 * size, size),
        "perplexity": size / 4, "dead": size * (0.5 - 0.01 * seed),
    }  # fmt: skip
    kept += [f"{step},codebook/{name},{value}" for step in (1000, 2000) for name, value in values.items()]
    (path / "metrics.csv").write_text("\n".join(kept) + "\n")


def chosen(store, made, **options):
    return select(store, made, Options(**options))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return store, study(store)


@pytest.fixture(scope="module")
def selection(made):
    return chosen(*made)


@pytest.fixture(scope="module")
def report(selection):
    return codebook_size.build(selection)


def table_of(report, name):
    return next(each for section in report.sections for each in section.tables if each.name == name)


def cells_of(table, label):
    row = next(row for row in table.rows if row.label.startswith(label))
    return dict(zip(table.headers[1:], (cell.text for cell in row.cells)))


# --- numbers ---------------------------------------------------------------------------------------


def test_use_is_told_of_training_and_of_every_part(selection):
    table = use.compute(selection)
    assert set(table["place"]) == {"training", "val", "devtest"}
    one = table[(table["arm"] == "V=100") & (table["seed"] == 1)].set_index("place")
    assert one.loc["devtest", ["tokens", "codes", "dead"]].tolist() == [4000, 100, 25]
    assert one.loc["devtest", "utilization"] == 0.75
    assert one.loc["devtest", "ceiling"] == pytest.approx(1 - 0.99**4000)
    assert one.loc["training", ["tokens", "codes", "dead"]].tolist() == [1000, 100, 49]
    assert one.loc["training", "utilization"] == pytest.approx(0.51)
    assert one.loc["training", "ceiling"] == pytest.approx(1 - 0.99**1000)
    assert one.loc["val", "tokens"] == 990


def test_size_and_width_come_from_the_codes_and_the_config(selection):
    shapes = use.sizes(selection)
    assert shapes.loc["V=400"].tolist() == [400, WIDTH, WIDTH]
    assert shapes.loc["V=100 d=3"].tolist() == [100, WIDTH, 3]


@pytest.mark.parametrize(("held", "allowed"), [(1000, True), (999, False), (0, False)])
def test_a_claim_needs_ten_tokens_per_code(held, allowed):
    assert use.claim(held, 100) is allowed


def test_every_arm_is_told_where_a_claim_is_allowed(selection):
    said = use.sentences(use.compute(selection), [*selection.arms, "V=9"])
    assert said[0] == (
        "V=20: T >= 10 V in training (200 tokens, 10.0 per code), on devtest (4,000 tokens, 200.0 per code), on val "
        "(990 tokens, 49.5 per code), so utilization there can be spoken of."
    )
    # The same is true of both.
    assert said[1].startswith("V=100, V=100 d=3: T >= 10 V in training (1,000 tokens, 10.0 per code), on devtest")
    assert said[1].endswith("; T < 10 V on val (990 tokens, 9.9 per code), so no claim about utilization there.")
    assert said[2] == (
        "V=400: T >= 10 V in training (4,000 tokens, 10.0 per code), on devtest (4,000 tokens, 10.0 per code), so "
        "utilization there can be spoken of; T < 10 V on val (990 tokens, 2.5 per code), so no claim about utilization "
        "there."
    )
    assert said[3] == "V=9: nothing is known of the codebook's use."


def test_the_entropy_of_sorted_usage():
    assert codebook.entropy(np.array([2.0, 1, 1, 0])) == pytest.approx(1.5 * np.log(2))
    bars = pd.DataFrame({"seed": [0] * 4 + [1] * 4, "rank": [1, 2, 3, 4] * 2, "tokens": [4, 4, 4, 4, 8, 0, 0, 0]})
    axes = codebook.draw(pd.DataFrame(columns=["seed", "step", "name", "value"]), bars).axes[2]
    # Mean of log 4 and 0.
    assert f"entropy {np.log(4) / 2:.1f} nats\nof {np.log(4):.1f} if even" in [text.get_text() for text in axes.texts]


def test_codes_are_counted_by_class(selection):
    table = use.by_class(selection)
    one = table[(table["arm"] == "V=100") & (table["seed"] == 0)].set_index("class_name")
    assert set(one.index) == {"background", "LV"}  # the others have no token
    assert one.loc["LV", "used"] == 3 and one.loc["background", "used"] == 74
    # Of two classes that share a code evenly, the first has it.
    assert one.loc["LV", "own"] == 1 and one.loc["background", "own"] == 74
    counts = np.array([53 + 25, 26, 13.0])
    assert one.loc["LV", "tokens"] == pytest.approx(counts.sum(), abs=1)
    share = counts / counts.sum()
    assert one.loc["LV", "perplexity"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=0.02)
    assert one.loc["LV", "ceiling"] == pytest.approx(100 * (1 - 0.99 ** one.loc["LV", "tokens"]))


# --- the report ------------------------------------------------------------------------------------


def test_the_table_has_score_and_use_in_one_row(report):
    table = table_of(report, "codebook")
    row = cells_of(table, "V=100 d=3")
    assert (row["V"], row["d"], row["seeds"]) == ("100", "3", "3/3")
    assert re.fullmatch(r"\d\d\.\d\d ± \d\.\d\d", row["Dice (%)"])
    assert re.fullmatch(r"[+−]?\d+\.\d\d \[.*\]", row["Δ Dice [95 %]"])
    assert row["% used in training (ceiling)"] == "51.0 (100.0)"
    assert row["% used on devtest (ceiling)"] == "75.0 (100.0)"
    assert (row["dead codes"], row["T per used code"]) == ("25", "53.3")
    assert cells_of(table, "V=100 (reference)")["Δ Dice [95 %]"] == "—"
    numbers = table.tidy[(table.tidy["column"] == "utilization devtest") & (table.tidy["arm"] == "V=20")]
    assert numbers["value"].tolist() == [0.75] * 3 and numbers["runs"].str.len().eq(16).all()


def test_every_place_has_a_row_that_says_whether_a_claim_is_allowed(report):
    table = table_of(report, "codebook-use")
    rows = [(row.label, *(cell.text for cell in row.cells)) for row in table.rows]
    said = {(row[0], row[1]): row[-1] for row in rows}
    assert len(rows) == 12
    assert said["V=400", "devtest"] == "yes" and said["V=400", "val"] == "no" and said["V=400", "training"] == "yes"
    val = next(row for row in rows if row[:2] == ("V=400", "val"))
    assert val[2:7] == ("400", "990", "2.5", "75.0", f"{100 * codebook.ceiling(990, 400):.1f}")
    assert all("runs" in cell.tip for row in table.rows for cell in row.cells[3:-1])


def test_the_papers_sizes_stand_beside_with_their_utilization_once(report):
    table = table_of(report, "published-sizes")
    rows = {(row.label, row.cells[1].text): row.cells for row in table.rows}
    place = table.headers.index("% used") - 1
    assert rows["V=65536", "5 %"][place].text == "92" and rows["V=1024", "10 %"][place].text == "100"
    assert "Table 5" in rows["V=65536", "5 %"][-1].text
    others = [each for section in report.sections for each in section.tables if each.name == "published"]
    assert not any("Table 5" in cell.text for each in others for row in each.rows for cell in row.cells)


def test_the_summary_names_the_arms_that_allow_no_claim(made, report):
    assert not any("no claim" in sentence for sentence in report.summary)
    words = codebook_size.build(chosen(*made, part="val")).summary[-1]
    assert words.startswith("Codes used on val (990 tokens): V=20 75 of at most 100 %,")
    assert words.endswith("no claim about utilization: V=100, V=400, V=100 d=3.")


def test_the_figure_of_sizes_draws_ceilings_and_a_dot_per_seed(selection):
    table = use.by_size(selection, use.compute(selection), use.sizes(selection), "dice")
    assert len(table) == 12
    figure = use.draw(table, "Dice (%)", "devtest")
    score, share, spread = figure.axes
    assert sum(len(dots.get_offsets()) for dots in score.collections) == 12
    lines = {line.get_label(): line for line in share.lines}
    assert np.allclose(lines["ceiling, on devtest"].get_ydata()[-1], 100 * codebook.ceiling(4000, 400))
    assert lines["on devtest, d = 8"].get_ydata().tolist() == [75.0] * 3
    assert lines["on devtest, d = 3"].get_xdata().tolist() == [100]
    assert score.get_xscale() == spread.get_xscale() == "log" and spread.get_yscale() == "log"
    assert share.get_ylim()[0] == 0


def test_the_figure_of_classes_has_a_panel_per_class(selection):
    figure = use.draw_classes(use.by_class(selection))
    titles = [axes.get_title("left") for axes in figure.axes]
    assert [title.partition("\n")[0] for title in titles] == ["background", "LV"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(SIZES)


def test_a_class_that_has_no_code_of_its_own_has_a_panel_too(selection):
    table = use.by_class(selection)
    table.loc[table["class_name"] == "LV", "own"] = 0.0
    figure = use.draw_classes(table)
    labels = [{line.get_label() for line in axes.lines} for axes in figure.axes]
    assert len(labels) == 2 and "perplexity" in labels[1]


def test_without_recorded_tokens_the_report_says_how_to_get_them(report):
    section = next(each for each in report.sections if each.title == "Codes")
    assert [picture.name for picture in section.pictures] == [
        "projection-V-100", "projection-V-20", "projection-V-400", "projection-V-100-d-3",
    ]  # fmt: skip
    assert "'vqseg codes codebook-size-acdc-cpu --part devtest' does, without training" in section.paragraphs[0]


def test_of_arms_with_recorded_tokens_patches_need_images(tmp_path):
    made = study(tmp_path)
    cell = next(cell for cell in made["cells"] if cell["arm"] == "V=400" and cell["seed"] == 2)
    columns = {name: [0.0] for name in ("top", "left", "bottom", "right")} | {"row": [0], "slice": [1]}
    table = pd.DataFrame({"patient": ["p"], "scan": ["s"], "code": [0], "class_index": [0], **columns})
    book = np.random.default_rng(0).normal(0, 1, (400, WIDTH))
    counts = np.ones((2, len(CLASSES), 400), dtype=int)
    moments = tokens.Moments(np.array([0, 2000]), np.stack([book, book]), counts)
    folder = RunFolder(tmp_path, cell["identity"])
    tokens.write(folder.path, "devtest", table, moments)
    section = codes.section(chosen(tmp_path, made))
    # Right after the reference, and of the run that was looked at.
    assert [picture.name for picture in section.pictures][:2] == ["projection-V-100", "projection-V-400"]
    assert f"seed 2 (run {cell['identity']})" in section.pictures[1].caption
    assert set(section.pictures[1].inputs[0]["moment"]) == {"as drawn, step 0", "last, step 2,000"}
    assert section.paragraphs[-1].startswith("The images are not where the study had them (data/acdc)")
    (folder.path / "codes.npz").unlink()
    write_array(folder.path / "codes.npz", codes=book[:7])
    with pytest.raises(InputError, match=r"codes.npz: not the 400 codes that were counted"):
        codes.section(chosen(tmp_path, made))


def test_transitions_are_of_qpm_alone_at_the_rate_that_it_ended_at(made):
    selection = chosen(*made)
    book = codes.read(selection)[0][0]
    assert codes.kernel_of(selection, book) == {"rate": 0.7}
    path = book_folder(selection, book) / "config.yaml"
    config = read_yaml(path)
    write_yaml(path, {**config, "perturbation": {"name": "qpm", "rate": 0.7, "distance": "euclidean", "chunk": 9}})
    selection.cells["last:perturbation/rate"] = 0.25
    assert codes.kernel_of(selection, book) == {"rate": 0.25, "distance": "euclidean"}
    write_yaml(path, {**config, "perturbation": {"name": "dropout", "rate": 0.7}})
    assert codes.kernel_of(selection, book) is None
    write_yaml(path, config)


def book_folder(selection, book):
    return selection.store / "runs" / book.identity


def test_a_study_without_codebooks_still_gives_a_page(tmp_path):
    made = study(tmp_path, {"V=20": 80.0, "V=100": 80.0}, seeds=1)
    for cell in made["cells"]:
        for name in ("codebook.parquet", "codes.npz"):
            (tmp_path / "runs" / cell["identity"] / name).unlink()
        path = tmp_path / "runs" / cell["identity"] / "metrics.csv"
        path.write_text("\n".join(line for line in path.read_text().splitlines() if "codebook" not in line) + "\n")
    selection = chosen(tmp_path, made)
    report = codebook_size.build(selection)
    assert report.sections[0].paragraphs == ["V=20, V=100: nothing is known of the codebook's use."]
    assert cells_of(table_of(report, "codebook"), "V=20")["V"] == "?"
    assert not report.sections[0].pictures
    assert report.sections[-1].paragraphs[0].startswith("No finished run kept its codes")


def test_the_report_is_written(selection, report, tmp_path):
    last = replace(report.sections[-1], pictures=report.sections[-1].pictures[1:2])
    less = replace(report, sections=[report.sections[0], last])
    paths = page.write(less, page.of_selection(selection, tmp_path), Drawn(tmp_path))
    names = {path.name for path in paths}
    assert {
        "codebook.tex",
        "codebook-use.csv",
        "codebook-size.pdf",
        "codebook-classes.png",
        "projection-V-20.png",
    } <= names
    assert all(path.is_file() for path in paths)
