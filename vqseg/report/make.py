"""From a name to a written report: which study, which report, which folder."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from vqseg.errors import InputError, nearest
from vqseg.records import index
from vqseg.report import REPORTS, page, report_of, table
from vqseg.report.arms import columns_of
from vqseg.report.content import Report, missing_words
from vqseg.report.measures import measure_name
from vqseg.report.selection import Options, Selection, select


@dataclass(frozen=True)
class Made:
    """What was written, and what the terminal shows."""

    paths: list[Path]
    words: str


def make(
    name: str,
    *,
    store: Path,
    data: str | None = None,
    split: str | None = None,
    out: Path | None = None,
    options: Options | None = None,
) -> Made:
    """Write the report that ``name`` means: a report, a study's full name, or a study definition's name.

    Raises:
        InputError: unknown name, nothing to tabulate, or runs that do not belong in one table.
    """
    options = options or Options()
    measure_name(options.metric)
    kind, study_name = _meant(name, store)
    study = index.find_study(store, study_name, data=data, split=split)
    usual = report_of(study)
    # The ablation of a grid of modules is the report of grids.
    kind = usual if kind is None or (kind, usual) == ("ablation", "modules") else kind
    selection = select(store, study, options)
    columns_of(options.columns, selection.scores)
    report: Report = import_module(f"vqseg.report.{kind}").build(selection)
    folder = store / "reports" / study["name"]
    # The generic report of a study that has one of its own must not replace that.
    folder = folder if kind == usual else folder / kind
    paths = page.write(report, selection, out or folder)
    return Made(paths, _words(report, selection))


def listing(store: Path) -> str:
    """Return the reports and the store's studies, in words."""
    lines = ["reports"]
    lines += [f"  {name:<12} {entry.about}" for name, entry in REPORTS.items()]
    known = index.studies(store)
    lines += ["", f"studies in {store}" if known else f"no studies in {store}; 'vqseg study run NAME' makes one"]
    width = max((len(study["name"]) for study in known), default=0)
    for study in known:
        states = index.frame(store, [cell["identity"] for cell in study["cells"]])["state"]
        ready = report_of(study) if index.tabulable(store, study) else "nothing scored yet"
        lines.append(
            f"  {study['name']:<{width}}  {int((states == 'finished').sum())}/{len(study['cells'])} cells finished"
            f"  data {study['data']['name']}  -> {ready}"
        )
    return "\n".join(lines)


def _meant(name: str, store: Path) -> tuple[str | None, str | None]:
    """Return (report, study) that ``name`` means; None leaves the choice open."""
    known = index.studies(store)
    names = list(dict.fromkeys(study[key] for study in known for key in ("name", "study")))
    if name in REPORTS:
        return name, REPORTS[name].study
    if name in names:
        return None, name
    close = nearest(name, [*REPORTS, "list", *names])
    raise InputError(
        f"unknown report or study {name!r}{close}; reports: {', '.join(REPORTS)}; "
        f"studies in {store}: {', '.join(names) or 'none'}"
    )


def _words(report: Report, selection: Selection) -> str:
    main = next(each for section in report.sections for each in section.tables)
    blocks = [*(f"!! {banner}" for banner in report.banners)]
    blocks += [page.PHANTOM] if selection.phantom else []
    blocks += [table.text(main), main.caption, *main.footnotes, *report.summary]
    missing = missing_words(selection)
    if missing:
        blocks.append("\n".join(["missing:", *(f"  {line}" for line in missing)]))
    return "\n\n".join(blocks)
