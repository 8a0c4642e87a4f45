"""What the runs of one table must agree in, and what differs between them.

A table agrees in data, split, step budget, labelled patients, preset, precision, scoring and the hash of every code
module that two runs share, unless the study declares the difference: a setting is declared where the study's arms
differ in it, whether they set it by itself or with the section that it lies in. An arm that is a whole preset so
declares the preset, its steps and whichever parts it names; but code that two runs share is never declared, because a
study varies settings and not code. Arms that name different files of the user's declare one, whatever the files are
called. Part and protocol are one by construction: a table is made of one.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd


class Matter(NamedTuple):
    """Something that runs agree in: its column of `index.frame`, its name, and the setting that declares it."""

    column: str
    words: str
    key: str | None = None


AGREE = (
    Matter("data.digest", "data"),
    Matter("split.digest", "split"),
    Matter("steps", "steps", "train.steps"),
    Matter("labels", "labels", "data.labels"),
    Matter("split.parts.labelled.patients", "labelled patients", "data.labelled_share"),
    Matter("preset", "preset", "preset"),
    Matter("scoring", "scoring code"),
    Matter("provenance.precision", "precision", "train.precision"),
)
UNSET = "unset"


def disagreements(runs: pd.DataFrame, scores: pd.DataFrame, study: dict[str, Any]) -> list[str]:
    """Return in words what differs between runs though the study does not declare it.

    Args:
        runs: rows of `index.frame` with ``name`` and ``arm``.
        scores: their scored rows: ``identity``, ``scoring``.
        study: its record.
    """
    found = []
    for column, words, key in AGREE:
        if column in runs and not (key and declares(study, key)):
            found += odd(words, dict(zip(runs["name"], runs[column])))
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


def declares(study: Mapping[str, Any], key: str) -> bool:
    """Whether a study declares a setting: its arms differ in the value that it has there."""
    base = study.get("base_config") or {}
    values = [_setting(arm.get("overrides") or {}, base, key) for arm in study["arms"]]
    return any(value != values[0] for value in values[1:])


def _setting(overrides: Mapping[str, Any], base: Mapping[str, Any], key: str) -> Any:
    """Return what holds at a dotted key: the last override of it or of a section around it, else the base config."""
    value = _at(base, key)
    for other, given in overrides.items():
        if other == key:
            value = given
        elif key.startswith(f"{other}."):
            value = _at(given, key[len(other) + 1 :])
    return value


def _at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name, UNSET) if isinstance(tree, Mapping) else UNSET
    return tree


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
        groups.setdefault(_said(value), []).append(name)
    if len(groups) < 2:
        return []
    ranked = sorted(groups.items(), key=lambda item: -len(item[1]))[:2]
    (one, ones), (other, others) = ranked
    return [f"{what} {one} ({ones[0]!r} and {len(ones) - 1} more) against {other} ({others[0]!r})"]


def _said(value: Any) -> str:
    """Return a value in words: what is not known is a question mark, and so differs from what is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "?"
    return f"{value:g}" if isinstance(value, float) else str(value)
