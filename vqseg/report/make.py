"""From a name to a written report: which studies, which report, which folder; and whether it stands there already.

A report that was made from the same files, by the same code and for the same question is not made again. What it was
made from are the files of the studies' runs and of the runs that stand beside them, the status of every run of the
store (one may have become a rival), the studies' own records, claims and data; each by its inode, time and size.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqseg.errors import InputError, nearest, pick
from vqseg.files import digest
from vqseg.records import index
from vqseg.records.run import STATUS
from vqseg.report import REPORTS, folder_name, report_of
from vqseg.report.drawn import Drawn, code, of_files
from vqseg.report.options import PROJECTIONS, Options

if TYPE_CHECKING:
    from vqseg.report.content import Report
    from vqseg.report.page import Around

FILES = ("config.yaml", "metrics.csv", "rows.parquet", "codebook.parquet", "codes.npz")
"""Of a run, what reports read beside its status."""


@dataclass(frozen=True)
class Made:
    """What was written, and what the terminal shows; ``anew`` unless it stood there already."""

    paths: list[Path]
    words: str
    anew: bool = True


@dataclass(frozen=True)
class Wanted:
    """A report, the studies that it speaks about with the stores that they lie in, and the folder to write to."""

    kind: str
    sources: list[tuple[Path, list[dict[str, Any]]]]
    folder: Path

    @property
    def studies(self) -> list[tuple[Path, dict[str, Any]]]:
        """Every study with its store."""
        return [(store, study) for store, studies in self.sources for study in studies]


def make(
    name: str,
    *subjects: str,
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
        subjects: the study that a report of one study is about; the two stores or studies that ``diff`` compares.
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
    wanted = _wanted(name, list(subjects), store, data, split, out)
    drawn = Drawn(wanted.folder)
    said = drawn.report.get("rivals", [])
    asked = [str(wanted.folder.absolute()), wanted.kind, asdict(options), width]
    key = _key(wanted, asked, said if isinstance(said, list) else [])
    if drawn.stands(drawn.report, key):
        return Made([wanted.folder / name for name in drawn.report["files"]], drawn.report["words"], anew=False)
    rivals = _rivals(wanted) if options.rivals else []
    # Before anything is read, so that what changes in between is read again the next time.
    key = _key(wanted, asked, rivals)
    made = _make(wanted, options, width, drawn)
    drawn.report = {"key": key, "rivals": rivals, "words": made.words, "files": _files(made.paths, drawn)}
    if not _resting(wanted):
        drawn.report = {}
    drawn.save()
    return made


def folder_of(store: Path, study: dict[str, Any], kind: str) -> Path:
    """Return where a report of a study lies; its generic report must not replace one of its own."""
    folder = store / "reports" / folder_name(study)
    return folder if kind == report_of(study) else folder / kind


def listing(store: Path) -> str:
    """Return the reports and the store's studies, in words."""
    lines = ["reports of one study: vqseg report NAME [STUDY]"]
    lines += [f"  {name:<15} {entry.about}" for name, entry in REPORTS.items() if entry.scope == "study"]
    lines += ["", "reports of a whole store: vqseg report NAME; of diff: vqseg report diff OLD NEW"]
    lines += [f"  {name:<15} {entry.about}" for name, entry in REPORTS.items() if entry.scope == "store"]
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


def _make(wanted: Wanted, options: Options, width: int | None, drawn: Drawn) -> Made:
    """Make a report anew."""
    from vqseg.report import bound, page, surroundings
    from vqseg.report.measures import measure_name

    measure_name(options.metric)
    pick(options.projection, PROJECTIONS, "projection")
    if REPORTS[wanted.kind].scope == "study":
        ((store, study),) = wanted.studies
        own = bound.of_study(wanted.kind, store, study, options)
        report, around = own.report, page.of_selection(own.selection, wanted.folder)
    elif wanted.kind == "all":
        from vqseg.report import everything

        return Made(*everything.write(*wanted.sources[0], options, drawn, width))
    else:
        report = bound.of_stores(wanted.kind, wanted.sources, options)
        around = surroundings.around(wanted.sources, wanted.folder)
    return Made(page.write(report, around, drawn), _words(report, around, width))


def _files(paths: Iterable[Path], drawn: Drawn) -> dict[str, Any]:
    figures = [entry["files"] for entry in drawn.figures.values()]
    known = {**drawn.texts, **{name: stamp for files in figures for name, stamp in files.items()}}
    return {path.name: known[path.name] for path in paths}


