import pytest

from vqseg import assets, config
from vqseg.config import Choice, load_config, parse_overrides, with_overrides
from vqseg.errors import InputError
from vqseg.experiment import resolve_choices
from vqseg.files import parse_yaml, read_yaml
from vqseg.parts import FAMILIES, resolve


def test_yaml_reads_floats_as_numbers_and_integers_as_integers():
    assert parse_yaml("[1e-4, 1.5, .5, 3, -2, 1e3, 0.7]") == [1e-4, 1.5, 0.5, 3, -2, 1000.0, 0.7]
    assert isinstance(parse_yaml("3"), int)


def test_yaml_refuses_a_key_that_stands_twice(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("a: 1\nb: 2\na: 3\n")
    with pytest.raises(InputError, match=r"twice\.yaml.*'a' stands twice"):
        read_yaml(path)


def test_yaml_never_builds_python_objects(tmp_path):
    path = tmp_path / "code.yaml"
    path.write_text("a: !!python/object/apply:os.system ['echo no']\n")
    with pytest.raises(InputError, match="not readable as YAML"):
        read_yaml(path)


@pytest.mark.parametrize("preset", assets.names("configs"))
def test_every_preset_loads_and_its_parts_bind(preset):
    parts = resolve_choices(load_config(preset))
    assert {part.family for part in parts.values()} == set(FAMILIES)


def test_an_override_of_an_option_keeps_the_rest_and_of_a_choice_replaces_the_node():
    tree = {"perturbation": {"name": "qpm", "rate": 0.7, "temperature": 2.0}}
    assert with_overrides(tree, {"perturbation.rate": 0.3})["perturbation"] == {
        "name": "qpm",
        "rate": 0.3,
        "temperature": 2.0,
    }
    assert with_overrides(tree, {"perturbation": {"name": "none"}})["perturbation"] == {"name": "none"}
    assert tree["perturbation"]["rate"] == 0.7


def test_a_bare_name_is_a_choice():
    assert load_config("cpu", ["perturbation=none"]).perturbation == Choice(name="none")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "train.stepz.*did you mean 'steps'"),
        ("train.steps=0", "train.steps.*greater than or equal to 1"),
        ("train.precision=fp8", "train.precision"),
        ("trian.steps=3", "did you mean 'train'"),
        ("train.steps.x=3", "steps is a value, not a section"),
    ],
)
def test_a_bad_setting_is_named_with_its_nearest(override, message):
    with pytest.raises(InputError, match=message):
        load_config("cpu", [override])


def test_an_override_without_a_value_is_refused():
    with pytest.raises(InputError, match="expected KEY=VALUE"):
        parse_overrides(["train.steps"])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(name="qmp"), "unknown perturbation 'qmp'.*did you mean 'qpm'"),
        (Choice(name="qpm", epsilon=0.5), "unknown option 'epsilon'"),
        (Choice(name="qpm", rate="much"), "perturbation.rate: .*number"),
        (Choice(name="qpm", distance="cosine"), "perturbation.distance"),
    ],
)
def test_a_bad_part_is_named_before_anything_is_built(choice, message):
    with pytest.raises(InputError, match=message):
        resolve("perturbation", choice)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(InputError, match="unknown preset 'cpuu'.*did you mean 'cpu'"):
        load_config("cpuu")


def test_defaults_are_no_part_of_the_identity_and_differences_are():
    leaves = config.identity_leaves(config.Config(), {})
    assert leaves == {}
    changed = config.identity_leaves(load_config("cpu", ["train.clip_norm=1.0", "train.flush_steps=7"]), {})
    assert changed["train.clip_norm"] == 1.0
    assert "train.flush_steps" not in changed
