"""``vqseg predict``: segment new images with a run; ``vqseg score``: score what any other tool predicted."""

from pathlib import Path
from typing import Annotated

import typer

from vqseg.cli.options import DEFAULT_STORE, Device, PartOrSplit, Store, part_and_split, protocol_names


def predict(
    run: Annotated[str, typer.Argument(help="Identity of a run (its beginning will do), or its folder.")],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Folder of NIfTI volumes or of PNG or JPEG pictures, or one file.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the label maps; the same command goes on in it.")],
    checkpoint: Annotated[str, typer.Option(help="Weights: last, or best on validation.")] = "last",
    network: Annotated[str, typer.Option(help="teacher or student.")] = "teacher",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probabilities of all classes, too.")
    ] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Slices or windows of one pass.")] = 16,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make what OUT holds anew.")] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="The data's folder, for runs too old to do without it.")
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Load parts of the user's own that the run's config names.")
    ] = False,
    device: Device = "auto",
    store: Store = DEFAULT_STORE,
) -> None:
    """Segment new images with a run's network: label maps on the grid of each file."""
    from vqseg.predict import predict as segment
    from vqseg.records.run import resolve

    options = {"checkpoint": checkpoint, "network": network, "device": device, "batch": batch, "root": data}
    flags = {"probabilities": probabilities, "overwrite": overwrite, "allow_code": allow_code}
    done = segment(resolve(store, run), source, out, **options, **flags)  # type: ignore[arg-type]
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{out}: {len(done.made)} predicted, {len(done.kept)} there already, {len(done.failed)} failed")
    for reason in done.failed.values():
        typer.echo(f"vqseg: error: {reason}", err=True)
    if done.failed:
        raise typer.Exit(2)


def score(
    predictions: Annotated[
        Path, typer.Argument(help="Folder of label maps: SCAN.nii.gz, SCAN.npz, SCAN.npy, SCAN_slice_K.png.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Prepared data folder.")],
    name: Annotated[str, typer.Option("--name", help="The method's name, as tables print it.")],
    split: PartOrSplit = None,
    part: Annotated[
        str | None, typer.Option("--part", help="test, devtest or val; default: the split's test part, else val.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="By comma, or all that apply; default: scan, or image.")
    ] = None,
    reference: Annotated[str, typer.Option("--reference", help="What measures distances: own, or medpy.")] = "own",
    seed: Annotated[int | None, typer.Option(help="The method's seed; runs of several are one method.")] = None,
    labelled: Annotated[int | None, typer.Option(help="Labelled patients that it was trained on.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps that it was trained for.")] = None,
    pretrained: Annotated[str | None, typer.Option(help="Weights that it started from, or no.")] = None,
    store: Store = DEFAULT_STORE,
) -> None:
    """Score label maps of any other tool, and record them as a run that stands in the tables."""
    from vqseg.cli.tables import print_scores
    from vqseg.rivals import Rival, score_predictions

    part, split = part_and_split(part, split)
    options = {"root": data, "store": store, "split": split, "part": part, "library": reference}
    rival = Rival(name, seed, labelled, steps, pretrained)
    protocols = protocol_names(protocol)
    done = score_predictions(predictions, rival, protocols=protocols, **options)  # type: ignore[arg-type]
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    print_scores(done.rows, done.part, method=name)
    typer.echo(f"run {done.folder.identity}: {done.folder.path}" + ("" if done.new else " (there already)"))
