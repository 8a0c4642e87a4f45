"""Size and width of the codebook: scores beside use, use beside its ceiling, and what the codes are.

Speaks of any study; made for `codebook-size`.
Source: VQ-Seg (NeurIPS 2025), Table 5.
Differs: utilization never stands without the number of tokens T and the ceiling that T sets; the paper prints neither.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from vqseg.report import ablation, arms, codes, companions, published, use
from vqseg.report.content import Picture, Report, Section, conditions, over
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.published import Published
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table
from vqseg.report.training import training_sections

TOPIC = "codebook-size"
HEALTH = {
    "utilization": ("% used", "{:.1f}", 100.0),
    "ceiling": ("% ceiling", "{:.1f}", 100.0),
    "perplexity": ("perplexity", "{:,.0f}", 1.0),
    "dead": ("dead codes", "{:,.0f}", 1.0),
}


def build(selection: Selection) -> Report:
    """Build the report of codebooks."""
    table, shapes, rows = use.compute(selection), use.sizes(selection), printed()
    section = Section(
        "Size and use",
        use.sentences(table, selection.arms),
        [_sizes(selection, table, shapes), *_places(selection, table), *_published(rows, selection.options.decimals)],
        [*_size_figure(selection, table, shapes), *_class_figure(selection)],
    )
    return Report(
        title=f"{selection.study['name']}: codebooks",
        question=selection.study.get("question", ""),
        banners=ablation.banners(selection),
        summary=[*ablation.best_sentence(selection), *_summary(selection, table)],
        sections=[
            section,
            ablation.scores_section(selection, printed_elsewhere={row.source for row in rows}),
            *training_sections(selection),
            codes.section(selection),
        ],
    )


def printed() -> list[Published]:
    """Return the published rows about the size of the codebook."""
    return [row for row in published.load() if TOPIC in row.topics]


def _summary(selection: Selection, table: pd.DataFrame) -> list[str]:
    """Say how much is used, under which ceiling, and where that allows no claim."""
    own = table[table["place"] == selection.part]
    if own.empty:
        return []
    means = own.groupby("arm")[["tokens", "codes", "utilization", "ceiling"]].mean()
    means = means.reindex([arm for arm in selection.arms if arm in means.index])
    shown = [
        f"{arm} {100 * row['utilization']:.0f} of at most {100 * row['ceiling']:.0f} %" for arm, row in means.iterrows()
    ]
    barred = [str(arm) for arm, row in means.iterrows() if not use.claim(row["tokens"], row["codes"])]
    words = f"Codes used on {selection.part} ({means['tokens'].max():,.0f} tokens): {', '.join(shown)}."
    if barred:
        words += f" Fewer than {use.ENOUGH} tokens per code, so no claim about utilization: {', '.join(barred)}."
    return [words]


def _sizes(selection: Selection, table: pd.DataFrame, shapes: pd.DataFrame) -> Table:
    """Return the table of arms: V, d, score and effect, then the use of the codebook."""
    metric = measure_name(selection.options.metric)
    ticks = {
        "V": {arm: _whole(shapes["codes"].get(arm)) for arm in selection.arms},
        "d": {arm: _whole(shapes["rank"].get(arm)) for arm in selection.arms},
    }
    main = arms.tabulate(
        selection,
        name="codebook",
        title="Size and use of the codebook",
        columns=[metric, "effect"],
        caption="",
        ticks=ticks,
    )
    places = [place for place in (use.TRAINING, selection.part) if place in set(table["place"])]
    keys = [(place, "utilization") for place in places]
    keys += [(selection.part, key) for key in ("perplexity", "dead", "each")] if selection.part in places else []
    records = {arm: _means(table[table["arm"] == arm]) for arm in selection.arms}
    rows = [
        replace(row, cells=[*row.cells, *(_cell(records[arm].get(place), key, beside=True) for place, key in keys)])
        for arm, row in zip(selection.arms, main.rows)
    ]
    headers = [
        f"{_header(key)} {use.within(place)} (ceiling)" if key == "utilization" else _header(key) for place, key in keys
    ]
    caption = (
        "V codes, d the width of the table that they come from. The last teacher is scored; mean ± sd over "
        f"{over(selection)}. {ablation.MARKS} Δ: arm minus reference. {ablation.tested(selection)} Ceiling: 1 - (1 - "
        "1/V)^T, what T even draws would use; in training over the last window of 10 V tokens (student), on "
        f"{selection.part} over all of its tokens (last teacher); means over seeds. Perplexity, dead codes (no token) "
        f"and T per used code: on {selection.part}. {conditions(selection)}"
    )
    tidy = pd.concat([main.tidy, _tidy(table)], ignore_index=True)
    return replace(main, headers=[*main.headers, *headers], rows=rows, caption=caption, tidy=tidy)


def _places(selection: Selection, table: pd.DataFrame) -> list[Table]:
    """Return the table of use with a row per arm and place; none where nothing is known."""
    if table.empty:
        return []
    rows, previous = [], None
    for arm in selection.arms:
        for place, record in _means(table[table["arm"] == arm]).items():
            enough = use.claim(record["tokens"], record["codes"])
            values = [Cell(place), Cell(f"{record['codes']:,.0f}"), Cell(f"{record['tokens']:,.0f}")]
            values += [Cell(f"{record['tokens'] / record['codes']:.1f}", tip=record["tip"])]
            values += [_cell(record, key) for key in (*HEALTH, "each")] + [Cell("yes" if enough else "no")]
            rows.append(Row(arm, values, ruled=previous not in (None, arm)))
            previous = arm
    headers = ["arm", "where", "V", "T", "T/V", *(_header(key) for key in (*HEALTH, "each")), "claim allowed"]
    caption = (
        "Where codebooks were looked at, how many tokens T that were, and what so many tokens allow: a claim about "
        f"utilization needs T >= {use.ENOUGH} V. Dead: codes that no token took there. Means over seeds. "
        f"{conditions(selection, 'training')}"
    )
    return [Table("codebook-use", "Use of the codebook, place by place", headers, rows, caption, _tidy(table))]


def _means(own: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return place -> means over one arm's runs, with ``each`` (tokens per used code) and a ``tip`` of its runs."""
    found: dict[str, dict[str, Any]] = {}
    for place, runs in own.groupby("place", sort=False):
        record = {key: float(runs[key].mean()) for key in ("codes", "tokens", *HEALTH)}
        record["each"] = float((runs["tokens"] / (runs["utilization"] * runs["codes"])).mean())
        tip = f"{len(runs)} runs, {record['tokens']:,.0f} tokens, {record['codes']:,.0f} codes"
        found[str(place)] = {**record, "tip": f"{tip}; runs {' '.join(runs['identity'])}"}
    return found


