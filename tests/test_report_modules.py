"""Grids of modules, and rivals in the table: stores with a known truth."""

import re
import shutil
import subprocess

import fabricated
import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from vqseg import assets
from vqseg.errors import InputError
from vqseg.files import read_yaml, write_yaml
from vqseg.records import index
from vqseg.records.run import RunFolder
from vqseg.report import ablation, arms, cost, effects, factorial, facts, modules, paper, report_of, statistics
from vqseg.report.make import make
from vqseg.report.measures import MEASURES
from vqseg.report.selection import Options, select
from vqseg.study.definition import read_definition

SMALL = {"patients": 4, "parts": ("devtest",)}
PART = ("base", "QPM", "DB", "QPM+DB")
NASTY = "<b>n_n&U-Net</b> 50%$"


def study(store, labels, **options):
    return fabricated.module_study(store, labels, **{**SMALL, **options})


def chosen(store, made, **options):
    return select(store, made, Options(**options))


def identities(made, label):
    return [cell["identity"] for cell in made["cells"] if cell["arm"] == label]


def fail(store, made, *labels):
    for label in labels:
        for identity in identities(made, label):
            RunFolder(store, identity).update(state="failed", error="out of memory")


def table_of(selection):
    """The effects by name."""
    grid = factorial.grid_of(selection.study)
    found, _ = factorial.effects(grid, set(selection.headline["arm"]))
    return factorial.assess(selection.headline, found, "dice").set_index("contrast")


def ticked(selection):
    """The section of scores as the report of a grid has it."""
    grid = factorial.grid_of(selection.study)
    return ablation.scores_section(selection, ticks=modules.ticks(selection, grid))


def main_table(selection):
    return ticked(selection).tables[0]


def judged(selection):
    """The section of effects, and the report's first sentences."""
    return modules.effects_section(selection, factorial.grid_of(selection.study))


def words_of(table):
    """Label -> header -> words."""
    return {row.label: dict(zip(table.headers[1:], [cell.text for cell in row.cells])) for row in table.rows}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """One whole report of a hostile, synthetic grid that lacks a cell, with rivals."""
    store = tmp_path_factory.mktemp("store")
    labels = fabricated.grid(QPM=2, DB=5)
    made = study(store, {label: labels[label] for label in (*PART, "PFA")}, synthetic=True, seeds=2, patients=2)
    fail(store, made, "PFA")
    fabricated.rival(store, NASTY, patients=2)
    fabricated.rival(store, "SAM", seed=None, steps=5000, labelled=7, pretrained="SA-1B", patients=2)
    return store, made, make("ablation", store=store)


# the definition


def test_the_modules_are_the_whole_grid_and_every_row_sets_all_three():
    _, definition = read_definition("modules")
    arms_ = definition.expand()
    assert [arm.label for arm in arms_] == list(fabricated.GRID)
    assert len({frozenset(n for n, on in arm.factors.items() if on) for arm in arms_}) == 8
    for arm in arms_:
        own = arm.overrides
        assert set(own) == {"perturbation", "method.dual_branch", "prior"}
        assert arm.factors == {
            "QPM": own["perturbation"] == {"name": "qpm", "rate": 0.7},
            "DB": own["method.dual_branch"],
            "PFA": own["prior"] == "local",
        }
        assert own["perturbation"] in ("none", {"name": "qpm", "rate": 0.7})
        assert own["prior"] in ("none", "local")
    assert definition.reference == "base"
    assert definition.seeds == [0, 1, 2]
    assert all(set(thinning.arms) == {"*"} for thinning in definition.thinned.values())


@pytest.mark.parametrize(
    ("factors", "named"),
    [
        ([{"A": True}, {}], "arm 'one' has A and arm 'two' has none"),
        ([{"A": True}, {"B": True}], "give every arm the same ones, or none"),
        ([{"A": True, "B": False}, {"B": False, "A": True}], "arms 'one' and 'two' are the same cell"),
        ([{"A": "perhaps"}, {"A": False}], "factors"),
        ([{"": True}, {"": False}], "factors"),
    ],
)
def test_factors_that_make_no_grid_are_refused(tmp_path, factors, named):
    tree = read_yaml(assets.find("studies", "modules", "study"))
    rows = [{"family": name, "set": {}, "factors": own} for name, own in zip(("one", "two"), factors)]
    write_yaml(tmp_path / "own.yaml", {**tree, "reference": "one", "arms": rows})
    with pytest.raises(InputError, match=named) as caught:
        read_definition(str(tmp_path / "own.yaml"))
    assert "\n" not in str(caught.value)


