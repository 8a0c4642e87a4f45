"""Normalization: do the statistics of batch norm make the collapse of dropout, and do they change what QPM does?

A perturbed pass has other means and variances than the clean ones that validation and the teacher make. Where both
share running statistics, part of what looks like damage by a perturbation can be that mismatch: it shows as a
difference of differences, the perturbation's effect with shared statistics minus its effect with separate ones.
"""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.records import index
from vqseg.report import ablation, contrasts, crossed, legends, style
from vqseg.report.content import Picture, Report, Section, conditions, over, size_words
from vqseg.report.contrasts import Contrast
from vqseg.report.crossed import Crossing
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.numbers import signed
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

DOWN, ACROSS = "perturbation", "statistics"
SHARED, SEPARATE, GROUP = "shared", "separate", "group"
NONE = "none"
SWING = ("better with shared statistics", "worse with shared statistics")
NETWORKS = {"teacher": "val/dice_teacher", "student": "val/dice_student"}
LOOKS_AT = (0.25, 0.5, 0.75, 1.0)
"""Shares of the steps at which validation is looked at."""


def build(selection: Selection) -> Report:
    """Build the report of a study of statistics x perturbation."""
    crossing = crossed.cross(places(selection.study), DOWN, ACROSS)
    networks = [network for network in NETWORKS if len(_last(selection, network))]
    tested = {network: _assessed(selection, crossing, network) for network in networks}
    curves = validations(selection)
    return Report(
        title=f"{selection.study['name']}: statistics of normalization",
        question=selection.study.get("question", ""),
        banners=ablation.banners(selection),
        summary=[*answers(selection, crossing, tested["teacher"]), *ablation.best_sentence(selection)[1:]],
        sections=[
            ablation.scores_section(selection),
            _crossed(selection, crossing, tested),
            _when(selection, crossing, curves),
            *ablation.training_sections(selection),
        ],
    )


