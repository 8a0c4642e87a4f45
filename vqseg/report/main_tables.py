"""The words of `vqseg.report.main`: its tables, and the panel of published rows that stand apart."""

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from vqseg.report import companions, integrity, published, style
from vqseg.report.bound import commits
from vqseg.report.content import Section, conditions
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.options import Options
from vqseg.report.published import BROKEN, Published
from vqseg.report.rivals import MARK
from vqseg.report.table import Cell, Row, Table

if TYPE_CHECKING:
    from vqseg.report.main import Panel

FEW = 2
"""With so many numbers of labelled patients, other scores stand beside the first one."""

TOPIC = "main"
APART = (
    "They stand apart because their numbers do not compare with ours, nor with each other: test scans, the choice of "
    "the checkpoint, units, what an empty prediction scores, the images' size and the training differ."
)


def section(panel: "Panel", options: Options, *, first: bool) -> Section:
    """Return the table of one panel."""
    title = f"{panel.data}, preset {panel.preset}, {panel.part}, {panel.steps:,} steps"
    return Section(title, [], [tabulate(panel, options, first=first)])


def sentence(panel: "Panel") -> str:
    """Say how many rows there are, and for how many labelled patients."""
    counts = ", ".join(f"{count} labelled" for count in panel.counts)
    where = f"{panel.data} ({panel.part}, protocol {panel.protocol}, preset {panel.preset}, {panel.steps:,} steps)"
    studies = len(panel.selections)
    rows = panel.numbers.drop_duplicates(["row", "study"])
    methods = f"{len(rows)} method{'s' * (len(rows) != 1)}"
    return f"{where}: {methods} from {studies} stud{'y' if studies == 1 else 'ies'}, {counts}."


def tabulate(panel: "Panel", options: Options, *, first: bool = True) -> Table:
    """Word a panel: one row per method, one column per number of labelled patients, matching published rows below."""
    metric, numbers = measure_name(options.metric), panel.numbers
    several = len(panel.counts) > FEW
    keys = [metric, *(key for key in ("jaccard", "hd95_voxel", "asd_voxel") if not several and key != metric)]
    columns = [(count, key) for key in keys for count in panel.counts]
    rows, ruled = [], False
    for (name, study), own in numbers.groupby(["row", "study"], sort=False):
        of = {line["labelled"]: line for line in own.to_dict("records")}
        roles = ", ".join(word for word in dict.fromkeys(own["role"]) if word)
        values = [_value(of.get(count), key, options) for count, key in columns]
        cells = [Cell(_seeds(own)), *values, Cell(roles or "—"), Cell(str(study) or "—")]
        rival = str(name).endswith(MARK)
        marks = " ".join(dict.fromkeys(" ".join(own["marks"]).split()))
        rows.append(Row(f"{name} {marks}".rstrip(), cells, ruled=rival and not ruled))
        ruled = ruled or rival
    inside = matching(panel)
    rows += [_published_row(row, columns, options, ruled=number == 0) for number, row in enumerate(inside)]
    words = [f"{MEASURES[key].label(panel.protocol)}, {count} labelled" for count, key in columns]
    alone = len(panel.counts) == 1
    if alone:
        words = [MEASURES[key].label(panel.protocol) for _, key in columns]
    return Table(
        name="main"
        if first
        else style.slug(f"main-{panel.data}-{panel.preset}-{panel.split}-{panel.part}-{panel.protocol}-{panel.steps}"),
        title=f"Methods by labels on {panel.data}" + (f", {panel.counts[0]} labelled patients" if alone else ""),
        headers=["method", "seeds", *words, "role", "study"],
        rows=rows,
        caption=_caption(panel),
        tidy=numbers.rename(columns={"row": "arm", metric: "value", f"{metric}_sd": "sd"}).assign(column=metric),
        footnotes=_notes(panel, inside),
        phantom=panel.phantom,
    )


def matching(panel: "Panel") -> list[Published]:
    """Return the published rows of the same data, labelled patients, part and protocol."""
    counts = {int(count) for count in panel.counts if count.isdigit()}
    return [
        row
        for row in published.load()
        if row.data.casefold() == panel.data.casefold()
        and (row.part, row.protocol) == (panel.part, panel.protocol)
        and row.labelled in counts
    ]


def published_section(data: str, panels: list["Panel"], options: Options) -> Section | None:
    """Return the published rows of a data set that stand in none of our tables; None if there are none."""
    inside = [row for panel in panels for row in matching(panel)]
    rows = [
        row
        for row in published.load()
        if row.data.casefold() == data.casefold() and TOPIC in row.topics and row not in inside
    ]
    if not rows:
        return None
    table = published_table(data, rows, options.decimals, first=not panels or data == panels[0].data)
    return Section(f"Published on {data.upper()}", [APART], [table])