def test_a_part_of_a_grid_is_a_grid(tmp_path):
    tree = read_yaml(assets.find("studies", "modules", "study"))
    write_yaml(tmp_path / "own.yaml", {**tree, "arms": tree["arms"][:5]})
    assert len(read_definition(str(tmp_path / "own.yaml"))[1].expand()) == 5


# effects


def grid_of(labels, factors=("A", "B")):
    cells = {frozenset(label.split("+")) - {"base"}: label for label in labels}
    return factorial.Grid(factors, cells)


def test_weights_of_two_factors_by_hand():
    found, lost = factorial.effects(grid_of(["base", "A", "B", "A+B"]), {"base", "A", "B", "A+B"})
    weights = {effect.name: effect.weights for effect in found}
    assert weights["A"] == {"base": -0.5, "A": 0.5, "B": -0.5, "A+B": 0.5}
    assert weights["B"] == {"base": -0.5, "A": -0.5, "B": 0.5, "A+B": 0.5}
    # half of (A where B is on, A+B - B, minus A where B is off, A - base)
    assert weights["A × B"] == {"base": 0.5, "A": -0.5, "B": -0.5, "A+B": 0.5}
    assert lost == []


def test_a_missing_cell_takes_its_settings_away():
    found, lost = factorial.effects(grid_of(["base", "A", "B", "A+B"]), {"base", "A", "A+B"})
    assert {effect.name: (effect.settings, effect.of) for effect in found} == {"A": (1, 2), "B": (1, 2)}
    assert found[0].weights == {"base": -1.0, "A": 1.0}
    assert found[1].weights == {"A": -1.0, "A+B": 1.0}
    assert lost == ["A × B"]


def test_additive_modules_are_recovered_and_do_not_interact(tmp_path):
    made = study(tmp_path, fabricated.grid(QPM=2, DB=5, PFA=-1), noise=0.0)
    table = table_of(chosen(tmp_path, made))
    assert table["estimate"].round(9).to_dict() == {
        "QPM": 2, "DB": 5, "PFA": -1, "QPM × DB": 0, "QPM × PFA": 0, "DB × PFA": 0, "QPM × DB × PFA": 0,
    }  # fmt: skip
    assert table["order"].tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert table["settings"].tolist() == [4, 4, 4, 2, 2, 2, 1]


def test_a_pure_interaction_is_one(tmp_path):
    made = study(tmp_path, fabricated.grid(QPM_DB=4), noise=0.0)
    table = table_of(chosen(tmp_path, made))["estimate"]
    # QPM gives 4 with DB and 0 without: 2 on average, and half of their difference is 2.
    assert table[["QPM", "DB", "QPM × DB"]].tolist() == pytest.approx([2.0, 2.0, 2.0])
    assert table[["PFA", "QPM × PFA", "DB × PFA", "QPM × DB × PFA"]].abs().max() < 1e-9


def test_an_interaction_of_three_is_one(tmp_path):
    table = table_of(chosen(tmp_path, study(tmp_path, fabricated.grid(QPM_DB_PFA=8), noise=0.0)))["estimate"]
    assert table.tolist() == pytest.approx([2.0] * 7)


def test_intervals_cover_and_nothing_is_found_where_nothing_is():
    draw, labels = np.random.default_rng(0).normal, list(fabricated.GRID)
    grid = grid_of(labels, fabricated.MODULES)
    truth = np.array(list(fabricated.grid(QPM=1.0, DB_PFA=2.0).values()))
    size = (2000, 8, 3, 10)
    layouts = (
        truth[:, None, None] + draw(0, 0.35, (*size[:3], 1)) + draw(0, 0.6, (*size[:2], 1, 10)) + draw(0, 0.8, size)
    )
    found, _ = factorial.effects(grid, labels)
    for effect in found:
        weights = np.array([effect.weights.get(label, 0.0) for label in labels])
        result = statistics.contrast(np.einsum("a,nasp->nsp", weights, layouts))
        covered = (result.low <= weights @ truth) & (weights @ truth <= result.high)
        assert 0.93 < covered.mean() < 0.995
        if abs(weights @ truth) < 1e-9:
            assert (result.p < 0.05).mean() < 0.07


