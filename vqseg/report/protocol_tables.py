"""Tables of one study under every protocol: means, the lead, ranks with conclusions, what every protocol scores."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vqseg.protocols import PROTOCOLS
from vqseg.report import ablation, arms, contrasts
from vqseg.report.content import conditions, size_words
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.numbers import interval, signed
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table


def end_of(selection: Selection) -> str:
    """Return the conditions, without the one protocol that the selection is of."""
    return conditions(selection).replace(f"protocol {selection.protocol}", "every protocol", 1)


def means(selection: Selection, scores: Mapping[str, pd.DataFrame], metric: str) -> Table:
    """Tabulate one metric, arms x protocols; marks are within a protocol."""
    numbers, parts, decimals = {}, [], selection.options.decimals
    for protocol, rows in scores.items():
        tidy = arms.compute(rows, selection.used, reference=selection.reference, columns=[metric], metric=metric)
        numbers[protocol] = {line["arm"]: line for line in tidy.to_dict("records")}
        parts.append(tidy.assign(protocol=protocol))
    rows_ = []
    for arm in selection.arms:
        cells = []
        for own in numbers.values():
            line = own.get(arm)
            if line is None:
                cells.append(Cell("—"))
                continue
            spread = "" if pd.isna(line["sd"]) else f" ± {line['sd']:.{decimals}f}"
            tip = f"{size_words(line)}; runs {line['runs']}"
            cells.append(Cell(f"{line['value']:.{decimals}f}{spread}", line["mark"], tip))
        rows_.append(Row(f"{arm} (reference)" if arm == selection.reference else arm, cells))
    label = MEASURES[metric].label(selection.protocol)
    none = [name for name, own in numbers.items() if not own]
    lacks = f"{' and '.join(none)}: has no such distances. " if none else ""
    caption = f"Mean ± sd over runs; marks are within a protocol. {lacks}{ablation.MARKS} {end_of(selection)}"
    name = f"protocols-{metric.replace('_', '-')}"
    return Table(name, f"{label} under every protocol", ["arm", *numbers], rows_, caption, pd.concat(parts))


def leads(selection: Selection, gaps: pd.DataFrame) -> Table:
    """Tabulate the best arm minus the second under every protocol."""
    metric, decimals = measure_name(selection.options.metric), selection.options.decimals
    rows = []
    for line in gaps.to_dict("records"):
        between = interval(line["low"], line["high"], decimals) or "—"
        tip = f"{size_words(line)}; runs {line['runs']}"
        cells = [Cell(str(line["contrast"])), Cell(signed(line["estimate"], decimals), tip=tip), Cell(between)]
        rows.append(Row(str(line["protocol"]), [*cells, Cell(size_words(line))]))
    caption = (
        "The best arm minus the second, as every protocol ranks them. Both were picked by looking at the same scores, "
        f"so the intervals are too narrow, and no p is given. {end_of(selection)}"
    )
    effect = f"Δ {MEASURES[metric].short(selection.protocol)}"
    headers = ["protocol", "best minus second", effect, "95 % interval", "seeds x patients"]
    tidy = gaps.drop(columns=["by_seed", "words"]).rename(columns={"contrast": "arm", "estimate": "value"})
    return Table(
        "leads", "The lead under every protocol", headers, rows, caption, tidy.assign(column="best minus second")
    )


def ranked(selection: Selection, ranks: pd.DataFrame, moved: Mapping[str, str]) -> Table:
    """Tabulate the rank of every arm under every protocol, and what changes between them."""
    names, rows = list(ranks.columns), []
    for arm, own in ranks.iterrows():
        places = [Cell("—" if pd.isna(own[name]) else f"{own[name]:.0f}") for name in names]
        rows.append(Row(str(arm), [*places, Cell(moved[str(arm)] or "—")]))
    unit = MEASURES[measure_name(selection.options.metric)].short(selection.protocol)
    caption = (
        f"Rank by mean {unit}, 1 is best. changes: what differs between protocols: the verdict against "
        f"{selection.reference} or whether there is one (significance), the sign of the estimate, the rank. "
        f"{end_of(selection)}"
    )
    headers = ["arm", *map(str, names), "changes"]
    return Table("ranks", "Ranks under every protocol", headers, rows, caption, ranks.reset_index(names="arm"))


def conclusions(selection: Selection, effects: pd.DataFrame) -> Table:
    """Tabulate the effect of every arm under every protocol."""
    unit, decimals = (
        MEASURES[measure_name(selection.options.metric)].short(selection.protocol),
        selection.options.decimals,
    )
    names = list(dict.fromkeys(effects["protocol"]))
    at = {(line["arm"], line["protocol"]): line for line in effects.to_dict("records")}
    rows = [
        Row(arm, [_effect(at.get((arm, name)), decimals) for name in names]) for arm in dict.fromkeys(effects["arm"])
    ]
    caption = (
        f"Δ {unit} against {selection.reference} with 95 % intervals; bold: told from 0 (Holm within a protocol, at "
        f"least 3 seeds). {ablation.tested(selection)} {end_of(selection)}"
    )
    tidy = effects.drop(columns=["by_seed", "words"], errors="ignore").rename(columns={"estimate": "value"})
    headers = ["arm", *map(str, names)]
    return Table("conclusions", "Effects under every protocol", headers, rows, caption, tidy.assign(column="effect"))


def _effect(line: Mapping[Any, Any] | None, decimals: int) -> Cell:
    if line is None:
        return Cell("—")
    words = f"{signed(line['estimate'], decimals)} {interval(line['low'], line['high'], decimals)}".rstrip()
    return Cell(words, "bold" if contrasts.told(line) else "", f"{size_words(line)}; runs {line['runs']}")


def rules(selection: Selection, scores: Mapping[str, pd.DataFrame]) -> Table:
    """Tabulate what every protocol scores here."""
    rows, tidy = [], []
    for name, own in scores.items():
        rule, counts = PROTOCOLS.get(name), (own["patient"].nunique(), own["case"].nunique())
        told = (
            [rule.case_unit, rule.geometry, rule.empty, " and ".join(rule.units) or "none", rule.pool or "—"]
            if rule
            else 5 * ["?"]
        )
        runs = own["identity"].nunique()
        rows.append(Row(name, [*map(Cell, told), *(Cell(str(count)) for count in counts), Cell(str(runs))]))
        tidy.append({"arm": name, "column": "cases", "value": counts[1], "runs": " ".join(own["identity"].unique())})
    headers = ["protocol", "case", "geometry", "empties", "distances", "pooled with", "patients", "cases", "runs"]
    caption = (
        "What a case is, the grid that the network sees, what an empty mask costs (diagonal: the volume's, zero: 0 for "
        "every metric), the unit of distances. Numbers of two rows do not compare: their cases, grids or rules differ. "
        f"{end_of(selection)}"
    )
    return Table("protocols", "What every protocol scores", headers, rows, caption, pd.DataFrame(tidy))
