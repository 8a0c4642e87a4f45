"""``vqseg data`` as a person types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_importers import NAMES, acdc_h5, pictures
from test_isic import TEST, TRAINING, photographs
from typer.testing import CliRunner, Result

from vqseg.cli.data import app
from vqseg.errors import InputError


def call(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, InputError):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "phantom"
    result = call("phantom", out, "--patients", 6, "--size", 32)
    assert result.exit_code == 0, result.output
    assert "6 patients, 12 scans" in result.stdout
    assert "default labelled-1" in result.stdout
    return out


def test_help_names_every_command_without_heavy_imports() -> None:
    result = call("--help")
    for command in ("acdc", "folder", "isic", "nifti", "nnunet", "phantom", "split", "mark", "check"):
        assert command in result.stdout
    heavy = "{'torch', 'numpy', 'h5py', 'mlflow', 'pydantic'}"
    code = f"import sys, vqseg.cli.data; print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_acdc(tmp_path: Path) -> None:
    source, out = acdc_h5(tmp_path / "source"), tmp_path / "out"
    first = call("acdc", source, out, "--labelled", "2")
    assert "8 patients, 16 scans, 160 images (16 scans written, 0 already there)" in first.stdout
    assert "splits: labelled-2, labelled-2-devtest; default labelled-2-devtest" in first.stdout
    second = call("acdc", source, out, "--labelled", "2")
    assert "(0 scans written, 16 already there)" in second.stdout
    assert "splits: none new" in second.stdout
    with pytest.raises(InputError, match="expected 1 to 7"):
        call("acdc", source, out, "--labelled", "71")


def test_folder(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", NAMES)
    result = call("folder", source, tmp_path / "out", "--classes", "background,one,two", "--name", "mine")
    assert result.exit_code == 0, result.output
    report = json.loads(call("check", tmp_path / "out", "--json").stdout)
    assert report["name"] == "mine"
    assert report["parts"]["labelled"]["images"] == 3
    assert report["parts"]["labelled"]["patients"] == 2
    assert report["parts"]["unlabelled"]["voxel_share"] is None
    with pytest.raises(InputError, match="--pattern"):
        call("folder", source, tmp_path / "two", "--pattern", "(")
    assert call("folder", source, tmp_path / "two", "--window", "low", "1").exit_code == 2


def test_split_writes_says_and_repeats(phantom: Path) -> None:
    first = call("split", phantom, "--name", "half", "--labelled", "50%", "--draw", 3)
    assert first.stdout.startswith("wrote ")
    assert "2 labelled, 1 unlabelled, 1 val, 2 test patients (2 labelled patients, drawn with seed 3" in first.stdout
    assert call("split", phantom, "--name", "half", "--labelled", "50%", "--draw", 3).stdout.startswith("unchanged: ")
    with pytest.raises(InputError, match="is of other patients or other data"):
        call("split", phantom, "--name", "half", "--labelled", "1")
    result = call(
        "split", phantom, "--name", "anew", "--labelled", "1", "--val", "0.3", "--test", "0.2", "--from", "half"
    )
    assert "1 labelled, 2 unlabelled, 1 test, 2 val patients" in result.stdout


def test_split_needs_a_name_and_a_count(phantom: Path) -> None:
    with pytest.raises(InputError, match="--name: missing; a new split needs both"):
        call("split", phantom, "--labelled", "1")
    with pytest.raises(InputError, match="--labelled: missing; a new split needs both"):
        call("split", phantom, "--name", "n")
    with pytest.raises(InputError, match="--pool-test: it goes with --folds; leave it out"):
        call("split", phantom, "--name", "n", "--labelled", "1", "--pool-test")
    with pytest.raises(InputError, match="--test: the fold is the test part"):
        call("split", phantom, "--name", "n", "--labelled", "1", "--folds", 2, "--test", 0.2)


def test_folds_write_one_split_each(phantom: Path) -> None:
    words = ("split", phantom, "--name", "cv", "--labelled", "1", "--folds", 3, "--draw", 0, "--pool-test")
    lines = call(*words).stdout.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith(f"wrote {phantom / 'splits' / 'cv-2.json'}: 1 labelled, 2 unlabelled, 2 test, 1 val")
    assert "(fold 2 of 3 is test; 1 labelled patients, drawn with seed 0 fold 2" in lines[1]
    assert all(line.startswith("unchanged: ") for line in call(*words).stdout.splitlines())
    beside = call("split", phantom, "--name", "dev", "--labelled", "1", "--folds", 2, "--stratify", "foreground")
    assert "2 val patients (fold 1 of 2 is val; " in beside.stdout
    assert "stratified by foreground" in beside.stdout
    report = json.loads(call("check", phantom, "--split", "cv-2", "--json").stdout)
    assert [problem for problem in report["problems"] if problem["level"] == "error"] == []


def test_a_split_travels_as_its_file(phantom: Path, tmp_path: Path) -> None:
    call("split", phantom, "--name", "sent", "--labelled", "2", "--draw", 5)
    file = phantom / "splits" / "sent.json"
    twin, other = tmp_path / "twin", tmp_path / "other"
    call("phantom", twin, "--patients", 6, "--size", 32)
    assert call("split", twin, "--from-file", file).stdout.startswith(f"wrote {twin / 'splits' / 'sent.json'}: 2 label")
    assert call("split", twin, "--from-file", file).stdout.startswith("unchanged: ")
    assert (twin / "splits" / "sent.json").read_text() == file.read_text()
    assert call("split", twin, "--from-file", file, "--name", "theirs").exit_code == 0
    call("phantom", other, "--patients", 6, "--size", 32, "--seed", 1)
    with pytest.raises(InputError, match=r"sent.json: made for data [0-9a-f]{16}, but .*other is [0-9a-f]{16}; import"):
        call("split", other, "--from-file", file)
    with pytest.raises(InputError, match="--labelled: --from-file takes a split as it is; leave it out"):
        call("split", twin, "--from-file", file, "--labelled", "2")


def test_mark_and_check_count_lesions(tmp_path: Path) -> None:
    out = tmp_path / "phantom"
    call("phantom", out, "--patients", 4, "--size", 32)
    split = (out / "splits" / "labelled-1.json").read_text()
    result = call("mark", out, "--lesion", "left ventricle=1.5", "--lesion", "myocardium")
    assert result.stdout == f"{out}: lesions: myocardium (tolerance 2 mm), left ventricle (tolerance 1.5 mm)\n"
    assert call("mark", out, "--lesion", "myocardium").stdout.endswith("(unchanged)\n")
    assert (out / "splits" / "labelled-1.json").read_text() == split
    table = call("check", out).stdout
    assert "myocardium, count" in table
    assert "left ventricle, slices" in table
    assert call("mark", out, "--no-lesion", "myocardium", "--no-lesion", "left ventricle").stdout.endswith("none\n")
    with pytest.raises(InputError, match="unknown foreground class for --lesion 'lung'"):
        call("mark", out, "--lesion", "lung")


def test_isic(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    photographs(source, TRAINING, range(12))
    photographs(source, TEST, range(20, 23))
    result = call("isic", source, out, "--labelled", "2", "--val", "0.2", "--max-side", "32")
    assert result.exit_code == 0, result.output
    assert "15 patients, 15 scans, 15 images (15 scans written, 0 already there)" in result.stdout
    assert "splits: labelled-all, labelled-2; default labelled-2" in result.stdout
    report = json.loads(call("check", out, "--json").stdout)
    assert (report["name"], report["channels"], report["problems"]) == ("isic-2018", 3, [])
    assert {part: facts["images"] for part, facts in report["parts"].items()} == {
        "labelled": 2,
        "unlabelled": 7,
        "test": 3,
        "val": 3,
    }
    assert report["parts"]["labelled"]["columns"] == [32, 32]
    with pytest.raises(InputError, match="--test 0.2"):
        call("isic", source, out, "--test", "0.2")


def test_check_prints_a_table(phantom: Path) -> None:
    result = call("check", phantom, "--split", "labelled-all")
    assert result.exit_code == 0
    assert "phantom data" in result.stdout
    assert "myocardium, %" in result.stdout
    assert "warning: part unlabelled: is empty" in result.stdout
    assert "0 errors, 1 warning" in result.stdout
    assert "…" not in result.stdout


def test_check_exits_2_with_the_errors_on_stderr(tmp_path: Path) -> None:
    out = tmp_path / "phantom"
    call("phantom", out, "--patients", 4, "--size", 32)
    (out / "images" / "phantom002_frame02.npz").write_bytes(b"gone")
    result = call("check", out)
    assert result.exit_code == 2
    assert "error: images/phantom002_frame02.npz: not readable" in result.stderr
    report = call("check", out, "--json")
    assert report.exit_code == 2
    problem = json.loads(report.stdout)["problems"][0]
    assert set(problem) == {"level", "where", "what", "do"}
    with pytest.raises(InputError, match="unknown split"):
        call("check", out, "--split", "labeled-1")