def test_the_fabricated_fields_noise_is_covered_too(tmp_path):
    table = table_of(chosen(tmp_path, study(tmp_path, fabricated.grid(QPM=1, DB=6, QPM_DB=-4), patients=12)))
    truth = {"QPM": -1.0, "DB": 4.0, "PFA": 0.0, "QPM × DB": -2.0, "QPM × PFA": 0.0}
    assert all(table.loc[name, "low"] <= value <= table.loc[name, "high"] for name, value in truth.items())
    assert table.loc["DB", "p_holm"] < 0.05


def test_an_effect_is_the_contrast_of_its_cells_with_the_same_statistics(tmp_path):
    selection = chosen(tmp_path, study(tmp_path, fabricated.grid(DB=3)))
    line = table_of(selection).loc["DB"]
    grids = statistics.grids(selection.headline.assign(value=100 * selection.headline["dice"]))
    on = [label for label in fabricated.GRID if "DB" in label]
    by_hand = (
        sum(grids[label] for label in on) / 4 - sum(grids[label] for label in fabricated.GRID if label not in on) / 4
    )
    result = statistics.contrast(by_hand.to_numpy())
    assert line[["estimate", "low", "high", "p", "df"]].tolist() == pytest.approx(
        [float(getattr(result, key)) for key in ("estimate", "low", "high", "p", "df")]
    )
    assert line["by_seed"] == pytest.approx(by_hand.mean(axis=1).tolist())


def test_only_seeds_of_all_arms_enter_an_effect(tmp_path):
    made = study(tmp_path, fabricated.grid(DB=3))
    RunFolder(tmp_path, identities(made, "PFA")[2]).update(state="failed", error="full disk")
    table = table_of(chosen(tmp_path, made))
    assert set(table["seeds"]) == {2}
    for identity in identities(made, "PFA")[:2]:
        RunFolder(tmp_path, identity).update(state="failed", error="full disk")
    assert set(table_of(chosen(tmp_path, made))["seeds"]) == {3}


@pytest.mark.parametrize(("seeds", "said"), [(1, "no interval: one seed"), (2, "only 2 seeds, no verdict")])
def test_too_few_seeds_give_no_verdict(tmp_path, seeds, said):
    selection = chosen(tmp_path, study(tmp_path, fabricated.grid(DB=9), noise=0.1, seeds=seeds))
    section, summary = judged(selection)
    own = next(table for table in section.tables if table.name == "module-effects")
    assert all(said in row.cells[-1].text for row in own.rows)
    assert all(cell.mark == "" for row in own.rows for cell in row.cells)
    assert own.rows[1].cells[1].text.startswith("[+" if seeds == 2 else "—")
    assert said in summary[1]
    assert "p " not in summary[1]
    assert summary[3] == "No verdict on QPM × DB, QPM × PFA, DB × PFA, QPM × DB × PFA: fewer than 3 seeds."


def test_verdicts_follow_the_metrics_direction(tmp_path):
    made = study(tmp_path, fabricated.grid(DB=9, QPM_PFA=-9), noise=0.02, patients=6)
    for metric in ("dice", "hd95"):
        section, summary = judged(chosen(tmp_path, made, metric=metric))
        verdicts = words_of(section.tables[0])
        assert verdicts["DB"]["verdict"] == "better"
        assert verdicts["QPM"]["verdict"] == "worse"
        assert verdicts["QPM × PFA"]["verdict"] == "together worse than their sum"
        assert any(line.startswith("Interactions told from 0: QPM × PFA ") for line in summary)
    _, summary = judged(chosen(tmp_path, study(tmp_path, fabricated.grid(), name="other")))
    assert "No interaction can be told from 0." in summary


def test_an_unfinished_grid_names_what_it_lacks_and_prints_the_rest(tmp_path):
    made = study(tmp_path, fabricated.grid(QPM=2, DB=5), noise=0.0)
    fail(tmp_path, made, "DB+PFA")
    selection = chosen(tmp_path, made)
    section, summary = judged(selection)
    assert summary[0] == "Cells of the grid without scores: DB+PFA."
    assert "not free of interactions with the others: QPM, DB, PFA, QPM × DB" in summary[1]
    assert summary[2] == "Cannot be estimated: QPM × DB × PFA."
    own = words_of(section.tables[0])
    assert own["DB"] | {"verdict": ""} == {
        "Δ Dice": "+5.00", "95 % interval": "[+5.00, +5.00]", "p (Holm)": "<.001", "settings": "3 of 4",
        "seeds x patients": "3 x 4", "verdict": "",
    }  # fmt: skip
    assert words_of(main_table(selection))["DB+PFA"]["Dice (%)"] == "—"


