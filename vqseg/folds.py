"""K-fold cross-validation as K splits: every patient of the pool is held out in exactly one of them.

The rule. The pool is the base's labelled, unlabelled and val patients, its test part too if asked for. Where no test
part stays behind, fold k is the test part of split k, and a val part to select on is drawn from the rest. Where one
stays, it is the test part of all K splits, and fold k is the val part of split k. Labelled patients are drawn from the
rest. Only patients whose scans all have masks are dealt; the others are unlabelled in every split.

Folds differ by at most one patient, in all and in every stratum, except where twins (patients with the same images)
weigh on one: they share a fold.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vqseg.errors import InputError, require_name
from vqseg.manifest import Manifest, Split, read_manifest, read_split
from vqseg.splits import draw, masked, require_apart, twins, write_new
from vqseg.strata import strata

VAL_SHARE = 0.1


def add(
    root: Path,
    *,
    name: str,
    count: int,
    labelled: str,
    seed: int | None = None,
    val: float | None = None,
    base: str | None = None,
    stratify: str | None = None,
    pool_test: bool = False,
) -> list[tuple[Split, bool]]:
    """Make ``NAME-1`` to ``NAME-count`` (see `folds`) from the split ``base`` and write those that are not there yet.

    Returns:
        Each split, and whether it was written (False: it was there already, with the same content).

    Raises:
        InputError: a name is taken by other content (then none is written), or the folds are impossible.
    """
    require_name(name)
    manifest = read_manifest(root)
    made = folds(
        manifest,
        read_split(root, manifest, base),
        name=name,
        count=count,
        labelled=labelled,
        seed=seed,
        val=val,
        stratify=stratify,
        pool_test=pool_test,
    )
    return write_new(root, manifest, made)


def folds(
    manifest: Manifest,
    base: Split,
    *,
    name: str,
    count: int,
    labelled: str,
    seed: int | None = None,
    val: float | None = None,
    stratify: str | None = None,
    pool_test: bool = False,
) -> list[Split]:
    """Return ``count`` splits by the rule above.

    Args:
        labelled: how many patients of what a fold leaves: a number, a share (``10%``) or ``all``.
        seed: of the dealing, and of each split's own draw of val and labelled; without it, list order.
        val: share (0-1) of all patients to select on where the fold is the test part, by default .1.
        stratify: the column that keeps its proportions in folds, val and labelled; see `vqseg.strata`.
        pool_test: whether the base's test part joins the pool, so that its patients are held out in turn.

    Raises:
        InputError: a number out of range, too few patients with masks, or a base that leaks.
    """
    parts = {part: list(patients) for part, patients in base.parts.items() if patients}
    freed = ("labelled", "unlabelled", "val", *(("test", "devtest") if pool_test else ()))
    kept = {part: patients for part, patients in parts.items() if part not in freed}
    pool = list(dict.fromkeys(patient for part in freed for patient in parts.get(part, [])))
    require_apart(
        manifest,
        {**kept, "the pool to draw from": pool},
        f"split {base.name!r}",
        "start from another split with --from",
    )
    role = "val" if kept else "test"
    if kept and val is not None:
        raise InputError(f"--val {val:g}: the fold itself is val, since {base.name!r} has a test part; leave it out")
    double = twins(manifest)
    dealt = _dealt(_order(manifest, pool, seed), count, double, strata(manifest, stratify) if stratify else {})
    made = []
    for number, fold in enumerate(dealt, 1):
        away = {*fold, *(other for patient in fold for other in double.get(patient, ()))}
        rest = [patient for patient in pool if patient not in away]
        split = draw(
            manifest,
            base.model_copy(update={"parts": {"unlabelled": rest, **kept, role: fold}}),
            name=f"{name}-{number}",
            labelled=labelled,
            seed=None if seed is None else f"{seed} fold {number}",
            val=(VAL_SHARE if val is None else val) if role == "test" else None,
            stratify=stratify,
        )
        made.append(split.model_copy(update={"note": f"fold {number} of {count} is {role}; {split.note}"}))
    return made


def _order(manifest: Manifest, pool: Sequence[str], seed: int | None) -> list[str]:
    """Return the pool's patients with masks, in the manifest's order or shuffled."""
    inside, usable = set(pool), masked(manifest)
    order = [patient for patient in manifest.patients if patient in inside and patient in usable]
    if seed is not None:
        order.sort()
        random.Random(f"vqseg folds {seed}").shuffle(order)
    return order


def _dealt(
    order: Sequence[str], count: int, double: Mapping[str, set[str]], stratum_of: Mapping[str, str]
) -> list[list[str]]:
    """Deal patients to folds: twins first, then stratum by stratum, each to the fold that has fewest of its kind."""
    groups = _groups(order, double)
    if not 2 <= count <= len(groups):
        raise InputError(f"--folds {count}: expected 2 to {len(groups)}, the patients with masks (twins count as one)")
    groups.sort(key=lambda group: (len(group) == 1, stratum_of.get(group[0], "")))
    dealt: list[list[str]] = [[] for _ in range(count)]
    held: list[Counter[str]] = [Counter() for _ in range(count)]
    for group in groups:
        stratum = stratum_of.get(group[0], "")
        place = min(range(count), key=lambda fold: (held[fold][stratum], len(dealt[fold]), fold))
        dealt[place] += group
        held[place].update(stratum_of.get(patient, "") for patient in group)
    return dealt


def _groups(order: Sequence[str], double: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the patients in groups that share images, directly or through others; most groups are one patient."""
    group_of: dict[str, list[str]] = {}
    for patient in order:
        joined = [patient]
        for other in sorted(double.get(patient, set()) & set(group_of)):
            if group_of[other][0] not in joined:
                joined += group_of[other]
        for member in joined:
            group_of[member] = joined
    return list({id(group): group for group in group_of.values()}.values())
