"""docs/own-parts.md as a reader follows it: its files written to a folder of their own, its commands typed there."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from vqseg.errors import InputError
from vqseg.files import read_json, read_yaml
from vqseg.importers import phantom
from vqseg.manifest import read_image, read_manifest, read_mask, read_split
from vqseg.parts import code_in
from vqseg.study.cells import Request, plan_cell, prepare, write

PAGE = Path(__file__).parent.parent / "docs" / "own-parts.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
FILES = {match[1]: body for _, body in BLOCKS if (match := re.match(r"# (\S+)\n", body))}
COMMANDS = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines()]
IMPORT = next(command for command in COMMANDS if " import " in command)
STUDY_RUN = next(command for command in COMMANDS if " study run " in command)
PLAIN = """
question: Does it run?
preset: smoke
seeds: [0]
reference: none
arms:
  - {family: none, set: {perturbation: none}}
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The phantom that the pairs are made of."""
    root = tmp_path_factory.mktemp("data") / "phantom"
    phantom.prepare(root, patients=8, size=32)
    return root


@pytest.fixture
def desk(tmp_path, original, monkeypatch):
    """A folder with the page's files, and data as pairs of .npy files."""
    for name, body in FILES.items():
        (tmp_path / name).write_text(body)
    pairs = tmp_path / "my-pairs"
    pairs.mkdir()
    for scan in read_manifest(original).scans:
        np.save(pairs / f"{scan.scan}.npy", 3.5 * read_image(original, scan).astype(np.float32) - 40)
        np.save(pairs / f"{scan.scan}_mask.npy", read_mask(original, scan).astype(np.int64))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def vqseg(desk, monkeypatch, command):
    monkeypatch.setenv("VQSEG_NO_MIRROR", "1")
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parent.parent))  # for the workers

    return command


def typed(command, *, without=()):
    """Split a command of the page; here no run is mirrored, and fewer weights are kept, which are sooner scored."""
    words = [word for word in shlex.split(command)[1:] if word not in without]
    if words[0] == "train":
        return [*words, "--no-mirror", "--keep", "last"]
    return [*words, "--keep", "last"] if words[:2] == ["study", "run"] else words


def runs(desk):
    """Return each run's status and config, by identity."""
    folders = (desk / "vqseg-store" / "runs").iterdir()
    return {path.name: (read_json(path / "status.json"), read_yaml(path / "config.yaml")) for path in folders}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_block_of_the_page_is_a_file_or_commands():
    assert {kind for kind, _ in BLOCKS} == {"python", "yaml", "sh"}
    assert set(FILES) == {"pairs.py", "cosine.py", "blend.py", "mean_teacher.py", "my-study.yaml"}
    assert all(line.startswith("vqseg ") for line in COMMANDS)
    assert len([kind for kind, _ in BLOCKS if kind != "sh"]) == len(FILES)


# One test, for one reading of the page: its steps build on each other.
def test_the_page_as_a_reader_follows_it(vqseg, desk, original):
    said = {}
    for command in COMMANDS:
        said[command] = vqseg(*typed(command))
        code, out, err = said[command]
        assert code == 0, f"{command}\n{out}\n{err}"
    checks = [out for command, (_, out, _) in said.items() if command.startswith("vqseg check ")]
    assert [out.splitlines()[-1] for out in checks] == ["it keeps every promise of its family"] * 4
    assert "0 errors" in said["vqseg data check data/pairs"][1]
    the_data_are_the_pairs(desk, original)
    every_part_became_a_run_that_knows_its_code(desk)
    before = times(desk / "vqseg-store" / "runs")
    for command in COMMANDS:
        if command.startswith("vqseg train") or " study run " in command:
            assert vqseg(*typed(command))[0] == 0
    assert times(desk / "vqseg-store" / "runs") == before  # a second time nothing is done
    a_recorded_run_runs_no_code_without_permission(vqseg, desk)
    changed_code_is_another_run_and_refuses_old_weights(vqseg, desk)


