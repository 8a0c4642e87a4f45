import placed
import pytest

from vqseg.report import normalization
from vqseg.study.definition import read_definition

DROPOUT, QPM = "channel-dropout 0.9", "qpm 0.9"


def arms(*, loss=-9.0, shared=-6.0, gain=3.0, group=True, placed_by=None):
    """Dropout loses ``loss`` everywhere and ``shared`` more with shared statistics; QPM gains everywhere."""
    found = {}
    kinds = {"none": ("none", 0.0), "channel-dropout": (DROPOUT, loss), "qpm": (QPM, gain)}
    for family, (name, effect) in kinds.items():
        for statistics in ("shared", "separate", *(["group"] if group else [])):
            dice = 85 + effect + (shared if (family, statistics) == ("channel-dropout", "shared") else 0)
            rate = {"perturbation": "none" if family == "none" else {"name": family, "rate": 0.9}}
            norm = {"network.norm": "group"} if statistics == "group" else {
                "network.norm": "batch", "network.statistics": statistics,
            }  # fmt: skip
            at = {"perturbation": name, "statistics": statistics} if placed_by == "study" else {}
            found[f"{name} {statistics}"] = (dice, {"family": family, "overrides": {**rate, **norm}, "at": at})
    return found


def selected(store, **options):
    seeds = options.pop("seeds", 3)
    made = placed.study(store, arms(**options), reference="none separate", definition="normalization", seeds=seeds)
    return placed.chosen(store, made)


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    made = placed.study(store, arms(), reference="none separate", definition="normalization")
    for label, (dice, _) in arms().items():
        early = -0.3 if label == f"{DROPOUT} shared" else 0.0
        series = [0.2, 0.5 + early, 0.7, dice / 100]
        placed.log(store, made, label, val__dice_teacher=series, val__dice_student=[v - 0.05 for v in series])
    return placed.chosen(store, made)


@pytest.fixture(scope="module")
def report(selection):
    return normalization.build(selection)


@pytest.mark.parametrize("placed_by", ["study", "settings"])
def test_arms_are_placed_by_the_study_or_by_their_settings(tmp_path, placed_by):
    made = placed.study(
        tmp_path, arms(placed_by=placed_by), reference="none separate", definition="normalization", seeds=1
    )
    where = normalization.places(made)
    assert where[f"{DROPOUT} shared"] == {"perturbation": DROPOUT, "statistics": "shared"}
    assert where["none group"] == {"perturbation": "none", "statistics": "group"}


def test_the_studys_own_arms_make_a_whole_crossing():
    _, definition = read_definition("normalization")
    where = normalization.places({"arms": [arm.model_dump() for arm in definition.expand()]})
    crossing = normalization.crossed.cross(where, "perturbation", "statistics")
    assert crossing.columns == ["shared", "separate", "group"] and crossing.rows[0] == "none"
    assert len(crossing.arms) == 3 * len(crossing.rows) == len(definition.expand())
    assert (
        sum("shared minus separate" in each.name for each in normalization.wanted(crossing)) == len(crossing.rows) - 1
    )


def test_effects_are_within_statistics_and_their_difference_between(selection):
    crossing = normalization.crossed.cross(normalization.places(selection.study), "perturbation", "statistics")
    wanted = {each.name: each.weights for each in normalization.wanted(crossing)}
    assert len(wanted) == 8
    assert wanted[f"{DROPOUT} minus none, group"] == {f"{DROPOUT} group": 1.0, "none group": -1.0}
    assert wanted[f"{QPM}: shared minus separate"] == {
        f"{QPM} shared": 1.0, "none shared": -1.0, f"{QPM} separate": -1.0, "none separate": 1.0,
    }  # fmt: skip


