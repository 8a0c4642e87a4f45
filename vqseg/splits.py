"""Splits by patient: the first N of a list, a seeded draw, or a file from elsewhere; a patient is in one part only.

The order of patients is the manifest's, which keeps the source list's. Existing splits are never
changed: the same content is left alone, other content under the same name is refused.

A split is shared as its file, ``splits/NAME.json``: it holds the digest of the data that it was made for, and
`receive` takes it into another prepared folder of the same data.
"""

import random
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from pydantic import ValidationError

from vqseg.errors import InputError, require_name
from vqseg.files import read_json
from vqseg.manifest import PARTS, Manifest, Split, annotated, read_manifest, read_split, write_split
from vqseg.strata import interleaved, strata

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
        if scan.constant:
            continue
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


def require_apart(manifest: Manifest, parts: Mapping[str, Sequence[str]], where: object, do: str) -> None:
    """Refuse parts that leak or that name patients whom the data does not have; nothing is read for it.

    Raises:
        InputError: an unknown patient, one that stands twice, or twins in two parts; with ``where`` and what to ``do``.
    """
    known, double = set(manifest.patients), twins(manifest)
    for part, patients in parts.items():
        if strangers := [patient for patient in patients if patient not in known]:
            raise InputError(f"{where}: patient {strangers[0]!r} of part {part} is not in the data; {do}")
        if len(set(patients)) < len(patients):
            twice = next(patient for patient in patients if patients.count(patient) > 1)
            raise InputError(f"{where}: part {part} names patient {twice!r} twice; {do}")
    for (first, here), (second, there) in combinations(parts.items(), 2):
        if both := sorted(set(here) & set(there)):
            what = f"patient {both[0]!r} is in both {first} and {second}"
            raise InputError(f"{where}: leakage: {what}; a patient may be in one part only: {do}")
        for patient in here:
            if same := sorted(double.get(patient, set()) & set(there)):
                what = f"patients {patient!r} ({first}) and {same[0]!r} ({second}) have the same images"
                raise InputError(f"{where}: leakage: {what}; {do}")


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


def require_split_name(name: str) -> str:
    """Return a name that a split may have.

    Raises:
        InputError: it is no name, or that of a part, which ``--split`` would then mean.
    """
    if name in PARTS:
        raise InputError(f"split {name!r}: is called as a part is; choose another name")
    return require_name(name)


def refuse_change(root: Path, split: Split, *, do: str = "choose another name, or delete the file") -> None:
    """Refuse to put ``split`` where another one of its name lies.

    Raises:
        InputError: the name is taken by other content; with what to ``do``.
    """
    path = root / "splits" / f"{split.name}.json"
    if path.exists() and not same_split(root, split):
        raise InputError(f"{path}: is of other patients or other data; {do}")


def write_new(root: Path, manifest: Manifest, made: Sequence[Split]) -> list[tuple[Split, bool]]:
    """Write those of ``made`` that are not there yet; return each with whether it was written.

    Notes say whose volumes the intensity percentiles have seen, of those to be scored.

    Raises:
        InputError: a name is taken by other content; then none is written.
    """
    told = [annotated(split.note, manifest.intake, split.parts) for split in made]
    new = [(split.model_copy(update={"note": note}), not same_split(root, split)) for split, note in zip(made, told)]
    for split in made:
        refuse_change(root, split)
    for split, missing in new:
        if missing:
            write_split(root, split)
    return new


def receive(root: Path, file: Path, name: str | None = None) -> tuple[Split, bool]:
    """Take a split that was made elsewhere for the same data into ``root``, under its own name or another.

    Returns:
        The split, and whether it was written (False: it was there already, with the same content).

    Raises:
        InputError: ``file`` is no split, was made for other data, leaks, scores patients without masks, or its name
            is taken by other content.
    """
    manifest = read_manifest(root)
    try:
        split = Split.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{file}: not a split: {key}: {first['msg'].lower()}; expected a splits/NAME.json") from None
    if split.data != manifest.digest:
        do = "import the same source with the same options, or make a split of this data"
        raise InputError(f"{file}: made for data {split.data}, but {root} is {manifest.digest}; {do}")
    if unknown := sorted(set(split.parts) - set(PARTS)):
        raise InputError(f"{file}: unknown part {unknown[0]!r}; known: {', '.join(PARTS)}")
    require_apart(manifest, split.parts, file, "ask for a sound file")
    usable = masked(manifest)
    for part, patients in split.parts.items():
        if part != "unlabelled" and (bare := [patient for patient in patients if patient not in usable]):
            raise InputError(f"{file}: patient {bare[0]!r} of part {part} has no mask; ask for a sound file")
    return write_new(root, manifest, [split.model_copy(update={"name": require_split_name(name or split.name)})])[0]


