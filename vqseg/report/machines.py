"""Where a study's runs were made, and what makes their times hard to compare: several machines, or a shared one."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from vqseg.report import arms
from vqseg.report.content import conditions
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

PLACE = tuple(f"provenance.{key}" for key in ("host", "device", "threads", "precision", "torch", "python", "vqseg"))
"""What makes times comparable, the machine first."""

UNEVEN = 0.15
"""Runs of one arm whose times per step differ by more than this share of their mean were not undisturbed."""


def numbers(cells: pd.DataFrame, told: tuple[str, str, float]) -> pd.Series:
    """Return a row of `arms.COST` of every cell, in printed units; NaN where it was not measured."""
    column = cells.get(told[1], pd.Series(np.nan, index=cells.index))
    return pd.to_numeric(column, errors="coerce") * told[2]


def caveats(selection: Selection) -> list[str]:
    """Say where times were taken, and what makes them hard to compare."""
    used = selection.used.drop_duplicates("identity")
    groups = _groups(used)
    lines = []
    if len(groups) > 1:
        lines.append(f"Times come from {len(groups)} machines or versions: those of different ones do not compare.")
    together = most_at_once(used)
    if together > 1:
        lines.append(f"Up to {together} runs shared a machine at a time: times are those of a loaded one.")
    if uneven := _uneven(used):
        lines.append(f"Times per step differ by more than {100 * UNEVEN:.0f} % between runs of {', '.join(uneven)}.")
    return lines


def _groups(used: pd.DataFrame) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Return the runs by where and how they ran."""
    known = used.reindex(columns=list(PLACE)).astype(object).where(lambda table: table.notna(), "?").astype(str)
    keys = list(known.itertuples(index=False, name=None))
    return [(key, used[[each == key for each in keys]]) for key in dict.fromkeys(keys)]


def most_at_once(used: pd.DataFrame) -> int:
    """Return how many runs at most were going on one machine at a time, as far as their status tells."""
    most = 0
    host = used.get("provenance.host", pd.Series("?", index=used.index))
    for _, own in used.groupby(host.fillna("?").astype(str)):
        spans = [told for run in own.to_dict("records") if (told := span(run))]
        # Where one ends as another starts, the end comes first.
        events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
        running = np.cumsum([change for _, change in events]) if events else np.zeros(1)
        most = max(most, int(running.max()))
    return most


def span(run: Mapping[Any, Any]) -> tuple[datetime, datetime] | None:
    """Return when a run started and finished, None where its status does not tell."""
    try:
        return datetime.fromisoformat(run["started"]), datetime.fromisoformat(run["finished"])
    except (KeyError, TypeError, ValueError):
        return None


def _uneven(used: pd.DataFrame, most: int = 6) -> list[str]:
    """Name the arms whose runs' times per step differ too much, on one machine and in one setting."""
    found: dict[str, None] = {}
    for _, own in _groups(used):
        times = numbers(own, arms.COST["ms"]).groupby(own["arm"])
        spread = (times.max() - times.min()) / times.mean()
        found |= dict.fromkeys(str(arm) for arm in spread.index[spread > UNEVEN])
    names = list(found)
    return names[:most] + ([f"{len(names) - most} more"] if len(names) > most else [])


def tabulate(selection: Selection) -> Table:
    """Tabulate where and how the runs were made, with their times; machines are numbered and not named."""
    used = selection.used.drop_duplicates("identity")
    hosts = list(dict.fromkeys(key[0] for key, _ in _groups(used)))
    rows, tidy = [], []
    for key, own in _groups(used):
        times = numbers(own, arms.COST["ms"]).dropna()
        range_ms = "—" if times.empty else f"{times.min():.0f} to {times.max():.0f}"
        names = list(dict.fromkeys(own["arm"]))
        listed = "all" if len(names) == used["arm"].nunique() else ", ".join(names)
        cells = [Cell(key[1]), *map(Cell, key[2:]), Cell(str(len(own))), Cell(listed), Cell(range_ms)]
        rows.append(Row(f"machine {hosts.index(key[0]) + 1}", cells))
        tidy.append({"arm": key[1], "column": "ms", "value": times.mean(), "runs": " ".join(own["identity"])})
    caption = f"Where the tabulated runs were made. {conditions(selection, 'training')}"
    headers = ["", *(key.removeprefix("provenance.") for key in PLACE[1:]), "runs", "arms", "ms per step"]
    return Table("machines", "Machines", headers, rows, caption, pd.DataFrame(tidy))
