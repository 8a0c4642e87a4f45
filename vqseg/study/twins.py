"""Cells of a study that turn out to be one run: left out where that is meant, refused where it is not."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vqseg.errors import InputError
from vqseg.plan import Plan
from vqseg.study.rows import Arm

MOST_NAMED = 8


class Planned(NamedTuple):
    """One cell: its arm, its draw of the labelled patients, its run."""

    arm: Arm
    draw: int
    plan: Plan


def distinct_draws(planned: Iterable[Planned]) -> tuple[list[Planned], list[str]]:
    """Leave out cells of a higher draw that are the very run of a lower one's of that arm and seed.

    Where all patients are labelled there is nothing to draw, and counted twice a run would look like two.
    Returns the cells that are left, and a line on the draws that are not.
    """
    seen: set[tuple[str, int, str]] = set()
    found, again = [], dict[str, list[int]]()
    for one in planned:
        key = (one.arm.label, one.plan.config.seed, one.plan.identity)
        if key not in seen:
            found.append(one)
        elif one.draw not in again.setdefault(one.arm.label, []):
            again[one.arm.label].append(one.draw)
        seen.add(key)
    alike: dict[tuple[int, ...], list[str]] = {}
    for label, draws in again.items():
        alike.setdefault(tuple(draws), []).append(repr(label))
    return found, [
        f"note: draw{'s' * (len(draws) > 1)} {_few(draws)} of {_few(labels)}: the same labelled patients as in an"
        " earlier draw, left out"
        for draws, labels in alike.items()
    ]


def _few(values: Sequence[Any]) -> str:
    listed = ", ".join(map(str, values[:MOST_NAMED]))
    return f"{listed} and {len(values) - MOST_NAMED} more" if len(values) > MOST_NAMED else listed


def folded(planned: list[Planned], reference: str) -> tuple[list[Planned], list[str]]:
    """Take arms with ``fold`` that are an arm above, run by run, for that arm, which then stands at both places.

    Returns the cells that are left, and a line on each arm that is not.
    """
    runs: dict[str, dict[tuple[int, int], str]] = {}
    for one in planned:
        runs.setdefault(one.arm.label, {})[one.draw, one.plan.config.seed] = one.plan.identity
    arms = {one.arm.label: one.arm for one in planned}
    same: dict[str, str] = {}
    for label, arm in list(arms.items()):
        above = next(other for other in arms if runs[other] == runs[label])  # the first of them, perhaps itself
        if arm.fold and label not in (above, reference):
            same[label] = above
            arms[above] = arms[above].model_copy(update={"at": {**arm.at, **arms[above].at}})
    left = [one._replace(arm=arms[one.arm.label]) for one in planned if one.arm.label not in same]
    return left, [f"note: arm {label!r} is {above!r} itself here" for label, above in same.items()]


def refuse_twins(study: str, cells: Iterable[dict[str, Any]]) -> None:
    """Refuse two cells that are one run: they would be counted as if they were independent.

    Raises:
        InputError: names both.
    """
    names: dict[str, str] = {}
    for cell in cells:
        if cell["identity"] in names:
            raise InputError(
                f"study {study}: {names[cell['identity']]!r} and {cell['name']!r} are the same run;"
                " let their settings differ, or leave one out (--arms)"
            )
        names[cell["identity"]] = cell["name"]
