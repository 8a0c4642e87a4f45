"""Methods x labels: what was trained here, rivals that were scored from predictions, and published rows apart.

Rows of one table agree in data, split, part, protocol, preset and steps; where their studies ran other code, a note
says which. Every row is one kind of arm of one study. Of a study
stand here its reference, the arm that was best on validation, what was trained on labelled images alone, the arm with
all modules of a grid, and every arm that has its own share of labelled patients; the study's own table has the others.
A published row stands among ours only where data, labelled patients, part and protocol are the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from vqseg.errors import InputError
from vqseg.records.run import RunFolder
from vqseg.report import epsilon, gaps, integrity, label_ratio, main_tables
from vqseg.report.content import Report, Section
from vqseg.report.integrity import Issue
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.options import Options
from vqseg.report.rivals import MARK
from vqseg.report.selection import Selection, select

LABELLED, UNLABELLED = "split.parts.labelled.patients", "split.parts.unlabelled.patients"
SHOWN = ("dice", "jaccard", "hd95_voxel", "asd_voxel")
UNKNOWN = "?"


@dataclass(frozen=True)
class Panel:
    """One table: what its rows agree in, the numbers, and the selections behind them.

    ``numbers``: one line per (``row``, ``study``, ``labelled``): ``role``, ``marks`` (`integrity.MARKS`), ``seeds``,
    ``patients``, ``runs``, and mean (``dice``) and sd over runs (``dice_sd``) of every measure in printed units.
    ``labelled`` is the number of labelled patients in words. ``issues``: what the marks stand for.
    """

    data: str
    split: str
    preset: str
    part: str
    protocol: str
    steps: int
    phantom: bool
    numbers: pd.DataFrame
    selections: list[Selection] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)

    @property
    def counts(self) -> list[str]:
        """The numbers of labelled patients, the smallest first; what is not known stands last."""
        known = list(dict.fromkeys(self.numbers["labelled"]))
        return sorted(known, key=lambda words: (not words.isdigit(), int(words) if words.isdigit() else 0, words))


def build(store: Path, studies: list[dict[str, Any]], options: Options) -> Report:
    """Build the report from every study of a store that can be tabulated; the others say why not."""
    selections, refused = [], []
    for study in studies:
        try:
            selections.append(select(store, study, options))
        except InputError as error:
            refused.append(f"Left out: {error}.")
    return of_selections(selections, options, [*refused, *gaps.sentences(gaps.compute(store, studies))])


def of_selections(selections: list[Selection], options: Options, notes: list[str]) -> Report:
    """Build the report from studies that were selected already; ``notes`` say what is not in it."""
    panels = compute(selections, options)
    shown = {id(each) for panel in panels for each in panel.selections}
    notes = [*(_unshown(each) for each in selections if id(each) not in shown), *notes]
    known = list(dict.fromkeys(panel.data for panel in panels)) or ["acdc", "lc"]
    sections = [main_tables.section(panel, options, first=number == 0) for number, panel in enumerate(panels)]
    sections += [section for data in known if (section := main_tables.published_section(data, panels, options))]
    if not selections:
        empty = (
            "No study has scores yet: 'vqseg study run NAME --data FOLDER' makes one, 'vqseg study list' names them."
        )
        sections.insert(0, Section("Trained here", [empty]))
    return Report(
        title="Methods by labels",
        question="How well does every method do with so many labelled patients, here and in print?",
        banners=integrity.banners(*selections),
        summary=[*(main_tables.sentence(panel) for panel in panels), *notes],
        sections=sections,
    )


def _unshown(selection: Selection) -> str:
    """Say why a study that has scores has no row."""
    name, part = selection.study["name"], selection.part
    return f"Left out: of {name} neither the reference nor the best arm on validation is scored on {part}."


def compute(selections: Iterable[Selection], options: Options) -> list[Panel]:
    """Return the tables, the one with most rows first."""
    groups: dict[tuple[Any, ...], list[Selection]] = {}
    for each in selections:
        study = each.study
        same = (study["data"]["name"], study["data"]["digest"], study["split"]["digest"], str(study.get("preset")))
        groups.setdefault((*same, each.part, each.protocol, _steps(each)), []).append(each)
    panels = []
    for (data, _, _, preset, part, protocol, steps), own in groups.items():
        lines, rivals, found = list[dict[str, Any]](), list[dict[str, Any]](), list[Issue]()
        for selection in own:
            issues = integrity.issues(selection)
            marks = integrity.marks_of(issues)
            mine, others = _lines(selection, options), _rivals(selection)
            lines += [{**line, "marks": marks.get(line["arm"], "")} for line in mine]
            rivals += [{**line, "marks": marks.get(line["arm"], "")} for line in others]
            shown = {line["arm"] for line in (*mine, *others)}
            where = f" ({selection.study['name']})" if len(own) > 1 else ""
            found += [replace(issue, row=f"{issue.row}{where}") for issue in issues if issue.row in shown]
        lines += rivals
        if not lines:  # what is scored is neither the reference nor the best on validation
            continue
        numbers, split = _merged(pd.DataFrame(lines)), str(own[0].study["split"]["name"])
        panels.append(Panel(data, split, preset, part, protocol, steps, own[0].phantom, numbers, own, found))
    return sorted(panels, key=lambda panel: (panel.phantom, -len(panel.numbers)))


def roles(selection: Selection, metric: str) -> dict[str, str]:
    """Return which arms stand in the table, and as what."""
    shares = label_ratio.places(selection.study)
    best = best_on_validation(selection, metric)
    found = {}
    for label in selection.arms:
        words = ["reference"] if label == selection.reference else []
        words += ["best on validation"] if label == best else []
        words += ["labelled only"] if _is_bare(selection, label) else []
        factors = selection.of_arm[label].get("factors") or {}
        words += ["all modules"] if factors and all(factors.values()) else []
        if words or label in shares:
            found[label] = ", ".join(words)
    return found


def best_on_validation(selection: Selection, metric: str) -> str | None:
    """Return the arm with the best mean on validation over all families; None if nothing was validated."""
    whole = replace(
        selection, validation=selection.validation.assign(family="*"), cells=selection.cells.assign(family="*")
    )
    return epsilon.best_on_validation(whole, metric).get("*")


def _steps(selection: Selection) -> int:
    """Return how long the study's runs were trained, most of them if it varies that itself; 0 if unknown."""
    known = selection.used["steps"].dropna() if "steps" in selection.used else pd.Series(dtype=float)
    return int(known.mode().iloc[0]) if len(known) else 0


