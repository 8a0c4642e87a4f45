"""What each module of a grid costs: parameters, time and memory per arm, and with minus without over the grid."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from vqseg.report import factorial, facts, statistics
from vqseg.report.arms import COST
from vqseg.report.factorial import Grid
from vqseg.report.numbers import signed
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

DECIMALS = {"parameters": 3, "ms": 1, "memory": 0, "hours": 3}


def compute(cells: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """Compute the cost of every arm and of every factor.

    Args:
        cells: one row per (arm, seed) with what `index.frame` knows of the run.
        grid: the factors.

    Returns:
        ``arm`` (or the factor), ``column``, ``kind`` (arm or factor), ``value`` (mean over seeds; for a factor, with
        minus without over the settings of the others), ``sd`` over seeds, ``share`` (of the mean without; factors
        only), ``settings``, ``of``, ``seeds``, ``runs``. What was not measured has no row.
    """
    records = []
    for key, (_, column, scale) in COST.items():
        known = cells[cells["state"] == "finished"]
        if column not in known:
            continue
        valued = known.assign(value=pd.to_numeric(known[column], errors="coerce") * scale, patient="")
        valued = valued.dropna(subset=["value"])
        by_arm = statistics.grids(valued)
        runs = {str(arm): " ".join(own["identity"]) for arm, own in valued.groupby("arm")}
        for arm, table in by_arm.items():
            numbers = table.to_numpy(dtype=float).ravel()
            records.append({"arm": arm, "column": key, "kind": "arm", "runs": runs[arm], **_mean(numbers)})
        found, _ = factorial.effects(grid, set(by_arm))
        for effect in found:
            numbers = statistics.combined(by_arm, effect.weights).ravel()
            if len(effect.members) > 1 or not len(numbers):
                continue
            off = {arm: -weight for arm, weight in effect.weights.items() if weight < 0}
            share = numbers.mean() / statistics.combined(by_arm, off).mean()
            entry = {"arm": effect.name, "column": key, "kind": "factor", "share": share, **_mean(numbers)}
            entry |= {"settings": effect.settings, "of": effect.of}
            records.append(entry | {"runs": " ".join(runs[arm] for arm in effect.weights)})
    columns = ["arm", "column", "kind", "value", "sd", "share", "settings", "of", "seeds", "runs"]
    return pd.DataFrame(records, columns=columns)


def tabulate(selection: Selection, grid: Grid, ticks: dict[str, dict[str, str]], conditions: str) -> Table | None:
    """Word `compute`: arms above, modules below; None if no run measured anything."""
    table = compute(selection.cells, grid)
    if table.empty:
        return None
    keys = [key for key in COST if key in set(table["column"])]
    lookup = {(line["kind"], line["arm"], line["column"]): line for line in table.to_dict("records")}
    rows = []
    for arm in selection.arms:
        marks = [Cell(words.get(arm, "")) for words in ticks.values()]
        rows.append(Row(arm, [*marks, *(_worded(lookup.get(("arm", arm, key)), key) for key in keys)]))
    for number, factor in enumerate(grid.factors):
        own = [_worded(lookup.get(("factor", factor, key)), key) for key in keys]
        rows.append(Row(f"{factor}: with minus without", [*(Cell("") for _ in ticks), *own], ruled=number == 0))
    local = "local" in {facts.prior_of(selection, arm) for arm in selection.arms}
    return Table(
        name="cost",
        title="Cost of the modules",
        headers=["arm", *ticks, *(COST[key][0] for key in keys)],
        rows=rows,
        caption=(
            "Parameters are those that are trained, hours those of one run; mean ± sd over seeds. Below: with minus "
            "without, over the settings of the other modules that were run, and its share of the cost without. Times "
            "of runs that shared a machine with others are rough. "
            + ("The training of the local prior, once for all runs, is not counted. " if local else "")
            + conditions
        ),
        tidy=table,
    )


def _mean(numbers: np.ndarray) -> dict[str, float]:
    spread = float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan")
    return {"value": float(numbers.mean()), "sd": spread, "seeds": len(numbers)}


def _worded(line: Mapping[Hashable, Any] | None, key: str) -> Cell:
    if line is None:
        return Cell("—")
    value, sd, share = (float(line[name]) for name in ("value", "sd", "share"))
    decimals = DECIMALS[key]
    spread = f" ± {sd:.{decimals}f}" if key in ("ms", "memory", "hours") and not np.isnan(sd) else ""
    if line["kind"] == "arm":
        return Cell(f"{value:.{decimals}f}{spread}", tip=f"{line['seeds']} seeds; runs {line['runs']}")
    part = f" ({signed(100 * share, 0)} %)" if np.isfinite(share) else ""
    tip = f"{line['settings']} of {line['of']} settings; {line['seeds']} seeds; runs {line['runs']}"
    return Cell(f"{signed(value, decimals)}{spread}{part}", tip=tip)
