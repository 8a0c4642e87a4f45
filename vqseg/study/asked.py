"""What a command asks of a study, and which arms, seeds and draws that means."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vqseg.study.definition import Definition, parse_seeds, select
from vqseg.study.rows import Arm


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    study: str
    store: Path
    root: Path
    split: str | None = None
    preset: str | None = None
    arms: tuple[str, ...] = ()
    seeds: str | None = None
    add_seeds: str | None = None
    overrides: tuple[str, ...] = ()
    steps: int | None = None
    supervised: bool = False
    name: str | None = None
    allow_code: bool = False
    draws: int | None = None


class Extent(NamedTuple):
    """Arms x seeds x draws, the arm that the others are compared with, and a line where a preset thinned the study."""

    arms: list[Arm]
    seeds: list[int]
    draws: int
    reference: str
    said: str


def extent(
    request: Request, definition: Definition, everything: list[Arm], preset: str, old: dict[str, Any] | None
) -> Extent:
    """Return what a request means; ``everything``: the study's arms. What an ``old`` record has stays.

    Raises:
        InputError: unknown arms, or seeds that are none.
    """
    found = _asked(request, definition, everything, preset)
    arms, seeds, draws = found.arms, found.seeds, found.draws
    if old:
        arms, draws = _extended(old, everything, arms), max(draws, old.get("draws", 1))
        seeds = list(dict.fromkeys([*old["seeds"], *([] if request.add_seeds else seeds)]))
    if request.add_seeds:
        seeds = list(dict.fromkeys([*seeds, *parse_seeds(request.add_seeds, "--add-seeds")]))
    return found._replace(arms=arms, seeds=seeds, draws=draws)


def _asked(request: Request, definition: Definition, everything: list[Arm], preset: str) -> Extent:
    arms, seeds, said = everything, definition.seeds, ""
    thinning = definition.thinned.get(preset)
    reference = (thinning.reference if thinning else None) or definition.reference
    draws = definition.draws if request.draws is None else request.draws
    if thinning and thinning.seeds:
        seeds = thinning.seeds
    if request.seeds is not None:
        seeds = parse_seeds(request.seeds)
    if request.arms:
        return Extent(select(everything, request.arms, reference), seeds, draws, reference, said)
    if thinning:
        arms = select(everything, thinning.arms, reference)
        if len(arms) < len(everything):
            said = f"preset {preset} thins this study to {len(arms)} of {len(everything)} arms; --arms '*' runs all"
        elif seeds != definition.seeds and request.seeds is None:
            listed = ", ".join(map(str, seeds))
            said = f"preset {preset} thins this study to seed {listed}; --seeds runs more"
    return Extent(arms, seeds, draws, reference, said)


def _extended(old: dict[str, Any], everything: list[Arm], arms: list[Arm]) -> list[Arm]:
    """Return the arms that the study has, or skipped, as they are defined now, then the new ones."""
    current = {arm.label: arm for arm in everything}
    known = [current.get(arm["label"]) or Arm.model_validate(arm) for arm in old["arms"]]
    labels = {arm.label for arm in known}
    skipped = [row["label"] for row in old.get("skipped", []) if row["label"] not in labels]
    known += [current[label] for label in skipped if label in current]
    labels |= set(skipped)
    return known + [arm for arm in arms if arm.label not in labels]
