import numpy as np
import placed
import pytest
from safetensors.numpy import save_file

from vqseg import assets
from vqseg.files import read_yaml, write_json
from vqseg.priors import PRIORS
from vqseg.report import facts, priors

REASON = (
    "prior.weights: {0}/x: no such folder, and neither /w nor the hub's cache holds it; "
    "'vqseg prior fetch {0}' gets it, or name a folder (config.json, model.safetensors)"
)
SKIPPED = [{"label": "clip", "reason": REASON.format("clip")}, {"label": "mae", "reason": "out of disk"}]


def arms(**dice):
    return {
        name: (dice.get(name.replace("-", "_"), 80.0), {"family": name, "overrides": {"prior": {"name": name}}})
        for name in ("none", "local", "dinov2", "rad-dino")
    }


def study(store, *, skipped=SKIPPED, **dice):
    made = placed.study(store, arms(**dice), reference="none", definition="fm-prior", more={"skipped": skipped})
    for place, label in enumerate(arms()):
        cost = {"parameters": 1, "ms_per_step": 100 + 25 * place, "peak_memory_mb": 900 + 70 * place}
        placed.tell(store, made, label, cost={**cost, "train_seconds": 60})
    folder = store / "priors" / "one"
    folder.mkdir(parents=True)
    write_json(folder / "prior.json", {"data": {"digest": "d" * 16}, "train_seconds": 236.0})
    save_file({"a": np.zeros((1000, 700)), "b": np.zeros(300_000)}, folder / "model.safetensors")
    other = store / "priors" / "other"
    other.mkdir()
    write_json(other / "prior.json", {"data": {"digest": "e" * 16}})
    return made


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return placed.chosen(store, study(store, dinov2=90.0))


@pytest.fixture(scope="module")
def report(selection):
    return priors.build(selection)


def test_every_built_in_prior_that_can_be_named_has_its_facts():
    assert set(facts.pretraining()) == set(PRIORS) - {"none", "vit"}
    for name, told in facts.pretraining().items():
        assert told.domain and told.source, name
        assert np.isnan(told.parameters_m) == (name == "local")
    assert set(read_yaml(assets.folder("reports") / "priors.yaml")) == set(facts.pretraining())


def test_the_first_sentence_names_the_best_prior_and_what_it_was_trained_on(report):
    first = report.summary[0]
    assert first.startswith(
        "The best of 3 priors on acdc (devtest) is dinov2 (trained on natural images): against none +"
    )
    assert "3 seeds x 6 patients: better" in first
    assert report.summary[1] == "Against none, better: dinov2; not told from it: local, rad-dino."
    assert report.summary[2] == "Not run: clip, mae; their weights are absent."


def test_what_was_not_run_is_a_row_with_the_command_that_gets_it(report):
    rows = placed.words_of(placed.tables_of(report)["priors"])
    clip, mae = "clip: not run: weights absent", "mae: not run: out of disk"
    assert list(rows) == ["none (reference)", "local", "dinov2", "rad-dino", clip, mae]
    assert rows[clip]["Dice (%)"] == "—" and rows[clip]["trained on"] == "natural images"
    assert rows[clip]["paper, 10 %"] == "74.83"
    assert placed.tables_of(report)["priors"].footnotes[0] == f"{clip} (vqseg prior fetch clip)."


def test_cost_facts_and_the_paper_stand_beside_the_scores(report):
    table = placed.tables_of(report)["priors"]
    rows = placed.words_of(table)
    assert rows["dinov2"]["params (M)"] == "22.1" and rows["rad-dino"]["trained on"] == "chest X-rays"
    assert rows["local"]["params (M)"] == "1.0"  # counted in the store's file
    assert [rows[name]["+ ms"] for name in ("none (reference)", "local", "rad-dino")] == ["—", "+25", "+75"]
    assert rows["dinov2"]["+ MB"] == "+140"
    assert (rows["dinov2"]["paper, 5 %"], rows["dinov2"]["paper, 10 %"]) == ("66.43", "78.52")
    assert rows["local"]["paper, 5 %"] == "—"
    assert any("142 M images" in note and "Oquab" in note for note in table.footnotes)
    assert "local: trained once for all runs in 236 s, which no column counts." in table.footnotes
    assert "3 seeds x 6 patients; runs" in table.rows[2].cells[2].tip
    assert [row.cells[3].mark for row in table.rows[1:4]] == ["", "bold", ""]
    assert table.rows[2].cells[3].tip.startswith("p ")


def test_ours_and_the_papers_stand_in_panels_of_their_own(report):
    figure = placed.drawable(report, "prior-scores")["prior-scores"]
    ours, theirs = figure.axes
    assert [tick.get_text() for tick in ours.get_yticklabels()][-2:] == ["clip", "mae"]
    assert [text.get_text() for text in ours.texts] == ["not run: weights absent", "not run"]
    assert [line.get_label() for line in theirs.lines] == ["paper, 5 % labelled", "paper, 10 % labelled"]
    assert np.isnan(theirs.lines[0].get_xdata()[0]) and theirs.lines[1].get_xdata()[2] == pytest.approx(78.52)


def test_none_alone_is_a_page_too(tmp_path):
    made = placed.study(tmp_path, {"none": arms()["none"]}, reference="none", definition="fm-prior", seeds=1)
    report = priors.build(placed.chosen(tmp_path, made))
    assert report.summary == ["No answer yet on acdc (devtest): no prior is scored beside none."]
    assert placed.words_of(placed.tables_of(report)["priors"])["none (reference)"]["Dice (%)"] != "—"
