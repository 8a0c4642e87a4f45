"""docs/own-parts.md as a reader follows it: its files written to a folder of their own, its commands typed there."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from vqseg import cli
from vqseg.files import read_json, read_yaml
from vqseg.importers import phantom
from vqseg.manifest import read_image, read_manifest, read_mask, read_split

PAGE = Path(__file__).parent.parent / "docs" / "own-parts.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
FILES = {match[1]: body for _, body in BLOCKS if (match := re.match(r"# (\S+)\n", body))}
COMMANDS = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines()]
TRAINED = ("network.quantizer=", "perturbation=", "method=")


def test_every_block_of_the_page_is_a_file_or_commands():
    assert {kind for kind, _ in BLOCKS} == {"python", "yaml", "sh"}
    assert set(FILES) == {"pairs.py", "cosine.py", "mask.py", "mean_teacher.py", "my-study.yaml"}
    assert all(line.startswith("vqseg ") for line in COMMANDS)
    assert len([kind for kind, _ in BLOCKS if kind != "sh"]) == len(FILES)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the page's files, and the phantom as pairs of .npy files."""
    folder = tmp_path_factory.mktemp("desk")
    for name, body in FILES.items():
        (folder / name).write_text(body)
    root, pairs = folder / "phantom", folder / "my-pairs"
    phantom.prepare(root, patients=8, size=32)
    pairs.mkdir()
    for scan in read_manifest(root).scans:
        np.save(pairs / f"{scan.scan}.npy", 3.5 * read_image(root, scan).astype(np.float32) - 40)
        np.save(pairs / f"{scan.scan}_mask.npy", read_mask(root, scan).astype(np.int64))
    return folder


