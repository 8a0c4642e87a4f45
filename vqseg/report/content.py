"""What a report is made of, before it becomes files: sections of words, tables and pictures; captions."""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from vqseg.protocols import PROTOCOLS
from vqseg.report.selection import Selection
from vqseg.report.table import Table

MOST_NAMES = 12
"""Of pruned arms, in one line."""


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn when it is asked for: the name of its files, its caption, and what it is drawn from.

    ``draw`` is a function of a module, and its ``inputs`` are all that it looks at: as long as they and the code do
    not change, neither does the figure (`vqseg.report.drawn`).
    """

    name: str
    caption: str
    draw: Callable[..., Figure]
    inputs: tuple[Any, ...]

    @property
    def figure(self) -> Figure:
        """The figure, drawn now."""
        return self.draw(*self.inputs)


@dataclass(frozen=True)
class Section:
    """One heading with what stands under it."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """Banners come first, then the summary's sentences, then the sections."""

    title: str
    question: str
    banners: list[str]
    summary: list[str]
    sections: list[Section]


def conditions(selection: Selection, of: Literal["scores", "validation", "training"] = "scores") -> str:
    """Say under which conditions numbers were made: the common end of all captions.

    Numbers ``of`` validation are of its patients, those of training of none; both are made under no protocol.
    """
    scores, used = selection.headline, selection.used
    study = selection.study
    part = f"part {selection.part}: {scores['patient'].nunique()} patients, {scores['case'].nunique()} cases"
    parts = [
        f"data {study['data']['name']}{' (phantom: synthetic images)' if selection.phantom else ''}",
        f"split {study['split']['name']}{_labelled(used)}",
        *([part] if of == "scores" else [f"part val{_validated(used)}"] if of == "validation" else []),
        f"seeds {_listed(used['seed'])}",
        *([f"draws {_listed(used['draw'])} of the labelled patients"] if selection.draws > 1 else []),
        *([f"protocol {selection.protocol}{_pooled(selection.protocol)}"] if of == "scores" else []),
        f"{_listed(used.get('steps', pd.Series(dtype=float)), ',')} steps",
        f"preset {study.get('preset', '?')}",
        "fully supervised" if study.get("supervised") else "semi-supervised",
    ]
    words = "; ".join(parts) + "."
    if selection.differences:
        words += f" MIXED RUNS, asked for with --allow-mixed: {'; '.join(selection.differences)}."
    return words[0].upper() + words[1:]


def _pooled(protocol: str) -> str:
    """Say of a protocol that scores validation scans too that its numbers are no test numbers."""
    rule = PROTOCOLS.get(protocol)
    return " (validation scans, on which checkpoints were chosen, are among the cases)" if rule and rule.pool else ""


def scored_when(selection: Selection) -> str:
    """Say when the part was scored and how often it had been scored before."""
    used = selection.used
    entries = [
        entry
        for listed in used.get("evaluations", [])
        if isinstance(listed, list)
        for entry in listed
        if entry.get("part") == selection.part
    ]
    dates = sorted({str(entry.get("date", ""))[:10] for entry in entries} - {""})
    if not dates:
        return ""
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    repeats = max(int(entry.get("repeat") or 0) for entry in entries)
    before = f"; it had been scored up to {repeats} times before" if repeats else "; for the first time"
    return f"{selection.part} was scored on {span}{before}."


def environment(selection: Selection) -> str:
    """Say with which versions and on what the runs were made; several, if several."""
    used = selection.used
    keys = ("vqseg", "torch", "python", "platform", "device", "threads", "precision", "commit")
    found = []
    for key in keys:
        column = f"provenance.{key}"
        values = list(dict.fromkeys(str(value) for value in used[column].dropna())) if column in used else []
        if values:
            found.append(f"{key} {' and '.join(values)}")
    dirty = "provenance.dirty" in used and used["provenance.dirty"].fillna(False).astype(bool).any()
    return "; ".join(found) + ("; working tree not clean" if dirty else "")


def over(selection: Selection) -> str:
    """Say what a mean and its spread run over: ``seeds``, or runs where there are several draws."""
    return "runs (draws x seeds)" if selection.draws > 1 else "seeds"


def size_words(line: Mapping[Hashable, Any]) -> str:
    """Return ``3 seeds x 20 patients`` of a contrast's record, with draws and runs left out where there are any."""
    known = (float(line.get(key) or 0) for key in ("draws", "seeds", "left_out"))
    draws, seeds, left = (0 if math.isnan(value) else int(value) for value in known)
    before = f"{draws} draws x " if draws > 1 else ""
    after = f" ({left} run{'s' * (left != 1)} left out)" if left else ""
    return f"{before}{seeds} seed{'s' * (seeds != 1)} x {line['patients']:.0f} patients{after}"


def missing_words(selection: Selection) -> list[str]:
    """Name the cells that no number here counts, a line each, then the arms that the study left out.

    What a search pruned is over, and no gap: all of it is one line.
    """
    lines, cells = [], selection.missing
    several = cells["draw"].nunique() > 1 or selection.draws > 1
    for cell in cells[cells["state"] != "pruned"].to_dict("records"):
        reason = f": {cell['error']}" if cell["error"] else ""
        drawn = f", draw {cell['draw']}" if several else ""
        lines.append(f"{cell['arm']}, seed {cell['seed']}{drawn}: {cell['state']}{reason} ({cell['identity']})")
    if names := list(dict.fromkeys(cells.loc[cells["state"] == "pruned", "arm"])):
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        lines.append(f"pruned by the search: {', '.join(names[:MOST_NAMES])}{more}")
    return lines + [f"{label}: skipped: {reason}" for label, reason in selection.skipped.items()]


def _labelled(used: pd.DataFrame) -> str:
    column = "split.parts.labelled.patients"
    counts = list(used[column].dropna().unique()) if column in used else []
    labels = "all" in set(used["labels"]) if "labels" in used else False
    shown = f", {int(counts[0])} labelled patients" if len(counts) == 1 else ""
    return shown + (", all labels used" if labels else "")


def _validated(used: pd.DataFrame) -> str:
    column = "split.parts.val.patients"
    counts = list(used[column].dropna().unique()) if column in used else []
    return f": {int(counts[0])} patients" if len(counts) == 1 else ""


def _listed(values: pd.Series, thousands: str = "") -> str:
    known = sorted({int(value) for value in values.dropna()})
    if len(known) > 2 and known == list(range(known[0], known[-1] + 1)):
        return f"{known[0]}-{known[-1]}"
    return ", ".join(f"{value:{thousands}}" for value in known) or "?"
