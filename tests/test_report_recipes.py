import copy

import placed
import pytest

from vqseg import presets
from vqseg.files import write_yaml
from vqseg.records.run import RunFolder
from vqseg.report import recipes

RECIPES = {"paper": 80.0, "arxiv": 88.0, "release": 80.2}


def tree_of(name):
    """What a run of a recipe has of which the study kept the size and the steps."""
    tree = copy.deepcopy(presets.read(name).tree)
    tree |= {"seed": 0, "prior": tree["prior"] if isinstance(tree["prior"], dict) else {"name": tree["prior"]}}
    tree["data"]["size_px"], tree["train"]["steps"] = 80, 2000
    return tree


def study(store, *, seeds=3, **more):
    arms = {name: (dice, {"family": name, "preset": name}) for name, dice in RECIPES.items()}
    made = placed.study(store, arms, reference="paper", definition="recipes", seeds=seeds, more=more)
    for name in arms:
        for identity in placed.runs_of(made, name):
            write_yaml(RunFolder(store, identity).path / "config.yaml", tree_of(name))
    return made


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return placed.chosen(store, study(store))


@pytest.fixture(scope="module")
def report(selection):
    return recipes.build(selection)


def test_every_recipe_is_held_against_every_other(report):
    assert [sentence.partition(" on ")[0] for sentence in report.summary[:3]] == [
        "arxiv minus paper", "release minus paper", "release minus arxiv",
    ]  # fmt: skip
    assert "3 seeds x 6 patients: better (p " in report.summary[0] and "worse" in report.summary[2]
    pairs = placed.tables_of(report)["pairs"]
    assert len(pairs.rows) == 3 and "Holm over these 3." in pairs.caption


def test_what_the_runs_differ_in_is_a_table_with_sources(report):
    table = placed.tables_of(report)["differences"]
    rows = placed.words_of(table)
    assert rows["optimizer"] == {"paper": "sgd", "arxiv": "adamw", "release": "adamw"}
    assert rows["perturbation.rate"] == {"paper": "0.7", "arxiv": "0.7", "release": "0.1"}
    assert rows["prior"]["release"] == "none" and rows["method.dual_branch"]["release"] == "no"
    assert rows["augment.scale_range"]["release"] == "0.5, 2"
    assert rows["method.usage_weight"]["release"] == "0.1"
    assert "network.encoder" not in rows and "data.size_px" not in rows  # the same, and kept
    row = next(row for row in table.rows if row.label == "perturbation.rate")
    assert "Table 3" in row.cells[0].tip and "my_model.py" in row.cells[2].tip
    sections = [label.split(".")[0] for label in rows]
    assert sections == sorted(sections, key=sections.index)  # those of one section stand together


def test_what_was_kept_is_no_recipes_own(report):
    rows = placed.words_of(placed.tables_of(report)["kept"])
    assert rows == {
        "data.size_px": {"paper": "126 → 80", "arxiv": "224 → 80", "release": "224 → 80"},
        "train.steps": {"paper": "7400 → 2000", "arxiv": "100000 → 2000", "release": "100000 → 2000"},
    }
    assert report.summary[-1].startswith("Kept equal, and so not the recipes' own: data.size_px, train.steps.")


def test_the_studys_own_word_on_what_it_keeps_goes_first(tmp_path):
    made = study(tmp_path, seeds=1, keeps=["network", "network.encoder", "train.steps"])
    selection = placed.chosen(tmp_path, made)
    assert "own: network, train.steps." in recipes.bent(selection, recipes.compute(selection))[0]


def test_what_an_arm_changes_on_purpose_is_not_called_kept(tmp_path):
    made = study(tmp_path, seeds=1)
    made["arms"][0]["own"] = {"prior": "local", "optimizer": "adamw"}
    placed.keep(tmp_path, made)
    tree = tree_of("paper") | {"prior": {"name": "local"}, "optimizer": {"name": "adamw", "lr": 0.5}}
    for identity in placed.runs_of(made, "paper"):
        write_yaml(RunFolder(tmp_path, identity).path / "config.yaml", tree)
    settings = recipes.compute(placed.chosen(tmp_path, made))
    assert recipes.kept(settings) == ["data.size_px", "train.steps"]
    assert {"prior", "optimizer.lr"} <= set(recipes.differing(settings))


def test_sources_are_listed_recipe_by_recipe_and_broken_into_lines(report):
    tables = placed.tables_of(report)
    assert {"sources-paper", "sources-arxiv", "sources-release"} <= set(tables)
    rows = tables["sources-paper"].rows
    assert max(len(row.cells[1].text) for row in rows) <= recipes.WIDE
    steps = next(place for place, row in enumerate(rows) if row.label == "train.steps")
    assert rows[steps].cells[1].text.startswith("paper, implementation: 100 epochs") and rows[steps + 1].label == ""


def test_curves_of_all_recipes_are_in_one_panel(report):
    axes = placed.drawable(report, "recipes")["recipes"].axes
    assert len(axes) == 1 and [line.get_label() for line in axes[0].lines] == list(RECIPES)


def test_arms_that_are_no_presets_have_settings_without_sources(tmp_path):
    made = placed.study(tmp_path, {"mine": (80.0, {}), "yours": (81.0, {})}, reference="mine", definition="recipes")
    report = recipes.build(placed.chosen(tmp_path, made))
    tables = placed.tables_of(report)
    assert "kept" not in tables and "sources-mine" not in tables
    assert placed.words_of(tables["differences"]) == {"perturbation": {"mine": "mine", "yours": "yours"}}


def test_many_arms_are_held_against_the_reference_alone(tmp_path):
    arms = {f"a{number}": (80.0, {}) for number in range(recipes.MOST + 1)}
    made = placed.study(tmp_path, arms, reference="a0", definition="recipes", seeds=1, patients=2)
    assert len(placed.tables_of(recipes.build(placed.chosen(tmp_path, made)))["pairs"].rows) == recipes.MOST
