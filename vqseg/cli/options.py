"""Options that several commands share."""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from vqseg.errors import InputError

Store = Annotated[Path, typer.Option("--store", envvar="VQSEG_STORE", help="Folder that holds all runs and studies.")]
DEFAULT_STORE = Path("vqseg-store")
Data = Annotated[Path | None, typer.Option("--data", help="Prepared data folder; default: the phantom, which is made.")]
SplitName = Annotated[str | None, typer.Option("--split", help="Name of a split of the data; default: the data's own.")]
Preset = Annotated[str | None, typer.Option("--preset", help="Preset name or YAML file; see 'vqseg config list'.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: KEY=VALUE, any number of times.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Train this many steps instead of the preset's.")]
Context = Annotated[
    int | None, typer.Option("--context", help="So many neighbouring slices as channels (2.5-D): 1, 3 or 5.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")]
Keep = Annotated[str, typer.Option("--keep", help="Weights to keep: last or best (the teacher's), all, or none.")]
Tracking = Annotated[
    str | None,
    typer.Option("--tracking", help="MLflow address; default: MLFLOW_TRACKING_URI, else a file in the store."),
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the code that a file names as FILE.py:NAME; read it first.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


PartOrSplit = Annotated[
    str | None, typer.Option("--split", help="Name of a split of the data; val, test or devtest mean --part.")
]


def part_and_split(part: str | None, split: str | None) -> tuple[str | None, str | None]:
    """Return what ``--part`` and ``--split`` mean: a part's name after ``--split`` is a part.

    Raises:
        InputError: it is a part to train on.
    """
    from vqseg.manifest import PARTS
    from vqseg.protocols import require_scorable

    part, split = (part or split, None) if split in PARTS else (part, split)
    require_scorable(part or "")
    return part, split


def protocol_names(text: str | None) -> list[str] | None:
    """Return the protocols that ``--protocol`` names by comma, each once; None where it was not given.

    Raises:
        InputError: a name is empty, or ``all`` stands among others.
    """
    if text is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if "" in names or ("all" in names and len(names) > 1):
        raise InputError(f"--protocol {text!r}: expected names by comma, such as scan,ssl4mis, or all alone")
    return names


def command(store: Path = DEFAULT_STORE) -> tuple[str, str]:
    """Return how to call vqseg from this shell, and the option that leads to ``store``: what a hint should print."""
    called = Path(sys.argv[0])
    outside = called.name == "vqseg" and called.is_file() and shutil.which("vqseg") is None
    return os.path.relpath(called) if outside else "vqseg", "" if store == DEFAULT_STORE else f" --store {store}"


def data_or_phantom(data: Path | None, store: Path) -> Path:
    """Return the data folder, making the phantom in the store (and saying so) where none was named."""
    if data is not None:
        return data
    from vqseg.importers import phantom

    root = store / "data" / "phantom"
    typer.echo(f"no --data: using the phantom in {root} (synthetic; everything made from it says so)")
    phantom.prepare(root, labelled="3")
    return root
