"""No file makes its code run without ``--allow-code``: presets, studies, records of runs and of studies."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vqseg import config
from vqseg.config import Choice, Config, choices, from_tree, load_config, with_overrides
from vqseg.errors import InputError
from vqseg.files import parse_yaml, read_json, read_yaml, write_json
from vqseg.study import cells, definition, runner
from vqseg.study.cells import Request, StudyFolder, prepare, write

TRAP = """
from pathlib import Path

from vqseg.quantizers.plain import PlainQuantizer

Path({marker!r}).write_text("it ran")


class Trap(PlainQuantizer):
    pass
"""
STUDY = """
question: Does it run?
preset: {preset}
seeds: [0]
reference: one
supervised: {supervised}
arms:
  - {{family: one, set: {set}}}
"""


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A file that leaves a mark when it runs; `said` looks for the mark."""
    monkeypatch.setenv("VQSEG_NO_MIRROR", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.py").write_text(TRAP.format(marker=str(tmp_path / "mark")))
    return f"{tmp_path / 'trap.py'}:Trap"


@pytest.fixture
def refused(command, tmp_path):
    def call(*words):
        code, _, err = command(*words)
        assert not (tmp_path / "mark").exists(), "code of a file ran"
        assert code == 2 and err.startswith("vqseg: error: ") and err.count("\n") == 1, err
        return err

    return call


def binary(text):
    return f"!!binary {base64.b64encode(text.encode()).decode()}"


def ways(trap):
    """The same name in forms that a check of the file's texts may not see; and plainly."""
    yield from (trap, f"{{name: {trap}}}", binary(trap), f"{{name: {binary(trap)}}}", f"{{{binary('name')}: {trap}}}")


@pytest.mark.parametrize("way", range(5))
def test_a_preset_runs_no_code(trap, refused, phantom_root, way):
    Path("theirs.yaml").write_text(f"network: {{quantizer: {list(ways(trap))[way]}}}\n")
    err = refused("train", "--data", phantom_root, "--preset", "theirs.yaml", "--no-mirror")
    assert "theirs.yaml" in err
    Path("study.yaml").write_text(STUDY.format(preset="theirs.yaml", supervised="null", set="{}"))
    refused("study", "run", "study.yaml", "--data", phantom_root)


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("key", ["network.quantizer", "network.quantizer.name", "network.quantizer.", "network"])
def test_an_arm_runs_no_code(trap, refused, phantom_root, way, key):
    value = list(ways(trap))[way]
    value = f"{{quantizer: {value}}}" if key == "network" else value
    Path("study.yaml").write_text(STUDY.format(preset="smoke", supervised="null", set=f'{{"{key}": {value}}}'))
    refused("study", "run", "study.yaml", "--data", phantom_root)


@pytest.mark.parametrize("key", ["method", "method.", ".method", "method.name", "network.quantizer."])
@pytest.mark.parametrize("way", range(5))
def test_the_supervised_form_runs_no_code(trap, refused, phantom_root, way, key):
    form = f'{{"{key}": {list(ways(trap))[way]}}}'
    Path("study.yaml").write_text(STUDY.format(preset="smoke", supervised=form, set="{}"))
    refused("study", "run", "study.yaml", "--data", phantom_root, "--supervised")


def test_a_supervised_form_that_is_no_part_is_one_line(refused, phantom_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY.format(preset="smoke", supervised="{method: [1, 2]}", set="{}"))
    err = refused("study", "run", "study.yaml", "--data", phantom_root, "--supervised")
    assert "supervised.method: expected a name, or {name: ..., options}, got [1, 2]" in err


@pytest.mark.parametrize("way", range(5))
def test_the_record_of_a_run_runs_no_code(trap, refused, finished, tmp_path, way):
    text = (finished.path / "config.yaml").read_text()
    tree = read_yaml(finished.path / "config.yaml")
    tree["network"]["quantizer"] = "HERE"
    (finished.path / "config.yaml").write_text(json.dumps(tree).replace('"HERE"', list(ways(trap))[way]))
    try:
        for words in (("evaluate", finished.path, "--part", "val"), ("predict", finished.path, tmp_path, "out")):
            assert "config.yaml" in refused(*words)
    finally:
        (finished.path / "config.yaml").write_text(text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, phantom_root):
    """A run of one step."""
    from vqseg import experiment

    store = tmp_path_factory.mktemp("store")
    settings = load_config("smoke", ["train.steps=1", "train.validate_steps=1", "data.size_px=16"])
    planned = experiment.plan(settings, root=phantom_root, split=None, store=store)
    return experiment.run(planned, name="one", keep="last")


EDITS = {
    "an arm's key with an empty piece": {"network.quantizer.": "TRAP"},
    "another": {".network.quantizer": "TRAP"},
    "an arm": {"network.quantizer": {"name": "TRAP"}},
    "a section": {"network": {"quantizer": {"name": "TRAP"}}},
}


@pytest.mark.parametrize("edit", EDITS)
def test_the_record_of_a_study_runs_no_code(trap, refused, phantom_root, tmp_path, edit):
    Path("study.yaml").write_text(STUDY.format(preset="smoke", supervised="null", set="{}"))
    request = Request("study.yaml", Path("store"), phantom_root, name="mine", steps=10)
    folder, record, _ = prepare(request)
    overrides = json.loads(json.dumps(EDITS[edit]).replace("TRAP", trap))
    record["arms"].append({"label": "x", "family": "x", "knob": None, "overrides": overrides})
    record["cells"].append({"arm": "x", "seed": 0, "identity": "0" * 16, "name": "x"})
    write(folder, record)
    words = ["study.yaml", "--data", phantom_root, "--store", "store", "--name", "mine", "--steps", "10"]
    refused("study", "run", *words)
    worker = [sys.executable, "-m", "vqseg.study.worker", "--store", "store", "--study", "mine"]
    runner._fill(queue_of(folder), folder, record, False)
    done = subprocess.run(
        [*worker, "--parent", str(os.getpid())],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        timeout=120,
    )
    assert done.returncode == 0 and "failed: InputError" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "mark").exists()


