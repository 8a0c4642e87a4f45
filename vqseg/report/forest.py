"""Every arm minus the reference: estimate, interval, and one dot per run (per seed, where labels are drawn once)."""

import pandas as pd
from matplotlib.figure import Figure

from vqseg.report import statistics, style
from vqseg.report.measures import MEASURES
from vqseg.report.selection import headline


def compute(scores: pd.DataFrame, reference: str, metric: str, arms: list[str]) -> pd.DataFrame:
    """Return `statistics.compare`'s rows with ``by_seed``, the mean difference of every common run; printed units."""
    rows = headline(scores)
    valued = rows.assign(value=rows[metric].astype(float) * MEASURES[metric].scale)
    grids, families = (
        statistics.grids(valued),
        dict(rows[["arm", "family"]].drop_duplicates("arm").itertuples(index=False, name=None)),
    )
    table = statistics.compare_grids(grids, reference, arms)
    dots = {arm: statistics.by_run(grids, {arm: 1.0, reference: -1.0}) for arm in table["arm"]}
    return table.assign(family=table["arm"].map(families), by_seed=table["arm"].map(dots))


def draw(table: pd.DataFrame, reference: str, metric: str) -> Figure:
    """Draw the intervals; filled markers where Holm's p is below .05 with three seeds or more."""
    families = list(dict.fromkeys(table["family"]))
    measure = MEASURES[metric]
    with style.house():
        figure = style.sheet(0.7 * style.PAGE_IN, 0.19 * len(table) + 0.9)
        axes = figure.subplots()
        axes.axvline(0, color="black", lw=0.8)
        for height, row in enumerate(table.to_dict("records")):
            look = style.look(str(row["family"]), families)
            told = row["p_holm"] < statistics.ALPHA and row["seeds"] >= statistics.LEAST_SEEDS
            axes.plot([row["low"], row["high"]], [height, height], color=look.color, lw=1.2)
            axes.plot(
                row["estimate"], height, marker=look.marker, color=look.color, mfc=look.color if told else "white",
                ms=4.5, zorder=3,
            )  # fmt: skip
            axes.scatter(
                row["by_seed"], [height + 0.28] * len(row["by_seed"]), s=5, color=look.color, alpha=0.6, linewidths=0
            )
        better = "right" if measure.higher_is_better else "left"
        points = measure.unit_of_difference("scan")
        axes.set(
            yticks=range(len(table)), yticklabels=table["arm"], ylim=(len(table) - 0.4, -0.6),
            xlabel=f"{measure.header} minus {reference} ({points}; better to the {better})",
        )  # fmt: skip
    return figure
