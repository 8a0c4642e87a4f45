"""Published numbers: rows with their source and trust mark, and the free check on any row, ours or theirs.

One file of ``reports/published`` is one table, or one lineage of tables that share a protocol; a row that is of another
source, trust or protocol than its table says so itself. A published row may stand in our table only if data set,
number of labelled patients, part and protocol are the same; all others go into a panel of their own, because numbers
of two protocols do not compare.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vqseg import assets
from vqseg.errors import InputError
from vqseg.files import read_yaml
from vqseg.report.measures import MEASURES

HALF_DIGIT = 5e-5
"""Half a unit of the last printed digit of the published tables, which have four."""

BROKEN = "† mean Jaccard below D/(2-D) of the mean Dice, which no set of cases can give."

TRUST = {"P": "primary source", "T": "third-party copy", "C": "computed or read from code", "?": "not confirmed"}

SHARES = ("dice", "jaccard", "utilization")
"""Columns that lie in 0-1; the others are distances."""

BESIDE_ANY = "data"
"""The topic of rows that stand beside any table of their data set; others only beside the studies that they name."""


@dataclass(frozen=True)
class Published:
    """One row of one published table.

    ``values``: Dice, Jaccard and utilization in 0-1, distances as printed; ``dice.rv`` is that of one class; columns
    that were not printed are not there. ``sd`` is over runs, where it was printed. ``impossible``: its source printed
    a Jaccard that cannot be, though it is not among the values here.
    """

    method: str
    source: str
    trust: str
    data: str
    labels: str
    labelled: int | None
    part: str
    protocol: str
    values: dict[str, float]
    topics: list[str] = field(default_factory=list)
    note: str = ""
    cite: str = ""
    sd: dict[str, float] = field(default_factory=dict)
    impossible: bool = False

    @property
    def breaks_convexity(self) -> bool:
        """Whether the row is arithmetically impossible."""
        dice, jaccard = self.values.get("dice"), self.values.get("jaccard")
        computed = dice is not None and jaccard is not None and breaks_convexity(dice, jaccard)
        return self.impossible or computed


def breaks_convexity(dice: float, jaccard: float, rounding: float = HALF_DIGIT) -> bool:
    """Whether a mean Jaccard lies below f(mean Dice), f(D) = D/(2-D) being convex; both in 0-1.

    Both numbers get the benefit of ``rounding``, so a row that is named here cannot be explained by printed digits.
    """
    least = dice - rounding
    return jaccard + rounding < least / (2 - least)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Row(_Section):
    values: list[float | None]
    sd: list[float | None] = []
    source: str | None = None
    trust: str | None = None
    part: str | None = None
    protocol: str | None = None
    note: str | None = None
    cite: str | None = None
    impossible: bool = False


class _Group(_Section):
    labels: str
    labelled: int | None
    rows: dict[str, list[float | None] | _Row] = Field(min_length=1)


class _Sheet(_Section):
    source: str
    cite: str = ""
    trust: str
    data: str
    part: str
    protocol: str
    topics: list[str]
    percent: bool = False
    columns: list[str]
    note: str = ""
    sets: list[_Group] = Field(min_length=1)


def load() -> list[Published]:
    """Read the built-in tables of published numbers.

    Raises:
        InputError: a file breaks a rule: which one, which row, what was found and what was expected.
    """
    paths = sorted((assets.folder("reports") / "published").glob("*.yaml"))
    return [row for path in paths for row in _read(path)]


@cache
def _read(path: Path) -> tuple[Published, ...]:
    """Read one file; they are small, and asked for once per table of a report."""
    try:
        sheet = _Sheet.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return tuple(_row(path, sheet, group, name, row) for group in sheet.sets for name, row in group.rows.items())


def _row(path: Path, sheet: _Sheet, group: _Group, name: str, row: list[float | None] | _Row) -> Published:
    own = row if isinstance(row, _Row) else _Row(values=row)
    shared = {key: getattr(sheet, key) for key in ("source", "cite", "trust", "part", "protocol", "note")}
    shared |= own.model_dump(include=set(shared), exclude_none=True)
    where = f"{path}: {name}, {group.labels}"
    if shared["trust"] not in TRUST:
        raise InputError(f"{where}: trust mark {shared['trust']!r}, expected one of {', '.join(TRUST)}")
    return Published(
        method=name,
        data=sheet.data,
        labels=group.labels,
        labelled=group.labelled,
        topics=sheet.topics,
        impossible=own.impossible,
        values=_numbers(where, sheet, own.values),
        sd=_numbers(where, sheet, own.sd) if own.sd else {},
        **shared,
    )


def _numbers(where: str, sheet: _Sheet, values: list[float | None]) -> dict[str, float]:
    if len(values) != len(sheet.columns):
        raise InputError(f"{where}: {len(values)} numbers, expected {len(sheet.columns)}: {', '.join(sheet.columns)}")
    found = {}
    for column, value in zip(sheet.columns, values):
        measure = column.partition(".")[0]
        if measure not in (*SHARES, *MEASURES):
            raise InputError(f"{where}: unknown column {column!r}, expected a measure such as {', '.join(SHARES)}")
        if value is None:
            continue
        number = value / 100 if sheet.percent and measure in SHARES else value
        if number < 0 or (measure in SHARES and number > 1):
            raise InputError(f"{where}: {column} is {value:g}, expected {'0-1' if measure in SHARES else 'at least 0'}")
        found[column] = number
    return found


def split_by_protocol(
    rows: list[Published], *, data: str, labelled: int | None, part: str, protocol: str, topics: list[str]
) -> tuple[list[Published], list[Published]]:
    """Return (rows that may stand in our table, rows for the panel below).

    The panel takes rows on any data set about one of ``topics``, and of the same data set those that belong beside any
    table of it (`BESIDE_ANY`).
    """
    inside, beside = [], []
    for row in rows:
        same_data = row.data.casefold() == data.casefold()
        alike = same_data and row.labelled in (labelled, None) and BESIDE_ANY in row.topics
        if same_data and (row.labelled, row.part, row.protocol) == (labelled, part, protocol):
            inside.append(row)
        elif alike or set(row.topics) & set(topics):
            beside.append(row)
    return inside, beside