@pytest.fixture
def vqseg(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("VQSEG_NO_MIRROR", "1")
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parent.parent))  # for the workers
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["vqseg", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        out = capsys.readouterr()
        return code or 0, out.out, out.err

    return call


def typed(command, *, without=()):
    """Split a command of the page; runs are not mirrored, and keep no weights that nobody reads."""
    words = [word for word in shlex.split(command)[1:] if word not in without]
    return [*words, "--no-mirror"] if words[0] == "train" else words


def runs(desk):
    """Return each run's status and config, by identity."""
    folders = (desk / "vqseg-store" / "runs").iterdir()
    return {path.name: (read_json(path / "status.json"), read_yaml(path / "config.yaml")) for path in folders}


@pytest.fixture(scope="module")
def followed(desk):
    """What the page's commands said, in order; filled by the first test that asks."""
    return {}


def follow(vqseg, followed):
    for command in COMMANDS:
        if command not in followed:
            followed[command] = vqseg(*typed(command))
    return followed


def test_every_command_of_the_page_works(vqseg, followed):
    for command, (code, out, err) in follow(vqseg, followed).items():
        assert code == 0, f"{command}\n{out}\n{err}"


def test_every_check_says_that_all_promises_are_kept(vqseg, followed):
    said = {command: out for command, (_, out, _) in follow(vqseg, followed).items() if " check " in command}
    checks = {command: out for command, out in said.items() if command.startswith("vqseg check ")}
    assert len(checks) == 4
    for out in checks.values():
        assert out.splitlines()[-1] == "it keeps every promise of its family"
        assert "failed" not in out
    assert "0 errors" in said["vqseg data check data/pairs"]


def test_the_imported_data_are_the_pairs(vqseg, followed, desk):
    follow(vqseg, followed)
    root = desk / "data" / "pairs"
    manifest, original = read_manifest(root), read_manifest(desk / "phantom")
    assert manifest.classes == ["background", "RV", "myocardium", "LV"]
    assert [scan.scan for scan in manifest.scans] == [scan.scan for scan in original.scans]
    for scan, first in zip(manifest.scans, original.scans, strict=True):
        assert np.array_equal(read_mask(root, scan), read_mask(desk / "phantom", first))
        away = read_image(root, scan).astype(int) - read_image(desk / "phantom", first)
        assert np.abs(away).max() <= 1  # the phantom's own range is 0 to 255
    assert manifest.scans[0].range == pytest.approx((-40, 3.5 * 255 - 40))
    parts = read_split(root, manifest, None).parts
    assert {part: len(patients) for part, patients in parts.items()} == {
        "labelled": 3, "unlabelled": 2, "val": 1, "test": 2,
    }  # fmt: skip
    assert manifest.source["importer"] == "pairs.py:scans"
    again = vqseg(*typed(next(command for command in COMMANDS if " import " in command)))
    assert again[0] == 0 and "(0 scans written, 16 already there)" in again[1]


def test_every_part_became_a_run_that_knows_its_code(vqseg, followed, desk):
    follow(vqseg, followed)
    labels = {status["name"]: (status, config) for status, config in runs(desk).values()}
    hashed = {name: key for status, _ in labels.values() for key in status["code"] if (name := key.partition(" ")[2])}
    assert hashed == {
        "cosine.py:Cosine": "quantizer cosine.py:Cosine",
        "mask.py:MaskAndReplace": "perturbation mask.py:MaskAndReplace",
        "mean_teacher.py:MeanTeacher": "method mean_teacher.py:MeanTeacher",
    }
    assert all(status["state"] == "finished" for status, _ in labels.values())
    assert "mean_teacher.py:MeanTeacher qpm, seed 0" in labels  # the default name of a run has no path
    status, config = labels["mask rate=0.3, seed 0"]
    assert config["perturbation"] == {"name": f"{desk / 'mask.py'}:MaskAndReplace", "rate": 0.3, "masked": 0.5}
    assert status["evaluations"][-1]["part"] == "test"


def test_the_study_has_every_arm_and_a_report(vqseg, followed, desk):
    follow(vqseg, followed)
    record = read_json(desk / "vqseg-store" / "studies" / "my-study-pairs-smoke" / "study.json")
    assert [arm["label"] for arm in record["arms"]] == [
        "vqseg", "cosine", "mask rate=0.3", "mask rate=0.7", "mean-teacher",
    ]  # fmt: skip
    assert len({cell["identity"] for cell in record["cells"]}) == 5
    assert (desk / "vqseg-store" / "reports" / "my-study-pairs-smoke" / "index.html").is_file()


def test_a_second_time_nothing_is_done(vqseg, followed, desk):
    follow(vqseg, followed)
    before = {path: path.stat().st_mtime_ns for path in (desk / "vqseg-store" / "runs").rglob("*") if path.is_file()}
    for command in COMMANDS:
        if command.startswith("vqseg train") or " study run " in command:
            assert vqseg(*typed(command))[0] == 0
    after = {path: path.stat().st_mtime_ns for path in (desk / "vqseg-store" / "runs").rglob("*") if path.is_file()}
    assert after == before


# Permission


STUDY_RUN = next(command for command in COMMANDS if " study run " in command)


def test_a_study_file_runs_no_code_without_permission(vqseg, followed, desk):
    follow(vqseg, followed)
    code, _, err = vqseg(*typed(STUDY_RUN, without=["--allow-code"]), "--name", "refused")
    assert code == 2
    assert err.startswith(
        "vqseg: error: my-study.yaml: arms.1.set.network.quantizer.name names code, 'cosine.py:Cosine'"
    )
    assert "--allow-code" in err and err.count("\n") == 1
    assert not (desk / "vqseg-store" / "studies" / "refused").exists()


def test_a_preset_runs_no_code_without_permission(vqseg, followed, desk):
    follow(vqseg, followed)
    (desk / "theirs.yaml").write_text("perturbation: trap.py:Trap\ntrain: {steps: 2}\n")
    (desk / "trap.py").write_text("raise SystemExit('it ran')\n")
    words = ["--data", "data/pairs", "--preset", "theirs.yaml", "--no-mirror"]
    code, _, err = vqseg("train", *words)
    assert code == 2 and "theirs.yaml: perturbation names code, 'trap.py:Trap'" in err and "it ran" not in err
    code, _, err = vqseg("train", *words, "--allow-code")
    assert code == 2 and "trap.py:1: SystemExit while it was loaded: it ran" in err


def test_a_recorded_run_runs_no_code_without_permission(vqseg, followed, desk):
    follow(vqseg, followed)
    identity = next(
        name for name, (_, config) in runs(desk).items() if "cosine" in config["network"]["quantizer"]["name"]
    )
    code, _, err = vqseg("evaluate", identity, "--split", "test")
    assert code == 2 and "config.yaml: network.quantizer.name names code" in err
    assert vqseg("evaluate", identity, "--split", "test", "--allow-code")[0] == 0
    code, _, err = vqseg("study", "evaluate", "my-study", "--split", "test", "--again")
    assert code == 2 and "--allow-code" in err


def test_a_study_record_that_somebody_edited_runs_no_code(vqseg, followed, desk):
    """An arm that only study.json knows is as foreign as any file."""
    from vqseg.files import write_json

    follow(vqseg, followed)
    (desk / "plain.yaml").write_text(
        "question: q\npreset: smoke\nseeds: [0]\nreference: none\narms:\n  - {family: none, set: {perturbation: none}}\n"
    )
    words = ["study", "run", "plain.yaml", "--data", "data/pairs", "--steps", "2", "--name", "plain"]
    assert vqseg(*words)[0] == 0
    path = desk / "vqseg-store" / "studies" / "plain" / "study.json"
    record = read_json(path)
    trap = {"label": "trap", "family": "trap", "knob": None, "overrides": {"perturbation": "mask.py:MaskAndReplace"}}
    write_json(path, {**record, "arms": [*record["arms"], trap]})
    code, _, err = vqseg(*words)
    assert code == 2 and "arms.1.overrides.perturbation names code" in err


def test_code_typed_for_a_study_reaches_its_workers(vqseg, followed, desk):
    follow(vqseg, followed)
    words = ["study", "run", "plain.yaml", "--data", "data/pairs", "--steps", "2", "--name", "typed"]
    (desk / "plain.yaml").write_text(
        "question: q\npreset: smoke\nseeds: [0]\nreference: none\narms:\n  - {family: none, set: {perturbation: none}}\n"
    )
    quantizer = "network.quantizer={name: cosine.py:Cosine, num_codes: 32}"
    code, out, err = vqseg(*words, "--set", quantizer)
    assert code == 0, out + err
    assert "1 finished" in out


# Identity: the code moves along, and changes with its formula


def test_changed_code_is_another_run_and_refuses_old_weights(vqseg, followed, desk, tmp_path):
    follow(vqseg, followed)
    command = next(command for command in COMMANDS if "train" in command and "cosine.py" in command)
    mine = {name for name, (_, config) in runs(desk).items() if config["network"]["quantizer"].get("num_codes") == 64}
    assert len(mine) == 1
    text = (desk / "cosine.py").read_text()
    try:
        (desk / "cosine.py").write_text(text.replace("first values", "values"))
        vqseg(*typed(command))
        assert set(mine) == {n for n, (_, c) in runs(desk).items() if c["network"]["quantizer"].get("num_codes") == 64}
        (desk / "cosine.py").write_text(
            text.replace("F.normalize(self.table, dim=1)", "F.normalize(2 * self.table, dim=1)")
        )
        code, _, err = vqseg("evaluate", *mine, "--split", "test", "--allow-code")
        assert code == 2 and "quantizer cosine.py:Cosine changed since it was trained" in err
        assert vqseg(*typed(command))[0] == 0
    finally:
        (desk / "cosine.py").write_text(text)
    now = {n for n, (_, c) in runs(desk).items() if c["network"]["quantizer"].get("num_codes") == 64}
    assert len(now) == 2
    shutil.copy(desk / "cosine.py", tmp_path / "cosine.py")
    moved = [word.replace("cosine.py", f"{tmp_path}/cosine.py") for word in typed(command)]
    assert vqseg(*moved)[0] == 0
    assert now == {n for n, (_, c) in runs(desk).items() if c["network"]["quantizer"].get("num_codes") == 64}
