"""Two stores, or two studies: what was run anew or otherwise, and what became of scores, tables and verdicts."""

from collections.abc import Hashable, Iterable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vqseg.errors import InputError
from vqseg.files import read_json
from vqseg.records import index
from vqseg.report import changes
from vqseg.report.changes import SAME, Pair
from vqseg.report.content import Report, Section, conditions, size_words
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.numbers import cell_p, interval, signed
from vqseg.report.options import Options
from vqseg.report.surroundings import Source
from vqseg.report.table import Cell, Row, Table

EVERY = "every arm"
FORM = "vqseg report diff OLD NEW"
MOST_ROWS = 80
"""So many printed numbers stand on the page; the CSV has all."""


def sides(
    store: Path, subjects: list[str], *, data: str | None = None, split: str | None = None
) -> tuple[Source, Source]:
    """Find what OLD and NEW mean: stores, folders of studies (``STORE/studies/NAME``), or studies of ``store``.

    Raises:
        InputError: not two, an unknown study, or a store beside a study.
    """
    if len(subjects) != 2:
        given = f"{len(subjects)} name{'s' * (len(subjects) != 1)}"
        raise InputError(f"report diff: got {given}, expected two stores or two studies: {FORM}")
    if {_is_store(Path(subject)) for subject in subjects} == {True, False}:
        raise InputError(f"report diff: {subjects[0]!r} and {subjects[1]!r} are a store and a study; compare two alike")
    old, new = (_source(store, subject, data, split) for subject in subjects)
    return old, new


def names(old: Source, new: Source) -> tuple[str, str]:
    """Return what two sides are called: by their studies if they lie in one store, else by the stores."""
    if old[0].resolve() == new[0].resolve():
        one, other = (str(studies[0]["name"]) if len(studies) == 1 else str(store) for store, studies in (old, new))
        return one, other
    return str(old[0]), str(new[0])


def build(store: Path, studies: list[dict[str, Any]], options: Options) -> Report:
    """Compare two studies of one store.

    Raises:
        InputError: there are not two.
    """
    if len(studies) != 2:
        raise InputError(f"report diff: got {len(studies)} studies, expected two: {FORM}")
    return between((store, studies[:1]), (store, studies[1:]), options)


@dataclass(frozen=True)
class Found:
    """What `vqseg.report.changes` finds between two sides; ``judged`` verdicts were held against each other."""

    pairs: list[Pair]
    runs: pd.DataFrame
    scores: pd.DataFrame
    numbers: pd.DataFrame
    verdicts: pd.DataFrame
    judged: int

    @property
    def changed(self) -> pd.DataFrame:
        """The cells that are not the same."""
        return self.runs[self.runs["change"] != SAME]

    @property
    def moved(self) -> pd.DataFrame:
        """The arms whose mean is another one."""
        return self.scores[self.scores["after"] != self.scores["before"]]

    @property
    def alone(self) -> set[str]:
        """The studies that one side alone has."""
        return {pair.name for pair in self.pairs if pair.whole is None}

    @property
    def nothing(self) -> bool:
        """Whether both sides are the same."""
        return not (self.alone or len(self.changed) or len(self.moved) or len(self.numbers) or len(self.verdicts))


def between(old: Source, new: Source, options: Options) -> Report:
    """Compare two sides."""
    metric, pairs = measure_name(options.metric), changes.pairs(old, new, options)
    verdicts, judged = changes.verdicts(old, new, options)
    found = Found(
        pairs,
        runs=_joined((changes.runs(pair) for pair in pairs), ["change"]),
        scores=_joined((changes.scores(pair, metric) for pair in pairs), ["before", "after"]),
        numbers=_joined((changes.printed(pair) for pair in pairs), ["table"]),
        verdicts=verdicts,
        judged=judged,
    )
    sections = [
        Section("Runs", _refusals(pairs), [_runs(found.changed, found.alone)] if len(found.changed) else []),
        Section("Scores", _scored_words(found), [_scores(found, options)] if len(found.moved) else []),
        Section("Printed numbers", [], [_numbers(found.numbers)] if len(found.numbers) else []),
        Section("Verdicts", [], [_verdicts(verdicts)] if len(verdicts) else []),
    ]
    return Report(
        title=f"What changed: {' → '.join(names(old, new))}",
        question="Which runs are new, gone or otherwise, and what became of the scores, the tables and the verdicts?",
        banners=[],
        summary=_summary(found),
        sections=[section for section in sections if section.tables or section.paragraphs],
    )


