import numpy as np
import pandas as pd
import placed
import pytest

from vqseg.errors import InputError
from vqseg.records.run import RunFolder
from vqseg.report import protocol_figures, protocols

ALL = ("scan", "ssl4mis", "unimatch", "vqseg-release")
IMAGE = "scan 'p0_ED' has 10 slices, but a case is one 2-D image"
ENTRY = {"part": "devtest", "date": "2026-01-03T00:00:00+00:00", "repeat": 0, "not_applicable": {"image": IMAGE}}
DICE = {"none": 80.0, "qpm": 86.0, "dropout": 79.0}


def study(store, *, names=ALL, shifts=(), seeds=3, dice=DICE):
    """Write a study under several protocols; ``shifts`` are (arm, protocol, Dice points)."""
    arms = {label: (value, {"family": label}) for label, value in dice.items()}
    made = placed.study(
        store, arms, reference="none", definition="protocols", seeds=seeds, protocols=names, parts=("devtest",),
        more={"of": "epsilon-sweep-acdc-cpu"},
    )  # fmt: skip
    for cell in made["cells"]:
        path = RunFolder(store, cell["identity"]).path / "rows.parquet"
        rows = pd.read_parquet(path)
        for arm, protocol, points in shifts:
            if arm == cell["arm"]:
                rows.loc[rows["protocol"] == protocol, "dice"] += points / 100
        rows.loc[rows["protocol"] == "unimatch", ["hd95_voxel", "asd_voxel"]] = np.nan
        rows.to_parquet(path, index=False)
    for label in arms:
        placed.tell(store, made, label, evaluations=[{**ENTRY, "protocols": list(names)}])
    return made


SHIFTS = [("qpm", "vqseg-release", -12.0), ("dropout", "ssl4mis", 3.5)]


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return placed.chosen(store, study(store, shifts=SHIFTS))


@pytest.fixture(scope="module")
def report(selection):
    return protocols.build(selection)


def test_the_first_sentences_say_what_moves(report):
    first, best, swaps, changed = report.summary
    assert first.startswith("On acdc (devtest) the protocol moves the effect of qpm against none most: from −")
    assert "under vqseg-release (3 seeds x 6 patients) to +" in first and first.endswith("of 4 protocols.")
    assert best == (
        "The best arm depends on the protocol: scan: qpm; ssl4mis: qpm; unimatch: qpm; vqseg-release: none."
    )
    assert swaps == "3 of 3 pairs of arms swap places between some two protocols."
    assert (
        changed.startswith("Conclusions against none change for ")
        and "qpm (verdict flips, sign, rank 1 to 3)" in changed
    )


def test_the_table_has_one_column_per_protocol_and_marks_within_it(report):
    dice = placed.tables_of(report)["protocols-dice"]
    assert dice.headers == ["arm", *ALL]
    rows = {row.label: row.cells for row in dice.rows}
    assert [cell.mark for cell in rows["qpm"]][:1] == ["bold"] and rows["none (reference)"][3].mark == "bold"
    gap = float(rows["qpm"][0].text.split(" ")[0]) - float(rows["qpm"][3].text.split(" ")[0])
    assert gap == pytest.approx(12, abs=0.02)
    assert "3 seeds x 6 patients; runs" in rows["qpm"][0].tip
    distances = placed.tables_of(report)["protocols-hd95-voxel"]
    assert {row.cells[2].text for row in distances.rows} == {"—"}
    assert "unimatch: has no such distances." in distances.caption
    assert "every protocol" in dice.caption and "protocol scan" not in dice.caption


def test_ranks_effects_and_changes_stand_together(report):
    rows = placed.words_of(placed.tables_of(report)["ranks"])
    assert [rows["qpm"][name] for name in ALL] == ["1", "1", "1", "3"]
    assert rows["none"]["changes"] == "rank 1 to 3"
    effects = placed.tables_of(report)["conclusions"]
    assert [row.label for row in effects.rows] == ["qpm", "dropout"]
    qpm = placed.words_of(effects)["qpm"]
    assert qpm["vqseg-release"].startswith("−") and qpm["scan"].startswith("+")
    assert {cell.mark for cell in effects.rows[0].cells} == {"bold"}
    leads = placed.words_of(placed.tables_of(report)["leads"])
    assert leads["scan"]["best minus second"] == "qpm minus none"
    assert leads["ssl4mis"]["best minus second"] == "qpm minus dropout"


def test_holm_runs_within_a_protocol(selection):
    scores = protocols.scored(selection)
    effects, _, _ = protocols.by_protocol(selection, scores)
    own = effects[effects["protocol"] == "scan"]
    alone = protocols.contrasts.assess(
        selection.headline, [protocols.contrasts.minus(arm, "none") for arm in ("qpm", "dropout")], "dice"
    )
    assert own["p_holm"].tolist() == alone["p_holm"].tolist()


