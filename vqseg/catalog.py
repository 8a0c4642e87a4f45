"""Which priors there are, what they may be used for, where their weights lie, and whether those work."""

import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqseg.errors import InputError
from vqseg.weights import locate, parse, weights_digest

SIDE_PX = 224


@dataclass(frozen=True)
class Entry:
    """A row of the table of priors; ``weights`` is its default, None where the user names a folder or trains one."""

    name: str
    what: str
    license: str
    weights: str | None
    layout: str
    folder: Path | None


def entries() -> list[Entry]:
    """Return every prior with the folder of its default weights, or None where they are not there."""
    from vqseg.priors import PRIORS

    return [_entry(name, part) for name, part in sorted(PRIORS.items())]


def _entry(name: str, part: Any) -> Entry:
    parameter = inspect.signature(part).parameters.get("weights")
    weights = parameter.default if parameter and isinstance(parameter.default, str) else None
    what = (inspect.getdoc(part) or "").partition("\n")[0]
    license_, layout = getattr(part, "license", ""), getattr(part, "layout", "")
    return Entry(name, what, license_, weights, layout, _present(weights) if weights else None)


def _present(weights: str) -> Path | None:
    try:
        return locate(weights)
    except InputError:
        return None


def find(name: str) -> Entry:
    """Return the prior of this name, or the one whose default weights these are, or a row of its own for a hub name.

    Raises:
        InputError: it has no weights to fetch.
    """
    known = {entry.name: entry for entry in entries()}
    for entry in known.values():
        if entry.weights and name in (entry.name, entry.weights, parse(entry.weights)[0]):
            return entry
    if name in known:
        raise InputError(
            f"prior {name!r}: nothing to fetch; its weights are trained here, or are the folder that you name"
        )
    repository = parse(name)[0]
    if repository.count("/") != 1:
        with_weights = ", ".join(entry.name for entry in known.values() if entry.weights)
        raise InputError(f"unknown prior {name!r}; known: {with_weights}, or a hub's OWNER/NAME")
    return Entry(repository.replace("/", "--"), "", "", name, "transformers", None)


def examine(name: str) -> dict[str, Any]:
    """Load what a prior's name, a folder or a hub name means, run it on one image, and return what it is.

    Raises:
        InputError: it cannot be loaded, or its features are no numbers or the same everywhere.
    """
    import torch

    from vqseg.foundation import FlatViT

    weights = _weights_of(name)
    model = FlatViT(weights).eval()
    side = max(SIDE_PX // model.patch, 1) * model.patch
    image = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model(image, [model.depth - 1])[0]
        prefix = model.prefix_tokens(image)
    spread = float(features.flatten(2).std(2).mean())
    if not math.isfinite(spread) or spread < 1e-6:
        raise InputError(f"{name}: its features are {'constant' if spread < 1e-6 else 'no numbers'}; fetch it again")
    return {
        "folder": str(model.folder),
        "class": type(model.trunk).__name__,
        "dim": model.dim,
        "layers": model.depth,
        "patch_px": model.patch,
        "channels": model.channels,
        "prefix_tokens": prefix,
        f"grid_at_{side}_px": list(features.shape[-2:]),
        "mean": [round(float(value), 5) for value in model.mean.flatten()],
        "std": [round(float(value), 5) for value in model.std.flatten()],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "missing_unused_tensors": list(model.missing),
        "feature_spread": round(spread, 4),
        "digest": weights_digest(weights),
    }


def _weights_of(name: str) -> str:
    known = {entry.name: entry.weights for entry in entries()}
    weights = known.get(name, name)
    if weights is None:
        raise InputError(f"prior {name!r}: has no weights of its own; name a folder (./{name} if it is one)")
    return weights