def test_without_two_neighbors_no_effect_is_estimated(tmp_path):
    made = study(tmp_path, fabricated.grid())
    fail(tmp_path, made, *(label for label in fabricated.GRID if label not in ("base", "QPM+DB")))
    section, summary = judged(chosen(tmp_path, made))
    assert section.paragraphs[-1] == "No effect can be estimated."
    assert any(line.startswith("Cannot be estimated: QPM, DB, PFA, QPM × DB") for line in summary)


def test_the_interaction_plot_shows_the_means_of_the_cells(tmp_path):
    selection = chosen(tmp_path, study(tmp_path, fabricated.grid(70, QPM_DB=4), noise=0.0))
    grid = factorial.grid_of(selection.study)
    found, _ = factorial.effects(grid, set(fabricated.GRID))
    pair = next(effect for effect in found if effect.name == "QPM × DB")
    table = effects.means_by_setting(selection.headline, grid, pair, "dice")
    means = table.groupby(["first", "second"])["value"].mean()
    assert means.to_dict() == pytest.approx(
        {(False, False): 70, (True, False): 70, (False, True): 70, (True, True): 74}
    )
    figure = effects.draw_interactions(selection.headline, grid, [pair], "dice", "scan")
    lines = [line for line in figure.axes[0].lines if line.get_label().startswith("with")]
    assert [line.get_ydata().tolist() for line in lines] == [pytest.approx([70, 70]), pytest.approx([70, 74])]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 2


# the table


def test_ticks_and_the_priors_name(tmp_path):
    table = main_table(chosen(tmp_path, study(tmp_path, fabricated.grid(), seeds=1)))
    assert table.headers[:5] == ["arm", "QPM", "DB", "PFA", "seeds"]
    assert table.headers[5:9] == ["Dice (%)", "Jaccard (%)", "HD95 (voxel)", "ASD (voxel)"]
    words = words_of(table)
    assert [words["QPM+PFA"][name] for name in fabricated.MODULES] == ["✓", "", "✓ local"]
    assert [words["base (reference)"][name] for name in fabricated.MODULES] == ["", "", ""]


def test_without_a_tick_of_its_own_the_label_names_the_prior(tmp_path):
    made = study(tmp_path, fabricated.grid(), seeds=1)
    labels = [row.label for row in ablation.scores_section(chosen(tmp_path, made)).tables[0].rows]
    assert "QPM+PFA (prior local)" in labels
    assert "QPM+DB" in labels
    for arm in made["arms"]:
        arm["overrides"]["prior"] = {"name": "dinov2", "weights": "some/where"}  # the preset's: every arm has it
    words = words_of(main_table(chosen(tmp_path, made)))
    assert facts.fact(chosen(tmp_path, made), "base", "pretrained") == "prior dinov2"
    assert words["base (prior dinov2) (reference)"]["PFA"] == ""
    assert words["PFA (prior dinov2)"]["PFA"] == "✓"
    write_yaml(
        tmp_path / "runs" / identities(made, "DB")[0] / "config.yaml",
        {"network": {"encoder": {"name": "vit", "weights": "some/where/dinov2-small/"}}},
    )
    assert facts.fact(chosen(tmp_path, made), "DB", "pretrained") == "dinov2-small, prior dinov2"
    made["arms"][3]["overrides"]["prior"] = "/home/me/mine.py:Mine"
    assert "PFA (prior mine.py:Mine)" in words_of(main_table(chosen(tmp_path, made)))


def test_the_ablation_of_a_grid_is_its_report_and_others_get_the_generic_one(tmp_path):
    grid = study(tmp_path, fabricated.grid(), seeds=1, name="own", definition="own")
    plain = fabricated.study(tmp_path, {"none": 80.0}, seeds=1, patients=2, name="plain", definition="plain")
    assert [report_of(made) for made in (grid, plain)] == ["modules", "ablation"]
    assert report_of({**grid, "study": "epsilon-sweep"}) == "epsilon"
    built = modules.build(chosen(tmp_path, plain))
    assert built.title == "plain: arms"
    assert [section.title for section in built.sections][:1] == ["Scores"]


