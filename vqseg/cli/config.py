"""``vqseg config``: the presets and what they set."""

from typing import Annotated

import typer

from vqseg.cli.options import AllowCode

app = typer.Typer(help="Show presets and check settings.", no_args_is_help=True)


@app.command("list")
def list_presets() -> None:
    """List the presets."""
    from vqseg import presets

    for name in presets.names():
        typer.echo(f"{name:8} {presets.summary(presets.read(name))}")


@app.command()
def show(
    preset: Annotated[str, typer.Argument(help="A preset's name, or a path to a YAML file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: KEY=VALUE, any number of times.")
    ] = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="Print where each setting comes from, and what departs from it.")
    ] = False,
    allow_code: AllowCode = False,
) -> None:
    """Print every setting of a preset, after checking it."""
    import yaml

    from vqseg import presets
    from vqseg.config import load_config
    from vqseg.experiment import CHOICES, resolve_choices

    config = load_config(preset, set_ or [], allow_code=allow_code)
    resolve_choices(config)
    if sources:
        typer.echo("\n".join(presets.sourced(presets.read(preset))))
        return
    typer.echo(yaml.safe_dump(config.plain(), sort_keys=False).rstrip())
    typer.echo(f"# parts: {', '.join(CHOICES)}")
