"""``vqseg train`` and ``vqseg evaluate``: one run."""

from pathlib import Path
from typing import Annotated

import typer

from vqseg.cli.options import (
    DEFAULT_STORE,
    AllowCode,
    Context,
    Data,
    Device,
    Keep,
    PartOrSplit,
    Preset,
    Sets,
    SplitName,
    Steps,
    Store,
    Tracking,
    data_or_phantom,
    part_and_split,
    protocol_names,
)


def train(
    data: Data = None,
    split: SplitName = None,
    preset: Preset = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of every random stream; default 0.")] = None,
    set_: Sets = None,
    allow_code: AllowCode = False,
    steps: Steps = None,
    context: Context = None,
    device: Device = "auto",
    keep: Keep = "all",
    name: Annotated[str | None, typer.Option("--name", help="What to call the run.")] = None,
    store: Store = DEFAULT_STORE,
    tracking: Tracking = None,
    mirror: Annotated[bool, typer.Option("--mirror/--no-mirror", help="Show the run in MLflow when it ends.")] = True,
) -> None:
    """Train one run; started again, it resumes, and a finished one is left as it is."""
    from vqseg import config, experiment
    from vqseg.cli.pretraining import prepare
    from vqseg.cli.progress import run_bar, stopping
    from vqseg.records.mirror import require_address
    from vqseg.train import Interrupted

    if mirror:
        require_address(store, tracking)
    extra = [f"seed={seed}"] if seed is not None else []
    overrides = config.with_option([*(set_ or []), *extra], "--steps", steps)
    overrides = config.with_option(overrides, "--context", context)
    settings = config.load_config(preset or ("cpu" if data else "smoke"), overrides, allow_code=allow_code)
    plan = experiment.plan(settings, root=data_or_phantom(data, store), split=split, store=store)
    experiment.check_parts(plan)
    if plan.idle:
        typer.echo(f"note: {plan.idle}", err=True)
    prepare(plan, device)
    label = name or f"{plan.parts['method'].label} {plan.parts['perturbation'].label}, seed {settings.seed}"
    with run_bar(label, plan.steps) as advance, stopping() as stop:
        try:
            folder = experiment.run(
                plan, name=label, device=device, keep=keep, on_progress=advance, should_stop=lambda: bool(stop)
            )
        except Interrupted as error:
            typer.echo(f"vqseg: {label}: {error}", err=True)
            raise typer.Exit(130) from None
    _show(folder.path, "val", experiment.scored(folder))
    if mirror:
        from vqseg.cli.studies import complete_mirror

        complete_mirror(store, tracking)


def evaluate(
    run: Annotated[str, typer.Argument(help="Identity of a run (its beginning will do), or its folder.")],
    part: Annotated[str | None, typer.Option("--part", help="Part to score: val (default), test or devtest.")] = None,
    split: PartOrSplit = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            help="scan, image, ssl4mis, unimatch (val and test scans together: no clean test number), vqseg-release, or"
            " all that apply; by comma; default: those that show the network what it was trained on.",
        ),
    ] = None,
    reference: Annotated[str, typer.Option("--reference", help="What measures distances: own, or medpy.")] = "own",
    data: Annotated[Path | None, typer.Option("--data", help="The data's folder, if it has moved.")] = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    store: Store = DEFAULT_STORE,
) -> None:
    """Score a finished run: best and last, student and teacher, as far as their weights were kept."""
    from vqseg import experiment
    from vqseg.records.run import resolve

    part, split = part_and_split(part, split)
    protocols = protocol_names(protocol)
    folder = resolve(store, run)
    options = {"protocols": protocols, "library": reference, "device": device, "allow_code": allow_code}
    rows = experiment.evaluate(folder, part=part or "val", split=split, root=data, **options)  # type: ignore[arg-type]
    _show(folder.path, part or "val", rows)
    for name, why in folder.status()["evaluations"][-1].get("not_applicable", {}).items():
        typer.echo(f"not applicable: {name}: {why}")


def _show(folder: Path, part: str, rows: object) -> None:
    from vqseg.cli.tables import print_scores

    print_scores(rows, part)
    typer.echo(f"run {folder.name}: {folder}")