def test_cost_of_the_modules(tmp_path):
    made = study(tmp_path, fabricated.grid())
    selection = chosen(tmp_path, made)
    table = cost.compute(selection.cells, factorial.grid_of(made)).set_index(["arm", "column", "kind"])
    assert table.loc[("QPM+DB", "ms", "arm"), "value"] == pytest.approx(193.0)
    for name in fabricated.MODULES:
        line = table.loc[(name, "ms", "factor")]
        assert line["value"] == pytest.approx(fabricated.MS[name])
        assert (line["settings"], line["of"], line["seeds"]) == (4, 4, 3)
        added = table.loc[(name, "parameters", "factor"), "value"]
        assert added == pytest.approx(fabricated.PARAMETERS[name] / 1e6)
        assert table.loc[(name, "memory", "factor"), "value"] == pytest.approx(fabricated.MEMORY_MB[name])
    # without DB: 150 and what half of the QPMs and PFAs add
    assert table.loc[("DB", "ms", "factor"), "share"] == pytest.approx(40 / (150 + 1.5 + 30))
    words = words_of(cost.tabulate(selection, factorial.grid_of(made), {}, "Conditions."))
    assert words["QPM: with minus without"]["ms per step"] == "+3.0 ± 0.0 (+2 %)"
    assert words["base"]["params (M)"] == "0.470"


def test_what_was_not_measured_costs_nothing_in_words(tmp_path):
    made = study(tmp_path, fabricated.grid(), seeds=1)
    for cell in made["cells"]:
        run = RunFolder(tmp_path, cell["identity"])
        run.update(cost={**run.status()["cost"], "peak_memory_mb": None})
    selection = chosen(tmp_path, made)
    table = cost.tabulate(selection, factorial.grid_of(made), {}, "")
    assert table.headers == ["arm", "params (M)", "ms per step", "hours"]


# the paper


def test_the_papers_steps_beside_ours(tmp_path):
    selection = chosen(tmp_path, study(tmp_path, fabricated.grid(70, QPM=2, DB=5, PFA=-1, QPM_PFA=3), noise=0.0))
    table = paper.compute(selection, factorial.grid_of(selection.study), ["dice", "hd95_voxel"])
    dice = table[table["metric"] == "dice"].set_index("row")
    assert dice[dice["kind"] == "cell"]["theirs"].tolist() == pytest.approx([74.43, 77.01, 77.84, 77.61, 78.52])
    assert dice[dice["kind"] == "cell"]["ours"].tolist() == pytest.approx([70, 72, 77, 74, 79])
    steps = dice[dice["kind"] == "step"]
    assert steps["theirs"].round(2).to_dict() == {
        "QPM on base": 2.58, "DB given QPM": 0.83, "PFA given QPM": 0.60, "PFA given QPM + DB": 0.68,
        "DB given QPM + PFA": 0.91,
    }  # fmt: skip
    assert steps["ours"].tolist() == pytest.approx([2, 5, 2, 2, 5])
    assert table.set_index(["row", "metric"]).loc[("QPM on base", "hd95_voxel"), "theirs"] == pytest.approx(-1.1907)


def test_no_panel_for_factors_that_the_paper_does_not_have(tmp_path):
    made = study(tmp_path, fabricated.grid(), seeds=1)
    for arm in made["arms"]:
        arm["factors"] = {"QPM": arm["factors"]["QPM"], "DB": arm["factors"]["DB"], "mine": arm["factors"]["PFA"]}
    selection = chosen(tmp_path, made)
    assert paper.printed(factorial.grid_of(made)) == {}
    section, _ = judged(selection)
    assert [table.name for table in section.tables] == ["module-effects"]
    assert len(section.pictures[0].figure.axes) == 1
    assert any(row.label == "+QPM +DB" for row in ticked(selection).tables[-1].rows)  # the panel keeps its rows


def test_distances_of_the_paper_have_no_unit_and_no_place_on_our_axis(tmp_path):
    made = study(tmp_path, fabricated.grid(), seeds=1)
    axes = {
        metric: len(judged(chosen(tmp_path, made, metric=metric))[0].pictures[0].figure.axes)
        for metric in ("dice", "hd95")
    }
    assert axes == {"dice": 2, "hd95": 1}


# rivals


def test_a_rival_stands_below_the_arms_with_its_effect_and_what_is_unknown(tmp_path):
    made = study(tmp_path, fabricated.grid(70), noise=0.0)
    for seed in range(3):
        fabricated.rival(tmp_path, seed=seed, dice=80.0 + seed, patients=4, steps=250_000, labelled=7)
    selection = chosen(tmp_path, made)
    for section in (ticked(selection), ablation.scores_section(selection)):
        table = section.tables[0]
        assert table.rows[-1].label == "nnU-Net ‡"
        assert table.rows[-1].ruled
        assert [row.label for row in table.rows].index("QPM") < len(table.rows) - 1
        words = words_of(table)
        assert words["nnU-Net ‡"]["Dice (%)"] == "81.00 ± 1.00"
        assert words["nnU-Net ‡"]["Δ Dice [95 %]"].startswith("+11.00 [+")
        assert [words["nnU-Net ‡"][key] for key in ("seeds", "steps", "labelled patients", "pretrained")] == [
            "3", "250,000", "7", "?",
        ]  # fmt: skip
        assert [words["DB"][key] for key in ("steps", "labelled patients")] == ["2,000", "7"]
        assert words["DB"]["pretrained"] == "no"
        assert "scored from its predictions" in table.footnotes[0]
        assert "pretrained ?" in table.footnotes[0]


