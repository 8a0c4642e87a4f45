"""``vqseg study`` as a person types it; cells are run in this process where it matters that they are."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from vqseg import assets, experiment
from vqseg.cli.forecast import _length_of, forecast
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.files import read_json, write_yaml
from vqseg.importers import phantom
from vqseg.manifest import read_manifest
from vqseg.marks import mark
from vqseg.records.run import RunFolder
from vqseg.study import standing
from vqseg.study.cells import Request, StudyFolder, cell_config, plan_cell, prepare, write
from vqseg.study.definition import parse_seeds, read_definition, select
from vqseg.study.queue import Queue

STUDY = """
question: Does a tiny
  study work?
preset: tiny.yaml
seeds: [0, 1]
reference: none
arms:
  - {family: none, set: {perturbation: none}}
  - {family: qpm, symbol: eps, knob: perturbation.rate, values: [0.5, 0.7], set: {perturbation: {name: qpm}}}
  - {family: qpm-shared, label: qpm, suffix: shared, set: {perturbation: {name: qpm}, network.statistics: shared}}
supervised:
  data.labels: all
  method: {name: supervised, segmentation: dice_ce, dual_branch: false}
thinned:
  tiny: {arms: [none, qpm], seeds: [0]}
"""


@pytest.fixture
def desk(tmp_path, monkeypatch, tiny):
    """A folder with a preset and a study of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQSEG_NO_MIRROR", "1")
    tree = load_config("smoke", [*tiny, "train.steps=4"]).plain()
    tree.pop("preset")
    write_yaml(tmp_path / "tiny.yaml", tree)
    (tmp_path / "mini.yaml").write_text(STUDY)
    return tmp_path


@pytest.fixture
def vqseg(desk, command):
    return command


def request(desk, root, **changes):
    return Request("mini.yaml", desk / "vqseg-store", root, **changes)


def prepared(desk, root, **changes):
    folder, record, _ = prepare(request(desk, root, **changes))
    write(folder, record)
    return folder, record


def names(record):
    return [cell["name"] for cell in record["cells"]]


# The definition


def test_the_built_in_study_is_the_grid_that_its_question_needs():
    stem, definition = read_definition("epsilon-sweep")
    labels = [arm.label for arm in definition.expand()]
    assert stem == "epsilon-sweep" and len(labels) == len(set(labels)) == 19 and labels[0] == definition.reference
    assert {"qpm eps=0.9", "dropout p=0.1", "channel-dropout p=0.7 shared statistics", "shuffle rate=1"} <= set(labels)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("qpm eps=0.5", ["none", "qpm eps=0.5"]),
        ("qpm", ["none", "qpm eps=0.5", "qpm eps=0.7"]),
        ("qpm*shared", ["none", "qpm shared"]),
        ("none", ["none"]),
        ("*", ["none", "qpm eps=0.5", "qpm eps=0.7", "qpm shared"]),
    ],
)
def test_arms_are_chosen_by_label_family_or_wildcard_and_the_reference_stays(desk, pattern, expected):
    arms = read_definition("mini.yaml")[1].expand()
    assert [arm.label for arm in select(arms, [pattern], "none")] == expected