def _cell(record: Mapping[str, Any] | None, key: str, *, beside: bool = False) -> Cell:
    """Word one quantity; ``beside`` puts the ceiling behind a utilization."""
    if record is None:
        return Cell("—")
    if key == "each":
        return Cell(f"{record['each']:,.1f}", tip=record["tip"])
    _, form, scale = HEALTH[key]
    text = form.format(record[key] * scale)
    if beside and key == "utilization":
        text += f" ({form.format(record['ceiling'] * scale)})"
    return Cell(text, tip=record["tip"])


def _header(key: str) -> str:
    return "T per used code" if key == "each" else HEALTH[key][0]


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers of use, one line per run, place and quantity."""
    keys = ["tokens", *HEALTH]
    long = table.melt(id_vars=["arm", "seed", "place", "identity"], value_vars=keys, var_name="column")
    return long.assign(column=long["column"] + " " + long["place"], runs=long["identity"]).drop(
        columns=["place", "identity"]
    )


def _whole(value: object) -> str:
    return "?" if value is None or pd.isna(value) else f"{float(value):,.0f}"  # type: ignore[call-overload,arg-type]


def _published(rows: list[Published], decimals: int) -> list[Table]:
    """Return the published rows about sizes, with the utilization that they print; none if there are none."""
    if not rows:
        return []
    panel = companions.panel(rows, decimals)
    said = [row.values.get("utilization") for row in rows]
    lines = [
        replace(line, cells=[*line.cells[:-1], Cell("?" if value is None else f"{100 * value:.0f}"), line.cells[-1]])
        for line, value in zip(panel.rows, said)
    ]
    headers = [*panel.headers[:-1], "% used", panel.headers[-1]]
    return [replace(panel, name="published-sizes", title="Published sizes", headers=headers, rows=lines)]


def _size_figure(selection: Selection, table: pd.DataFrame, shapes: pd.DataFrame) -> list[Picture]:
    metric = measure_name(selection.options.metric)
    known = use.by_size(selection, table, shapes, metric)
    if known["codes"].nunique() < 2:
        return []
    label = MEASURES[metric].label(selection.protocol)
    caption = (
        f"{label}, utilization and perplexity against the number of codes V. Marker: mean of an arm; dots to its "
        "right: seeds. Dotted: the utilization that so many tokens allow, in training over a window of 10 V tokens, "
        f"on {selection.part} over its tokens; where it falls, the fall of utilization says nothing. "
        f"{conditions(selection)}"
    )
    return [Picture("codebook-size", caption, use.draw, (known, label, selection.part))]


def _class_figure(selection: Selection) -> list[Picture]:
    table = use.by_class(selection)
    if table.empty:
        return []
    caption = (
        f"Codes that each class uses on {selection.part}, by the class that covers most of a token's cell (last "
        "teacher). Large: mean over seeds; dots: seeds; 0 has no place on the scale. A class of few tokens cannot "
        f"use many codes: the bar is the ceiling of its tokens under even use. {conditions(selection, 'training')}"
    )
    return [Picture("codebook-classes", caption, use.draw_classes, (table,))]
