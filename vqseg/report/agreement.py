"""What the runs of one table must agree in, and what differs between them.

A table agrees in split, data, step budget, labels, scoring and the hash of every code module that two runs share,
unless the study itself declares the difference. Arms that name different files of the user's declare one, whatever the
files are called.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

AGREE = {
    "data.digest": "data",
    "split.digest": "split",
    "steps": "steps",
    "labels": "labels",
    "preset": "preset",
    "scoring": "scoring code",
    "provenance.precision": "precision",
}
DECLARES = {"steps": "train.steps", "labels": "data.labels", "provenance.precision": "train.precision"}


def disagreements(runs: pd.DataFrame, scores: pd.DataFrame, study: dict[str, Any]) -> list[str]:
    """Return in words what differs between runs though the study does not declare it."""
    declared = {key for arm in study["arms"] for key in (arm.get("overrides") or {})}
    found = []
    for column, what in AGREE.items():
        if column not in runs or DECLARES.get(column) in declared:
            continue
        found += odd(what, dict(zip(runs["name"], runs[column])))
    hashes = (
        scores[["identity", "scoring"]]
        .drop_duplicates()
        .groupby("identity")["scoring"]
        .agg(lambda values: " ".join(sorted(set(values))))
    )
    names = dict(zip(runs["identity"], runs["name"]))
    found += odd("scoring of rows", {names[identity]: value for identity, value in hashes.items()})
    modules: dict[tuple[str, str], dict[str, Any]] = {}
    for name, arm, code in zip(runs["name"], runs["arm"], runs.get("code", [])):
        for module, code_hash in (code if isinstance(code, dict) else {}).items():
            modules.setdefault((module, _file_of(module, arm, study)), {})[name] = code_hash
    for (module, _), hashes_of in modules.items():
        found += odd(f"code of {module}", hashes_of)
    return list(dict.fromkeys(found))


def _file_of(module: str, arm: str, study: dict[str, Any]) -> str:
    """Return which file an arm means by a user's part (``family file.py:NAME``), as far as the study says."""
    label = module.partition(" ")[2]
    if not label:  # a module of vqseg
        return ""
    own = next((row.get("overrides") or {} for row in study["arms"] if row["label"] == arm), {})
    for settings in (own, study.get("overrides") or {}, study.get("base_config") or {}):
        named = [text for text in _texts(settings) if text == label or text.endswith(f"/{label}")]
        if named:
            return named[0]
    return ""


def _texts(settings: Any) -> Iterator[str]:
    if isinstance(settings, str):
        yield settings
    inner = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    for value in inner:
        yield from _texts(value)


def odd(what: str, values: Mapping[str, Any]) -> list[str]:
    """Return in words which runs differ in ``what``, given by run; empty if none do."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(str(value), []).append(name)
    if len(groups) < 2:
        return []
    ranked = sorted(groups.items(), key=lambda item: -len(item[1]))[:2]
    (one, ones), (other, others) = ranked
    return [f"{what} {one} ({ones[0]!r} and {len(ones) - 1} more) against {other} ({others[0]!r})"]
