"""From studies to a report: which module builds it, and what every report of synthetic images says first."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from types import ModuleType
from typing import Any

from vqseg.errors import InputError
from vqseg.report import REPORTS
from vqseg.report.arms import columns_of
from vqseg.report.content import Picture, Report
from vqseg.report.options import Options
from vqseg.report.page import PHANTOM
from vqseg.report.selection import Selection, select
from vqseg.report.surroundings import Source
from vqseg.report.table import Table


@dataclass(frozen=True)
class Bound:
    """A report of one study with the runs that it speaks about."""

    kind: str
    report: Report
    selection: Selection


def of_study(
    kind: str, store: Path, study: dict[str, Any], options: Options, *, selection: Selection | None = None
) -> Bound:
    """Build a report of one study.

    Raises:
        InputError: nothing to tabulate, or runs that do not belong in one table.
    """
    selection = selection or select(store, study, options)
    columns_of(options.columns, selection.scores)
    return Bound(kind, distinct(with_commit(_module(kind).build(selection), selection)), selection)


def distinct(report: Report) -> Report:
    """Return the report with names of its tables and figures that are all different: files are called by them.

    Arms whose names differ only in what a file name cannot have would share one.
    """
    known: set[str] = set()

    def named(name: str) -> str:
        found = next(other for other in chain([name], (f"{name}-{n}" for n in count(2))) if other not in known)
        known.add(found)
        return found

    return _with_each(report, lambda shown: {"name": named(shown.name)})


def with_commit(report: Report, selection: Selection) -> Report:
    """Return the report with the commit of its runs at the end of every caption that says how they were made."""
    words, made = commits(selection), f"; preset {selection.study.get('preset', '?')}; "

    def said(caption: str) -> str:
        return f"{caption} {words}" if words and made in caption else caption

    return _with_each(report, lambda shown: {"caption": said(shown.caption)})


def _with_each(report: Report, changes: Callable[[Table | Picture], dict[str, Any]]) -> Report:
    """Return the report with ``changes`` in each of its tables and figures, in their order."""
    sections = [
        replace(
            section,
            tables=[replace(table, **changes(table)) for table in section.tables],
            pictures=[replace(picture, **changes(picture)) for picture in section.pictures],
        )
        for section in report.sections
    ]
    return replace(report, sections=sections)


def commits(selection: Selection) -> str:
    """Return ``Commit 1a2b3c4.`` of the runs, or several, and whether the tree had changes; empty if unknown."""
    used = selection.used
    if "provenance.commit" not in used:
        return ""
    known = list(dict.fromkeys(str(value)[:7] for value in used["provenance.commit"].dropna()))
    dirty = "provenance.dirty" in used and bool(used["provenance.dirty"].eq(True).any())
    listed = f"Commit{'s' * (len(known) > 1)} {' and '.join(known)}{', changed' * dirty}."
    return listed if known else ""


def of_stores(kind: str, sources: list[Source], options: Options) -> Report:
    """Build a report of a whole store, or of two.

    Figures of such a report see to their watermark themselves: they may be of some of the studies.

    Raises:
        InputError: the report refuses.
    """
    module = _module(kind)
    report: Report = module.between(*sources, options) if kind == "diff" else module.build(*sources[0], options)
    return marked(report, [study for _, studies in sources for study in studies])


def marked(report: Report, studies: list[dict[str, Any]]) -> Report:
    """Return the report with a banner if studies are of synthetic images, and its tables marked if all are.

    Its tables and figures have names of their own: see `distinct`.
    """
    report = distinct(report)
    synthetic = [str(study["name"]) for study in studies if is_phantom(study)]
    if not synthetic:
        return report
    if len(synthetic) < len(studies):
        words = (
            f"Some studies are of synthetic images (phantom) and say nothing about a method: {', '.join(synthetic)}."
        )
        return replace(report, banners=[*report.banners, words])
    sections = [
        replace(section, tables=[replace(table, phantom=True) for table in section.tables])
        for section in report.sections
    ]
    return replace(report, banners=[*report.banners, PHANTOM], sections=sections)


def _module(kind: str) -> ModuleType:
    """Return a report's module; a library that it needs and that is not there is a refusal, and breaks no page."""
    try:
        return import_module(f"vqseg.report.{REPORTS[kind].module}")
    except ModuleNotFoundError as error:
        raise InputError(f"report {kind}: {error.name} is not installed; install it and run this again") from None


def is_phantom(study: Mapping[str, Any]) -> bool:
    """Whether a study's data are synthetic."""
    return bool((study.get("data") or {}).get("synthetic"))
