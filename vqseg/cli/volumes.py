"""``vqseg data nifti`` and ``vqseg data nnunet``: import volumes."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand


class Window(NamedTuple):
    """Two intensities that become 0 and 1."""

    low: float
    high: float


class VolumesCommand(TyperCommand):
    """A command whose ``--window LO HI`` may be repeated, which typer does for options of one value only."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the two values of every ``--window`` before the arguments are parsed."""
        joined: list[str] = []
        rest = list(args)
        while rest:
            joined.append(rest.pop(0))
            if joined[-1] == "--window":
                joined.append(" ".join(rest[:2]))
                del rest[:2]
        return super().parse_args(ctx, joined)


def _window(text: str) -> Window:
    try:
        low, high = (float(number) for number in text.split())
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected two numbers, such as --window -160 240") from None
    return Window(low, high)


Paths = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGES [MASKS] OUT", help="Folder of images, folder of masks, prepared folder to write."),
]
Dataset = Annotated[Path, typer.Argument(help="Folder with dataset.json.")]
Out = Annotated[Path, typer.Argument(help="Prepared folder to write.")]
Name = Annotated[str | None, typer.Option(help="Name of the data set; default: the source folder's.")]
Classes = Annotated[str | None, typer.Option(help="Class names from index 0, such as background,liver,lesion.")]
Frames = Annotated[
    str | None,
    typer.Option(help="What the volumes of 4-D files are: channels, or scans (time points); default: the masks tell."),
]
Patients = Annotated[
    Path | None, typer.Option(help="CSV with the columns image and patient; others are kept, to stratify splits by.")
]
Lesions = Annotated[
    list[str] | None,
    typer.Option("--lesion", help="Mark a class as a lesion: NAME or NAME=TOLERANCE_MM of its surface Dice."),
]
Labelled = Annotated[
    str | None,
    typer.Option(help="Labelled patients: N, a share (10%), all; default 10%, or all if some have no masks."),
]
Val = Annotated[float | None, typer.Option(help="Share (0-1) or number of patients with masks to validate on; 0.1.")]
Test = Annotated[
    float | None, typer.Option(help="Share (0-1) or number of patients with masks to test on; 0.2, or the source's.")
]
Axis = Annotated[
    str | None,
    typer.Option(help="Slices: axial, coronal or sagittal (2, 1, 0); default: across the coarsest spacing."),
]
Spacing = Annotated[float | None, typer.Option(help="Resample slices to pixels of this many mm.")]
Windows = Annotated[
    list[Window] | None,
    typer.Option(
        "--window",
        metavar="LO HI",
        parser=_window,
        help="Intensities (HU) that become 0 and 1; up to three times, as channels.",
    ),
]
Percentiles = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="LO HI", help="Percentiles (0-100) of the training volumes that become 0 and 1."),
]
Bits = Annotated[int | None, typer.Option(help="Bits of the store, 8 or 16; default: as many as the ranges need.")]


def nifti(
    paths: Paths,
    name: Name = None,
    classes: Classes = None,
    frames: Frames = None,
    patients: Patients = None,
    lesions: Lesions = None,
    labelled: Labelled = None,
    val: Val = None,
    test: Test = None,
    axis: Axis = None,
    spacing: Spacing = None,
    windows: Windows = None,
    percentiles: Percentiles = None,
    bits: Bits = None,
) -> None:
    """Import NIfTI volumes: a folder of images, and one of masks or masks beside the images."""
    options = {key: value for key, value in locals().items() if key not in ("paths", "classes", "frames")}
    from vqseg.errors import InputError

    if not 2 <= len(paths) <= 3:
        raise InputError(f"{len(paths)} folders given; expected IMAGES [MASKS] OUT")
    named = [word.strip() for word in classes.split(",")] if classes else None
    masks = paths[1] if len(paths) == 3 else None
    _bring("nifti", paths[0], paths[-1], options, masks=masks, classes=named, frames=frames)


def nnunet(
    dataset: Dataset,
    out: Out,
    name: Name = None,
    patients: Patients = None,
    lesions: Lesions = None,
    labelled: Labelled = None,
    val: Val = None,
    test: Test = None,
    axis: Axis = None,
    spacing: Spacing = None,
    windows: Windows = None,
    percentiles: Percentiles = None,
    bits: Bits = None,
) -> None:
    """Import a data set in the layout of nnU-Net or of the Medical Segmentation Decathlon."""
    options = {key: value for key, value in locals().items() if key not in ("dataset", "out")}
    _bring("nnunet", dataset, out, options)


def _bring(importer: str, source: Path, out: Path, options: dict[str, Any], **own: Any) -> None:
    from vqseg.cli.data import _say
    from vqseg.importers import IMPORTERS
    from vqseg.importers.layouts import Options

    options["spacing_mm"] = options.pop("spacing")
    options["lesions"] = options["lesions"] or ()
    options["windows"] = [tuple(window) for window in options["windows"] or ()]
    _say(IMPORTERS[importer](source, out, options=Options(**options), **own), out)