def test_what_does_not_apply_or_was_not_scored_is_said(report, tmp_path):
    section = placed.section(report, "Protocols")
    assert section.paragraphs == [f"image: not applicable: {IMAGE}."]
    rules = placed.words_of(section.tables[0])
    assert rules["vqseg-release"]["case"] == "patient" and rules["unimatch"]["pooled with"] == "val"
    assert rules["scan"]["empties"] == "diagonal" and rules["scan"]["runs"] == "9"
    one = protocols.build(placed.chosen(tmp_path, study(tmp_path, names=("scan",), seeds=1)))
    assert one.summary == [
        "Only protocol scan is scored on acdc (devtest): nothing can be held against it. 'vqseg study evaluate "
        "epsilon-sweep-acdc-cpu --part devtest --protocol all' scores the others."
    ]
    assert any(line.startswith("ssl4mis: not scored;") for line in placed.section(one, "Protocols").paragraphs)


def test_some_runs_that_lack_a_protocol_are_counted(tmp_path):
    made = study(tmp_path)
    path = RunFolder(tmp_path, placed.runs_of(made, "qpm")[0]).path / "rows.parquet"
    rows = pd.read_parquet(path)
    rows[rows["protocol"] != "ssl4mis"].to_parquet(path, index=False)
    report = protocols.build(placed.chosen(tmp_path, made))
    assert "ssl4mis is scored for 8 of 9 runs only." in placed.section(report, "Protocols").paragraphs


def test_rows_of_other_scoring_code_are_refused(tmp_path):
    made = study(tmp_path, seeds=1)
    path = RunFolder(tmp_path, placed.runs_of(made, "qpm")[0]).path / "rows.parquet"
    rows = pd.read_parquet(path)
    rows.loc[rows["protocol"] == "ssl4mis", "scoring"] = "older"
    rows.to_parquet(path, index=False)
    with pytest.raises(InputError, match=r"scoring code of ssl4mis .*--protocol ssl4mis, or pass --allow-mixed"):
        protocols.build(placed.chosen(tmp_path, made))
    assert protocols.build(placed.chosen(tmp_path, made, allow_mixed=True)).summary


def test_a_scoring_that_was_cut_short_is_refused(tmp_path):
    made = study(tmp_path, seeds=1)
    entries = [{**ENTRY, "protocols": ["scan"]}, {**ENTRY, "protocols": ["ssl4mis"], "unfinished": True}]
    placed.tell(tmp_path, made, "qpm", evaluations=entries)
    with pytest.raises(InputError, match=r"under ssl4mis was cut short; finish it: vqseg study evaluate"):
        protocols.build(placed.chosen(tmp_path, made))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([(1.0, 0.01), (-1.0, 0.01)], "verdict flips, sign"),
        ([(1.0, 0.01), (0.4, 0.2)], "significance"),
        ([(0.1, 0.9), (-0.1, 0.9)], "sign"),
        ([(1.0, 0.01), (1.1, 0.01)], ""),
    ],
)
def test_what_changes(lines, words):
    effects = pd.DataFrame([{"arm": "a", "estimate": e, "p_holm": p, "seeds": 3} for e, p in lines])
    ranks = pd.DataFrame({"x": {"a": 1.0}, "y": {"a": 1.0}})
    assert protocols.changes(effects, ranks, "dice") == {"a": words}
    assert protocols.changes(effects, ranks.assign(y=3.0), "dice")["a"].endswith("rank 1 to 3")


def test_lines_of_ranks_have_the_arms_at_both_ends(report):
    figures = placed.drawable(report, "rank-lines", "protocol-effects")
    left, right = figures["rank-lines"].axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["1  qpm", "2  none", "3  dropout"]
    assert [tick.get_text() for tick in right.get_yticklabels()] == ["1  none", "2  dropout", "3  qpm"]
    effects = figures["protocol-effects"].axes[0]
    assert [tick.get_text() for tick in effects.get_yticklabels()] == ["qpm", "dropout"]
    assert [text.get_text() for text in figures["protocol-effects"].legends[0].get_texts()] == list(ALL)


def test_of_many_arms_those_are_drawn_that_move_most():
    many = [{"arm": f"a{n}", "protocol": p, "estimate": n * s} for n in range(60) for p, s in (("x", 0), ("y", 1))]
    shown = protocol_figures.shown(pd.DataFrame(many))
    assert list(dict.fromkeys(shown["arm"])) == [f"a{n}" for n in range(20, 60)]
    ranks = pd.DataFrame({"arm": [f"a{n}" for n in range(80)], "x": range(1, 81), "y": range(80, 0, -1)})
    figure = protocol_figures.draw_ranks(ranks, {})
    assert len(figure.axes) == 1 and figure.axes[0].get_ylabel() == "rank"
