"""From a name to a written report: which study, which report, which folder; and whether it stands there already.

A report that was made from the same files, by the same code and for the same question is not made again. What it was
made from are the files of the study's runs and of the runs that stand beside them, the status of every run of the
store (one may have become a rival), and the study's own record; each by its inode, time and size.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqseg.errors import InputError, nearest
from vqseg.files import digest
from vqseg.records import index
from vqseg.records.run import STATUS
from vqseg.report import REPORTS, report_of
from vqseg.report.drawn import Drawn, code, of_files
from vqseg.report.options import Options

if TYPE_CHECKING:
    from vqseg.report.content import Report
    from vqseg.report.selection import Selection

FILES = ("config.yaml", "metrics.csv", "rows.parquet", "codebook.parquet", "codes.npz")
"""Of a run, what reports read beside its status."""


@dataclass(frozen=True)
class Made:
    """What was written, and what the terminal shows; ``anew`` unless it stood there already."""

    paths: list[Path]
    words: str
    anew: bool = True


def make(
    name: str,
    *,
    store: Path,
    data: str | None = None,
    split: str | None = None,
    out: Path | None = None,
    options: Options | None = None,
    width: int | None = None,
) -> Made:
    """Write the report that ``name`` means: a report, a study's full name, or a study definition's name.

    Args:
        name: what to report on.
        store: where studies and runs lie.
        data: only studies on this data set.
        split: only studies on this split.
        out: folder to write to; by default one below the store.
        options: what the user asked for.
        width: of the terminal that the words are for; None: as wide as they get.

    Raises:
        InputError: unknown name, nothing to tabulate, or runs that do not belong in one table.
    """
    options = options or Options()
    kind, study_name = _meant(name, store)
    study = index.find_study(store, study_name, data=data, split=split)
    usual = report_of(study)
    # The ablation of a grid of modules is the report of grids.
    kind = usual if kind is None or (kind, usual) == ("ablation", "modules") else kind
    folder = store / "reports" / study["name"]
    # The generic report of a study that has one of its own must not replace that.
    folder = out or (folder if kind == usual else folder / kind)
    drawn = Drawn(folder)
    said = drawn.report.get("rivals", [])
    asked = [str(store.absolute()), str(folder.absolute()), kind, asdict(options), width]
    key = _key(store, study, asked, said if isinstance(said, list) else [])
    if drawn.stands(drawn.report, key):
        return Made([folder / name for name in drawn.report["files"]], drawn.report["words"], anew=False)
    rivals = index.foreign(store, str(study["data"]["digest"])) if options.rivals else []
    # Before anything is read, so that what changes in between is read again the next time.
    key = _key(store, study, asked, rivals)
    made, resting = _make(store, study, kind, options, width, drawn)
    drawn.report = {"key": key, "rivals": rivals, "words": made.words, "files": _files(made.paths, drawn)}
    if not resting:
        drawn.report = {}
    drawn.save()
    return made


def _make(
    store: Path, study: dict[str, Any], kind: str, options: Options, width: int | None, drawn: Drawn
) -> tuple[Made, bool]:
    """Make a report anew; and say whether its runs are at rest."""
    from vqseg.report import page
    from vqseg.report.arms import columns_of
    from vqseg.report.measures import measure_name
    from vqseg.report.selection import select

    measure_name(options.metric)
    selection = select(store, study, options)
    columns_of(options.columns, selection.scores)
    report: Report = import_module(f"vqseg.report.{REPORTS[kind].module}").build(selection)
    paths = page.write(report, selection, drawn)
    # What becomes of a run that claims to be running, only its lock can tell, and no file.
    resting = not set(selection.tabled_cells["state"]) & {"running", "killed"}
    return Made(paths, _words(report, selection, width)), resting


def _files(paths: Iterable[Path], drawn: Drawn) -> dict[str, Any]:
    figures = [entry["files"] for entry in drawn.figures.values()]
    known = {**drawn.texts, **{name: stamp for files in figures for name, stamp in files.items()}}
    return {path.name: known[path.name] for path in paths}


def _key(store: Path, study: dict[str, Any], asked: list[Any], rivals: Iterable[str]) -> str:
    """Return a digest of all that a report is made from."""
    runs = [store / "runs" / identity for identity in [*(cell["identity"] for cell in study["cells"]), *rivals]]
    parts = [path / name for path in dict.fromkeys(runs) for name in FILES]
    statuses = sorted((store / "runs").glob(f"*/{STATUS}"))
    notes = index.failures(store, study)
    return digest([code(), asked, study, notes, of_files([*statuses, *parts])], 32)


def listing(store: Path) -> str:
    """Return the reports and the store's studies, in words."""
    lines = ["reports"]
    lines += [f"  {name:<12} {entry.about}" for name, entry in REPORTS.items()]
    known = index.studies(store)
    lines += ["", f"studies in {store}" if known else f"no studies in {store}; 'vqseg study run NAME' makes one"]
    width = max((len(study["name"]) for study in known), default=0)
    runs = index.frame(store, [cell["identity"] for study in known for cell in study["cells"]])
    state_of = dict(zip(runs["identity"], runs["state"]))
    for study in known:
        finished = sum(state_of[cell["identity"]] == "finished" for cell in study["cells"])
        ready = report_of(study) if index.tabulable(store, study) else "nothing scored yet"
        lines.append(
            f"  {study['name']:<{width}}  {finished}/{len(study['cells'])} cells finished"
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


def _words(report: "Report", selection: "Selection", width: int | None) -> str:
    from vqseg.report import page, table
    from vqseg.report.content import missing_words

    main = next(each for section in report.sections for each in section.tables)
    blocks = [report.title, *(f"!! {banner}" for banner in report.banners)]
    blocks += [page.PHANTOM] if selection.phantom else []
    blocks += [table.text(main, width), main.caption, *main.footnotes, *report.summary]
    missing = missing_words(selection)
    if missing:
        blocks.append("\n".join(["missing:", *(f"  {line}" for line in missing)]))
    return "\n\n".join(blocks)
