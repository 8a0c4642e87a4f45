"""``vqseg data``: import a data set, make splits, mark lesions, and check what is there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqseg.cli import own_import, splits, volumes
from vqseg.cli.options import Json

if TYPE_CHECKING:
    from vqseg.findings import PartReport, Report
    from vqseg.importers.writer import Imported

app = typer.Typer(help="Import data, make splits, check them.", no_args_is_help=True)

Source = Annotated[Path, typer.Argument(help="Folder of the data set as it was published.")]
Out = Annotated[Path, typer.Argument(help="Prepared folder to write.")]


@app.command()
def acdc(
    source: Source,
    out: Out,
    labelled: Annotated[
        str, typer.Option(help="Labelled patients, the first of the list: N, a share (10%), all.")
    ] = "7",
    name: Annotated[str, typer.Option(help="Name of the data set in records and reports.")] = "acdc",
) -> None:
    """Import ACDC, as SSL4MIS's HDF5 files with their lists or as the original NIfTI files."""
    from vqseg.importers import IMPORTERS

    _say(IMPORTERS["acdc"](source, out, labelled=labelled, name=name), out)


@app.command()
def folder(
    source: Source,
    out: Out,
    name: Annotated[str | None, typer.Option(help="Name of the data set; default: the source folder's.")] = None,
    classes: Annotated[str | None, typer.Option(help="Class names from index 0, such as background,lesion.")] = None,
    patients: Annotated[
        Path | None, typer.Option(help="CSV with the columns image and patient; others are kept to stratify splits by.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression over file names with a group patient, perhaps scan and slice."),
    ] = None,
    val: Annotated[
        float | None, typer.Option(help="Share (0-1) of the labelled patients to validate on, where val/ is absent.")
    ] = None,
    window: Annotated[
        tuple[float, float] | None, typer.Option(help="Two intensities of 16-bit images that become 0 and 255.")
    ] = None,
) -> None:
    """Import PNG images and masks from train-label/, train-unlabel/, val/ and test/."""
    from vqseg.importers import IMPORTERS

    names = [word.strip() for word in classes.split(",")] if classes else None
    options = {"name": name, "classes": names, "patients": patients, "pattern": pattern, "val": val, "window": window}
    _say(IMPORTERS["folder"](source, out, **options), out)


@app.command()
def isic(
    source: Source,
    out: Out,
    name: Annotated[str | None, typer.Option(help="Name of the data set; default: isic-YEAR, or the folder's.")] = None,
    labelled: Annotated[str, typer.Option(help="Labelled training patients: N, a share (10%), all.")] = "10%",
    val: Annotated[
        float | None, typer.Option(help="Share (0-1) to validate on, where none is published; default .1.")
    ] = None,
    test: Annotated[
        float | None, typer.Option(help="Share (0-1) to test on, where none is published; default .2.")
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option(help="CSV with image (or image_id, isic_id) and patient_id or lesion_id; default: one per image."),
    ] = None,
    max_side: Annotated[int, typer.Option(help="Shrink photographs whose longer side has more pixels.")] = 512,
    lesion: Annotated[
        bool, typer.Option(help="Mark the class as a lesion: count and score lesions one by one.")
    ] = False,
) -> None:
    """Import skin photographs with lesion masks: ISIC 2016, 2017 or 2018, HAM10000, or images/ and masks/."""
    from vqseg.importers import IMPORTERS

    options: dict[str, Any] = {"name": name, "labelled": labelled, "val": val, "test": test, "patients": patients}
    _say(IMPORTERS["isic"](source, out, max_side=max_side, lesion=lesion, **options), out)


@app.command()
def phantom(
    out: Out,
    patients: Annotated[int, typer.Option(help="Number of patients, at least 4.")] = 24,
    size: Annotated[int, typer.Option(help="Side of an image in pixels, at least 32.")] = 96,
    seed: Annotated[int, typer.Option(help="The same seed draws the same data.")] = 0,
    labelled: Annotated[str, typer.Option(help="Labelled training patients: N, a share (10%), all.")] = "1",
    name: Annotated[str, typer.Option(help="Name of the data set in records and reports.")] = "phantom",
) -> None:
    """Draw a synthetic short-axis cardiac data set."""
    from vqseg.importers import IMPORTERS

    options = {"patients": patients, "size": size, "seed": seed, "labelled": labelled, "name": name}
    _say(IMPORTERS["phantom"](out, **options), out)


app.command(cls=volumes.VolumesCommand)(volumes.nifti)
app.command(cls=volumes.VolumesCommand)(volumes.nnunet)
app.command("import")(own_import.import_own)
app.command()(splits.split)
app.command()(splits.mark)


@app.command()
def check(
    root: splits.Root,
    split: Annotated[str | None, typer.Option(help="Split to check; default: the data's default one.")] = None,
    json: Json = False,
) -> None:
    """Report counts, classes, spacing, leakage and damage; exit 2 if anything makes the split unusable."""
    from vqseg import inspection

    report = inspection.check(root, split)
    if json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        _show(report)
    for problem in report.errors:
        typer.echo(f"error: {problem.line()}", err=True)
    if report.errors:
        raise typer.Exit(2)


def _say(result: "Imported", out: Path) -> None:
    """Print what an import did, in a few lines."""
    facts = result.manifest.fingerprint()
    counts = ", ".join(f"{facts[key]} {key}" for key in ("patients", "scans", "images"))
    typer.echo(f"{out}: {counts} ({result.written} scans written, {result.kept} already there)")
    for note in result.notes:
        typer.echo(f"note: {note}")
    new = ", ".join(result.splits) or "none new"
    typer.echo(f"splits: {new}; default {result.manifest.default_split}; look with: vqseg data check {out}")


def _show(report: "Report") -> None:
    """Print the report: one row per part, then label share and warnings."""
    from rich.console import Console
    from rich.table import Table

    kind = "phantom data" if report.synthetic else "data"
    table = Table("", *report.parts, title=f"{report.name} ({kind} {report.digest}), split {report.split}")
    marked = list(dict.fromkeys(name for part in report.parts.values() for name in part.lesions or ()))
    columns = [_cells(part, report.classes[1:], marked) for part in report.parts.values()]
    for fact in columns[0] if columns else ():
        table.add_row(fact, *(column[fact] for column in columns))
    console = Console()
    console.print(table)
    if report.label_share is not None:
        console.print(f"label share: {report.label_share:.1%} of the training images")
    for problem in report.problems:
        if problem.level == "warning":
            console.print(f"warning: {problem.line()}", markup=False, soft_wrap=True)
    errors, warnings = len(report.errors), len(report.problems) - len(report.errors)
    console.print(f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}")


def _cells(part: "PartReport", foreground: list[str], marked: list[str]) -> dict[str, str]:
    """Return a part's facts as text, by the name of the table's row."""
    ends = {"rows": part.rows, "columns": part.columns}
    shares, slices, lesions = part.voxel_share or {}, part.slice_share or {}, part.lesions or {}
    return {
        **{key: str(getattr(part, key)) for key in ("patients", "scans", "images")},
        "with mask": str(part.images_with_mask),
        **{
            key: "-" if end is None else " to ".join(str(side) for side in dict.fromkeys(end))
            for key, end in ends.items()
        },
        "spacing": part.spacing,
        **{f"{name}, %": f"{100 * shares[name]:.2f}" if name in shares else "-" for name in foreground},
        **{f"{name}, slices %": f"{100 * slices[name]:.1f}" if name in slices else "-" for name in foreground},
        **{
            f"{name}, count (by scan)": "{} ({} to {})".format(*lesions[name]) if name in lesions else "-"
            for name in marked
        },
    }