def test_a_rivals_effect_has_the_statistics_of_an_arms(tmp_path):
    made = study(tmp_path, {"base": 70.0, "QPM": 71.0}, patients=8)
    for seed in (7, 8, 9):
        fabricated.rival(tmp_path, seed=seed, dice=75.0, noise=1.0, patients=8)
    selection = chosen(tmp_path, made)
    built = arms.effects(selection.tabled_scores, "base", "dice", selection.tabled_arms).set_index("arm")
    ours, theirs = (
        rows.assign(value=100 * rows["dice"]).pipe(statistics.grids)
        for rows in (selection.headline, selection.rivals.scores)
    )
    result = statistics.contrast(theirs["nnU-Net"].to_numpy() - ours["base"].to_numpy())
    assert built.loc["nnU-Net", "low"] == pytest.approx(float(result.low))
    rows = selection.tabled_scores.query("checkpoint == 'last' and network == 'teacher'")
    together = statistics.compare(rows.assign(value=100 * rows["dice"]), "base", arms=selection.tabled_arms)
    assert built["p_holm"].tolist() == pytest.approx(together["p_holm"].tolist()) and len(built) == 2
    assert len(built) == 2
    assert "seeds 7, 8, 9, paired with the reference's in order" in main_table(selection).footnotes[0]


def test_an_unknown_seed_is_paired_and_more_runs_than_seeds_are_only_averaged(tmp_path):
    made = study(tmp_path, fabricated.grid(70), noise=0.0, seeds=1)
    fabricated.rival(tmp_path, "SAM", seed=None, dice=72.0, patients=4)
    for seed in range(2):
        fabricated.rival(tmp_path, seed=seed, dice=80.0 + seed, patients=4)
    words = words_of(main_table(chosen(tmp_path, made)))
    assert words["SAM ‡"]["Δ Dice [95 %]"] == "+2.00"
    assert words["nnU-Net ‡"]["Dice (%)"] == "80.50 ± 0.71"
    assert words["nnU-Net ‡"]["Δ Dice [95 %]"] == "+10.00"


def test_a_rival_of_fewer_runs_says_which_seeds_it_is_held_against(tmp_path):
    made = study(tmp_path, {"base": 70.0, "QPM": 71.0})
    fabricated.rival(tmp_path, seed=4, dice=75.0, patients=4)
    (note,) = main_table(chosen(tmp_path, made)).footnotes
    assert "seeds 4, held against the reference's seed 0 alone; " in note


def test_rivals_change_no_number_of_the_study_but_holms(tmp_path):
    made = study(tmp_path, {label: fabricated.grid(70, QPM=2)[label] for label in PART})
    without = words_of(main_table(chosen(tmp_path, made)))
    fabricated.rival(tmp_path, dice=95.0, patients=4)
    alone = words_of(main_table(chosen(tmp_path, made, rivals=False)))
    assert alone == without
    beside = words_of(main_table(chosen(tmp_path, made)))
    for label, own in without.items():
        assert {key: beside[label][key] for key in own if key != "p (Holm)"} == {
            key: value for key, value in own.items() if key != "p (Holm)"
        }
    selection = chosen(tmp_path, made)
    assert set(table_of(selection).index) == set(table_of(chosen(tmp_path, made, rivals=False)).index)
    assert "of the study's arms" in ablation.best_sentence(selection)[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split": {"name": "3", "digest": "other"}}, "its split is 3, not 7"),
        ({"parts": ("val",)}, "not scored on devtest by scan"),
        ({"data": {"name": "acdc", "root": "r", "digest": "e" * 16}}, None),
        ({"state": "running"}, None),
    ],
)
def test_rivals_that_do_not_belong_are_left_out_and_named(tmp_path, changes, reason):
    made = study(tmp_path, fabricated.grid(70), seeds=1)
    fabricated.rival(tmp_path, patients=4, **changes)
    selection = chosen(tmp_path, made)
    assert selection.rivals.names == []
    notes = [f"nnU-Net, scored from its predictions, is left out: {reason}."] if reason else []
    assert selection.notes == notes
    assert "pretrained" not in main_table(selection).headers


