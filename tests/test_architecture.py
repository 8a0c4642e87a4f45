import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vqseg"

# What each side may import of vqseg (a module, or a package and all in it).
LEAVES = {"assets", "errors", "files", "processes", "ranges"}
ALLOWED = {
    "metrics": LEAVES,
    "losses": LEAVES,
    "augment": LEAVES | {"config", "upload"},
    "network": LEAVES | {"codebook", "quantizers", "perturbations"},
    "encoders": LEAVES | {"encoders", "convolution", "foundation", "weights"},
    "decoders": LEAVES | {"decoders", "convolution"},
    "priors": LEAVES | {"priors", "foundation", "weights"},
    "foundation": LEAVES | {"weights"},
    "weights": LEAVES,
    "alignment": LEAVES | {"store"},
    "config": LEAVES | {"presets", "parts"},
    "presets": LEAVES,
    "train": LEAVES | {"streams", "config", "meter", "optimizer", "step"},
    "meter": LEAVES | {"codebook"},
    "report": LEAVES | {"records", "report", "metrics", "evaluate", "manifest", "protocols", "presets"},
    "records": LEAVES | {"records", "evaluate", "manifest", "metrics", "protocols", "identity", "overlays"},
    "study": LEAVES
    | {"study", "experiment", "plan", "train", "records", "config", "manifest", "identity", "parts", "assets"},
    "methods": LEAVES | {"methods", "network", "losses", "codebook", "dataset", "step", "teacher", "streams"},
    "quantizers": LEAVES | {"quantizers", "codebook"},
    "perturbations": LEAVES | {"perturbations", "codebook", "replacement"},
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


@cache
def imports(path, top_level_only=False):
    return tuple(_imports(path, top_level_only))


def _imports(path, top_level_only):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "vqseg":
            yield from (f"vqseg.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("name", ALLOWED)
def test_arrows_point_one_way(name):
    files = sorted((PACKAGE / name).rglob("*.py")) if (PACKAGE / name).is_dir() else [PACKAGE / f"{name}.py"]
    for path in files:
        used = {module.split(".")[1] for module in imports(path) if module.startswith("vqseg.")}
        assert used <= ALLOWED[name] | {name}, f"{path}: {used - ALLOWED[name]}"


def test_benches_are_asked_by_the_command_line_alone():
    for path in modules():
        if path.relative_to(PACKAGE).parts[0] not in ("bench", "cli"):
            assert not [name for name in imports(path) if name.startswith("vqseg.bench")], path


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("mlflow", ("records",)),
        ("optuna", ("study/queue.py", "study/search.py", "study/snapshot.py", "records/trials.py")),
        ("medpy", ("metrics.py",)),
        ("torch", None),
    ],
)
def test_each_library_is_imported_in_its_place_alone(library, home):
    for path in modules():
        relative = path.relative_to(PACKAGE).as_posix()
        found = [name for name in imports(path) if name.split(".")[0] == library]
        if home is not None:
            assert not found or relative.startswith(home), relative
        elif relative.startswith(("cli/", "report/", "records/", "config")):
            top = [name for name in imports(path, top_level_only=True) if name.split(".")[0] == library]
            assert not top, f"{relative} imports {library} at module level"


@pytest.mark.parametrize(
    "module", ["vqseg.cli", "vqseg.config", "vqseg.records.index", "vqseg.report", "vqseg.study.definition"]
)
def test_light_modules_load_nothing_heavy(module):
    code = f"import {module}, sys; print([m for m in ('torch','mlflow','optuna','transformers') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_files_are_short_and_say_what_they_are_for():
    for path in modules():
        text = path.read_text()
        assert text.count("\n") <= 350, f"{path.name}: {text.count(chr(10))} lines"
        assert ast.get_docstring(ast.parse(text)), f"{path}: no module docstring"
