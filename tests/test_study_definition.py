"""The study file: what rows mean, and what is refused, in one line, with the key."""

import pytest

from vqseg import assets
from vqseg.errors import InputError
from vqseg.files import write_yaml
from vqseg.study.definition import read_definition, require_setting, select
from vqseg.study.rows import ArmRow, axes_of


def row(**keys):
    return ArmRow.model_validate({"family": "f", "set": {}, **keys})


def labels(**keys):
    return [arm.label for arm in row(**keys).arms()]


def definition(**changes):
    tree = {
        "question": "Why?",
        "preset": "smoke",
        "seeds": [0],
        "reference": "none",
        "arms": [{"family": "none", "set": {"perturbation": "none"}}],
    }
    return {key: value for key, value in {**tree, **changes}.items() if value is not None}


@pytest.fixture
def read(tmp_path):
    def call(**changes):
        write_yaml(tmp_path / "mine.yaml", definition(**changes))
        return read_definition(str(tmp_path / "mine.yaml"))[1]

    return call


@pytest.fixture
def refused(read):
    def call(**changes):
        with pytest.raises(InputError) as caught:
            read(**changes)
        text = str(caught.value)
        assert "mine.yaml: " in text and "\n" not in text
        return text.partition("mine.yaml: ")[2]

    return call


# Rows


def test_a_row_is_one_arm_with_what_it_sets():
    (arm,) = row(label="plain", suffix="too", set={"prior": "none"}, at={"prior": "none"}).arms()
    assert (arm.label, arm.family, arm.knob, arm.overrides) == ("plain too", "f", None, {"prior": "none"})
    assert arm.at == {"prior": "none"} and not arm.optional and arm.preset is None and arm.own is None


def test_values_are_arms_along_an_axis_and_whole_numbers_stay_whole():
    arms = row(knob="train.steps", symbol="steps", values=[3, 0.5, 2.0]).arms()
    assert [arm.label for arm in arms] == ["f steps=3", "f steps=0.5", "f steps=2"]
    assert [type(arm.knob) for arm in arms] == [int, float, float] and arms[0].overrides == {"train.steps": 3}
    assert [arm.at for arm in arms] == [{"steps": 3}, {"steps": 0.5}, {"steps": 2.0}]
    assert labels(knob="train.steps", values=[16384]) == ["f value=16384"]


def test_a_grid_is_the_product_of_its_axes():
    axes = [
        {"knob": "method.unlabelled_weight", "symbol": "u", "values": [1, 5]},
        {"knob": "method.align_weight", "symbol": "a", "values": [0.1, 2]},
    ]
    arms = row(grid=axes, set={"prior": "local"}, at={"kind": "x"}).arms()
    assert [arm.label for arm in arms] == ["u=1 a=0.1", "u=1 a=2", "u=5 a=0.1", "u=5 a=2"]
    assert arms[1].overrides == {"prior": "local", "method.unlabelled_weight": 1, "method.align_weight": 2}
    assert arms[1].at == {"kind": "x", "u": 1, "a": 2} and {arm.knob for arm in arms} == {None}
    assert labels(grid=axes[:1], label="w", suffix="end") == ["w u=1 end", "w u=5 end"]
    assert [arm.knob for arm in row(grid=axes[:1]).arms()] == [1, 5]
    assert axes_of(arms) == {"kind": ["x"], "u": [1, 5], "a": [0.1, 2]}


AXIS = {"knob": "a.b", "symbol": "x", "values": [1]}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"values": [1]}, "has values but no knob"),
        ({"knob": "a.b"}, "has a knob but no values; list what a.b is set to"),
        ({"knob": "a.b", "values": [1], "grid": [AXIS]}, "has a knob and a grid"),
        ({"grid": [AXIS, {**AXIS, "symbol": "y"}]}, "knob 'a.b' stands twice in its grid"),
        ({"grid": [AXIS, {**AXIS, "knob": "a.c"}]}, "symbol 'x' stands twice in its grid"),
        ({"grid": [AXIS], "at": {"x": 2}}, "at.x: its knob says that"),
        ({"knob": "a.b", "symbol": "x", "values": [1], "at": {"x": 2}}, "at.x: its knob says that"),
        ({"carries": ["method"]}, "carries 'method', which it does not set"),
    ],
)
def test_keys_of_a_row_that_do_not_go_together_are_refused(keys, message):
    with pytest.raises(InputError, match=f"arm 'f': .*{message}"):
        row(**keys).arms()


# Files


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"grid": [{"knob": "a", "symbol": "x"}]}, "arms.1.grid.0.values: is missing"),
        ({"grid": [{**AXIS, "values": []}]}, "arms.1.grid.0.values: list should have at least 1 item"),
        ({"grid": [{**AXIS, "vales": [1]}]}, "unknown key 'arms.1.grid.0.vales' (did you mean 'values'?)"),
        ({"knob": "a", "values": ["x"]}, "arms.1.values.0: expected a number, got 'x'"),
        ({"knob": "a", "values": [True]}, "arms.1.values.0: expected a number, got True"),
        ({"knob": "a", "values": [float("nan")]}, "arms.1.values.0: expected a number, got nan"),
        ({"at": {"x": [1]}}, "arms.1.at.x: expected a number or a text"),
        ({"at": {"": 1}}, "arms.1.at..[key]: string should have at least 1 character"),
        ({"set": None}, "arm 'f': set is missing; say what the arm changes, or {} for nothing"),
        ({"preset": "papr"}, "unknown preset 'papr' (did you mean 'paper'?)"),
        ({"preset": "./none.yaml"}, "./none.yaml: no such preset file"),
        ({"optionl": True}, "unknown key 'arms.1.optionl' (did you mean 'optional'?)"),
        ({"family": "none"}, "arm 'none' stands twice"),
        ({"knob": "a", "symbol": "x", "values": [1, 1]}, "arm 'f x=1' stands twice"),
    ],
)
def test_a_broken_row_names_the_key(refused, arm, message):
    given = {"family": "f", "set": {"prior": "none"}, **arm}
    given = {key: value for key, value in given.items() if value is not None}
    assert message in refused(arms=[{"family": "none", "set": {}}, given])


