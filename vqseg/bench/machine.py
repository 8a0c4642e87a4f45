"""What figures were taken on: without it they say nothing."""

from datetime import UTC, datetime
from typing import Any

import psutil
import torch

from vqseg import provenance
from vqseg.processes import cores


def describe(device: torch.device | str = "cpu", precision: str = "fp32") -> dict[str, Any]:
    """Return device and processor by name, cores, threads, memory, versions, precision, commit and date."""
    device = torch.device(device)
    known = provenance.describe(device, precision)
    found = {
        "device": known["device"],
        "cpu": provenance.cpu_name(),
        "cores": cores(),
        "threads": known["threads"],
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "device_memory_gb": None,
        **{name: known[name] for name in ("precision", "torch", "python", "vqseg", "commit", "dirty")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device.type == "cuda":
        found["device_memory_gb"] = round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
    return found


def free_bytes(device: torch.device | str = "cpu") -> int:
    """Return the memory that is free where ``device`` computes."""
    device = torch.device(device)
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)
