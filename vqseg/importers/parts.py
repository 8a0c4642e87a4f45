"""The first split of a set that came without one: seeded draws of patients, only those with masks where masks count.

Source parts stay: patients of the source's own test part are the test part. Val and test are shares of the patients
with masks (or counts of them), the labelled patients are drawn from the rest, and everybody else is unlabelled.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from vqseg import splits
from vqseg.errors import InputError
from vqseg.manifest import Manifest, Scan, Split, annotated

SHARES = {"val": 0.1, "test": 0.2}
SEED = 0
LABELLED = "10%"


class Wanted(NamedTuple):
    """The options: labelled patients (a number, a share, ``all``), val and test (shares or numbers of patients).

    None: 10 %, or all with masks where there are patients without; 10 %; 20 %, unless the source has a test part.
    """

    labelled: str | None
    val: float | None
    test: float | None


def first(manifest: Manifest, *, tests: Sequence[str], wanted: Wanted) -> list[Split]:
    """Return the splits with all masks used and with ``wanted.labelled`` patients, the second one to be the default.

    Without any mask there is one split, all unlabelled.

    Raises:
        InputError: numbers that the patients with masks do not suffice for.
    """
    apart = held_out(manifest, tests, wanted)
    usable, double = splits.masked(manifest), splits.twins(manifest)
    scored = {patient for patients in apart.values() for patient in patients}
    leaking = [who for who in manifest.patients if who not in scored and double.get(who, set()) & scored]
    pool = [patient for patient in manifest.patients if patient not in scored and patient not in leaking]
    base = Split(name="source", data=manifest.digest, parts={"unlabelled": pool, **apart})
    if not usable & set(pool):
        return [base.model_copy(update={"name": "unlabelled", "note": "nobody can train: no patient has masks"})]
    made = []
    default = "all" if set(pool) - usable else LABELLED
    for labelled in dict.fromkeys(["all", wanted.labelled or default]):
        split = splits.draw(manifest, base, name="source", labelled=labelled, seed=SEED)
        name = f"labelled-{'all' if labelled == 'all' else len(split.parts['labelled'])}"
        out = f"; left out, the same images as one of val or test: {', '.join(leaking)}" if leaking else ""
        note = annotated(split.note + out, manifest.intake, split.parts)
        made.append(split.model_copy(update={"name": name, "note": note}))
    return made


def held_out(manifest: Manifest, tests: Sequence[str], wanted: Wanted) -> dict[str, list[str]]:
    """Return the patients of val and test.

    Raises:
        InputError: a number out of range, more than there are, or a test part that the source has already.
    """
    if tests and wanted.test is not None:
        raise InputError(f"--test {wanted.test:g}: the source has a test part already; leave the option out")
    double, usable = splits.twins(manifest), splits.masked(manifest)
    own = {patient for one in tests for patient in (one, *double.get(one, set()))}
    pool = [patient for patient in manifest.patients if patient not in own]
    having = [patient for patient in pool if patient in usable]
    known = list(dict.fromkeys(tests))
    fixed = {"test": known} if known else {}
    if not having:
        return fixed
    counts = {"val": _number("val", wanted.val, len(having))}
    if not tests:
        counts["test"] = _number("test", wanted.test, len(having))
    if sum(counts.values()) >= len(having):
        asked = " and ".join(f"{count} for {part}" for part, count in counts.items())
        what = f"{len(having)} patients with masks do not suffice for {asked} and one to train on"
        raise InputError(f"--val, --test: {what}; add masks, or give smaller numbers (0: no such part)")
    base = Split(name="source", data=manifest.digest, parts={"unlabelled": pool})
    shares = {part: count / len(pool) if count else None for part, count in counts.items()}
    drawn = splits.draw(
        manifest, base, name="source", labelled="all", seed=SEED, val=shares["val"], test=shares.get("test")
    )
    return {**{part: drawn.parts[part] for part, count in counts.items() if count}, **fixed}


def not_yet(scans: Sequence[Scan]) -> Manifest:
    """Return the manifest of `stand_in` scans, to draw a split for what is not written yet."""
    return Manifest(name="drawn", classes=["", ""], source={}, default_split="", scans=list(scans))


def stand_in(scan: str, patient: str, sha256: str, *, masked: bool, constant: bool = False) -> Scan:
    """Return a scan that is not written yet, with all that a draw asks for."""
    mask = "drawn" if masked else None
    return Scan(
        scan=scan,
        patient=patient,
        slices=[],
        shape=(1, 1, 1),
        image="",
        image_sha256=sha256,
        range=(0.0, 0.0),
        constant=constant,
        mask=mask,
    )


def _number(part: str, given: float | None, total: int) -> int:
    """Return how many of ``total`` patients a share, or a number from 1 on, asks for."""
    share = SHARES[part] if given is None else given
    if share == 0:
        return 0
    if 0 < share < 1:
        return max(1, round(total * share))
    if math.isfinite(share) and share == int(share) and share > 0:
        return int(share)
    raise InputError(f"--{part} {share:g}: expected a share between 0 and 1, or a number of patients")