def queue_of(folder):
    from vqseg.study.queue import Queue

    return Queue(folder.path, folder.name)


@pytest.mark.parametrize("key", ["base_config", "overrides"])
def test_what_else_a_study_records_runs_no_code(trap, phantom_root, tmp_path, key):
    from vqseg.study.cells import plan_cell

    Path("study.yaml").write_text(STUDY.format(preset="smoke", supervised="null", set="{}"))
    record = prepare(Request("study.yaml", Path("store"), phantom_root))[1]
    record["base_config"]["network"]["quantizer"] = {"name": "plain", "num_codes": 8}
    changes = {"network.quantizer": trap} if key == "overrides" else {}
    if key == "base_config":
        record["base_config"]["network"]["quantizer"] = trap
    record["overrides"] = {**changes, "network.quantizer.num_codes": 4}
    record["arms"][0]["overrides"] = {"network.quantizer": record["base_config"]["network"]["quantizer"]}
    with pytest.raises(InputError, match="names code"):
        plan_cell(record, tmp_path, record["cells"][0])
    assert not (tmp_path / "mark").exists()


# What is built counts


def test_what_counts_is_what_was_built(trap, monkeypatch):
    """Whatever way a tree finds past the first look, a built choice is looked at again."""
    monkeypatch.setattr(config, "admit_code", lambda tree, *_, **__: dict(tree))
    tree = {"network": {"quantizer": {"name": trap}}}
    with pytest.raises(InputError, match="theirs: network.quantizer.name names code.*--allow-code"):
        from_tree(tree, "theirs")
    with pytest.raises(InputError, match="network.quantizer.name names code.*--allow-code"):
        from_tree(tree, "theirs", typed=["other.py:X"])
    assert from_tree(tree, "theirs", typed=[trap]) == from_tree(tree, "theirs", allow_code=True)
    with pytest.raises(InputError, match="network.quantizer.name: input should be a valid string"):
        from_tree({"network": {"quantizer": {"name": trap.encode()}}}, "theirs", allow_code=True)


@pytest.mark.parametrize("overrides", [(), ("network.quantizer.num_codes=4",)])
def test_the_second_look_holds_by_itself(trap, phantom_root, monkeypatch, overrides):
    """What a look at texts missed is refused with the flag of the command line, before any part is looked up."""
    for module in (config, cells, definition):
        monkeypatch.setattr(module, "admit_code", lambda tree, *_, **__: dict(tree))
    Path("theirs.yaml").write_text(f"network: {{quantizer: {trap}}}\n")
    with pytest.raises(InputError, match="network.quantizer.name names code.*--allow-code"):
        load_config("theirs.yaml", overrides)
    Path("study.yaml").write_text(STUDY.format(preset="smoke", supervised="null", set=f"{{network.quantizer: {trap}}}"))
    with pytest.raises(InputError, match="network.quantizer.name names code.*--allow-code"):
        prepare(Request("study.yaml", Path("store"), phantom_root, overrides=overrides))
    assert not Path("mark").exists()


