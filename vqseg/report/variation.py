"""What scores and differences vary with: draws of the labelled patients, seeds, test patients, and what they share.

One number per draw, seed and patient; a component's sd is that of one such number, and its share is that of the
variance of the mean, which is what an interval is made of: few draws of a large component weigh more than many patients
of a larger one.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from vqseg.report import statistics
from vqseg.report.content import Section, conditions
from vqseg.report.contrasts import Contrast
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table


def compute(selection: Selection, wanted: Iterable[Contrast]) -> pd.DataFrame:
    """Return `statistics.components`'s columns with ``group``, in printed units."""
    metric = measure_name(selection.options.metric)
    rows = selection.headline
    valued = rows.assign(value=rows[metric].astype(float) * MEASURES[metric].scale).dropna(subset=["value"])
    named = {str(number): contrast for number, contrast in enumerate(wanted)}
    table = statistics.components(valued, {key: contrast.weights for key, contrast in named.items()})
    own = [named[key] for key in table["contrast"]]
    return table.assign(contrast=[each.name for each in own], group=[each.group for each in own])


def section(selection: Selection, wanted: Mapping[str, list[Contrast]], *, grouped: str) -> Section:
    """Return one table per kind of number (``scores``, ``gains``), and what draws weigh in each.

    Args:
        selection: runs of several draws.
        wanted: kind -> what is asked about.
        grouped: the header of the column of groups.
    """
    said, tables = [], []
    for kind, asked in wanted.items():
        table = compute(selection, asked)
        if table.empty:
            continue
        tables.append(tabulate(table, selection, kind=kind, grouped=grouped))
        draws = table[table["component"] == "draw"]
        if len(draws):
            said.append(
                f"Of the variance of mean {kind}, who is labelled makes {100 * draws['share'].min():.0f} to "
                f"{100 * draws['share'].max():.0f} %; from one draw to another they differ by an sd of "
                f"{draws['sd'].median():.2f} "
                f"{MEASURES[measure_name(selection.options.metric)].short(selection.protocol)} (the median)."
            )
    return Section("What it varies with", said, tables)


def tabulate(table: pd.DataFrame, selection: Selection, *, kind: str, grouped: str) -> Table:
    """Word `compute`: one row per contrast, one column per component; in brackets the share of the mean's variance."""
    components, decimals = list(dict.fromkeys(table["component"])), selection.options.decimals
    rows, before = [], None
    for (group, name), own in table.groupby(["group", "contrast"], sort=False):
        at = {line["component"]: line for line in own.to_dict("records")}
        cells = [Cell(str(group))]
        for component in components:
            line = at.get(component)
            share = "" if line is None or pd.isna(line["share"]) else f" ({100 * line['share']:.0f} %)"
            tip = "" if line is None else f"variance as estimated {line['variance']:.{decimals + 1}f}"
            cells.append(Cell("—" if line is None else f"{line['sd']:.{decimals}f}{share}", tip=tip))
        rows.append(Row(str(name), cells, ruled=before not in (None, group)))
        before = group
    unit = MEASURES[measure_name(selection.options.metric)].unit_of_difference(selection.protocol)
    caption = (
        f"Standard deviations of one draw, seed and patient ({unit}); in brackets the share of the variance of the "
        f"mean over all of them. An estimate below 0 is 0. {conditions(selection)}"
    )
    headers = [kind, grouped, *components]
    tidy = table.rename(columns={"contrast": "arm", "component": "column", "sd": "value"})
    return Table(f"components-{kind}", f"What {kind} vary with", headers, rows, caption, tidy)