def _key(wanted: Wanted, asked: list[Any], rivals: Iterable[str]) -> str:
    """Return a digest of all that a report is made from."""
    parts: list[Any] = [code(), asked]
    for store, studies in wanted.sources:
        own = [cell["identity"] for study in studies for cell in study["cells"]]
        runs = [store / "runs" / identity for identity in [*own, *rivals]]
        files = [path / name for path in dict.fromkeys(runs) for name in FILES]
        files += sorted((store / "runs").glob(f"*/{STATUS}")) + sorted((store / "claims").glob("*.yaml"))
        files += sorted((store / "priors").glob("*/prior.json"))
        files += [Path(study["data"].get("root", "?")) / "manifest.json" for study in studies]
        parts += [str(store.absolute()), studies, [index.failures(store, study) for study in studies], of_files(files)]
    return digest(parts, 32)


def _rivals(wanted: Wanted) -> list[str]:
    digests = {(store, str(study["data"]["digest"])): None for store, study in wanted.studies}
    return [run for store, data in digests for run in index.foreign(store, data)]


def _resting(wanted: Wanted) -> bool:
    """Whether no run claims to be running: what becomes of such a one, only its lock can tell, and no file."""
    for store, studies in wanted.sources:
        runs = index.frame(store, [cell["identity"] for study in studies for cell in study["cells"]])
        if set(runs["state"]) & {"running", "killed"}:
            return False
    return True


def _wanted(
    name: str, subjects: list[str], store: Path, data: str | None, split: str | None, out: Path | None
) -> Wanted:
    """Find what ``name`` and ``subjects`` mean."""
    entry = REPORTS.get(name)
    if name == "diff":
        from vqseg.report import diff

        old, new = diff.sides(store, subjects, data=data, split=split)
        words = "-".join(Path(each).name for each in diff.names(old, new))
        return Wanted(name, [old, new], out or new[0] / "reports" / f"diff-{words}")
    if entry and entry.scope == "store":
        if subjects:
            raise InputError(
                f"report {name} is of a whole store, got {subjects[0]!r}; 'vqseg report {subjects[0]}' is of that"
            )
        return Wanted(name, [(store, _studies(store, data, split))], out or store / "reports" / name)
    if len(subjects) > (1 if entry else 0):
        form = f"vqseg report {name} STUDY" if entry else f"vqseg report REPORT {name}"
        raise InputError(f"report {name}: {len(subjects)} more names than expected; the form is '{form}'")
    if not entry:
        _require_study(name, store)
    study = index.find_study(store, subjects[0] if subjects else entry.study if entry else name, data=data, split=split)
    usual = report_of(study)
    # The ablation of a grid of modules is the report of grids.
    kind = usual if not entry or (name, usual) == ("ablation", "modules") else name
    return Wanted(kind, [(store, [study])], out or folder_of(store, study, kind))


def _studies(store: Path, data: str | None, split: str | None) -> list[dict[str, Any]]:
    known = index.studies(store)
    if data is None and split is None:
        return known
    found = [study for study in known if index.is_on(study, data, split)]
    if not found:
        limits = [f"{what} {value!r}" for what, value in (("data", data), ("split", split)) if value is not None]
        names = ", ".join(study["name"] for study in known) or "none"
        raise InputError(f"no study on {' and '.join(limits)} in {store}; studies there: {names}")
    return found


def _require_study(name: str, store: Path) -> None:
    known = index.studies(store)
    names = list(dict.fromkeys(study[key] for study in known for key in ("name", "study")))
    if name in names:
        return
    close = nearest(name, [*REPORTS, "list", *names])
    raise InputError(
        f"unknown report or study {name!r}{close}; reports: {', '.join(REPORTS)}; "
        f"studies in {store}: {', '.join(names) or 'none'}"
    )


def _words(report: "Report", around: "Around", width: int | None) -> str:
    from vqseg.report import page, table

    main = next((each for section in report.sections for each in section.tables), None)
    blocks = [report.title, *(f"!! {banner}" for banner in report.banners)]
    blocks += [page.PHANTOM] if around.phantom else []
    blocks += [table.text(main, width), main.caption, *main.footnotes] if main else []
    blocks += report.summary
    if around.missing:
        blocks.append("\n".join(["missing:", *(f"  {line}" for line in around.missing)]))
    return "\n\n".join(blocks)
