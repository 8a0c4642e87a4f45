"""Published numbers: rows with their source and trust mark, and the free check on any row, ours or theirs.

A published row may stand in our table only if data set, number of labelled patients, part and protocol are the
same; all others go into a panel of their own, because numbers of two protocols do not compare.
"""

from dataclasses import dataclass, field
from typing import Any

from vqseg import assets
from vqseg.errors import InputError
from vqseg.files import read_yaml

HALF_DIGIT = 5e-5
"""Half a unit of the last printed digit of the published tables, which have four."""

BROKEN = "† mean Jaccard below D/(2-D) of the mean Dice, which no set of cases can give."

TRUST = {"P": "primary source", "T": "third-party copy", "C": "computed or read from code", "?": "not confirmed"}


@dataclass(frozen=True)
class Published:
    """One row of one published table. Dice and Jaccard in 0-1, distances as printed, NaN where none."""

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

    @property
    def breaks_convexity(self) -> bool:
        """Whether the row is arithmetically impossible."""
        dice, jaccard = self.values.get("dice"), self.values.get("jaccard")
        return dice is not None and jaccard is not None and breaks_convexity(dice, jaccard)


def breaks_convexity(dice: float, jaccard: float, rounding: float = HALF_DIGIT) -> bool:
    """Whether a mean Jaccard lies below f(mean Dice), f(D) = D/(2-D) being convex; both in 0-1.

    Both numbers get the benefit of ``rounding``, so a row that is named here cannot be explained by printed digits.
    """
    least = dice - rounding
    return jaccard + rounding < least / (2 - least)


def load() -> list[Published]:
    """Read the built-in tables of published numbers.

    Raises:
        InputError: an entry lacks a key or has an unknown trust mark.
    """
    path = assets.folder("reports") / "published.yaml"
    rows = []
    for table in read_yaml(path)["tables"]:
        columns = table["columns"]
        shared = {key: value for key, value in table.items() if key not in ("columns", "rows", "sets")}
        for group in table["sets"]:
            for method, values in group["rows"].items():
                entry: dict[str, Any] = {**shared, **{key: value for key, value in group.items() if key != "rows"}}
                if entry.get("trust") not in TRUST:
                    raise InputError(
                        f"{path}: {method}: trust mark {entry.get('trust')!r}, expected one of {', '.join(TRUST)}"
                    )
                numbers = {key: float(value) for key, value in zip(columns, values) if value is not None}
                rows.append(Published(method=str(method), values=numbers, **entry))
    return rows


def split_by_protocol(
    rows: list[Published], *, data: str, labelled: int | None, part: str, protocol: str, topics: list[str]
) -> tuple[list[Published], list[Published]]:
    """Return (rows that may stand in our table, rows for the panel below).

    The panel takes rows of the same data set, and rows on any data set about one of ``topics``.
    """
    inside, beside = [], []
    for row in rows:
        same_data = row.data.casefold() == data.casefold()
        if same_data and (row.labelled, row.part, row.protocol) == (labelled, part, protocol):
            inside.append(row)
        elif (same_data and row.labelled in (labelled, None)) or set(row.topics) & set(topics):
            beside.append(row)
    return inside, beside
