"""Which arms of a study a claim means: by family, label and place along the study's axes.

A study that was recorded before arms had places tells them by its factors and by labels such as ``qpm eps=0.7``; an arm
that a study skipped is known by its label alone.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from vqseg.report.claim import Arms, Value

ANY = "*"


@dataclass(frozen=True)
class Arm:
    """An arm as a claim sees it; ``skipped`` says why the study leaves it out, empty if it does not."""

    label: str
    family: str
    at: dict[str, Value]
    skipped: str = ""


def arms_of(study: Mapping[str, Any]) -> list[Arm]:
    """Return the arms of a study, then those that it skipped."""
    found = [Arm(str(arm["label"]), str(arm.get("family") or arm["label"]), _at(arm)) for arm in study["arms"]]
    scored = {arm.label for arm in found}
    for left in study.get("skipped", []):
        family = str(left.get("family") or left["label"].partition(" ")[0].casefold())
        if left["label"] not in scored:  # it had been run before its weights went away
            found.append(Arm(str(left["label"]), family, _at(left), str(left.get("reason") or "no reason given")))
    return found


def matching(arms: Iterable[Arm], wanted: Arms) -> list[Arm]:
    """Return the arms that are wanted."""
    return [arm for arm in arms if _is(arm, wanted)]


def absent(arms: list[Arm], wanted: Arms) -> list[str]:
    """Name the labels and places that are wanted and at which no arm stands, by family of those that are there."""
    if not matching(arms, Arms(family=wanted.family)):
        return [wanted.words()]
    lost = [name for name in wanted.label if not matching(arms, Arms(family=wanted.family, label=(name,)))]
    for family in [name for name in wanted.family if matching(arms, Arms(family=(name,)))] or [ANY]:
        for axis in wanted.at:
            for value in wanted.values(axis):
                one = wanted.model_copy(update={"family": (family,), "at": {**wanted.at, axis: value}})
                if not matching(arms, one):
                    named = [family] if family != ANY else wanted.label
                    lost.append(" ".join([*named, f"{axis}={_said(value)}"]))
    return list(dict.fromkeys(lost))


def alike(arm: Arm, other: Arm, axes: Iterable[str]) -> bool:
    """Whether two arms stand at the same place along axes."""
    return all(axis in arm.at and axis in other.at and _same(arm.at[axis], other.at[axis]) for axis in axes)


def labels(arms: Iterable[Arm]) -> str:
    """Return the arms' labels in a row."""
    return ", ".join(arm.label for arm in arms)


def _is(arm: Arm, wanted: Arms) -> bool:
    named = (wanted.family, arm.family), (wanted.label, arm.label)
    if any(patterns and not any(fnmatchcase(name, p) for p in patterns) for patterns, name in named):
        return False
    return all(_stands(arm, axis, wanted.values(axis)) for axis in wanted.at)


def _stands(arm: Arm, axis: str, values: list[Value]) -> bool:
    if axis in arm.at:
        return any(value == ANY or _same(arm.at[axis], value) for value in values)
    return bool(arm.skipped) and any(value == ANY or _same(arm.label, value) for value in values)


def _same(one: Value, other: Value) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-9)
    return str(one).casefold() == str(other).casefold()


def _at(arm: Mapping[str, Any]) -> dict[str, Value]:
    """Return an arm's place: what the study says, else its factors and what its label says."""
    said = {**(arm.get("factors") or {}), **(arm.get("at") or {})}
    return said or {axis: _number(word) for axis, word in re.findall(r"(\S+)=(\S+)", str(arm["label"]))}


def _number(word: str) -> Value:
    try:
        return float(word)
    except ValueError:
        return word


def _said(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