def places(study: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return every arm's perturbation and statistics, as the study says or as the arm's settings tell."""
    found = {}
    for arm in study["arms"]:
        at, own = arm.get("at") or {}, arm.get("overrides") or {}
        here = {DOWN: at.get(DOWN) or _perturbation(arm, own), ACROSS: at.get(ACROSS) or _statistics(study, own)}
        found[str(arm["label"])] = {axis: str(value) for axis, value in here.items() if value}
    return found


def _perturbation(arm: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    value = own.get("perturbation", arm.get("family", NONE))
    if isinstance(value, Mapping):
        rate = value.get("rate")
        return f"{value['name']} {rate:g}" if rate is not None else str(value["name"])
    return str(value)


def _statistics(study: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    base = (study.get("base_config") or {}).get("network") or {}
    norm = own.get("network.norm", base.get("norm", "batch"))
    return GROUP if norm == GROUP else str(own.get("network.statistics", base.get("statistics", SEPARATE)))


def wanted(crossing: Crossing) -> list[Contrast]:
    """Return every perturbation minus none within each statistics, then shared minus separate of those effects."""
    arms, effects, swings = crossing.arms, [], []
    moving = [row for row in crossing.rows if row != NONE]
    for row in moving:
        for column in crossing.columns:
            if (row, column) in arms and (NONE, column) in arms:
                name = f"{row} minus {NONE}, {column}"
                effects.append(contrasts.minus(arms[row, column], arms[NONE, column], name=name, group=row))
        square = [(row, SHARED), (NONE, SHARED), (row, SEPARATE), (NONE, SEPARATE)]
        if all(place in arms for place in square):
            weights = dict(zip((arms[place] for place in square), (1.0, -1.0, -1.0, 1.0)))
            swings.append(Contrast(f"{row}: {SHARED} minus {SEPARATE}", weights, "interaction", SWING))
    return [*effects, *swings]


def _last(selection: Selection, network: str) -> pd.DataFrame:
    scores = selection.scores
    return scores[(scores["checkpoint"] == "last") & (scores["network"] == network)]


def _assessed(selection: Selection, crossing: Crossing, network: str) -> pd.DataFrame:
    return contrasts.assess(_last(selection, network), wanted(crossing), measure_name(selection.options.metric))


def answers(selection: Selection, crossing: Crossing, table: pd.DataFrame) -> list[str]:
    """Say of every perturbation whether it collapses, and whether that is the statistics' doing."""
    lines = {line["contrast"]: line for line in table.to_dict("records")}
    sentences = []
    for row in crossing.rows:
        if row != NONE:
            sentences.append(_answer(selection, row, lines))
    return sentences or [f"No answer yet on {contrasts.where(selection)}: the study has no perturbation beside none."]


def _answer(selection: Selection, row: str, lines: Mapping[str, Mapping[Hashable, Any]]) -> str:
    shared, separate = (lines.get(f"{row} minus {NONE}, {name}") for name in (SHARED, SEPARATE))
    swing = lines.get(f"{row}: {SHARED} minus {SEPARATE}")
    where = f"{row} on {contrasts.where(selection)}"
    if not shared or not separate or not swing:
        there = [name for name, line in ((SHARED, shared), (SEPARATE, separate)) if line]
        return f"{where}: no answer yet, its effect is scored with {' and '.join(there) or 'no'} statistics only."
    numbers = "; ".join(
        f"with {name} statistics {contrasts.number(line, selection)}"
        for name, line in ((SHARED, shared), (SEPARATE, separate))
    )
    numbers += f"; the difference {contrasts.number(swing, selection)}, {size_words(swing)}"
    return f"{where}: {_judgement(selection, shared, separate, swing)}: {numbers}."


def _judgement(
    selection: Selection,
    shared: Mapping[Hashable, Any],
    separate: Mapping[Hashable, Any],
    swing: Mapping[Hashable, Any],
) -> str:
    """Word what three tests allow: the loss with shared statistics, that with separate ones, and their difference."""
    measure = MEASURES[measure_name(selection.options.metric)]
    if not all(contrasts.judged(line) for line in (shared, separate, swing)):
        return "no verdict, fewer than 3 seeds or 2 patients"
    hurts, still, more = (contrasts.direction(line, measure) < 0 for line in (shared, separate, swing))
    if more:
        if not hurts:
            return "the statistics change its effect, but no loss can be told with shared ones"
        part = "partly an artefact of shared statistics"
        return f"its loss is {part if still else 'an artefact of shared statistics: without them none can be told'}"
    if hurts and still:
        return "its loss is no artefact of the statistics"
    if hurts or still:
        return "it loses, but whether the statistics do it cannot be told"
    return "no loss at the end of training, so none to explain"


def _crossed(selection: Selection, crossing: Crossing, tested: Mapping[str, pd.DataFrame]) -> Section:
    """Return the two-way tables of teacher and student, the effects within statistics, and their pictures."""
    metric, decimals = measure_name(selection.options.metric), selection.options.decimals
    measure, tables, pictures = MEASURES[metric], [], [_heat(selection, crossing)]
    for network, table in tested.items():
        end = f"Last {network}. {conditions(selection)}"
        means = crossed.compute(_of(selection, network), crossing, [metric])
        title = f"{measure.label(selection.protocol)} over {DOWN} and {ACROSS}: {network}"
        name = f"crossed-{network}"
        caption = f"Mean ± sd over {over(selection)}. {ablation.MARKS} {end}"
        own = crossed.tabulate(means, crossing, metric, name=name, title=title, caption=caption, decimals=decimals)
        tables.append(own)
        if table.empty:
            continue
        caption = (
            f"What a perturbation does within each kind of statistics, and how much more with {SHARED} than with "
            f"{SEPARATE} ones. {ablation.tested(selection)} Holm over these {len(table)}. {end}"
        )
        name, title = f"effects-within-{network}", f"Effects within statistics: {network}"
        tables.append(contrasts.tabulate(table, selection, name=name, title=title, caption=caption))
        caption = (
            "Effects with 95 % intervals, not corrected; filled where Holm's p is below .05 with at least 3 seeds; "
            f"dots: seeds. {end}"
        )
        pictures.append(Picture(f"forest-{network}", caption, contrasts.draw, (table, metric, selection.protocol)))
    return Section("Statistics and perturbation", [], tables, pictures)


def _heat(selection: Selection, crossing: Crossing) -> Picture:
    asked = dict.fromkeys([measure_name(selection.options.metric), "hd95_voxel"])
    means = crossed.compute(selection, crossing, [key for key in asked if selection.headline[key].notna().any()])
    caption = f"{crossed.reading()} Last teacher. {conditions(selection)}"
    inputs = (means, DOWN, ACROSS, selection.protocol, selection.options.decimals)
    return Picture("crossed", caption, crossed.draw, inputs)


def _of(selection: Selection, network: str) -> Selection:
    """Return the selection with ``network`` in the place of the teacher, which tables take as the headline."""
    if network == "teacher":
        return selection
    return replace(selection, scores=_last(selection, network).assign(network="teacher"))


def validations(selection: Selection) -> pd.DataFrame:
    """Return validation Dice of the runs that are tabulated over the steps.

    Columns ``perturbation``, ``statistics``, ``network``, ``seed``, ``step``, ``dice`` (points).
    """
    where = places(selection.study)
    cells = selection.used[["identity", "arm", "seed"]].drop_duplicates("identity")
    logged = index.curves(selection.store, list(cells["identity"]), list(NETWORKS.values()))
    table = logged.merge(cells, on="identity", how="inner")
    of = {name: network for network, name in NETWORKS.items()}
    return pd.DataFrame(
        {
            DOWN: [where[arm].get(DOWN, "") for arm in table["arm"]],
            ACROSS: [where[arm].get(ACROSS, "") for arm in table["arm"]],
            "network": [of[name] for name in table["name"]],
            "seed": table["seed"], "step": table["step"], "dice": 100 * table["value"].astype(float),
        }
    )  # fmt: skip


def _when(selection: Selection, crossing: Crossing, curves: pd.DataFrame) -> Section:
    """Return validation over the steps, and what one would have said who had looked earlier."""
    if curves.empty:
        return Section("When one looks", ["No validation curve was logged."])
    end = conditions(selection, "validation")
    caption = (
        "Validation Dice during training, one column per kind of statistics. Thin: seeds; thick: their mean where all "
        f"of them are. {end}"
    )
    picture = Picture("validation", caption, draw, (curves, crossing.columns, crossing.rows))
    return Section("When one looks", [], [looked_at(selection, crossing, curves)], [picture])


def looked_at(selection: Selection, crossing: Crossing, curves: pd.DataFrame) -> Table:
    """Tabulate the teacher's validation Dice, perturbation minus none, at up to four moments of training."""
    own = curves[curves["network"] == "teacher"]
    last, decimals = own["step"].max(), selection.options.decimals
    nearest = [min(own["step"].unique(), key=lambda step: abs(step - share * last)) for share in LOOKS_AT]
    steps = list(dict.fromkeys(nearest))
    rows: list[Row] = []
    tidy: list[dict[str, Any]] = []
    for row in (row for row in crossing.rows if row != NONE):
        for column in crossing.columns:
            cells = []
            for step in steps:
                values = _gap(own, row, column, step)
                spread = f" ± {values.std():.{decimals}f}" if len(values) > 1 else ""
                cells.append(Cell(f"{signed(values.mean(), decimals)}{spread}" if len(values) else "—", "",
                                  f"{len(values)} seeds"))  # fmt: skip
                tidy.append({"arm": row, ACROSS: column, "step": step, "value": values.mean(), "seeds": len(values)})
            rows.append(Row(f"{row}, {column}", cells, ruled=bool(rows) and column == crossing.columns[0]))
    caption = (
        "The teacher's validation Dice, perturbation minus none of the same seed and statistics, at up to four "
        "moments; mean ± sd over seeds. A loss that is gone at the end was a delay, no damage. "
        f"{conditions(selection, 'validation')}"
    )
    headers = ["minus none", *(f"step {step:,.0f}" for step in steps)]
    frame = pd.DataFrame(tidy).assign(column="validation dice minus none")
    return Table("when", "Perturbation minus none, by when one looks", headers, rows, caption, frame)


def _gap(own: pd.DataFrame, row: str, column: str, step: int) -> pd.Series:
    """Return one perturbation minus none by seed, at a step and with one kind of statistics."""
    here = own[(own[ACROSS] == column) & (own["step"] == step)]
    one, other = (here[here[DOWN] == name].groupby("seed")["dice"].mean() for name in (row, NONE))
    return (one - other).dropna()


def draw(curves: pd.DataFrame, columns: list[str], rows: list[str]) -> Figure:
    """Draw one panel per kind of statistics and network, one line per perturbation."""
    networks = [network for network in NETWORKS if network in set(curves["network"])]
    families = [_family(row) for row in rows]
    with style.house():
        figure = style.sheet(style.PAGE_IN, 1.75 * len(networks) + 0.4)
        grid = figure.subplots(len(networks), len(columns), sharex=True, sharey=True, squeeze=False)
        for line, network in zip(grid, networks):
            for axes, column in zip(line, columns):
                own = curves[(curves["network"] == network) & (curves[ACROSS] == column)]
                for row in rows:
                    _line(axes, own[own[DOWN] == row], row, families)
                axes.set(title=f"{column}, {network}", xlabel="step" if network == networks[-1] else "")
            line[0].set_ylabel("validation Dice (%)")
        legends.below(figure, legends.of(figure))
    return figure


def _family(row: str) -> str:
    return row.split(" ")[0]


def _line(axes: Axes, own: pd.DataFrame, row: str, families: list[str]) -> None:
    look = style.look(_family(row), families)
    for _, each in own.groupby("seed") if own["seed"].nunique() > 1 else ():
        axes.plot(each["step"], each["dice"], color=look.color, lw=0.5, alpha=0.5)
    seeds = own.groupby("step")["seed"].nunique()
    mean = own.groupby("step")["dice"].mean()[seeds == seeds.max()] if len(own) else pd.Series(dtype=float)
    # Without a line here too, so that every perturbation is in the legend.
    axes.plot(mean.index, mean, color=look.color, ls=look.dashes, lw=1.5, marker=style.dots(len(mean)), label=row)