PRESET = [{"family": "none", "set": {}}, {"family": "paper", "preset": "paper"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draws": 0}, "draws: input should be greater than or equal to 1, got 0"),
        ({"arms": []}, "arms: expected at least one row"),
        ({"arms": None}, "arms: is missing"),
        ({"reference": None}, "reference: is missing"),
        ({"keeps": ["network"]}, "keeps: no arm is a preset"),
        ({"keeps": ["netwrk"], "arms": PRESET}, "unknown setting 'netwrk' (did you mean 'network'?)"),
        (
            {"keeps": ["train.stepz"], "arms": PRESET},
            "'train.stepz' (did you mean 'steps' or 'flush_steps'?); known in train: steps",
        ),
        ({"keeps": ["data.size_px.x"], "arms": PRESET}, "'data.size_px.x'; data.size_px is one value"),
        ({"keeps": ["seed"], "arms": PRESET}, "unknown setting 'seed'"),
        ({"supervised": {"data.labels": "all"}, "arms": PRESET}, "supervised: arm 'paper' is a whole preset"),
        ({"thinned": {"cpu": {"arms": ["non"]}}}, "thinned.cpu.arms 'non': no such arm (did you mean 'none'?)"),
        ({"thinned": {"cpu": {"arms": ["*"], "reference": "x"}}}, "thinned.cpu.reference 'x' is no arm"),
        ({"thinned": {"cpu": {"arms": ["*"], "seeds": []}}}, "thinned.cpu.seeds: list should have at least 1 item"),
        ({"thinned": {"cpu": {"arm": ["*"]}}}, "unknown key 'thinned.cpu.arm' (did you mean 'arms'?)"),
        ({"rescore": {"protocols": "all"}}, "preset: a study that scores another one again takes that one's"),
        ({"rescore": {"protocols": []}}, "rescore.protocols: list should have at least 1 item"),
        ({"rescore": {"protocol": "all"}}, "unknown key 'rescore.protocol' (did you mean 'protocols'?)"),
        ({"search": {"budget": 3, "space": {}}}, "search.space: dictionary should have at least 1 item"),
        ({"search": {"budget": 3, "spaces": {}}}, "unknown key 'search.spaces' (did you mean 'space'?)"),
        ({"search": {"budget": 3, "space": {"seed": {"low": 0, "high": 1}}}}, "search: space: seed cannot be searched"),
        (
            {"search": {"budget": 3, "space": {"method.confidence": {"lo": 0}}}},
            "unknown key 'search.space.method.confidence.lo' (did you mean 'low' or 'log'?)",
        ),
    ],
)
def test_a_broken_file_names_the_key(refused, changes, message):
    assert message in refused(**changes)


@pytest.mark.parametrize(
    "key",
    ["network", "data.size_px", "network.encoder", "method", "method.warmup_steps", "network.quantizer.num_codes"],
)
def test_sections_parts_settings_and_options_of_parts_can_be_kept(key):
    require_setting(key)


def test_a_study_that_scores_another_again_needs_no_arms(tmp_path):
    path = tmp_path / "again.yaml"
    path.write_text("question: Again?\nrescore: {protocols: all}\n")
    assert read_definition(str(path))[1].rescore.protocols == ["all"]
    path.write_text("question: Again?\nrescore: {protocols: [scan, ssl4mis]}\n")
    found = read_definition(str(path))[1]
    assert found.rescore.protocols == ["scan", "ssl4mis"] and found.expand() == []


def test_a_study_that_searches_needs_its_reference_alone(read):
    search = {"budget": 3, "space": {"method.confidence": {"low": 0, "high": 0.95}}}
    found = read(search=search)
    assert found.search.budget == 3 and [arm.label for arm in found.expand()] == ["none"]


def test_thinning_has_a_reference_of_its_own_and_seeds_where_it_says_so(read):
    arms = [{"family": "none", "set": {}}, {"family": "x", "set": {"prior": "none"}}]
    found = read(arms=arms, thinned={"cpu": {"arms": ["x"], "reference": "x"}})
    thinning = found.thinned["cpu"]
    assert thinning.seeds is None and thinning.reference == "x"
    assert [arm.label for arm in select(found.expand(), thinning.arms, thinning.reference)] == ["x"]


@pytest.mark.parametrize("name", assets.names("studies"))
def test_every_built_in_study_asks_a_question_and_places_its_arms(name):
    stem, found = read_definition(name)
    assert stem == name and found.question.strip().endswith("?")
    arms = found.expand()
    axes = {"modules", "protocols", "loss-search"}  # factors, none of its own, symbols of its space
    assert all(arm.at or arm.label in ("none", "shuffle rate=1") for arm in arms) or name in axes
