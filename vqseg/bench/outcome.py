"""What a bench found: rows of ours, naive and limit, as a table for people or as JSON for machines.

A goal is a text such as ``<= 2 x limit, >= 25 x naive``, ``<= 1/2 of naive`` or ``<= 8 %``; whether it is met is
computed from the row's own figures. Less is better in every unit: a speed is told as the time of one.
"""

import math
import operator
import re
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

_CLAUSE = re.compile(r"(<=|>=)\s*(\d*\.?\d+(?:e-?\d+|/\d+)?)\s*(.*)")
_COMPARE = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Row:
    """One comparison, all figures in ``unit``.

    ``naive`` is the plain way, ``limit`` the unavoidable work, ``target`` the goal, ``note`` what must be known beside.
    """

    what: str
    unit: str
    ours: float
    naive: float | None = None
    limit: float | None = None
    target: str | None = None
    note: str = ""

    @property
    def over_limit(self) -> float | None:
        """Ours over the limit: how far from what is possible."""
        return _ratio(self.ours, self.limit)

    @property
    def under_naive(self) -> float | None:
        """Naive over ours: how many times better than the plain way."""
        return _ratio(self.naive, self.ours)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal, or where a figure that it needs is missing.

        Raises:
            ValueError: the goal cannot be read.
        """
        if self.target is None:
            return None
        found = [self._holds(clause.strip()) for clause in self.target.split(",")]
        return None if None in found else all(found)

    def _holds(self, clause: str) -> bool | None:
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise ValueError(f"goal {clause!r}: expected such as '<= 2 x limit', '>= 25 x naive' or '<= 8 {self.unit}'")
        sign, number, what = match.groups()
        value = self._figure(what, sign)
        if value is None or math.isnan(value):
            return None
        return bool(_COMPARE[sign](value, float(Fraction(number))))

    def _figure(self, what: str, sign: str) -> float | None:
        """The figure that a clause speaks of: ``x limit``, ``x naive``, ``of limit``, ``of naive``, or the unit."""
        kind, _, rest = what.partition(" ")
        word = rest.strip(" ()").split(" ")[0]
        if kind in ("x", "of") and word in ("naive", "limit"):
            return _ratio(getattr(self, word), self.ours) if sign == ">=" else _ratio(self.ours, getattr(self, word))
        if what == self.unit or what.startswith(f"{self.unit} "):
            return self.ours
        raise ValueError(f"goal of {self.what!r}: {what!r} is neither naive, nor limit, nor its unit {self.unit!r}")


@dataclass(frozen=True)
class Outcome:
    """What one bench found, under which settings, on what machine (`vqseg.bench.machine`)."""

    bench: str
    rows: list[Row]
    settings: dict[str, Any]
    machine: dict[str, Any]
    profile: str = field(default="")


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return plain values; figures that are no number are None."""
    rows = [
        {**asdict(row), "under_naive": row.under_naive, "over_limit": row.over_limit, "met": row.met}
        for row in outcome.rows
    ]
    found: dict[str, Any] = _plain({**asdict(outcome), "rows": rows})
    return found


def table(outcome: Outcome) -> str:
    """Return a table of under 100 columns: a line per row, its goal and note below, and what it was measured on."""
    heads = ("", "unit", "ours", "naive", "limit", "naive/ours", "ours/limit")
    cells = [
        (row.what[:44], row.unit, *map(figure, (row.ours, row.naive, row.limit, row.under_naive, row.over_limit)))
        for row in outcome.rows
    ]
    wide = [max(len(line[index]) for line in [heads, *cells]) for index in range(len(heads))]
    lines = [f"bench {outcome.bench}", _line(heads, wide)]
    for row, line in zip(outcome.rows, cells, strict=True):
        lines.append(_line(line, wide))
        lines += [f"    {below}" for below in _below(row)]
    # What only machines read (curves, configs) stays in the JSON.
    told = {key: value for key, value in outcome.settings.items() if not isinstance(value, dict | list)}
    lines.append(", ".join(f"{key} {value}" for key, value in told.items()))
    lines.append(", ".join(f"{key} {value}" for key, value in outcome.machine.items() if value is not None))
    wrapped = [piece for line in lines for piece in _wrap(line)]
    return "\n".join([*wrapped, *(["", outcome.profile] if outcome.profile else [])])


def figure(value: float | None) -> str:
    """Return a figure with three digits that count, ``-`` where there is none."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = min(max(2 - math.floor(math.log10(abs(value))), 0), 9)
    return f"{value:,.{places}f}"


def _below(row: Row) -> list[str]:
    verdict = {None: "not measured", True: "met", False: "not met"}
    goal = [f"goal {row.target}: {verdict[row.met]}"] if row.target else []
    return [*goal, *([row.note] if row.note else [])]


def _line(cells: tuple[str, ...], wide: list[int]) -> str:
    first = f"{cells[0]:{wide[0]}}  {cells[1]:{wide[1]}}"
    return "  ".join([first, *(f"{cell:>{width}}" for cell, width in zip(cells[2:], wide[2:], strict=True))])


def _wrap(line: str, width: int = 98) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    pieces = []
    while len(line) > width:
        cut = line.rfind(" ", len(indent) + 1, width + 1)
        cut = cut if cut > 0 else width
        pieces.append(line[:cut])
        line = indent + line[cut:].lstrip()
    return [*pieces, line]


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
