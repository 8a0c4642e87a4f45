"""A preset's file: its settings, where each comes from, and what departs from that source on purpose.

Beside the settings a file may have ``sources``, a text for each dotted key, and ``departures``, a list of texts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vqseg import assets
from vqseg.errors import InputError
from vqseg.files import read_yaml


class Preset(NamedTuple):
    """What a preset's file says."""

    path: Path
    tree: dict[str, Any]
    sources: dict[str, str]
    departures: list[str]


def names() -> list[str]:
    """Return the built-in presets' names."""
    return assets.names("configs")


def read(preset: str) -> Preset:
    """Read a preset: a built-in name, or a path to a YAML file.

    Raises:
        InputError: unknown, not a mapping, or a source that names a setting which the file does not make.
    """
    path = assets.find("configs", preset, "preset")
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected a mapping of settings")
    sources, departures = tree.pop("sources", {}), tree.pop("departures", [])
    if not isinstance(sources, dict) or not isinstance(departures, list):
        raise InputError(f"{path}: expected sources as a mapping of keys to texts and departures as a list of texts")
    unknown = sorted(set(sources) - set(leaves(tree)))
    if unknown:
        raise InputError(f"{path}: sources: {unknown[0]!r} is not among the file's settings")
    tree.setdefault("preset", path.stem)
    return Preset(path, tree, sources, departures)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return every setting of a tree by its dotted key; a part's name counts as ``key`` or ``key.name``."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{key}.")
        elif key != "preset":
            found[f"{prefix}{key}"] = value
    return found


def summary(preset: Preset) -> str:
    """Return the first line of the file's comment: what the preset is for."""
    return preset.path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def sourced(preset: Preset) -> list[str]:
    """Return one line per setting, ``key = value  source``, then the departures."""
    rows = leaves(preset.tree)
    if not preset.sources:
        return [f"{preset.path.stem} is vqseg's own recipe; its file says why: {preset.path}"]
    width = max(len(f"{key} = {value}") for key, value in rows.items())
    lines = [
        f"{f'{key} = {value}':<{min(width, 60)}}  {preset.sources.get(key, 'not stated; ours')}"
        for key, value in rows.items()
    ]
    return [*lines, "", "departures:", *(f"- {' '.join(text.split())}" for text in preset.departures)]