def _joined(parts: Iterable[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    filled = [part for part in parts if not part.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=columns)


def _source(store: Path, subject: str, data: str | None, split: str | None) -> Source:
    path = Path(subject)
    if (path / "study.json").is_file() and path.resolve().parent.name == "studies":
        return path.resolve().parent.parent, [read_json(path / "study.json")]
    if _is_store(path):
        return path, index.studies(path)
    return store, [index.find_study(store, subject, data=data, split=split)]


def _is_store(path: Path) -> bool:
    return path.is_dir() and ((path / "studies").is_dir() or (path / "runs").is_dir())


def _summary(found: Found) -> list[str]:
    """Say in a sentence each what changed, or in one that nothing did."""
    if found.nothing:
        return [
            f"Nothing changed: {_count(found.pairs, 'study', 'studies')}, {_count(found.runs, 'cell')}, the scores of "
            f"{_count(found.scores, 'arm')}, every printed number and {found.judged} verdicts are the same."
        ]
    gone = [pair.name for pair in found.pairs if pair.new is None]
    added = [pair.name for pair in found.pairs if pair.old is None]
    lines = [f"New: {', '.join(added)}."] if added else []
    lines += [f"Gone: {', '.join(gone)}."] if gone else []
    lines.append(
        "Cells: " + ", ".join(f"{count} {word}" for word, count in found.runs["change"].value_counts().items())
    )
    lines[-1] += "."
    both = f"Scores moved in {len(found.moved)} of {_count(found.scores, 'arm')} that both sides have."
    lines.append(both if len(found.scores) else "No arm is scored on both sides.")
    tables = found.numbers["table"].nunique()
    lines.append(
        f"{len(found.numbers)} printed numbers differ, in {tables} tables." if tables else "All numbers print alike."
    )
    judged = f"{len(found.verdicts)} of {found.judged} verdicts differ."
    lines.append(judged if found.judged else "No claim is judged on both sides.")
    return lines


def _count(things: Sized, one: str, several: str = "") -> str:
    return f"{len(things)} {one if len(things) == 1 else several or one + 's'}"


def _refusals(found: Iterable[Pair]) -> list[str]:
    return [
        f"{word} {pair.name} cannot be tabulated: {side.refused}."
        for pair in found
        for word, side in (("Old", pair.old), ("New", pair.new))
        if side and side.refused
    ]


def _runs(changed: pd.DataFrame, alone: set[str]) -> Table:
    """Return the cells that differ, those of one arm and cause in one row, of studies that stand ``alone`` in one."""
    rows, before = [], None
    arms = [EVERY if study in alone else arm for study, arm in zip(changed["study"], changed["arm"])]
    for (study, change, arm, why), own in changed.assign(arm=arms).groupby(
        ["study", "change", "arm", "why"], sort=False
    ):
        several = own["draw"].nunique() > 1
        seeds = [f"{draw}/{seed}" if several else f"{seed}" for draw, seed in zip(own["draw"], own["seed"])]
        seeds = [_count(own, "cell")] if arm == EVERY else seeds
        tip = "; ".join(f"{one or 'none'} → {other or 'none'}" for one, other in zip(own["old"], own["new"]))
        cells = [Cell(str(study)), Cell(str(change), "bold"), Cell(", ".join(seeds), tip=tip), Cell(str(why) or "—")]
        rows.append(Row(str(arm), cells, ruled=before not in (None, study)))
        before = study
    tidy = changed.assign(column="change", value=changed["change"], runs=changed["old"] + " " + changed["new"])
    return Table(
        name="runs",
        title="Cells that differ",
        headers=["arm", "study", "change", "seeds", "what (old → new)"],
        rows=rows,
        caption=(
            "Cells are the same where study, arm, draw and seed are. new, gone: one side alone has the cell. Other "
            "settings: leaves of the config; other circumstances: data, split, code, versions or machine. At most "
            f"{changes.MOST} differences are named."
        ),
        tidy=tidy.drop(columns=["old", "new"]),
    )


def _scored_words(found: Found) -> list[str]:
    words = []
    for pair in found.pairs:
        old, new = (side.selection if side else None for side in pair.whole or (None, None))
        if old and new and (old.part, old.protocol) != (new.part, new.protocol):
            words.append(
                f"{pair.name}: scored on {old.part} by {old.protocol} before and on {new.part} by {new.protocol} now, "
                "which do not compare; ask for one with --part and --protocol."
            )
    same = len(found.scores) - len(found.moved)
    return words + ([f"{same} of {_count(found.scores, 'arm')} scored the same."] if len(found.moved) and same else [])


def _scores(found: Found, options: Options) -> Table:
    metric, decimals, scores = measure_name(options.metric), options.decimals, found.scores
    selections = [side.selection for pair in found.pairs for side in pair.whole or () if side.selection]
    protocol = selections[0].protocol
    rows, before = [], None
    for line in scores.to_dict("records"):
        tip = f"{size_words(line)}; runs {line['runs']}"
        between = interval(line["low"], line["high"], decimals)
        cells = [
            Cell(str(line["study"])),
            *(Cell(f"{line[key]:.{decimals}f}", tip=tip) for key in ("before", "after")),
            Cell(f"{signed(line['estimate'], decimals)} {between}".strip(), tip=tip),
            Cell(cell_p(line["p"])),
            Cell(size_words(line)),
        ]
        rows.append(Row(str(line["arm"]), cells, ruled=before not in (None, line["study"])))
        before = line["study"]
    label, unit = MEASURES[metric].label(protocol), MEASURES[metric].short(protocol)
    ends = list(dict.fromkeys(conditions(selection) for selection in selections))
    return Table(
        name="scores",
        title="Scores of the arms that both sides have",
        headers=["arm", "study", f"{label} old", f"{label} new", f"Δ {unit} [95 %]", "p", "seeds x patients"],
        rows=rows,
        caption=(
            "Only cells that both sides have count, seed by seed and patient by patient. Δ: new minus old, single "
            "intervals for new seeds and new patients, p not corrected: a look at what moved, no test of a method. "
            f"{' '.join(ends[:2])}{' And other studies.' if len(ends) > 2 else ''}"
        ),
        tidy=scores.rename(columns={"estimate": "value"}).assign(column=f"{metric}, new minus old"),
    )


def _numbers(numbers: pd.DataFrame) -> Table:
    rows, before = [], None
    for line in numbers[:MOST_ROWS].to_dict("records"):
        cells = [Cell(str(line[key])) for key in ("study", "table", "column", "old", "new")]
        rows.append(Row(str(line["row"]), cells, ruled=before not in (None, line["table"])))
        before = line["table"]
    more = f" {len(numbers) - MOST_ROWS} more are in the CSV of cells." if len(numbers) > MOST_ROWS else ""
    tidy = numbers.rename(columns={"row": "arm", "new": "value"}).assign(runs="")
    return Table(
        name="printed",
        title="Numbers that print otherwise",
        headers=["row", "study", "table", "column", "old", "new"],
        rows=rows,
        caption=f"Of the tables of every study's own report, as both sides print them.{more}",
        tidy=tidy,
    )


def _verdicts(verdicts: pd.DataFrame) -> Table:
    rows = [Row(str(line["claim"]), _verdict(line)) for line in verdicts.to_dict("records")]
    return Table(
        name="verdicts",
        title="Verdicts that differ",
        headers=["claim", "study", "old", "new", "old effect", "new effect"],
        rows=rows,
        caption="Of the claims that both sides judge. A verdict may turn by a single seed: look at the effects.",
        tidy=verdicts.rename(columns={"claim": "arm", "new": "value"}).assign(column="verdict", runs=""),
    )


def _verdict(line: Mapping[Hashable, Any]) -> list[Cell]:
    words = [Cell(str(line[key]) or "—") for key in ("study", "old", "new", "old_effect", "new_effect")]
    return [words[0], words[1], Cell(words[2].text, "bold"), *words[3:]]