def _is_bare(selection: Selection, arm: str) -> bool:
    """Whether an arm was trained without unlabelled images, though its study is about them."""
    runs = selection.used.loc[selection.used["arm"] == arm, "identity"]
    if selection.study.get("supervised") or runs.empty:
        return False
    method = RunFolder(selection.store, str(runs.iloc[0])).config().get("method")
    return (method.get("name") if isinstance(method, dict) else method) == "supervised"


def _lines(selection: Selection, options: Options) -> list[dict[str, Any]]:
    wanted = roles(selection, measure_name(options.metric))
    shares = label_ratio.places(selection.study)
    counts = {str(run["identity"]): _labelled(run) for run in selection.used.to_dict("records")}
    rows = selection.headline[selection.headline["arm"].isin(set(wanted))]
    lines = []
    for arm in (label for label in wanted if (rows["arm"] == label).any()):
        own, place = rows[rows["arm"] == arm], shares.get(arm)
        said = sorted({counts[str(identity)] for identity in own["identity"].unique()})
        named = {"row": str(place[label_ratio.ARM]) if place else arm, "labelled": ", ".join(said)}
        named |= {"study": str(selection.study["name"]), "role": wanted[arm], "arm": arm}
        lines.append(named | _measured(own, options))
    places = [(line["row"], line["labelled"]) for line in lines]
    # Of few patients two shares may be the same number: then the arms' own names tell them apart.
    return [{**line, "row": line["arm"]} if places.count(place) > 1 else line for line, place in zip(lines, places)]


def _rivals(selection: Selection) -> list[dict[str, Any]]:
    cells = selection.rivals.cells
    lines = []
    for name in selection.rivals.names:
        own = cells[cells["arm"] == name]
        told = {_number(value) for value in own.get("labelled", [])} or {UNKNOWN}
        scores = selection.rivals.scores
        named = {"row": f"{name} {MARK}", "study": "", "role": "rival", "arm": name}
        named["labelled"] = ", ".join(sorted(told))
        lines.append(named | _measured(scores[scores["arm"] == name], selection.options))
    return lines


def _measured(rows: pd.DataFrame, options: Options) -> dict[str, Any]:
    """Return means and spreads over runs, and what they are of."""
    found: dict[str, Any] = {
        "seeds": int(rows[["seed"]].drop_duplicates().shape[0]),
        "patients": int(rows["patient"].nunique()),
        "runs": " ".join(dict.fromkeys(rows["identity"])),
    }
    for metric in dict.fromkeys((*SHOWN, measure_name(options.metric))):
        runs = rows.groupby("identity")[metric].mean().astype(float) * MEASURES[metric].scale
        found |= {metric: float(runs.mean()), f"{metric}_sd": float(runs.std())}
    return found


def _merged(numbers: pd.DataFrame) -> pd.DataFrame:
    """Make one line of lines with the same runs: arms of two studies that are one."""
    if numbers.empty:
        return numbers
    parts = []
    for _, own in numbers.groupby(["runs", "labelled"], sort=False):
        first = own.iloc[0].to_dict()
        for key, between in (("row", " = "), ("study", ", "), ("role", ", "), ("marks", " ")):
            words = dict.fromkeys(word for each in own[key] for word in str(each).split(between))
            first[key] = between.join(word for word in words if word)
        parts.append(first)
    return pd.DataFrame(parts).drop(columns="arm", errors="ignore")


def _labelled(run: Mapping[Any, Any]) -> str:
    """Return how many labelled patients a run had: all of them where the hidden labels were opened."""
    count = _number(run.get(LABELLED))
    if run.get("labels") != "all":
        return count
    rest = _number(run.get(UNLABELLED))
    return str(int(count) + int(rest)) if count.isdigit() and rest.isdigit() else count


def _number(value: Any) -> str:
    known = isinstance(value, (int, float)) and not pd.isna(value)
    return f"{value:.0f}" if known else UNKNOWN