def test_an_arm_that_is_not_there_is_named_with_its_neighbor(desk):
    with pytest.raises(InputError, match=r"--arms 'qpm eps=0\.6': no such arm \(did you mean 'qpm eps=0\.[57]'"):
        select(read_definition("mini.yaml")[1].expand(), ["qpm eps=0.6"], "none")


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-2", [0, 1, 2]), ("0,3,5", [0, 3, 5]), ("4", [4]), ("1-2, 2-3", [1, 2, 3])]
)
def test_seeds_are_read(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "2-1", "-1", "1-", "1.5"])
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="expected numbers such as"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reference: none", "reference: non", "reference 'non' is no arm.*did you mean 'none'"),
        ("reference: none", "referense: none", "unknown key 'referense'.*did you mean 'reference'"),
        ("family: qpm-shared", "familly: qpm-shared", "unknown key 'arms.2.familly'.*did you mean 'family'"),
        ("seeds: [0, 1]", "seeds: [0, one]", "seeds.1: .*integer.*'one'"),
        ("seeds: [0, 1]", "seeds: []", "seeds: .*at least 1"),
        ("preset: tiny.yaml\n", "", "preset: is missing"),
        ("knob: perturbation.rate, ", "", "has values but no knob"),
        ("values: [0.5, 0.7]", "values: [0.5, 0.5]", "'qpm eps=0.5' stands twice"),
        ("reference: none", "reference: none\nreference: x", "stands twice"),
        ("arms:", "arms: [", "not readable as YAML"),
    ],
)
def test_a_broken_study_file_names_the_key(desk, old, new, message):
    (desk / "mini.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises(InputError, match=f"mini.yaml.*{message}") as error:
        read_definition("mini.yaml")
    assert "\n" not in str(error.value)


# The cells


def test_cells_have_the_names_and_runs_that_they_should(desk, phantom_root):
    folder, record = prepared(desk, phantom_root, arms=("qpm",))
    assert record["name"] == folder.name == "mini-phantom-tiny" and record["question"] == "Does a tiny study work?"
    assert names(record) == [f"{arm}, seed 0" for arm in ("none", "qpm eps=0.5", "qpm eps=0.7")]
    assert len({cell["identity"] for cell in record["cells"]}) == 3
    for cell in record["cells"]:
        assert plan_cell(record, folder.store, cell).identity == cell["identity"]
    assert [(arm["family"], arm["knob"]) for arm in record["arms"]] == [("none", None), ("qpm", 0.5), ("qpm", 0.7)]


def test_a_study_is_extended_and_keeps_its_runs(desk, phantom_root):
    _, first = prepared(desk, phantom_root, arms=("none",), seeds="0")
    folder, more = prepared(desk, phantom_root, arms=("qpm eps=0.5",), add_seeds="4")
    assert folder.name == first["name"] and more["created"] == first["created"]
    assert names(more) == [f"{arm}, seed {seed}" for seed in (0, 4) for arm in ("none", "qpm eps=0.5")]
    assert more["cells"][0] == first["cells"][0]


def test_an_arm_whose_definition_changed_gets_another_run(desk, phantom_root):
    _, first = prepared(desk, phantom_root, arms=("qpm shared",), seeds="0")
    (desk / "mini.yaml").write_text(STUDY.replace("network.statistics: shared", "network.norm: group"))
    _, second = prepared(desk, phantom_root, arms=("none",), seeds="0")
    assert names(second) == names(first) and second["cells"][0] == first["cells"][0]
    assert second["cells"][1]["identity"] != first["cells"][1]["identity"]


def test_other_settings_are_another_study(desk, phantom_root):
    _, first = prepared(desk, phantom_root)
    _, second = prepared(desk, phantom_root, steps=5)
    assert second["name"] == f"{first['name']}-{second['base'][:6]}"
    assert prepared(desk, phantom_root, overrides=("train.steps=5",))[1]["name"] == second["name"]
    with pytest.raises(InputError, match="--name mini-phantom-tiny: that study has other"):
        prepare(request(desk, phantom_root, steps=5, name="mini-phantom-tiny"))
    assert prepared(desk, phantom_root, steps=5, name="mine")[1]["name"] == "mine"


def test_the_supervised_form_opens_all_labels(desk, phantom_root):
    folder, record = prepared(desk, phantom_root, supervised=True)
    assert folder.name == "mini-phantom-tiny-supervised"
    assert plan_cell(record, folder.store, record["cells"][0]).config.data.labels == "all"


def test_two_arms_that_are_one_run_are_refused(desk, phantom_root):
    (desk / "mini.yaml").write_text(STUDY.replace("network.statistics: shared", "perturbation.rate: 0.5"))
    with pytest.raises(InputError, match=r"'qpm eps=0.5, seed 0' and 'qpm shared, seed 0' are the same run"):
        prepare(request(desk, phantom_root, arms=("*",)))


# How cells stand, and what is said before a study starts


def test_a_cell_that_failed_before_its_run_began_tells_why_until_it_is_forgiven(desk, phantom_root):
    folder, record = prepared(desk, phantom_root)
    cell = record["cells"][0]
    standing.note_failure(folder, cell, "ValueError: no")
    row = standing.progress(folder, record)[0]
    assert (row["state"], row["error"], row["step"]) == ("failed", "ValueError: no", 0)
    standing.forgive_failures(folder, record["cells"])
    assert set(standing.states(folder, record).values()) == {"new"}


def test_a_cell_that_kills_its_workers_fails_with_its_run(desk, phantom_root):
    folder, record = prepared(desk, phantom_root)
    run = RunFolder(folder.store, record["cells"][0]["identity"])
    run.create({}, {"state": "running", "step": 3, "steps": 4})
    assert standing.reached(folder, run.identity) == 3
    standing.note_failure(folder, record["cells"][0], "3 workers died over it")
    assert run.state() == "failed" and run.status()["error"] == "3 workers died over it"
    assert standing.progress(folder, record)[0]["state"] == "failed"


def test_the_forecast_counts_cells_and_knows_what_it_does_not_know(desk, phantom_root):
    folder, record = prepared(desk, phantom_root, seeds="0-2")
    text = forecast(folder, record, 2)
    assert "12 cells" not in text and "9 cells; 9 new" in text and "time: unknown" in text and "GiB free" in text
    assert "smallest difference seen with 80 % power by 3 seeds" in text or "cannot tell a difference" in text
    planned = plan_cell(record, folder.store, record["cells"][0])
    experiment.run(planned, name=record["cells"][0]["name"])
    text = forecast(folder, record, 2)
    assert "1 reused" in text and "8 new" in text and "ms per step, median of 1 runs here" in text


# The command line


def test_list_and_show(vqseg):
    code, out, _ = vqseg("study", "list")
    assert code == 0 and "\nepsilon-sweep: Does replacing codes" in out
    assert [line.partition(":")[0] for line in out.splitlines()] == assets.names("studies")
    code, out, _ = vqseg("study", "show", "mini.yaml")
    assert code == 0 and "reference 'none'" in out and "qpm shared" in out and "rate': 0.7" in out
    assert "axis eps: 0.5, 0.7" in out and "at preset tiny: arms none, qpm, seeds [0]" in out


def test_show_tells_axes_draws_presets_and_what_may_be_left_out(vqseg, desk):
    text = STUDY.replace("seeds: [0, 1]", "seeds: [0, 1]\ndraws: 3\nkeeps: [network]").partition("supervised:")[0]
    text += (
        "  - {family: mae, set: {prior: mae}, at: {prior: mae}, optional: true}\n  - {family: paper, preset: paper}\n"
    )
    (desk / "mini.yaml").write_text(text)
    code, out, _ = vqseg("study", "show", "mini.yaml")
    assert code == 0 and "3 draws of the labelled patients" in out and "axis prior: mae" in out
    assert "{'prior': 'mae'} (optional)" in out and "preset paper, {}" in out
    assert "kept of the study's own where an arm is a preset: network" in out
    code, out, _ = vqseg("study", "show", "protocols")
    assert code == 0 and "trains nothing" in out and "protocols all" in out
    code, out, _ = vqseg("study", "show", "loss-search")
    assert code == 0 and "search: 40 trials over method.unlabelled_weight" in out


def test_the_list_tells_studies_of_one_kind_apart(vqseg, desk, phantom_root):
    _, first = prepared(desk, phantom_root)
    _, longer = prepared(desk, phantom_root, steps=5)
    _, other = prepared(desk, phantom_root, name="mine", overrides=("data.context=3",), draws=2)
    lines = [line for line in vqseg("study", "list")[1].splitlines() if line.startswith("in vqseg-store: ")]
    by_name = {line.split()[2]: line for line in lines}
    assert set(by_name) == {first["name"], longer["name"], "mine"} and longer["name"].count("-") == 3
    assert "split labelled-1, data.context 1, train.steps 4," in by_name[first["name"]]
    assert "train.steps 5" in by_name[longer["name"]]
    assert "2 draws of the labelled patients" in by_name["mine"]
    assert f"({len(other['cells'])} cells," in by_name["mine"] and "data.context 3" in by_name["mine"]


@pytest.mark.parametrize("words", [["list"], ["show", "recipes"], ["status", "mini"]])
def test_looking_at_studies_loads_nothing_heavy(desk, phantom_root, words):
    prepared(desk, phantom_root)
    code = (
        "import sys; from vqseg import cli\n"
        "try: cli.main()\nexcept SystemExit as end: assert not end.code\n"
        "print([m for m in ('torch', 'mlflow', 'optuna', 'transformers') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", code, "study", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and ("recipe" if "show" in words else "mini") in done.stdout


def test_a_dry_run_writes_nothing(vqseg, desk, phantom_root):
    code, out, _ = vqseg("study", "run", "mini.yaml", "--data", phantom_root, "--dry-run")
    assert code == 0 and "3 cells; 3 new" in out and "thins this study to 3 of 4 arms" in out
    assert not (desk / "vqseg-store").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["epsilon-swep"], "unknown study 'epsilon-swep' (did you mean 'epsilon-sweep'?)"),
        (["./none.yaml"], "./none.yaml: no such study file"),
        (["mini.yaml", "--arms", "qmp"], "did you mean 'qpm'?"),
        (["mini.yaml", "--seeds", "x"], "--seeds 'x': expected numbers"),
        (["mini.yaml", "--add-seeds", "x"], "--add-seeds 'x': expected numbers"),
        (["mini.yaml", "--preset", "smok"], "did you mean 'smoke'?"),
        (["mini.yaml", "--set", "train.stepz=1"], "did you mean 'steps'"),
        (["mini.yaml", "--split", "labeled-1"], "labelled-1"),
        (["mini.yaml", "--storage", "sqlite:///x.db"], "SQLite hands one cell to two workers"),
        (["mini.yaml", "--retry", "all"], "--retry all: expected 'failed'"),
        (["mini.yaml", "--keep", "first"], "--keep first: expected one of last, best, all, none"),
        (["mini.yaml", "--name", "../../escaped"], "--name '../../escaped': expected letters"),
        (["mini.yaml", "--name", ""], "--name '': expected letters"),
        (["mini.yaml", "--steps", "3", "--set", "train.steps=4"], "--steps and --set train.steps"),
        (["mini.yaml", "--set", "optimizer.lr=-1"], "optimizer.lr"),
        (["mini.yaml", "--set", "augment.scale_range=[1.1, 0.9]"], "expected the lower bound first"),
        (["mini.yaml", "--tracking", "foo://x"], "tracking address 'foo://x': expected http"),
        (["mini.yaml", "--tracking", "sqlite:////proc/x.db"], "no file can be written in /proc"),
        (["mini.yaml", "--seeds", ""], "--seeds '': expected numbers"),
        (["mini.yaml", "--seeds", "0-9999999"], "expected 1000 at most"),
        (["mini.yaml", "--arms", "zzz"], "no such arm; known: none, qpm eps=0.5"),
        (["mini.yaml", "--device", "tpu"], "--device tpu: expected auto or one of what torch can see: cpu"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_starts(vqseg, desk, phantom_root, options, message):
    code, _, err = vqseg("study", "run", *options, "--data", phantom_root)
    assert code == 2 and err.startswith("vqseg: error: ") and err.count("\n") == 1 and message in err
    assert not (desk / "vqseg-store" / "studies").exists() or not list((desk / "vqseg-store").glob("studies/*/*.json"))


def test_status_and_logs_of_a_study_that_is_not_there(vqseg):
    for command in ("status", "logs"):
        code, _, err = vqseg("study", command, "nope")
        assert code == 2 and err.startswith("vqseg: error: ") and err.count("\n") == 1


def test_status_and_logs_show_cells_and_what_workers_said(vqseg, desk, phantom_root, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder, record = prepared(desk, phantom_root)
    standing.note_failure(folder, record["cells"][0], "ValueError: [no] such thing")
    (folder.path / "logs").mkdir()
    (folder.path / "logs" / "worker-0.log").write_text("one\ntwo\nthree\n")
    code, out, _ = vqseg("study", "status", "mini")
    assert code == 0 and "ValueError: [no] such thing" in out and "qpm eps=0.7, seed 0" in out and "new" in out
    code, out, _ = vqseg("study", "logs", "mini", "--lines", 2)
    assert code == 0 and "two\nthree" in out and "one" not in out


def test_evaluate_scores_a_part_once_and_counts_repeats(vqseg, desk, phantom_root, monkeypatch):
    folder, record = prepared(desk, phantom_root, arms=("none",))
    code, _, err = vqseg("study", "evaluate", "mini", "--split", "test", "--device", "cpu")
    assert code == 2 and "no cell is finished" in err
    cell = record["cells"][0]
    run = experiment.run(plan_cell(record, folder.store, cell), name=cell["name"])
    code, _, err = vqseg("study", "evaluate", "mini", "--part", "nowhere", "--protocol", "all")
    assert code == 2 and "part 'nowhere' is not in split" in err
    code, _, err = vqseg("study", "evaluate", "mini", "--split", "nowhere")
    assert code == 2 and "--part: is missing ('nowhere' was taken for a split)" in err
    code, _, err = vqseg("study", "evaluate", "mini", "--split", "nowhere", "--part", "test")
    assert code == 2 and "split 'nowhere'" in err

    def repeats():
        return [one["repeat"] for one in run.status()["evaluations"] if one["part"] == "test"]

    for options, expected, said in (
        ([], [0], "1 cells scored on test"),
        ([], [0], "0 cells scored on test, 1 had been before"),
        (["--again"], [0, 1], "1 cells scored"),
        (["--protocol", "all"], [0, 1, 2], "1 cells scored"),
        (["--protocol", "all"], [0, 1, 2], "1 had been before"),
    ):
        code, out, _ = vqseg("study", "evaluate", "mini", "--split", "test", "--device", "cpu", *options)
        assert code == 0 and repeats() == expected and said in out, (options, out)
    assert set(pd.read_parquet(run.path / "rows.parquet")["part"]) == {"val", "test"}
    monkeypatch.delenv("VQSEG_NO_MIRROR")
    monkeypatch.setattr("vqseg.records.sync.sync", _away)
    code, _, err = vqseg("study", "evaluate", "mini", "--split", "test", "--device", "cpu")
    assert code == 0 and err.startswith("vqseg: warning: ") and "http://away" in err and err.count("\n") == 1


def test_evaluate_does_what_is_lacking_and_nothing_twice(vqseg, desk, phantom_root):
    root = desk / "data"
    shutil.copytree(phantom_root, root)
    folder, record = prepared(desk, root, arms=("none",))
    cell = record["cells"][0]
    run = experiment.run(plan_cell(record, folder.store, cell), name=cell["name"])

    def evaluate(*options):
        code, out, err = vqseg("study", "evaluate", "mini", "--split", "test", "--device", "cpu", *options)
        assert code == 0, err
        return "1 cells scored" in out

    name = read_manifest(root).classes[1]
    assert evaluate("--protocol", "ssl4mis")
    assert evaluate()  # what is usual is not ssl4mis
    assert not evaluate()
    assert not evaluate("--protocol", "scan, ssl4mis, scan")  # each was scored, in a call of its own
    assert evaluate("--protocol", "vqseg-release,scan")
    mark(root, lesions=[f"{name}=2"])
    assert evaluate()
    assert not evaluate()
    assert evaluate("--protocol", "ssl4mis")
    mark(root, lesions=[f"{name}=3"])
    assert evaluate("--protocol", "all")
    assert not evaluate()
    rows = pd.read_parquet(run.path / "rows.parquet").query("part == 'test'")
    assert not rows.duplicated(["checkpoint", "network", "protocol", "case", "class_name"]).any()
    unfinished = [{**one, "unfinished": True} for one in run.status()["evaluations"]]
    run.update(evaluations=unfinished)
    assert evaluate()


@pytest.mark.parametrize("part", ["labelled", "unlabelled"])
def test_parts_to_train_on_are_scored_by_no_command(vqseg, phantom_root, tmp_path, part):
    for words in (
        ("evaluate", "0123", "--part", part),
        ("evaluate", "0123", "--split", part),
        ("study", "evaluate", "mini", "--part", part),
        ("score", tmp_path, "--data", phantom_root, "--name", "a", "--part", part),
    ):
        code, _, err = vqseg(*words)
        assert code == 2 and err.count("\n") == 1
        assert err.startswith(f"vqseg: error: --part {part}: is for training, ") and "val, test or devtest" in err


@pytest.mark.parametrize("words", [("evaluate", "0123"), ("study", "evaluate", "mini", "--part", "test")])
def test_an_empty_protocol_is_refused(vqseg, words):
    for text in ("", "scan,", "all,scan"):
        code, _, err = vqseg(*words, "--protocol", text)
        assert code == 2 and err.count("\n") == 1
        assert f"--protocol {text!r}: expected names by comma, such as scan,ssl4mis, or all alone" in err


def _away(*_, **__):
    raise InputError("http://away: not reachable")


# Several data sets


@pytest.fixture(scope="module")
def other_root(tmp_path_factory):
    """Data that are called otherwise."""
    root = tmp_path_factory.mktemp("data") / "other"
    phantom.prepare(root, patients=8, size=32, seed=1, name="other")
    return root


def test_several_data_sets_are_a_study_each(vqseg, desk, phantom_root, other_root, monkeypatch):
    words = ("study", "run", "mini.yaml", "--data", phantom_root, "--data", other_root, "--arms", "none")
    code, out, _ = vqseg(*words, "--dry-run")
    assert code == 0 and "study mini-phantom-tiny: 1 cells" in out and "study mini-other-tiny: 1 cells" in out
    assert not (desk / "vqseg-store").exists()
    ran = []

    def run_study(folder, record, settings, watch):
        assert len(list((desk / "vqseg-store").glob("studies/*/study.json"))) == len(ran)
        write(folder, record)
        ran.append(folder.name)
        return {cell["identity"]: "failed" if len(ran) == 1 else "finished" for cell in record["cells"]}

    monkeypatch.setattr("vqseg.study.runner.run_study", run_study)
    code, out, _ = vqseg(*words)
    assert ran == ["mini-phantom-tiny", "mini-other-tiny"]
    assert code == 1 and "mini-phantom-tiny: 1 failed" in out and "mini-other-tiny: 1 finished" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--data", "PHANTOM"], "stands twice; leave one out"),
        (["--data", "OTHER", "--name", "x"], "would be the study 'x', as "),
        (["--data", "OTHER", "--split", "nope"], "nope"),
        (["--budget", "3"], "--budget: study mini does not search"),
    ],
)
def test_of_several_data_sets_all_are_refused_before_one_starts(
    vqseg, desk, phantom_root, other_root, options, message
):
    places = {"PHANTOM": phantom_root, "OTHER": other_root}
    words = [places.get(option, option) for option in options]
    code, _, err = vqseg("study", "run", "mini.yaml", "--data", phantom_root, *words)
    assert code == 2 and err.startswith("vqseg: error: ") and err.count("\n") == 1 and message in err
    assert not (desk / "vqseg-store").exists()


def test_data_that_are_called_alike_are_run_one_after_the_other(vqseg, desk, phantom_root, tmp_path):
    phantom.prepare(tmp_path / "twin", patients=9, size=32)
    code, _, err = vqseg("study", "run", "mini.yaml", "--data", phantom_root, "--data", tmp_path / "twin")
    assert code == 2 and "they are called alike, so run them one after the other" in err


# Arms that are skipped


def test_skipped_arms_are_said_by_run_dry_run_and_status(vqseg, desk, phantom_root, monkeypatch):
    monkeypatch.setenv("VQSEG_WEIGHTS", str(desk / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(desk / "hub"))
    monkeypatch.setattr("vqseg.study.runner.run_study", lambda folder, record, *_: write(folder, record) or {})
    arm = "  - {family: mae, set: {prior: mae}, optional: true}\nsupervised:"
    (desk / "mini.yaml").write_text(STUDY.replace("supervised:", arm))
    words = ("study", "run", "mini.yaml", "--data", phantom_root, "--arms", "none,mae", "--seeds", "0")
    line = "skipped: mae: facebook/vit-mae-base: no such folder"
    code, out, _ = vqseg(*words, "--dry-run")
    assert code == 0 and line in out and "study mini-phantom-tiny: 1 cells" in out
    code, out, _ = vqseg(*words)
    assert code == 0 and line in out and "1 arms x 1 seeds, in" in out
    code, out, _ = vqseg("study", "status", "mini")
    assert code == 0 and line in out
    assert "1 arms skipped" in vqseg("study", "list")[1]


def test_draws_are_said(vqseg, desk, phantom_root, monkeypatch):
    monkeypatch.setattr("vqseg.study.runner.run_study", lambda folder, record, *_: write(folder, record) or {})
    code, out, _ = vqseg("study", "run", "mini.yaml", "--data", phantom_root, "--arms", "none", "--draws", "2")
    assert code == 0 and "1 arms x 1 seeds x 2 draws of the labelled patients, in" in out


# Runs that a search gave up


def test_what_another_studys_search_gave_up_is_new_here(desk, phantom_root):
    folder, record = prepared(desk, phantom_root)
    run = RunFolder(folder.store, record["cells"][0]["identity"])
    run.create({}, {"state": "pruned", "step": 3, "steps": 4, "pruned": {"by": "another", "why": "fell behind"}})
    assert standing.progress(folder, record)[0]["state"] == "new"
    run.update(pruned={"by": folder.name, "why": "fell behind"})
    row = standing.progress(folder, record)[0]
    assert (row["state"], row["step"]) == ("pruned", 3)


def test_what_a_study_is_to_be_scored_again_by_is_looked_at_first(vqseg, desk, phantom_root, monkeypatch):
    folder, _ = prepared(desk, phantom_root)
    (desk / "again.yaml").write_text("question: Why?\nrescore: {protocols: [scam]}\n")
    words = ("study", "run", "again.yaml", "--of", folder.name, "--store", folder.store, "--dry-run")
    code, _, err = vqseg(*words)
    assert code == 2 and "did you mean 'scan'" in err and err.count("\n") == 1
    (desk / "again.yaml").write_text("question: Why?\nrescore: {protocols: [scan]}\n")
    code, _, err = vqseg(*words, "--part", "train")
    assert code == 2 and err.count("\n") == 1 and "train" in err


def test_the_forecast_counts_a_searchs_trials_and_an_arms_own_steps(desk, phantom_root):
    folder, record = prepared(desk, phantom_root, arms=("none",))
    text = forecast(folder, {**record, "search": {"budget": 9}}, 1)
    assert "1 cells; 1 new; 8 trials to come, of which some will be pruned" in text
    record["arms"][0]["overrides"] |= {"train.steps": 40, "train.validate_steps": 20}
    assert _length_of(record, record["cells"]) == (40, 2) and _length_of(record, []) == (4, 1)


# One worker, in this process


@pytest.fixture
def worker(desk, phantom_root, monkeypatch):
    """Run the worker's loop here, over a study of one cell; returns what it ended with, and the study."""
    from vqseg.study import worker as module

    folder, record = prepared(desk, phantom_root, arms=("none",))
    Queue(folder.path, folder.name).fill(record["cells"], {}, set())

    def work(parent=None):
        words = ["--store", str(folder.store), "--study", folder.name, "--parent", str(parent or module.os.getppid())]
        monkeypatch.setattr(sys, "argv", ["worker", *words])
        monkeypatch.setattr(module.signal, "signal", lambda *_: None)
        try:
            return module.main()
        except SystemExit as end:
            return end.code

    return work, folder, record, module


def test_a_worker_whose_parent_is_gone_before_it_looked_does_nothing(worker):
    work, folder, record, _ = worker
    assert work(parent=2**22 + 1) == 0
    assert set(standing.states(folder, record).values()) == {"new"}


def test_a_cell_whose_code_or_settings_changed_since_is_left_out(worker):
    work, folder, record, _ = worker
    write(folder, {**record, "base_config": {**record["base_config"], "augment": {"flip_probability": 0.25}}})
    assert work() == 0
    queue = Queue(folder.path, folder.name)
    assert queue.open_cells() == (0, 0) and queue.completed() == [] and not (folder.store / "runs").exists()


def test_a_full_disk_ends_the_worker_and_fails_no_cell(worker, monkeypatch):
    work, folder, record, module = worker
    monkeypatch.setattr(module, "run", _full)
    assert work() == errno.ENOSPC
    assert set(standing.states(folder, record).values()) == {"new"}
    assert Queue(folder.path, folder.name).open_cells() == (1, 0)


def _full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_run_that_another_process_holds_is_waited_for(worker, monkeypatch):
    work, folder, record, module = worker
    run = RunFolder(folder.store, record["cells"][0]["identity"])
    run.create({}, {"state": "running", "step": 0, "steps": 4})
    lock, slept = run.lock(), []
    lock.__enter__()

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            lock.__exit__(None, None, None)
            (run.path / "status.json").unlink()

    monkeypatch.setattr(module.time, "sleep", sleep)
    assert work() == 0 and len(slept) == 3
    assert set(standing.states(folder, record).values()) == {"finished"}


def test_a_study_folder_reads_as_what_was_written(desk, phantom_root):
    folder, record = prepared(desk, phantom_root)
    assert StudyFolder(folder.store, folder.name).read() == record == read_json(folder.path / "study.json")


# What the user sets


def configs(desk, root, *overrides, study="mini.yaml", **options):
    request = Request(study, desk / "vqseg-store", root, overrides=overrides, **options)
    record = prepare(request)[1]
    return {cell["name"]: cell_config(record, cell).plain() for cell in record["cells"]}


def test_an_option_holds_in_every_arm_whose_part_has_it(desk, phantom_root):
    found = configs(desk, phantom_root, "perturbation.temperature=5", study="epsilon-sweep", preset="smoke")
    assert found["qpm eps=0.7, seed 0"]["perturbation"] == {"name": "qpm", "rate": 0.7, "temperature": 5}
    assert "temperature" not in found["channel-dropout p=0.7, seed 0"]["perturbation"]


@pytest.mark.parametrize("override", ["perturbation.rate=0.2", "perturbation={name: qpm}", "perturbation.temprature=5"])
def test_an_option_that_no_arm_takes_is_refused(desk, phantom_root, override):
    with pytest.raises(InputError, match=f"--set {override.partition('=')[0]}: no arm of study"):
        configs(desk, phantom_root, override, study="epsilon-sweep", preset="smoke")


def test_the_supervised_form_keeps_the_options_that_both_methods_have(desk, phantom_root):
    options = {"study": "epsilon-sweep", "preset": "cpu", "arms": ("none",), "seeds": "0", "supervised": True}
    method = configs(desk, phantom_root, **options)["none, seed 0"]["method"]
    assert method["name"] == "supervised" and method["usage_weight"] == 0.1 and "warmup_steps" not in method
    set_ = configs(desk, phantom_root, "method.usage_weight=0.3", **options)["none, seed 0"]["method"]
    assert set_["usage_weight"] == 0.3
    with pytest.raises(InputError, match=r"--set method.confidence: no arm"):
        configs(desk, phantom_root, "method.confidence=0.9", **options)


def test_an_impossible_arm_stops_the_study_before_it_starts(vqseg, desk, phantom_root):
    bad = "  - {family: bad, set: {perturbation: {name: qpm, rate: 1.5}}}\nsupervised:"
    (desk / "bad.yaml").write_text((desk / "mini.yaml").read_text().replace("supervised:", bad))
    for options in ([], ["--dry-run"]):
        code, _, err = vqseg("study", "run", "./bad.yaml", "--data", phantom_root, "--arms", "bad", *options)
        assert code == 2 and "arm 'bad': perturbation 'qpm': rate must lie in [0, 1]" in err
    assert not list((desk / "vqseg-store").glob("studies/*/*.json"))


def test_damaged_data_stop_the_study_before_it_starts(vqseg, desk, phantom_root, tmp_path):
    root = tmp_path / "damaged"
    shutil.copytree(phantom_root, root)
    next(iter(sorted((root / "masks").iterdir()))).unlink()
    (root / "masks").rename(root / "elsewhere")
    code, _, err = vqseg("study", "run", "mini.yaml", "--data", root)
    assert code == 2 and err.count("\n") == 1 and "mask" in err
    assert not list((desk / "vqseg-store").glob("studies/*/*.json"))