def test_every_choice_of_a_config_is_looked_at():
    found = dict(choices(Config()))
    assert set(found) == {
        *(f"network.{name}" for name in ("encoder", "quantizer", "decoder")),
        *("perturbation", "prior", "method", "optimizer"),
    }
    assert found["network.quantizer"] == Choice(name="mapped")


def test_what_is_typed_is_run_and_what_the_file_says_beside_it_is_not(trap):
    assert load_config("smoke", [f"network.quantizer={trap}"]).network.quantizer.name == trap
    assert load_config("smoke", [f"network.quantizer={{name: {trap}}}"]).network.quantizer.name == trap
    Path("theirs.yaml").write_text("perturbation: other.py:Other\n")
    with pytest.raises(InputError, match="theirs.yaml: perturbation names code, 'other.py:Other'"):
        load_config("theirs.yaml", [f"network.quantizer={trap}"])


def test_code_typed_for_a_study_plans_its_cells(trap, phantom_root):
    Path("study.yaml").write_text(STUDY.format(preset="smoke", supervised="null", set="{}"))
    request = Request("study.yaml", Path("store"), phantom_root, overrides=(f"network.quantizer={trap}",))
    assert len(prepare(request)[1]["cells"]) == 1 and Path("mark").exists()


@pytest.mark.parametrize("key", ["network.quantizer.", ".train", "train..steps", ""])
def test_a_key_with_an_empty_piece_is_refused(key):
    with pytest.raises(InputError, match="a piece of this key is empty; expected names with one dot between them"):
        with_overrides({}, {key: 1})


@pytest.mark.parametrize(
    "text",
    [
        "a: !!binary aGk=",
        "? !!binary aGk=\n: 1",
        "a: !!set {b, c}",
        "a: !!omap [b: 1]",
        "a: !!pairs [b: 1]",
        "a: !!timestamp 2020-01-01",
        "a: !!python/name:os.system",
        "a: !!python/object/apply:os.system [x]",
        "a: !own 3",
        "a: &a {b: *a}",
        "? [a]\n: 1",
    ],
)
def test_yaml_makes_plain_values_alone(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=r"x\.yaml: not readable as YAML: ") as caught:
        read_yaml(tmp_path / "x.yaml")
    assert "\n" not in str(caught.value)


def test_plain_yaml_is_what_it_was():
    text = "a: 1e-4\nb: [1, yes, null, text, {c: .5}]\nd: &x [1]\ne: *x\nf: !!str 3\ng: 2020-01-01\n"
    found = {"a": 1e-4, "b": [1, True, None, "text", {"c": 0.5}], "d": [1], "e": [1], "f": "3", "g": "2020-01-01"}
    assert parse_yaml(text) == found


def test_a_worker_imports_nothing_from_the_folder_that_it_is_started_in(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(runner.subprocess, "Popen", lambda command, **_: asked.append(command))
    folder = StudyFolder(tmp_path, "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    runner._start_worker(folder, runner.Settings(), 0)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    runner._start_worker(folder, runner.Settings(), 0)
    assert [command[1:3] for command in asked] == [["-P", "-m"], ["-m", "vqseg.study.worker"]]


def test_data_and_splits_name_no_code(trap, refused, phantom_root, tmp_path, command):
    """Importer, options and intake of a manifest are words; nothing looks them up."""
    import shutil

    root = tmp_path / "data"
    shutil.copytree(phantom_root, root)
    manifest = read_json(root / "manifest.json")
    write_json(root / "manifest.json", {**manifest, "source": {"importer": trap, "path": ".", "quantizer": trap}})
    assert command("data", "check", root)[0] == 0
    sets = [word for one in ("train.validate_steps=1", "data.size_px=16") for word in ("--set", one)]
    words = ["--data", root, "--preset", "smoke", "--steps", "1", "--no-mirror", "--store", "store", *sets]
    assert command("train", *words)[0] == 0
    assert not (tmp_path / "mark").exists()