def the_data_are_the_pairs(desk, original):
    root = desk / "data" / "pairs"
    manifest, first = read_manifest(root), read_manifest(original)
    assert manifest.classes == ["background", "RV", "myocardium", "LV"]
    assert manifest.source["importer"] == "pairs.py:scans"
    assert [scan.scan for scan in manifest.scans] == [scan.scan for scan in first.scans]
    for scan, theirs in zip(manifest.scans, first.scans, strict=True):
        assert np.array_equal(read_mask(root, scan), read_mask(original, theirs))
        away = read_image(root, scan).astype(int) - read_image(original, theirs)
        assert np.abs(away).max() <= 1  # the phantom's own range is 0 to 255
    assert manifest.scans[0].range == pytest.approx((-40, 3.5 * 255 - 40))
    parts = read_split(root, manifest, None).parts
    counts = {part: len(patients) for part, patients in parts.items()}
    assert counts == {"labelled": 3, "unlabelled": 2, "val": 1, "test": 2}


def every_part_became_a_run_that_knows_its_code(desk):
    named = {status["name"]: (status, config) for status, config in runs(desk).values()}
    hashed = {name: key for status, _ in named.values() for key in status["code"] if (name := key.partition(" ")[2])}
    assert hashed == {
        "cosine.py:Cosine": "quantizer cosine.py:Cosine",
        "blend.py:Blend": "perturbation blend.py:Blend",
        "mean_teacher.py:MeanTeacher": "method mean_teacher.py:MeanTeacher",
    }
    assert all(status["state"] == "finished" for status, _ in named.values())
    assert "mean_teacher.py:MeanTeacher qpm, seed 0" in named  # the default name of a run has no path
    status, config = named["blend rate=0.7, seed 0"]
    assert config["perturbation"] == {"name": f"{desk / 'blend.py'}:Blend", "rate": 0.7, "way": 0.5}
    assert status["evaluations"][-1]["part"] == "test"
    record = read_json(desk / "vqseg-store" / "studies" / "my-study-pairs-smoke" / "study.json")
    labels = ["vqseg", "cosine", "blend rate=0.3", "blend rate=0.7", "mean-teacher"]
    assert [arm["label"] for arm in record["arms"]] == labels
    cells = {cell["identity"] for cell in record["cells"]}
    assert len(cells) == 5 and cells == set(runs(desk))  # three of them by 'vqseg train'


def with_own_quantizer(desk):
    return {name for name, (_, config) in runs(desk).items() if "cosine" in config["network"]["quantizer"]["name"]}


def a_recorded_run_runs_no_code_without_permission(vqseg, desk):
    (identity,) = with_own_quantizer(desk)
    code, _, err = vqseg("evaluate", identity, "--part", "test")
    assert code == 2 and "config.yaml: network.quantizer.name names code" in err
    assert vqseg("evaluate", identity, "--part", "test", "--allow-code")[0] == 0
    code, _, err = vqseg("study", "evaluate", "my-study", "--part", "test", "--again")
    assert code == 2 and "--allow-code" in err


def changed_code_is_another_run_and_refuses_old_weights(vqseg, desk):
    command = next(command for command in COMMANDS if "train" in command and "cosine.py" in command)
    before, text = with_own_quantizer(desk), (desk / "cosine.py").read_text()
    (desk / "cosine.py").write_text(text.replace("# first values, drawn", "# drawn"))
    assert vqseg(*typed(command))[0] == 0 and with_own_quantizer(desk) == before
    (desk / "cosine.py").write_text(text.replace("(self.table, dim=1)", "(2 * self.table, dim=1)"))
    code, _, err = vqseg("evaluate", *before, "--part", "test", "--allow-code")
    assert code == 2 and "quantizer cosine.py:Cosine changed since it was trained" in err
    assert vqseg(*typed(command))[0] == 0
    after = with_own_quantizer(desk)
    assert len(after) == 2 and after > before
    (desk / "elsewhere").mkdir()
    shutil.move(desk / "cosine.py", desk / "elsewhere" / "cosine.py")
    assert vqseg(*typed(command.replace("cosine.py", "elsewhere/cosine.py")))[0] == 0
    assert with_own_quantizer(desk) == after  # it moved, and is the same run