def test_a_rival_of_other_scoring_code_needs_allow_mixed(tmp_path):
    made = study(tmp_path, fabricated.grid(70), seeds=1)
    run = fabricated.rival(tmp_path, patients=4)
    rows = pd.read_parquet(run.path / "rows.parquet")
    rows.assign(scoring="older").to_parquet(run.path / "rows.parquet", index=False)
    assert "other scoring code scored it than the study; score again" in chosen(tmp_path, made).notes[0]
    assert chosen(tmp_path, made, allow_mixed=True).rivals.names == ["nnU-Net"]


def test_the_same_rival_scored_twice_is_no_second_seed(tmp_path):
    made = study(tmp_path, fabricated.grid(70), noise=0.0, seeds=2)
    fabricated.rival(tmp_path, dice=60.0, patients=4, created="2026-01-01T00:00:00+00:00")
    fabricated.rival(tmp_path, dice=80.0, patients=4, created="2026-01-02T00:00:00+00:00")
    fabricated.rival(tmp_path, "SAM", seed=None, dice=61.0, patients=4, created="2026-01-01T00:00:00+00:00")
    fabricated.rival(tmp_path, "SAM", seed=None, dice=81.0, patients=4, created="2026-01-02T00:00:00+00:00")
    selection = chosen(tmp_path, made)
    words = words_of(main_table(selection))
    assert (words["nnU-Net ‡"]["seeds"], words["nnU-Net ‡"]["Dice (%)"]) == ("1", "80.00")
    assert words["SAM ‡"]["Dice (%)"] == "81.00"
    assert selection.notes == [
        "SAM, seed ?: scored 2 times, the newest stands here; give every run its --seed if they are several.",
        "nnU-Net, seed 0: scored 2 times, the newest stands here.",
    ]


def test_a_rival_named_as_an_arm_is_not_mixed_with_it_and_lacking_cases_are_told(tmp_path):
    made = study(tmp_path, fabricated.grid(70), noise=0.0, seeds=1)
    fabricated.rival(tmp_path, "QPM", dice=90.0, patients=3)
    table = main_table(chosen(tmp_path, made))
    words = words_of(table)
    assert words["QPM"]["Dice (%)"] == "70.00"
    assert words["QPM (predictions) ‡"]["Dice (%)"] == "90.00"
    assert "6 of 8 cases" in table.footnotes[0]


def test_the_index_finds_rivals_by_their_data(tmp_path):
    study(tmp_path, fabricated.grid(70), seeds=1)
    run = fabricated.rival(tmp_path, patients=2)
    damaged = fabricated.rival(tmp_path, seed=5, patients=2)
    (damaged.path / "status.json").write_text('{"kind": "foreign", "data": {"digest": "' + "d" * 16)
    assert index.foreign(tmp_path, "d" * 16) == [run.identity]
    assert index.foreign(tmp_path, "e" * 16) == []
    assert index.foreign(tmp_path / "nothing", "d" * 16) == []


@pytest.mark.parametrize(("given", "rivals"), [((), True), (("--no-rivals",), False)])
def test_the_command_passes_on_whether_rivals_stand_in_the_table(monkeypatch, given, rivals):
    from vqseg.cli.report import report
    from vqseg.report import make as module

    seen = []
    monkeypatch.setattr(module, "make", lambda name, **asked: seen.append(asked["options"]) or module.Made([], name))
    app = typer.Typer()
    app.command("report")(report)
    assert CliRunner().invoke(app, ["modules", *given]).exit_code == 0
    assert seen == [Options(rivals=rivals)]


# newer columns


def with_columns(store, made, **values):
    for cell in made["cells"]:
        path = store / "runs" / cell["identity"] / "rows.parquet"
        rows = pd.read_parquet(path)
        lesion = rows["class_name"] == "LV"
        rows.assign(**{key: np.where(lesion, value, np.nan) for key, value in values.items()}).to_parquet(
            path, index=False
        )


