"""Strata: what patients are counted by where a draw has to keep proportions, and the order that keeps them.

A column is one of the manifest's attributes, which came with a table, or one that the masks give: ``class:NAME``
(whether any scan of the patient shows the class) or ``foreground`` (a quarter of the patients by their share of
foreground). Those two count every mask, the hidden ones too: a benchmark may, a real labelling budget could not.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from vqseg.errors import InputError, nearest, pick
from vqseg.manifest import Manifest

# Numbers of more different values than this are cut into quarters, or every patient would be a stratum.
MOST_VALUES = 8
FOREGROUND = "foreground"
CLASS = "class:"


def strata(manifest: Manifest, column: str) -> dict[str, str]:
    """Return the stratum of every patient; "" where the column says nothing about one.

    Raises:
        InputError: no such column or class, or no mask to count.
    """
    held = {patient: manifest.attributes.get(patient, {}).get(column, "") for patient in manifest.patients}
    if any(held.values()):
        return _few(held)
    if column.startswith(CLASS):
        return _presence(manifest, pick(column.removeprefix(CLASS), manifest.classes[1:], f"class of {manifest.name}"))
    if column == FOREGROUND:
        shares = {patient: counts[1:].sum() / counts.sum() for patient, counts in _voxels(manifest, column).items()}
        return {**dict.fromkeys(manifest.patients, ""), **_quarters(shares)}
    known = sorted({name for columns in manifest.attributes.values() for name in columns})
    special = [*(CLASS + name for name in manifest.classes[1:]), FOREGROUND]
    near = nearest(column, [*known, *special])
    raise InputError(
        f"--stratify {column}: no such column{near}; the data has {', '.join(known) or 'none of a table'},"
        f" its masks give {', '.join(special)}"
    )


def interleaved(patients: Sequence[str], stratum_of: Mapping[str, str]) -> list[str]:
    """Reorder patients so that every beginning of the list holds each stratum within one of its share.

    Within a stratum the order stays; with one stratum nothing changes.

    Source: R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32, 1980.
    """
    waiting: dict[str, list[str]] = {}
    for patient in patients:
        waiting.setdefault(stratum_of.get(patient, ""), []).append(patient)
    if len(waiting) < 2:
        return list(patients)
    sizes = {stratum: len(waiting[stratum]) for stratum in sorted(waiting)}
    slack = Fraction(1, 2 * len(sizes) - 2)
    taken = dict.fromkeys(sizes, 0)
    order = []
    for place in range(1, len(patients) + 1):
        behind = {name: Fraction(place * size, len(patients)) - taken[name] for name, size in sizes.items()}
        due = [name for name in sizes if behind[name] >= slack]
        # The one whose share would first be missed by more than allowed.
        chosen = min(due, key=lambda name: (1 - slack - behind[name]) / sizes[name])
        order.append(waiting[chosen][taken[chosen]])
        taken[chosen] += 1
    return order


def _few(held: dict[str, str]) -> dict[str, str]:
    """Return the values as they are, or quarters of numbers that take many of them."""
    known = {patient: value for patient, value in held.items() if value}
    if len(set(known.values())) <= MOST_VALUES:
        return held
    try:
        numbers = {patient: float(value) for patient, value in known.items()}
    except ValueError:
        return held
    return {**held, **_quarters(numbers)}


def _quarters(numbers: Mapping[str, float]) -> dict[str, str]:
    edges = np.quantile(list(numbers.values()), [0.25, 0.5, 0.75])
    return {patient: f"quarter {np.searchsorted(edges, number) + 1}" for patient, number in numbers.items()}


def _presence(manifest: Manifest, name: str) -> dict[str, str]:
    counts, index = _voxels(manifest, CLASS + name), manifest.classes.index(name)
    return {
        patient: "" if patient not in counts else "shows it" if counts[patient][index] else "does not"
        for patient in manifest.patients
    }


def _voxels(manifest: Manifest, column: str) -> dict[str, np.ndarray]:
    """Return the class voxel counts (K,) of every patient with a mask."""
    counts: dict[str, np.ndarray] = {}
    for scan in manifest.scans:
        if scan.class_voxels is not None:
            counts[scan.patient] = counts.get(scan.patient, 0) + np.array(scan.class_voxels)
    if not counts:
        raise InputError(f"--stratify {column}: the data has no mask to count; stratify by a column of a table")
    return counts