def test_an_import_is_repeated_without_work_and_resumed_by_its_options(vqseg):
    assert "(16 scans written, 0 already there)" in vqseg(*typed(IMPORT))[1]
    assert "(0 scans written, 16 already there)" in vqseg(*typed(IMPORT))[1]
    code, _, err = vqseg(*typed(IMPORT.replace("LV]", "lv]")))
    assert code == 2 and "already holds 'pairs', made by importer 'pairs.py:scans'" in err
    code, _, err = vqseg("data", "import", "pairs.py:scans", "nowhere", "data/x", "--set", "classes=[a, b]")
    assert code == 2 and err == "vqseg: error: nowhere: no such folder\n"
    code, _, err = vqseg("data", "import", "pairs", "my-pairs", "data/x")
    assert code == 2 and "'pairs': expected FILE.py:NAME or PACKAGE.MODULE:NAME, a function of yours" in err
    code, _, err = vqseg("data", "import", "pairs.py:scans", "my-pairs", "data/x", "--set", "classes=[a, b]")
    assert code == 2 and "mask value 2 is outside the classes 0 to 1" in err


# Permission


def test_a_study_file_runs_no_code_without_permission(vqseg, desk):
    vqseg(*typed(IMPORT))
    code, _, err = vqseg(*typed(STUDY_RUN, without=["--allow-code"]))
    assert code == 2
    assert err.startswith("vqseg: error: my-study.yaml: arms.1.set.network.quantizer.name names code, 'cosine.py:Cos")
    assert "--allow-code" in err and err.count("\n") == 1
    assert not (desk / "vqseg-store").exists()


def test_a_preset_runs_no_code_without_permission(vqseg, desk):
    vqseg(*typed(IMPORT))
    (desk / "theirs.yaml").write_text("perturbation: trap.py:Trap\ntrain: {steps: 2}\n")
    (desk / "trap.py").write_text("raise SystemExit('it ran')\n")
    words = ["--data", "data/pairs", "--preset", "theirs.yaml", "--no-mirror"]
    code, _, err = vqseg("train", *words)
    assert code == 2 and "theirs.yaml: perturbation names code, 'trap.py:Trap'" in err and "it ran" not in err
    code, _, err = vqseg("train", *words, "--allow-code")
    assert code == 2 and "trap.py:1: SystemExit while it was loaded: it ran" in err


def queued(desk, **changes):
    """Queue a study whose file names no code; nothing is trained."""
    (desk / "plain.yaml").write_text(PLAIN)
    request = Request("plain.yaml", Path("vqseg-store"), Path("data/pairs"), steps=10, **changes)
    folder, record, _ = prepare(request)
    write(folder, record)
    return folder, record


def test_a_study_record_that_somebody_edited_runs_no_code(vqseg, desk):
    """An arm that only study.json knows is as foreign as any file."""
    vqseg(*typed(IMPORT))
    folder, record = queued(desk, name="edited")
    trap = {"label": "trap", "family": "trap", "knob": None, "overrides": {"perturbation": "trap.py:Trap"}}
    record["arms"].append(trap)
    write(folder, record)
    (desk / "trap.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(InputError, match="arms.1.overrides.perturbation names code, 'trap.py:Trap'"):
        queued(desk, name="edited")
    with pytest.raises(InputError, match="names code, 'trap.py:Trap'"):
        plan_cell(record, folder.store, {"arm": "trap", "seed": 0})


def test_code_typed_for_a_study_is_code_for_its_workers(vqseg, desk):
    vqseg(*typed(IMPORT))
    quantizer = "network.quantizer={name: cosine.py:Cosine, num_codes: 64}"
    folder, record = queued(desk, name="typed", overrides=(quantizer,))
    assert code_in(record)  # so the workers are told that it is allowed
    with pytest.raises(InputError, match="study typed: .* names code.*--allow-code"):
        plan_cell(folder.read(), folder.store, record["cells"][0])
    planned = plan_cell(folder.read(), folder.store, record["cells"][0], allow_code=True)
    assert planned.identity == record["cells"][0]["identity"]
