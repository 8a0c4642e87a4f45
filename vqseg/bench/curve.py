"""Validation curves over steps and seconds, and when a Dice was first held (`vqseg.bench.dice` measures them)."""

from collections.abc import Sequence
from dataclasses import dataclass

from vqseg.records import bulk
from vqseg.records.run import RunFolder

COLUMNS = {
    "val/dice_teacher": "dice",
    "reach/dice_uniform": "reach",
    "seconds/train": "train_s",
    "seconds/validation": "validation_s",
    "seconds/start": "start_s",
}


@dataclass(frozen=True)
class Target:
    """A Dice to hold, and the seconds of training that it should take at most."""

    dice: float
    goal_s: float | None = None


@dataclass(frozen=True)
class Point:
    """One validation: Dice of the teacher and its reach (uniform), seconds from the beginning to it."""

    step: int
    dice: float
    reach: float
    train_s: float
    validation_s: float
    start_s: float

    @property
    def all_s(self) -> float:
        """Training, validation and start-up together."""
        return self.train_s + self.validation_s + self.start_s


@dataclass(frozen=True)
class Curve:
    """The validations of one seed so far; ``over``: no more will come."""

    points: tuple[Point, ...]
    over: bool

    def held(self, dice: float) -> Point | None:
        """Return the validation at which a Dice was first held (see the module)."""
        for number, point in enumerate(self.points):
            last = number + 1 == len(self.points)
            if point.dice >= dice and (self.over if last else self.points[number + 1].dice >= dice):
                return point
        return None

    def done(self, targets: Sequence[Target], limit_s: float) -> bool:
        """Whether nothing is left to learn: every target is held, or the limit is past and none is about to be."""
        left = [target.dice for target in targets if self.held(target.dice) is None]
        if self.over or not left:
            return True
        return bool(self.points) and self.points[-1].train_s >= limit_s and self.points[-1].dice < min(left)


def read_curve(folder: RunFolder) -> Curve:
    """Return the validations that a folder holds, in order; one that diverged is over where it did."""
    found = dict[int, dict[str, float]]()
    for table in bulk.metrics({folder.identity: folder.path / "metrics.csv"}, COLUMNS):
        for step, name, value in zip(table["step"].tolist(), table["name"], table["value"].tolist(), strict=True):
            found.setdefault(step, {})[COLUMNS[name]] = value
    points = tuple(Point(step, **row) for step, row in sorted(found.items()) if len(row) == len(COLUMNS))
    status = folder.status()
    ended = bool(points) and points[-1].step == status["steps"]
    return Curve(points, ended or status["state"] == "failed")