def test_the_first_sentence_says_what_part_of_the_collapse_is_an_artefact(report):
    first = report.summary[0]
    assert first.startswith(f"{DROPOUT} on acdc (devtest): its loss is partly an artefact of shared statistics: ")
    assert "with shared statistics −15" in first or "with shared statistics −14" in first
    assert "with separate statistics −" in first and "3 seeds x 6 patients" in first
    assert f"{QPM} on acdc (devtest): no loss at the end of training, so none to explain" in report.summary[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": 0.0, "shared": -12.0}, "its loss is an artefact of shared statistics: without them none can be told"),
        ({"loss": -12.0, "shared": 0.0}, "its loss is no artefact of the statistics"),
        ({"loss": 0.0, "shared": 0.0}, "no loss at the end of training, so none to explain"),
        ({"seeds": 2}, "no verdict, fewer than 3 seeds or 2 patients"),
    ],
)
def test_every_verdict(tmp_path, options, words):
    selection = selected(tmp_path, group=False, **options)
    assert words in normalization.build(selection).summary[0]


def test_a_half_finished_study_says_what_is_missing(tmp_path):
    found = {label: arm for label, arm in arms().items() if label != f"{DROPOUT} separate"}
    made = placed.study(tmp_path, found, reference="none separate", definition="normalization", seeds=1)
    report = normalization.build(placed.chosen(tmp_path, made))
    assert report.summary[0].endswith("no answer yet, its effect is scored with shared statistics only.")
    assert placed.words_of(placed.tables_of(report)["crossed-teacher"])[DROPOUT]["separate"] == ""


def test_teacher_and_student_have_tables_of_their_own(report):
    tables = placed.tables_of(report)
    teacher, student = (placed.words_of(tables[f"crossed-{name}"])[DROPOUT] for name in ("teacher", "student"))
    assert float(teacher["shared"].split(" ")[0]) - float(student["shared"].split(" ")[0]) == pytest.approx(1, abs=0.02)
    assert "Last student." in tables["crossed-student"].caption
    effects = placed.words_of(tables["effects-within-student"])
    assert effects[f"{DROPOUT}: shared minus separate"]["verdict"] == "worse with shared statistics"
    assert "Holm over these 8." in tables["effects-within-teacher"].caption


def test_what_one_sees_depends_on_when_one_looks(report):
    when = placed.words_of(placed.tables_of(report)["when"])
    assert list(when[f"{DROPOUT}, shared"]) == ["step 500", "step 1,000", "step 1,500", "step 2,000"]
    assert when[f"{DROPOUT}, shared"]["step 1,000"].startswith("−30.00")
    assert when[f"{DROPOUT}, shared"]["step 1,500"].startswith("0.00")
    assert when[f"{DROPOUT}, separate"]["step 1,000"].startswith("0.00")


def test_two_validations_are_two_columns(tmp_path):
    made = placed.study(tmp_path, arms(), reference="none separate", definition="normalization")
    for label, (dice, _) in arms().items():
        placed.log(tmp_path, made, label, val__dice_teacher=[0.5, dice / 100])
    table = placed.tables_of(normalization.build(placed.chosen(tmp_path, made)))["when"]
    assert table.headers == ["minus none", "step 1,000", "step 2,000"]
    when = placed.words_of(table)[f"{DROPOUT}, shared"]
    assert when["step 1,000"].startswith("0.00") and when["step 2,000"].startswith("−15.00")
    assert all(len(row.cells) == 2 for row in table.rows)


def test_curves_are_small_multiples_of_statistics_and_networks(report):
    figures = placed.drawable(report, "validation", "crossed", "forest-teacher")
    titles = [axes.get_title(loc="left") for axes in figures["validation"].axes]
    assert titles == [
        f"{statistics}, {network}"
        for network in ("teacher", "student")
        for statistics in ("shared", "separate", "group")
    ]
    legend = [text.get_text() for text in figures["validation"].legends[0].get_texts()]
    assert legend == ["none", DROPOUT, QPM]
    assert "interaction" in placed.texts(figures["forest-teacher"])


def test_only_finished_runs_are_in_curves_and_moments(tmp_path):
    made = placed.study(tmp_path, arms(group=False), reference="none separate", definition="normalization", seeds=2)
    for identity in placed.runs_of(made, f"{DROPOUT} shared"):
        placed.RunFolder(tmp_path, identity).update(state="failed", error="x")
    table = normalization.validations(placed.chosen(tmp_path, made))
    assert len(table) and not ((table["perturbation"] == DROPOUT) & (table["statistics"] == "shared")).any()
