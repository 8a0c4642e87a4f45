"""``vqseg prior``: the frozen foundation models that tokens are aligned with."""

from pathlib import Path
from typing import Annotated

import typer

from vqseg.cli.options import DEFAULT_STORE, Device, Json, Sets, SplitName, Store

app = typer.Typer(help="Frozen foundation models that tokens are aligned with.", no_args_is_help=True)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the priors: what they are, their licenses, where their weights are."""
    import json
    from dataclasses import asdict

    from vqseg.catalog import entries
    from vqseg.weights import home

    rows = [{**asdict(entry), "folder": str(entry.folder or "")} for entry in entries()]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['name']:17} {row['what']}" + (f" License: {row['license']}." if row["license"] else ""))
        if row["weights"]:
            place = row["folder"] or f"not there; vqseg prior fetch {row['name']}"
            typer.echo(f"{'':17} {row['weights']}: {place}")
    typer.echo(f"fetched weights lie in {home()} (VQSEG_WEIGHTS)")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A prior's name ('vqseg prior list'), or a hub's OWNER/NAME@REVISION.")],
    revision: Annotated[str | None, typer.Option("--revision", help="A commit, tag or branch of the hub's.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default: one below VQSEG_WEIGHTS.")] = None,
) -> None:
    """Fetch published weights; the only command that asks a hub for any."""
    from vqseg.files import read_json
    from vqseg.hub import fetch as fetch_weights
    from vqseg.weights import SOURCE, weights_digest

    folder = fetch_weights(name, revision=revision, out=out)
    source = read_json(folder / SOURCE)
    typer.echo(f"{source['repository']}@{source['revision']} is in {folder}")
    typer.echo(f"license: {source['license'] or 'see its page'}; digest {weights_digest(str(folder))}")


@app.command()
def pretrain(
    data: Annotated[Path, typer.Option("--data", help="Prepared data folder.")],
    split: SplitName = None,
    preset: Annotated[str, typer.Option("--preset", help="Whose image size and geometry it shall fit.")] = "cpu",
    set_: Sets = None,
    device: Device = "auto",
    store: Store = DEFAULT_STORE,
) -> None:
    """Train the local prior on the training images alone; runs that need it do so themselves, this only comes first."""
    from vqseg.cli.pretraining import pretrain as train

    typer.echo(train(data, split, preset, set_ or [], device, store))


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="open_clip's file of BiomedCLIP, a ViT of timm's, or a pickled model.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make; name it as weights.")],
    heads: Annotated[int | None, typer.Option("--heads", min=1, help="Heads; default: one per 64 channels.")] = None,
) -> None:
    """Turn an open_clip, timm or pickled checkpoint into a folder that every prior and encoder can load."""
    from vqseg.trunk import import_weights

    typer.echo(f"made {import_weights(source, out, heads=heads)}; try it: vqseg prior check {out}")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A prior's name, a transformers folder, or a hub's name.")],
    as_json: Json = False,
) -> None:
    """Load weights as a run would, run them on one image, and say what they are."""
    import json

    from vqseg.catalog import examine

    found = examine(name)
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(f"{key}: {each}" for key, each in found.items()))
