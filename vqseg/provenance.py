"""Where and with what a run was computed: kept beside its identity, because it can move the last bits."""

import os
import platform
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

import vqseg
from vqseg.errors import InputError


def pick_device(name: str) -> torch.device:
    """Return the device: ``auto`` takes CUDA where there is one.

    Raises:
        InputError: the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    known = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    known += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if name not in known:
        raise InputError(f"--device {name}: expected auto or one of what torch can see: {', '.join(known)}")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve ``auto``: bf16 where the hardware multiplies it natively, else fp32.

    On a CPU that means AMX or AVX-512 BF16; elsewhere bf16 is emulated and about twenty times slower.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if native_bf16_cpu() else "fp32"


@cache
def native_bf16_cpu() -> bool:
    """Whether this CPU multiplies bf16 in hardware."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def describe(device: torch.device, precision: str) -> dict[str, Any]:
    """Return what stands in the run's status under ``provenance``."""
    commit, dirty = _commit()
    return {
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu: {cpu_name()}",
        "threads": torch.get_num_threads(),
        "precision": precision,
        "vqseg": vqseg.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": commit,
        "dirty": dirty,
    }


# What must agree for a resumed run to equal an uninterrupted one.
BITWISE = ("device", "threads", "precision", "torch")


@cache
def cpu_name() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@cache
def _commit() -> tuple[str | None, bool | None]:
    """Return the commit of the checkout that vqseg runs from and whether it is dirty; None for an installed wheel."""
    root = Path(vqseg.__file__).parent.parent
    if not (root / ".git").exists():
        return None, None
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        head = subprocess.run(
            ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, env=environment
        )
        state = subprocess.run(
            ["git", "-C", root, "status", "--porcelain"], capture_output=True, text=True, check=True, env=environment
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return head.stdout.strip(), bool(state.stdout.strip())
