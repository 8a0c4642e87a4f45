"""Looks at the machine, the installation and a store, and says what is wrong and what to do about it."""

import fcntl
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vqseg.errors import InputError
from vqseg.records import mirror, sync
from vqseg.weights import home as fetched

Level = Literal["ok", "note", "warning", "error"]
GIB = 1024**3
BF16_FLAGS = ("amx_bf16", "avx512_bf16")


@dataclass(frozen=True)
class Finding:
    """One line of the examination; ``advice`` says what to do about a warning or an error."""

    section: str
    name: str
    value: str
    level: Level = "ok"
    advice: str = ""


def examine(store: Path) -> list[Finding]:
    """Return all findings; nothing is written but a probe file that goes at once."""
    return [*versions(), *devices(), *weights(), *disk(store), *records(store)]


def broken(findings: list[Finding]) -> bool:
    """Whether something keeps vqseg from working."""
    return any(finding.level == "error" for finding in findings)


def versions() -> list[Finding]:
    """Compare what is installed with what vqseg asks for."""
    import vqseg

    python = platform.python_version()
    old = sys.version_info < (3, 11)
    found = [
        Finding("versions", "python", python, "error" if old else "ok", "install Python 3.11 or newer" if old else ""),
        Finding("versions", "vqseg", vqseg.__version__),
    ]
    return [*found, *(_version(text) for text in _required())]


def _required() -> list[str]:
    """Return the run-time requirements of the installation, or of the checkout that this file lies in."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    if project.is_file():
        return list(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"])
    return [text for text in importlib.metadata.requires("vqseg") or [] if "extra ==" not in text]


def _version(requirement: str) -> Finding:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return Finding("versions", requirement, "cannot be compared", "error", "pip install packaging")
    wanted = Requirement(requirement)
    try:
        have = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("versions", wanted.name, "missing", "error", f"pip install '{requirement}'")
    if wanted.specifier.contains(have, prereleases=True):
        return Finding("versions", wanted.name, have)
    return Finding(
        "versions", wanted.name, f"{have}, expected {wanted.specifier}", "error", f"pip install '{requirement}'"
    )


def devices() -> list[Finding]:
    """Describe the CPU, whether bf16 pays on it, and the CUDA devices; a torch that cannot be loaded is a finding."""
    info = _cpu_info()
    flags = [flag for flag in BF16_FLAGS if flag in info.get("flags", "").split()]
    paying = f"{', '.join(flags)}: fast" if flags else "neither AMX nor AVX512-BF16: slower than fp32 here"
    found = [
        Finding("devices", "cpu", f"{info.get('model name', platform.processor() or platform.machine())}"),
        Finding("devices", "cores", f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}"),
        Finding("devices", "bf16", f"{paying}; precision=auto takes {'bf16' if flags else 'fp32'} on the CPU"),
    ]
    try:
        torch = importlib.import_module("torch")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for index in range(count):
            card = torch.cuda.get_device_properties(index)
            found.append(Finding("devices", f"cuda:{index}", f"{card.name}, {card.total_memory / GIB:.1f} GiB"))
        if not count:
            built = torch.version.cuda or torch.version.hip
            reason = "no device visible" if built else "this torch is built for the CPU only"
            found.append(Finding("devices", "cuda", f"none ({reason})", "note"))
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        found.append(Finding("devices", "torch", f"cannot be loaded: {reason}", "error", "install torch again"))
    return found


def _cpu_info() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def weights() -> list[Finding]:
    """List the model folders (config.json and safetensors) in the hub's cache and in VQSEG_WEIGHTS."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    found = [Finding("weights", "hub cache", str(cache) if cache.is_dir() else f"{cache} (not there)")]
    for path in sorted(cache.glob("models--*/snapshots/*")):
        if _holds_model(path):
            name = path.parent.parent.name.removeprefix("models--").replace("--", "/")
            found.append(Finding("weights", name, f"revision {path.name[:12]}"))
    own = fetched()
    if os.environ.get("VQSEG_WEIGHTS") and not own.is_dir():
        advice = "make the folder, or unset VQSEG_WEIGHTS"
        found.append(Finding("weights", "VQSEG_WEIGHTS", f"{own}: no such folder", "warning", advice))
    elif own.is_dir():
        models = [path for path in (own, *sorted(own.iterdir())) if _holds_model(path)]
        found += [Finding("weights", path.name, str(path)) for path in models]
    if len(found) == 1:
        found.append(Finding("weights", "models", "none found; presets 'unet', 'cpu' and 'smoke' need none", "note"))
    return found


