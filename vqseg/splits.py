"""Splits by patient: the first N of a list, or a seeded draw; a patient is in one part only.

The order of patients is the manifest's, which keeps the source list's. Existing splits are never
changed: the same content is left alone, other content under the same name is refused.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path

from vqseg.errors import InputError, require_name
from vqseg.files import read_json
from vqseg.manifest import Manifest, Split, read_manifest, read_split, write_split

HELD_OUT = 20


def labelled_count(text: str, total: int, *, what: str = "--labelled") -> int:
    """Return how many of ``total`` patients ``text`` asks for: ``7``, ``10%`` (at least one) or ``all``.

    Raises:
        InputError: not of these forms, or not within 1 .. ``total``.
    """
    if text == "all":
        return total
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)%", text):
        share = float(match[1])
        if 0 < share <= 100:
            return max(1, round(total * share / 100))
    elif text.isdigit() and 1 <= int(text) <= total:
        return int(text)
    raise InputError(f"{what} {text}: expected 1 to {total} patients, a share such as 10%, or 'all'")


def twins(manifest: Manifest) -> dict[str, set[str]]:
    """Return, for every patient that shares a whole scan's image with others, those others.

    It happens in published data: ACDC's patient074 and patient076 have the same images and two sets of masks.
    """
    owners: dict[str, set[str]] = {}
    for scan in manifest.scans:
        owners.setdefault(scan.image_sha256, set()).add(scan.patient)
    found: dict[str, set[str]] = {}
    for same in owners.values():
        for patient in same:
            found.setdefault(patient, set()).update(same - {patient})
    return {patient: others for patient, others in found.items() if others}


def first(
    manifest: Manifest, name: str, train: Sequence[str], count: int, others: dict[str, list[str]], note: str = ""
) -> Split:
    """Return the split whose labelled patients are the first ``count`` of ``train``, the rest unlabelled."""
    unlabelled, left_out = _apart(manifest, train[:count], train[count:])
    parts = {"labelled": list(train[:count]), "unlabelled": unlabelled, **others}
    return Split(name=name, data=manifest.digest, parts=parts, note="; ".join(filter(None, [note, left_out])))


def hold_out(manifest: Manifest, train: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide training patients into those that stay and those held out where no test scans exist.

    Held out are the last 20 (two sevenths of fewer than 70) of those without a twin: a twin left behind would leak.
    """
    count = min(HELD_OUT, len(train) * 2 // 7)
    double = twins(manifest)
    single = [patient for patient in train if patient not in double]
    held = single[len(single) - count :]
    return [patient for patient in train if patient not in held], held


def _apart(manifest: Manifest, labelled: Sequence[str], rest: Sequence[str]) -> tuple[list[str], str]:
    """Return ``rest`` without the twins of labelled patients, and a note on who was left out."""
    double = twins(manifest)
    out = [patient for patient in rest if double.get(patient, set()) & set(labelled)]
    note = f"left out, the same images as a labelled patient: {', '.join(out)}" if out else ""
    return [patient for patient in rest if patient not in out], note


def same_split(root: Path, split: Split) -> bool:
    """Whether ``splits/NAME.json`` is already there with the same parts for the same data."""
    path = root / "splits" / f"{split.name}.json"
    if not path.is_file():
        return False
    held = read_json(path)
    return isinstance(held, dict) and (held.get("data"), held.get("parts")) == (split.data, split.parts)


def refuse_change(root: Path, split: Split) -> None:
    """Refuse to put ``split`` where another one of its name lies.

    Raises:
        InputError: the name is taken by other content.
    """
    path = root / "splits" / f"{split.name}.json"
    if path.exists() and not same_split(root, split):
        raise InputError(f"{path}: is of other patients or other data; choose another name, or delete the file")


def add(
    root: Path,
    *,
    name: str,
    labelled: str,
    seed: int | None = None,
    val: float | None = None,
    test: float | None = None,
    base: str | None = None,
) -> tuple[Split, bool]:
    """Draw a split (see `draw`) from ``base``, the default one if none is named, and write it to ``root``.

    Returns:
        The split, and whether it was written (False: it was there already, with the same content).

    Raises:
        InputError: the name is taken by other content, or the draw is impossible.
    """
    require_name(name)
    manifest = read_manifest(root)
    made = draw(manifest, read_split(root, manifest, base), name=name, labelled=labelled, seed=seed, val=val, test=test)
    if same_split(root, made):
        return made, False
    refuse_change(root, made)
    write_split(root, made)
    return made, True


def draw(
    manifest: Manifest,
    base: Split,
    *,
    name: str,
    labelled: str,
    seed: int | None = None,
    val: float | None = None,
    test: float | None = None,
) -> Split:
    """Draw a new split from ``base``.

    The pool is the base's labelled and unlabelled patients; val, test and devtest stay as they are. With
    ``val`` or ``test`` (a share of all patients of the base) that part's patients join the pool and the part is
    taken anew from it. Only patients whose scans all have masks can be labelled, val or test.
    Without ``seed`` patients are taken in the manifest's order (val and test from its end). Patients with a twin are
    not taken into val or test, and a labelled patient's twin is left out.

    Raises:
        InputError: a number out of range, or too few patients with masks.
    """
    parts = {part: list(patients) for part, patients in base.parts.items() if patients}
    total = sum(len(patients) for patients in parts.values())
    pool = _freed(parts, "labelled", "unlabelled")
    if val is not None:
        pool |= _freed(parts, "val")
    if test is not None:
        pool |= _freed(parts, "test", "devtest")
    masked = _masked(manifest)
    order = [patient for patient in manifest.patients if patient in pool and patient in masked]
    if seed is not None:
        # Sorting first makes the draw a function of the names alone, not of the source's list order.
        order = sorted(order)
        random.Random(f"vqseg split {seed}").shuffle(order)
    double = twins(manifest)
    for part, share in (("test", test), ("val", val)):
        if share is not None:
            single = [patient for patient in order if patient not in double]
            parts[part] = single[len(single) - _share(part, share, total, len(single)) :]
            order = [patient for patient in order if patient not in parts[part]]
    count = labelled_count(labelled, len(pool) - sum(p in pool for part in parts.values() for p in part))
    if count > len(order):
        raise InputError(f"--labelled {labelled}: asks for {count} patients, only {len(order)} have masks")
    taken = {*order[:count], *(p for part in parts.values() for p in part)}
    rank = {patient: place for place, patient in enumerate(manifest.patients)}
    kept = {part: sorted(patients, key=rank.__getitem__) for part, patients in parts.items()}
    rest, left_out = _apart(manifest, order[:count], sorted(pool - taken, key=rank.__getitem__))
    how = "the first in list order" if seed is None else f"drawn with seed {seed}"
    note = f"{count} labelled patients, {how}, from {base.name!r}" + (f"; {left_out}" if left_out else "")
    new = {"labelled": order[:count], "unlabelled": rest, **kept}
    return Split(name=name, data=manifest.digest, parts=new, note=note)


def _freed(parts: dict[str, list[str]], *names: str) -> set[str]:
    return {patient for name in names for patient in parts.pop(name, [])}


def _masked(manifest: Manifest) -> set[str]:
    bare = {scan.patient for scan in manifest.scans if scan.mask is None}
    return set(manifest.patients) - bare


def _share(part: str, share: float, total: int, available: int) -> int:
    if not 0 < share < 1:
        raise InputError(f"--{part} {share:g}: expected a share between 0 and 1")
    count = max(1, round(total * share))
    if count >= available:
        raise InputError(
            f"--{part} {share:g}: asks for {count} patients with masks, {available} are there to draw from"
        )
    return count
