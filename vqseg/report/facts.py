"""What a row of a table says besides its scores: the prior it uses, steps, labelled patients, pretrained weights.

What nobody knows is `?`: a rival that was scored from its predictions tells only what its user told. What the built-in
priors were trained on stands in ``reports/priors.yaml``, with its source.
"""

import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from vqseg import assets
from vqseg.errors import InputError
from vqseg.files import read_json, read_yaml
from vqseg.records.run import RunFolder
from vqseg.report import rivals
from vqseg.report.selection import Selection

FACTS = {"steps": "steps", "labelled": "labelled patients", "pretrained": "pretrained"}
UNKNOWN = "?"
FROM_SCRATCH = ("unet",)
"""Encoders without weights of anybody's."""

TRAINED_HERE = "local"
"""The prior that saw nothing but the data set's own training images."""


class Pretraining(NamedTuple):
    """What a prior was trained on, its frozen parameters in millions (NaN if they are not known), and who says so."""

    domain: str
    trained_on: str
    parameters_m: float
    source: str


@cache
def pretraining() -> dict[str, Pretraining]:
    """Return what is known of the built-in priors, by name."""
    told = read_yaml(assets.folder("reports") / "priors.yaml")
    return {
        name: Pretraining(**{**row, "parameters_m": float(row["parameters_m"] or "nan")}) for name, row in told.items()
    }


def local_priors(store: Path, data: str) -> list[dict[str, Any]]:
    """Return what the store tells of the priors that were trained on the data of digest ``data``.

    ``parameters_m`` is counted in the file, ``train_seconds`` is what the training took, once for all runs.
    """
    from safetensors import safe_open

    found = []
    for path in sorted((store / "priors").glob("*/prior.json")):
        told = read_json(path)
        if (told.get("data") or {}).get("digest") != data:
            continue
        with safe_open(path.with_name("model.safetensors"), framework="numpy") as file:
            count = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        found.append({**told, "parameters_m": count / 1e6})
    return found


def prior_of(selection: Selection, arm: str) -> str:
    """Return the name of the prior that an arm of the study is aligned with, empty if none."""
    overrides = selection.of_arm.get(arm, {}).get("overrides") or {}
    base = (selection.study.get("base_config") or {}).get("prior")
    value = overrides.get("prior", overrides.get("prior.name", base))
    name = value.get("name") if isinstance(value, dict) else value
    # A part of the user's own is named by its file, of which the folder tells nothing here.
    return "" if name in (None, "none") else str(name).rpartition("/")[2]


def label_of(selection: Selection, arm: str, *, ticks: str = "") -> str:
    """Return a row's label: the reference is named as such, a rival marked, and a row that uses PFA names its prior.

    Unless the words of its ``ticks`` do.
    """
    if arm in selection.rivals.names:
        return f"{arm} {rivals.MARK}"
    prior = prior_of(selection, arm)
    words = f"{arm} (prior {prior})" if prior and prior not in f"{arm} {ticks}" else arm
    return f"{words} (reference)" if arm == selection.reference else words


def fact(selection: Selection, arm: str, key: str) -> str:
    """Return steps, labelled patients or pretrained weights of a row in words; `?` where unknown."""
    own = selection.by_arm.get(arm, selection.cells[:0])
    if key == "steps":
        return _listed(_value(run, "steps") for run in own.to_dict("records"))
    if key == "labelled":
        return _listed(_labelled(run) for run in own.to_dict("records"))
    return _listed(_pretrained(selection, run) for run in own.to_dict("records"))


def footnotes(selection: Selection) -> list[str]:
    """Return one line per rival: that it was scored from its predictions, and what is known of it."""
    lines = []
    for name in selection.rivals.names:
        cells = selection.rivals.cells
        own, scores = cells[cells["arm"] == name], selection.rivals.scores
        told = ", ".join(f"{FACTS[key]} {fact(selection, name, key)}" for key in FACTS)
        cases, all_cases = scores.loc[scores["arm"] == name, "case"].nunique(), selection.headline["case"].nunique()
        less = f"; {cases} of {all_cases} cases" if cases < all_cases else ""
        paired = "paired with the reference's in order"
        if len(own) < len(theirs := _seeds_of_reference(selection)):
            first = ", ".join(str(seed) for seed in theirs[: len(own)])
            paired = f"held against the reference's seed{'s' if len(own) > 1 else ''} {first} alone"
        lines.append(
            f"{rivals.MARK} {name}: scored from its predictions, run elsewhere; seeds {_listed(own['said'])}, "
            f"{paired}; {told}, preset ?, code ?{less}."
        )
    return lines


def _seeds_of_reference(selection: Selection) -> list[int]:
    own = selection.headline
    return sorted(int(seed) for seed in own.loc[own["arm"] == selection.reference, "seed"].unique())


def _labelled(run: dict[Any, Any]) -> str:
    if run.get("kind") == "foreign":
        return _value(run, "labelled")
    return "all" if run.get("labels") == "all" else _value(run, "split.parts.labelled.patients")


def _pretrained(selection: Selection, run: dict[Any, Any]) -> str:
    said = _value(run, "pretrained")
    if said != UNKNOWN or run.get("kind") == "foreign":
        return {"True": "yes", "False": "no"}.get(said, said)
    prior = prior_of(selection, str(run["arm"]))
    theirs = [f"prior {prior}"] if prior not in ("", TRAINED_HERE) else []
    encoder = _encoder(selection, str(run["identity"]))
    return ", ".join([encoder, *theirs] if encoder != "no" or not theirs else theirs)


def _encoder(selection: Selection, identity: str) -> str:
    """Return the weights that a run's encoder started from, ``no`` if none, `?` where its config does not say."""
    try:
        encoder = RunFolder(selection.store, identity).config()["network"]["encoder"]
    except (InputError, KeyError, TypeError):
        return UNKNOWN
    encoder = encoder if isinstance(encoder, dict) else {"name": encoder}
    if encoder.get("weights"):
        return str(encoder["weights"]).rstrip("/").rpartition("/")[2]
    return "no" if encoder.get("name") in FROM_SCRATCH else UNKNOWN


def _value(run: dict[Any, Any], key: str) -> str:
    value = run.get(key)
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return UNKNOWN
    return f"{value:,.0f}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or UNKNOWN
