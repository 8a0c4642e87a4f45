"""From a study's file to its cells: presets as arms, options carried, draws, arms without weights, folded arms."""

import json
import shutil
from dataclasses import replace

import pytest
from test_foundation import make_folder

from vqseg.cli import forecast
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.files import read_yaml, write_yaml
from vqseg.manifest import read_manifest
from vqseg.records.run import RunFolder
from vqseg.study import standing
from vqseg.study.cells import Request, cell_config, plan_cell, prepare, write
from vqseg.weights import home

NONE = {"family": "none", "set": {"perturbation": "none"}}
MAE = {"family": "mae", "set": {"prior": "mae"}, "optional": True}


@pytest.fixture
def study(tmp_path, monkeypatch, tiny, phantom_root):
    """Write a study and prepare it; no weights are there but those that a test makes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQSEG_NO_MIRROR", "1")
    monkeypatch.setenv("VQSEG_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    tree = load_config("smoke", [*tiny, "train.steps=4"]).plain()
    tree.pop("preset")
    write_yaml(tmp_path / "tiny.yaml", tree)

    def call(rows=(NONE,), *, reference="none", file=None, **request):
        text = {"question": "Why?", "preset": "tiny.yaml", "seeds": [0], "reference": reference, "arms": list(rows)}
        write_yaml(tmp_path / "mini.yaml", {**text, **(file or {})})
        folder, record, said = prepare(Request("mini.yaml", tmp_path / "store", phantom_root, **request))
        assert json.loads(json.dumps(record)) == record
        return folder, record, said

    return call


def names(record):
    return [cell["name"] for cell in record["cells"]]


def config(record, name):
    return cell_config(record, next(cell for cell in record["cells"] if cell["name"] == name))


# Draws of the labelled patients


def test_every_arm_is_run_at_every_seed_and_draw(study):
    folder, record, _ = study(seeds="0-1", draws=3)
    assert names(record)[:2] == ["none, seed 0", "none, seed 1"] and record["draws"] == 3
    for cell in record["cells"]:
        planned = plan_cell(record, folder.store, cell)
        assert planned.identity == cell["identity"] and planned.config.data.draw == cell["draw"]
    who = {tuple(plan_cell(record, folder.store, cell).split.parts["labelled"]) for cell in record["cells"]}
    draws = {cell["draw"] for cell in record["cells"]}
    assert draws >= {0} and len(who) == len(draws) > 1
    assert len({cell["identity"] for cell in record["cells"]}) == len(record["cells"]) == 2 * len(draws)


def test_the_first_draw_is_the_study_without_draws(study):
    plain, drawn = study()[1], study(draws=2)[1]
    assert plain["cells"] == drawn["cells"][:1] and plain["draws"] == 1 and plain["cells"][0]["draw"] == 0
    assert names(drawn)[1:] in ([], ["none, seed 0, draw 1"])


def test_where_all_are_labelled_there_is_one_draw(study):
    everybody = {"family": "all", "set": {"data.labelled_share": 1.0}}
    _, record, said = study([NONE, everybody], draws=4)
    assert [name for name in names(record) if name.startswith("all")] == ["all, seed 0"]
    assert len(names(record)) > 2
    assert "note: draws 1, 2, 3 of 'all': the same labelled patients as in an earlier draw, left out" in said
    with pytest.raises(InputError, match="--draws 2: every draw labels the same patients"):
        study([everybody], reference="all", draws=2)


def test_the_masks_of_every_draw_are_looked_at(study, phantom_root, tmp_path):
    root = tmp_path / "damaged"
    shutil.copytree(phantom_root, root)
    folder, record, _ = study(draws=4)
    first, others = set(), set()
    for cell in record["cells"]:
        labelled = plan_cell(record, folder.store, cell).split.parts["labelled"]
        (others if cell["draw"] else first).update(labelled)
    patient = min(others - first)
    mask = root / next(scan.mask for scan in read_manifest(root).scans if scan.patient == patient)
    mask.write_bytes(mask.read_bytes()[:60])
    request = Request("mini.yaml", tmp_path / "other", root)
    assert prepare(request)[1]["cells"]
    with pytest.raises(InputError, match=mask.name):
        prepare(replace(request, draws=4))


def test_an_extended_study_loses_no_draw(study):
    folder, record, _ = study(draws=3)
    write(folder, record)
    for asked in (None, 1, 2):
        assert study(draws=asked)[1]["cells"] == record["cells"]
    wider = study(draws=5, add_seeds="7")[1]
    assert set(names(record)) < set(names(wider)) and wider["draws"] == 5 and wider["seeds"] == [0, 7]
    assert study(file={"draws": 4})[1]["draws"] == 4


@pytest.mark.parametrize(
    ("arms", "request_", "message"),
    [
        ([NONE], {"overrides": ("data.draw=1",)}, "--draws 2: --set sets data.draw too"),
        ([NONE, {"family": "x", "set": {"data.draw": 1}}], {}, "--draws 2: arm 'x' sets data.draw too"),
        ([NONE], {"supervised": True}, "--draws 2: data.labels is 'all', so that nobody is drawn"),
    ],
)
def test_who_is_labelled_is_said_once(study, arms, request_, message):
    file = {"supervised": {"data.labels": "all", "method": {"name": "supervised"}}}
    with pytest.raises(InputError, match=message):
        study(arms, file=file, draws=2, **request_)


# Arms whose weights are absent


def test_an_arm_without_weights_is_skipped_with_the_reason_and_comes_back(study, tmp_path):
    folder, record, said = study([NONE, MAE], seeds="0-1")
    assert names(record) == ["none, seed 0", "none, seed 1"] and [arm["label"] for arm in record["arms"]] == ["none"]
    (skipped,) = record["skipped"]
    assert skipped["label"] == "mae" and "'vqseg prior fetch facebook/vit-mae-base' gets it" in skipped["reason"]
    assert said == f"skipped: mae: {skipped['reason']}"
    write(folder, record)
    fetched(tmp_path)
    again = study([NONE, MAE])[1]
    assert names(again) == [f"{arm}, seed {seed}" for seed in (0, 1) for arm in ("none", "mae")]
    assert again["skipped"] == [] and again["arms"][1]["optional"]
    write(folder, record)
    # An arm that was asked for and skipped is not forgotten by a command that asks for others.
    assert names(study([NONE, MAE], arms=("none",))[1]) == names(again)


def fetched(folder):
    """Lay a tiny random MAE where 'vqseg prior fetch' would."""
    path = make_folder(home() / "mae", "mae")
    (path / "source.json").write_text(json.dumps({"repository": "facebook/vit-mae-base"}))
    return path


def test_what_is_finished_stays_when_the_weights_go(study, tmp_path):
    path = fetched(tmp_path)
    folder, record, _ = study([NONE, MAE], seeds="0-1")
    write(folder, record)
    done = next(cell for cell in record["cells"] if cell["arm"] == "mae")
    RunFolder(folder.store, done["identity"]).create({}, {"state": "finished", "step": 4, "steps": 4})
    shutil.rmtree(path)
    again = study([NONE, MAE])[1]
    assert [cell for cell in again["cells"] if cell["arm"] == "mae"] == [done]
    assert [arm["label"] for arm in again["arms"]] == ["none", "mae"] and again["skipped"][0]["label"] == "mae"
    assert {row["name"]: row["state"] for row in standing.progress(folder, again)}[done["name"]] == "finished"


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({**MAE, "optional": False}, "study mini, arm 'mae': facebook/vit-mae-base: no such folder"),
        ({**MAE, "set": {"prior": {"name": "mae", "weights": "./empty"}}}, "arm 'mae': ./empty: holds no config.json"),
        ({**MAE, "set": {"prior": {"name": "mae", "size": 3}}}, "arm 'mae': prior 'mae': unknown option 'size'"),
        ({**MAE, "set": {"prior": {"name": "vit"}}}, "arm 'mae': prior 'vit': option 'weights' is required"),
    ],
)
def test_only_absent_weights_of_an_optional_arm_are_no_error(study, tmp_path, arm, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        study([NONE, arm])


def test_damaged_weights_are_an_error_even_of_an_optional_arm(study, tmp_path):
    (fetched(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"arm 'mae': .*holds no model.safetensors"):
        study([NONE, MAE])


def test_a_reference_is_never_skipped(study):
    with pytest.raises(InputError, match="arm 'mae': facebook/vit-mae-base: no such folder"):
        study([NONE, MAE], reference="mae")
    thinned = {"thinned": {"tiny": {"arms": ["*"], "reference": "mae"}}}
    with pytest.raises(InputError, match="arm 'mae': facebook/vit-mae-base: no such folder"):
        study([NONE, MAE], file=thinned)


# Arms that are presets


@pytest.fixture
def theirs(tmp_path, study):
    """Two presets besides tiny: one of another network, optimizer, geometry and length."""
    tree = read_yaml(tmp_path / "tiny.yaml")
    tree["augment"]["flip_probability"] = 0.25
    tree["perturbation"] = {"name": "uniform", "rate": 0.5}
    tree["optimizer"] = {"name": "sgd", "lr": 0.5}
    tree["method"] = {**tree["method"], "warmup_steps": 1, "confidence": 0.5}
    tree["train"] = {**tree["train"], "steps": 9, "teacher_decay": 0.5}
    tree["data"] = {**tree["data"], "size_px": 24}
    write_yaml(tmp_path / "theirs.yaml", tree)
    return tree


KEPT = {"keeps": ["data.size_px", "train.steps", "optimizer", "method.warmup_steps"]}
THEIRS = {"family": "theirs", "preset": "theirs.yaml"}


def test_an_arm_that_is_a_preset_is_that_preset_but_for_what_is_kept(study, theirs):
    _, record, _ = study([NONE, THEIRS], file=KEPT)
    found, own = config(record, "theirs, seed 0").plain(), config(record, "none, seed 0").plain()
    assert found["preset"] == "theirs" and own["preset"] == "tiny"
    assert found["augment"]["flip_probability"] == 0.25 and found["train"]["teacher_decay"] == 0.5
    assert found["method"]["confidence"] == 0.5 and found["perturbation"] == theirs["perturbation"]
    for key in ("data", "optimizer", "network"):
        assert found[key] == own[key], key
    assert (found["train"]["steps"], found["method"]["warmup_steps"]) == (4, own["method"]["warmup_steps"])


def test_the_record_of_such_an_arm_stands_by_itself(study, theirs, tmp_path):
    folder, record, _ = study([NONE, THEIRS], file=KEPT)
    (tmp_path / "theirs.yaml").unlink()
    cell = record["cells"][1]
    assert plan_cell(record, folder.store, cell).identity == cell["identity"]
    assert record["arms"][1]["preset"] == "theirs.yaml" and "data" in record["arms"][1]["overrides"]
    assert "optimizer" not in record["arms"][1]["overrides"]


def test_at_the_preset_of_an_arm_nothing_is_kept(study, theirs):
    arm = {**THEIRS, "family": "own"}
    ours = {"family": "ours", "preset": "tiny.yaml"}
    record = study([ours, arm], reference="own", file=KEPT, preset="theirs.yaml")[1]
    assert config(record, "own, seed 0").plain() == load_config("theirs.yaml").plain()
    assert config(record, "ours, seed 0").plain() == load_config("tiny.yaml").plain()


def test_what_the_user_sets_holds_in_such_an_arm_and_what_its_row_sets_stays(study, theirs):
    arm = {**THEIRS, "set": {"augment.flip_probability": 0.75, "schedule": {"power": 0.5}}}
    overrides = (
        "augment.flip_probability=0.1", "augment.rotation_degrees=3", "schedule.warmup_steps=2", "schedule.power=0.1",
        "method.confidence=0.9", "train.steps=2", "perturbation={name: shuffle}",
    )  # fmt: skip
    record = study([NONE, arm], file=KEPT, overrides=overrides)[1]
    found = config(record, "theirs, seed 0")
    assert (found.augment.flip_probability, found.augment.rotation_degrees) == (0.75, 3)
    assert (found.schedule.power, found.schedule.warmup_steps) == (0.5, 2)
    assert (found.method.options["confidence"], found.train.steps, found.perturbation.name) == (0.9, 2, "shuffle")


def test_steps_hold_in_such_an_arm_too(study, theirs):
    record = study([NONE, THEIRS], steps=3)[1]
    assert [config(record, f"{arm}, seed 0").train.steps for arm in ("none", "theirs")] == [3, 3]
    assert study([NONE, THEIRS], overrides=("train.steps=3",))[1]["cells"] == record["cells"]
    with pytest.raises(InputError, match="--steps and --set train.steps: both are given"):
        study([NONE, THEIRS], steps=3, overrides=("train.steps=3",))
    assert forecast._length_of(record, record["cells"])[0] == 3


def test_an_option_that_a_presets_part_does_not_have_is_left_out_there(study, theirs):
    record = study([NONE, {"family": "own", "set": {}}, THEIRS], overrides=("perturbation.temperature=5",))[1]
    assert config(record, "own, seed 0").perturbation.options["temperature"] == 5
    assert config(record, "theirs, seed 0").perturbation.options == {"rate": 0.5}
    with pytest.raises(InputError, match="--set perturbation.temperature: no arm of study 'mini' takes it"):
        study([NONE, THEIRS], overrides=("perturbation.temperature=5",))


def test_an_option_of_another_part_cannot_be_kept(study, theirs):
    with pytest.raises(
        InputError, match="keeps: optimizer.lr: preset theirs has optimizer 'sgd' and the study 'adamw'"
    ):
        study([NONE, THEIRS], file={"keeps": ["optimizer.lr"]})


def test_an_option_that_the_study_leaves_at_its_default_is_kept_so(study, theirs):
    record = study([NONE, THEIRS], file={"keeps": ["data", "method.confidence"]})[1]
    assert "confidence" not in config(record, "theirs, seed 0").method.options


def test_a_section_that_an_arm_sets_takes_the_users_other_settings(study):
    arm = {"family": "group", "set": {"network": {**tiny_network(study), "norm": "group"}}}
    record = study([NONE, arm], overrides=("network.skips=false", "network.norm=batch"))[1]
    found = config(record, "group, seed 0").network
    assert found.norm == "group" and not found.skips
    assert not config(record, "none, seed 0").network.skips


def tiny_network(study):
    network = load_config("tiny.yaml").plain()["network"]
    return {key: value for key, value in network.items() if key != "skips"}


# Parts that carry options


def test_a_part_that_is_swapped_carries_the_options_that_it_has_too(study):
    arm = {"family": "bare", "set": {"method": "supervised"}, "carries": ["method"]}
    plain = {"family": "plain", "set": {"method": {"name": "supervised", "dual_branch": False}}}
    record = study([NONE, arm, plain], overrides=("method.usage_weight=0.25",))[1]
    method = config(record, "bare, seed 0").method
    base = load_config("tiny.yaml").method.options
    assert method.name == "supervised" and method.options["segmentation"] == base["segmentation"] == "dice_ce"
    assert method.options["usage_weight"] == 0.25 and "warmup_steps" not in method.options
    assert config(record, "plain, seed 0").method.options == {"dual_branch": False, "usage_weight": 0.25}


@pytest.mark.parametrize(
    ("set_", "message"),
    [
        ({"data.size_px": 16}, "arm 'bare': carries: 'data.size_px' is no part"),
        ({"method": [1]}, r"arm 'bare': method: expected a name, or \{name: ..., options\}, got \[1\]"),
        ({"method": "supervized"}, "unknown method 'supervized'"),
    ],
)
def test_what_cannot_carry_is_refused(study, set_, message):
    with pytest.raises(InputError, match=message):
        study([NONE, {"family": "bare", "set": set_, "carries": list(set_)}])


# Arms that are one run


def test_an_arm_that_is_another_is_folded_into_it_where_the_file_says_so(study):
    sweep = {
        "family": "confidence", "set": {"perturbation": "none"}, "fold": True,
        "grid": [{"knob": "method.confidence", "symbol": "tau", "values": [0, 0.5]}],
    }  # fmt: skip
    reference = {**NONE, "at": {"weight": 1}}
    _, record, said = study([reference, sweep], seeds="0-1")
    assert names(record) == [f"{arm}, seed {seed}" for seed in (0, 1) for arm in ("none", "tau=0.5")]
    assert [arm["at"] for arm in record["arms"]] == [{"tau": 0, "weight": 1}, {"tau": 0.5}]
    assert said == "note: arm 'tau=0' is 'none' itself here"
    other = study([reference, sweep], overrides=("method.confidence=0.5",))[1]
    assert names(other) == ["none, seed 0", "tau=0, seed 0"] and other["arms"][0]["at"] == {"tau": 0.5, "weight": 1}
    with pytest.raises(InputError, match=r"'none, seed 0' and 'tau=0, seed 0' are the same run"):
        study([reference, {**sweep, "fold": False}])


def test_a_preset_may_compare_with_another_arm(study):
    arms = [NONE, {"family": "x", "set": {"perturbation": {"name": "uniform"}}}]
    thinned = {"thinned": {"tiny": {"arms": ["x"], "reference": "x"}}}
    record = study(arms, file=thinned)[1]
    assert record["reference"] == "x" and names(record) == ["x, seed 0"]
    wider = study(arms, file=thinned, arms=("none",), name="wider")[1]
    assert wider["reference"] == "x" and names(wider) == ["none, seed 0", "x, seed 0"]
    assert study(arms, name="plain")[1]["reference"] == "none"


def test_a_record_of_before_is_read_and_extended(study):
    folder, record, _ = study()
    for key in ("draws", "skipped"):
        del record[key]
    record["arms"] = [{key: record["arms"][0][key] for key in ("label", "family", "knob", "overrides")}]
    record["cells"] = [{key: value for key, value in cell.items() if key != "draw"} for cell in record["cells"]]
    write(folder, record)
    assert plan_cell(record, folder.store, record["cells"][0]).identity == record["cells"][0]["identity"]
    again = study(add_seeds="1")[1]
    assert names(again) == ["none, seed 0", "none, seed 1"] and again["draws"] == 1 and again["skipped"] == []