def published_table(data: str, rows: list[Published], decimals: int, *, first: bool) -> Table:
    """Return published rows by labels: one row per method and source, Dice in the cells, the rest in the CSV."""
    labels = list(dict.fromkeys((row.labelled, row.labels) for row in rows))
    labels.sort(key=lambda pair: (pair[0] is None, pair[0] or 0))
    groups: dict[tuple[str, ...], dict[str, Published]] = {}
    for row in rows:
        key = (row.part, row.protocol, row.source, row.trust, row.method)
        groups.setdefault(key, {})[row.labels] = row
    lines, before = [], ""
    for (part, protocol, source, trust, method), own in sorted(groups.items(), key=lambda item: item[0][0]):
        cells = [Cell(_said(part)), Cell(_said(protocol))]
        cells += [_printed(own.get(words), decimals) for _, words in labels] + [Cell(f"{source} [{trust}]")]
        lines.append(Row(method, cells, ruled=before not in ("", part)))
        before = part
    used = [f"[{mark}] {words}" for mark, words in published.TRUST.items() if mark in {row.trust for row in rows}]
    notes = dict.fromkeys(f"{row.source}: {row.note}." for row in rows if row.note)
    return Table(
        name="published" if first else style.slug(f"published-{data}"),
        title=f"Published on {data.upper()}, Dice (%) by labels",
        headers=["method", "part", "protocol", *(words for _, words in labels), "source"],
        rows=lines,
        caption=(
            f"Not comparable with the tables above, nor with each other. ?: not stated. {'; '.join(used)}. {BROKEN} "
            "Jaccard and distances are in the CSV of cells."
        ),
        tidy=pd.DataFrame(
            {"arm": row.method, "column": key, "value": value, "labels": row.labels, "runs": row.source}
            for row in rows
            for key, value in row.values.items()
        ),
        footnotes=list(notes),
    )


def _caption(panel: "Panel") -> str:
    means = "The last teacher is scored; mean ± sd over runs, each the mean over cases and classes."
    whose = (
        "Of every study: its reference, its best arm on validation, what was trained on labelled images alone, all "
        "modules of a grid together, and all shares of labelled patients; the others are in the study's own table. No "
        "marks: arms of two studies share no reference, and contrasts with their intervals are the studies' own."
    )
    return f"{means} {whose} {common(panel)}"


def common(panel: "Panel") -> str:
    """Return the conditions and commits of all studies: once what they share, with their names what they do not."""
    said: dict[str, dict[str, list[str]]] = {}
    for selection in panel.selections:
        commit = commits(selection).rstrip(".")
        for part in [*conditions(selection).rstrip(".").split("; "), *([commit] if commit else [])]:
            key = "steps" if part.endswith(" steps") else part.partition(" ")[0].casefold().rstrip("s")
            said.setdefault(key, {}).setdefault(part, []).append(str(selection.study["name"]))
    whole = len(panel.selections)
    words = [
        " or ".join(part if len(names) == whole else f"{part} ({', '.join(names)})" for part, names in own.items())
        for own in said.values()
    ]
    return "; ".join(words) + "."


def _notes(panel: "Panel", inside: list[Published]) -> list[str]:
    notes = [f"{MARK} scored from predictions, run elsewhere; ?: not told."] if _has_rivals(panel) else []
    if other := other_code(panel):
        notes.append(f"Code that these studies share and that was not the same in all of them: {', '.join(other)}.")
    notes += integrity.footnotes([*panel.issues, *integrity.of_published(inside)])
    notes += [companions.note_of(row) for row in inside]
    return list(dict.fromkeys(notes))


def other_code(panel: "Panel") -> list[str]:
    """Return the modules that runs of several studies used in several forms."""
    forms: dict[str, set[str]] = {}
    for selection in panel.selections:
        for code in selection.used.get("code", []):
            for module, digest in (code if isinstance(code, dict) else {}).items():
                forms.setdefault(module, set()).add(str(digest))
    return sorted(module for module, digests in forms.items() if len(digests) > 1)


def _has_rivals(panel: "Panel") -> bool:
    return bool((panel.numbers["role"] == "rival").any())


def _seeds(own: pd.DataFrame) -> str:
    counts = sorted(set(own["seeds"]))
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def _value(line: Mapping[Hashable, Any] | None, key: str, options: Options) -> Cell:
    if line is None or pd.isna(line[key]):
        return Cell("—")
    sd, decimals = float(line[f"{key}_sd"]), options.decimals
    spread = "" if pd.isna(sd) else f" ± {sd:.{decimals}f}"
    tip = f"{line['seeds']} seeds, {line['patients']} patients; runs {line['runs']}"
    return Cell(f"{line[key]:.{decimals}f}{spread}", tip=tip)


def _published_row(row: Published, columns: list[tuple[str, str]], options: Options, *, ruled: bool) -> Row:
    cells = [Cell("?")]
    for count, key in columns:
        known = row.values.get(key) if count == str(row.labelled) else None
        words = "—" if known is None else f"{known * MEASURES[key].scale:.{options.decimals}f}"
        cells.append(Cell(words, tip="" if known is None else row.source))
    cells += [Cell("published"), Cell("—")]
    return Row(f"{row.method} [{row.trust}]{companions.marks(row)}", cells, ruled=ruled)


def _printed(row: Published | None, decimals: int) -> Cell:
    if row is None or "dice" not in row.values:
        return Cell("—")
    spread = f" ± {100 * row.sd['dice']:.{decimals}f}" if "dice" in row.sd else ""
    mark = companions.marks(row)
    others = ", ".join(f"{key} {value:g}" for key, value in row.values.items())
    return Cell(f"{100 * row.values['dice']:.{decimals}f}{spread}{mark}", tip=f"{row.source}: {others}")


def _said(words: str) -> str:
    return "?" if words == "unknown" else words