def test_lesion_columns_stand_in_the_table_when_rows_have_them(tmp_path):
    made = study(tmp_path, fabricated.grid(70), noise=0.0, seeds=1)
    assert "Lesion sensitivity (%)" not in main_table(chosen(tmp_path, made)).headers
    empty = arms.columns_of(("lesions",), chosen(tmp_path, made).scores)
    assert empty[:3] == ["lesion_sensitivity", "false_positives", "surface_dice"]
    with_columns(
        tmp_path, made, lesion_sensitivity=0.5, false_positives=1.5, surface_dice=0.75, volume_error_ml=-2.0,
        slice_consistency=0.9, slice_consistency_reference=0.8,
    )  # fmt: skip
    words = words_of(main_table(chosen(tmp_path, made)))["QPM"]
    assert [words[key] for key in ("Lesion sensitivity (%)", "False positives (per case)", "Surface Dice (%)")] == [
        "50.00", "1.50", "75.00",
    ]  # fmt: skip
    assert "Volume error (ml)" not in words
    asked = main_table(chosen(tmp_path, made, columns=("lesions", "slice_consistency", "slice_consistency_reference")))
    assert [cell.text for cell in asked.rows[0].cells[-6:]] == ["50.00", "1.50", "75.00", "−2.00", "90.00", "80.00"]
    assert "too smooth" in asked.caption
    effect = main_table(chosen(tmp_path, made, metric="false_positives"))
    assert "Δ False positives (per case) [95 %]" in effect.headers
    for unranked in ("slice_consistency_reference", "volume_error_ml"):
        with pytest.raises(InputError, match=f"unknown metric '{unranked}'"):
            make("modules", store=tmp_path, options=Options(metric=unranked))


def test_old_runs_without_the_newer_columns_stand_beside_new_ones(tmp_path):
    made = study(tmp_path, {"base": 70.0, "QPM": 71.0}, noise=0.0, seeds=1)
    with_columns(tmp_path, {"cells": made["cells"][:1]}, lesion_sensitivity=0.5)
    selection = chosen(tmp_path, made)
    assert set(MEASURES) <= set(selection.scores)
    words = words_of(main_table(selection))
    assert words["base (reference)"]["Lesion sensitivity (%)"] == "50.00"
    assert words["QPM"]["Lesion sensitivity (%)"] == "—"


# files


def test_every_table_and_figure_in_every_form(rendered):
    store, made, result = rendered
    folder = store / "reports" / made["name"]
    assert result.paths[0] == folder / "index.html"
    for name in ("arms", "checkpoints", "module-effects", "paper-effects", "cost", "published"):
        for ending in (".md", ".tex", ".csv", "-cells.csv", ".png", ".pdf"):
            assert (folder / f"{name}{ending}").stat().st_size > 50
    for name in ("module-forest", "interactions", "effects", "curves", "reach", "codebook-QPM-DB"):
        assert (folder / f"{name}.png").is_file()
    assert "| QPM | ✓ |" in (folder / "arms.md").read_text()
    assert r"QPM & \checkmark{} &" in (folder / "arms.tex").read_text()
    assert "QPM,✓,," in (folder / "arms.csv").read_text()
    cells = pd.read_csv(folder / "module-effects-cells.csv")
    known = {cell["identity"] for cell in made["cells"]}
    assert all(set(runs.split()) <= known for runs in cells["runs"])


def test_the_page_names_what_is_missing_and_links_to_the_rivals(rendered):
    store, made, result = rendered
    page = (store / "reports" / made["name"] / "index.html").read_text()
    assert "Missing: 2 entries, of 10 cells" in page
    assert "Cells of the grid without scores: PFA, QPM + PFA, DB + PFA, QPM + DB + PFA." in page
    assert "&lt;b&gt;n_n&amp;U-Net" in page
    assert "<b>" not in page
    assert re.search(r"<td>SAM</td><td>\?</td><td>finished</td>", page)
    assert "hantom" in page
    assert "SAM: scored from its predictions" in result.words


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_the_latex_compiles_and_stays_on_the_page(rendered, tmp_path):
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
    assert "Overfull" not in done.stdout


def test_no_words_of_a_figure_leave_it_or_cover_each_other(tmp_path):
    selection = chosen(tmp_path, study(tmp_path, fabricated.grid(QPM=2, DB=5), seeds=2))
    for picture in judged(selection)[0].pictures[:1]:
        figure = picture.figure
        figure.draw_without_rendering()
        width, height = figure.bbox.width, figure.bbox.height
        boxes = [
            label.get_window_extent()
            for axes in figure.axes
            for label in (*axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label, axes.title)
            if label.get_text() and label.get_visible()
        ]
        assert all(box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1 for box in boxes)
        overlaps = [(one, two) for n, one in enumerate(boxes) for two in boxes[:n] if one.overlaps(two)]
        assert overlaps == []