def _holds_model(path: Path) -> bool:
    return (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def disk(store: Path) -> list[Finding]:
    """Look at the free space of the store's disk, and try what vqseg asks of its file system."""
    place = next(path for path in (store.absolute(), *store.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free / GIB
    level: Level = "error" if free < 0.5 else "warning" if free < 5 else "ok"
    advice = "" if level == "ok" else "free some space, or name another folder with --store"
    found = [Finding("disk", "free", f"{free:.1f} GiB at {place}", level, advice)]
    try:
        with tempfile.TemporaryDirectory(prefix=".vqseg-doctor-", dir=place) as folder:
            return [*found, _symlinks(Path(folder)), _locks(Path(folder))]
    except OSError as error:
        advice = "make it writable, or name another folder with --store"
        return [*found, Finding("disk", "writable", f"no: {error.strerror}: {place}", "error", advice)]


def _symlinks(folder: Path) -> Finding:
    try:
        (folder / "link").symlink_to("target")
    except OSError as error:
        advice = "a study's queue needs them: put the store on another disk"
        return Finding("disk", "symbolic links", f"refused: {error.strerror}", "error", advice)
    return Finding("disk", "symbolic links", "work")


def _locks(folder: Path) -> Finding:
    """Try flock with two open files: the second must not get what the first holds."""
    advice = "two processes could work on one run: put the store on a local disk"
    try:
        with (folder / "lock").open("a") as first, (folder / "lock").open("a") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Finding("disk", "file locks", "work")
    except OSError as error:
        return Finding("disk", "file locks", f"refused: {error.strerror}", "error", advice)
    return Finding("disk", "file locks", "do not exclude each other", "error", advice)


def records(store: Path) -> list[Finding]:
    """Count a store's runs by state and look for what was left lying about."""
    runs, states = mirror.runs_of(store), Counter[str]()
    damaged = []
    for run in runs:
        try:
            states[run.state()] += 1
        except (InputError, KeyError, OSError) as error:
            damaged.append(Finding("store", run.identity, str(error), "error", f"delete {run.path} and run it again"))
    if not runs:
        return [Finding("store", "runs", f"none in {store}", "note"), *_stale_queues(store)]
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    found = [Finding("store", "runs", f"{len(runs)} in {store}: {counts}"), *damaged]
    unfinished = states["killed"] + states["interrupted"]
    if unfinished:
        advice = "the command that began them ('vqseg study run', 'vqseg train') resumes them"
        found.append(Finding("store", "to resume", str(unfinished), "warning", advice))
    if states["failed"]:
        advice = "'vqseg records list' shows them; 'vqseg study run NAME --retry failed' tries again"
        found.append(Finding("store", "failed", str(states["failed"]), "warning", advice))
    return found + _stale_queues(store) + ([] if damaged else _mirror(store))


def _stale_queues(store: Path) -> list[Finding]:
    found = []
    for path in sorted((store / "studies").glob("*/*.lock")):
        age = time.time() - path.lstat().st_mtime if os.path.lexists(path) else 0.0
        if path.is_symlink() and age > 60:
            advice = f"if no study is running: rm '{path}' (else its workers wait 30 s for it)"
            found.append(Finding("store", "stale lock", f"{path}, {age / 60:.0f} min old", "warning", advice))
    return found


def _mirror(store: Path) -> list[Finding]:
    try:
        missing = sync.unsynced(store)
        address = mirror.shown_uri(mirror.resolve_uri(store, None))
    except (InputError, OSError) as error:
        return [Finding("store", "MLflow mirror", str(error), "warning", "see MLFLOW_TRACKING_URI")]
    if not missing:
        return [Finding("store", "MLflow mirror", f"complete ({address})")]
    advice = "'vqseg records sync' completes it"
    return [Finding("store", "MLflow mirror", f"{len(missing)} runs not yet complete ({address})", "warning", advice)]


def text_of(findings: list[Finding]) -> str:
    """Return the findings as text: a block per section, then what is wrong and what to do."""
    signs = {"ok": " ", "note": " ", "warning": "!", "error": "x"}
    width = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    section = ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            lines.append(f"{section}")
        lines.append(f"{signs[finding.level]} {finding.name:<{width}}  {finding.value}")
    wrong = [f for f in findings if f.level in ("warning", "error")]
    lines.append("")
    lines += [f"{f.level}: {f.name}: {f.value}; {f.advice}" for f in wrong] or ["nothing is wrong"]
    return "\n".join(lines)