def add(
    root: Path,
    *,
    name: str,
    labelled: str,
    seed: int | None = None,
    val: float | None = None,
    test: float | None = None,
    base: str | None = None,
    stratify: str | None = None,
) -> tuple[Split, bool]:
    """Draw a split (see `draw`) from ``base``, the default one if none is named, and write it to ``root``.

    Returns:
        The split, and whether it was written (False: it was there already, with the same content).

    Raises:
        InputError: the name is taken by other content, or the draw is impossible.
    """
    require_split_name(name)
    manifest = read_manifest(root)
    made = draw(
        manifest,
        read_split(root, manifest, base),
        name=name,
        labelled=labelled,
        seed=seed,
        val=val,
        test=test,
        stratify=stratify,
    )
    return write_new(root, manifest, [made])[0]


def draw(
    manifest: Manifest,
    base: Split,
    *,
    name: str,
    labelled: str,
    seed: int | str | None = None,
    val: float | None = None,
    test: float | None = None,
    stratify: str | None = None,
) -> Split:
    """Draw a new split from ``base``.

    The pool is the base's labelled and unlabelled patients; val, test and devtest stay as they are. With
    ``val`` or ``test`` (a share of all patients of the base) that part's patients join the pool and the part is
    taken anew from it. Only patients whose scans all have masks can be labelled, val or test; ``labelled="all"`` are
    all of those.
    Without ``seed`` patients are taken in the manifest's order (val and test from its end). With ``stratify`` (see
    `vqseg.strata`) each part that is drawn holds every stratum within one patient of its share of what it is drawn
    from. Patients with a twin are not taken into val or test, and a labelled patient's twin is left out.

    Raises:
        InputError: a number out of range, too few patients with masks, or a base that leaks.
    """
    parts = {part: list(patients) for part, patients in base.parts.items() if patients}
    total = sum(len(patients) for patients in parts.values())
    pool = _freed(parts, "labelled", "unlabelled")
    if val is not None:
        pool |= _freed(parts, "val")
    if test is not None:
        pool |= _freed(parts, "test", "devtest")
    do = "start from another split with --from, or draw that part anew with --val or --test"
    require_apart(manifest, {**parts, "the pool to draw from": sorted(pool)}, f"split {base.name!r}", do)
    usable = masked(manifest)
    order = [patient for patient in manifest.patients if patient in pool and patient in usable]
    if seed is not None:
        # Sorting first makes the draw a function of the names alone, not of the source's list order.
        order = sorted(order)
        random.Random(f"vqseg split {seed}").shuffle(order)
    double, stratum_of = twins(manifest), strata(manifest, stratify) if stratify else {}
    for part, share in (("test", test), ("val", val)):
        if share is not None:
            single = interleaved([patient for patient in order if patient not in double], stratum_of)
            parts[part] = single[len(single) - _share(part, share, total, len(single)) :]
            order = [patient for patient in order if patient not in parts[part]]
    order = interleaved(order, stratum_of)
    count = _count(labelled, len(pool) - sum(p in pool for part in parts.values() for p in part), len(order))
    taken = {*order[:count], *(p for part in parts.values() for p in part)}
    rank = {patient: place for place, patient in enumerate(manifest.patients)}
    kept = {part: sorted(patients, key=rank.__getitem__) for part, patients in parts.items()}
    rest, left_out = _apart(manifest, order[:count], sorted(pool - taken, key=rank.__getitem__))
    how = "the first in list order" if seed is None else f"drawn with seed {seed}"
    how += f", stratified by {stratify}" if stratify else ""
    note = f"{count} labelled patients, {how}, from {base.name!r}" + (f"; {left_out}" if left_out else "")
    new = {"labelled": order[:count], "unlabelled": rest, **kept}
    return Split(name=name, data=manifest.digest, parts=new, note=note)


def _freed(parts: dict[str, list[str]], *names: str) -> set[str]:
    return {patient for name in names for patient in parts.pop(name, [])}


def masked(manifest: Manifest) -> set[str]:
    """Return the patients whose scans all have masks."""
    bare = {scan.patient for scan in manifest.scans if scan.mask is None}
    return set(manifest.patients) - bare


def _count(labelled: str, total: int, available: int) -> int:
    """Return how many patients to label, of ``available`` ones with masks among ``total``."""
    count = available if labelled == "all" else labelled_count(labelled, total)
    if count > available or not available:
        raise InputError(f"--labelled {labelled}: asks for {count} patients, only {available} have masks")
    return count


def _share(part: str, share: float, total: int, available: int) -> int:
    if not 0 < share < 1:
        raise InputError(f"--{part} {share:g}: expected a share between 0 and 1")
    count = max(1, round(total * share))
    if count >= available:
        raise InputError(
            f"--{part} {share:g}: asks for {count} patients with masks, {available} are there to draw from"
        )
    return count
