"""Marks classes of a prepared folder as lesions: they are then counted and scored one by one.

A mark is in the manifest, outside of the content digest: splits, runs and their identities stay as they are.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from vqseg.errors import InputError, pick
from vqseg.manifest import Manifest, read_manifest, write_manifest

# A tolerance for the surface Dice that most readers of CT and MR would call agreement.
TOLERANCE_MM = 2.0


def parse_lesions(texts: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """Return {class: surface tolerance in mm} from ``NAME`` or ``NAME=TOLERANCE`` (without it `TOLERANCE_MM`).

    Raises:
        InputError: not a foreground class of ``classes``, or not a positive number.
    """
    found = {}
    for text in texts:
        name, given, number = (
            (text, "", "") if text in classes else text.rpartition("=") if "=" in text else (text, "", "")
        )
        try:
            tolerance = float(number) if given else TOLERANCE_MM
        except ValueError:
            tolerance = math.nan
        if not (0 < tolerance < math.inf):
            raise InputError(
                f"--lesion {text}: expected NAME=TOLERANCE with a tolerance in mm above 0, such as {name}=2"
            )
        found[pick(name, classes[1:], "foreground class for --lesion")] = tolerance
    return found


def kept_marks(manifest: Manifest, given: Mapping[str, float]) -> list[str]:
    """Return a note where an import was ``given`` other lesions than the folder is marked with: those stay."""
    if not given or given == manifest.lesions:
        return []
    marked = ", ".join(f"{name}={tolerance:g}" for name, tolerance in manifest.lesions.items()) or "none"
    return [f"lesions stay as they are marked ({marked}); change them with 'vqseg data mark'"]


def mark(root: Path, *, lesions: Sequence[str] = (), no_lesions: Sequence[str] = ()) -> tuple[Manifest, bool]:
    """Mark classes as lesions, or take marks away, in the prepared folder ``root``.

    Args:
        lesions: classes, as `parse_lesions` reads them; a new tolerance replaces the old one.
        no_lesions: classes that lose their mark.

    Returns:
        The manifest, and whether it was written (False: it said so already).

    Raises:
        InputError: an unknown class, a bad tolerance, or a class that is to be marked and unmarked at once.
    """
    before = read_manifest(root)
    marked = parse_lesions(lesions, before.classes)
    away = {pick(name, before.classes[1:], "foreground class for --no-lesion") for name in no_lesions}
    if both := sorted(away & set(marked)):
        raise InputError(f"--lesion and --no-lesion both name {both[0]!r}; leave one out")
    held = {**before.lesions, **marked}
    kept = {name: held[name] for name in before.classes if name in held and name not in away}
    if kept == before.lesions:
        return before, False
    after = before.model_copy(update={"lesions": kept})
    write_manifest(root, after)
    return after, True
