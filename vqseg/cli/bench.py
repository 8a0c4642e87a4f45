"""``vqseg bench``: how fast this is here, beside the plain way and the limit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqseg.bench import BENCHES, KEPT, LONG
from vqseg.cli.options import DEFAULT_STORE, Json, Store
from vqseg.errors import InputError, pick, require_name

if TYPE_CHECKING:
    from vqseg.bench.options import Options
    from vqseg.bench.outcome import Outcome


def bench(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BENCHES)}; or all (without {', '.join(LONG)}).")],
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")] = "cpu",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of torch on the CPU.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed rounds; figures are medians.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: only whether it runs.")] = False,
    data: Annotated[Path | None, typer.Option("--data", help="Prepared data folder; default: synthetic data.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes, where several are compared.")] = 2,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting of one bench: KEY=VALUE.")] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="With time-to-dice: Dice by comma, or Dice:SECONDS.")
    ] = None,
    profile: Annotated[Path | None, typer.Option("--profile", help="Write a torch profiler trace here.")] = None,
    save: Annotated[str | None, typer.Option("--save", help="Keep bench step's figures in the store.")] = None,
    as_json: Json = False,
    store: Store = DEFAULT_STORE,
) -> None:
    """Measure speed side by side: ours, the plain way, the limit."""
    from vqseg.bench.options import Options
    from vqseg.provenance import pick_device

    if save is not None and name not in (KEPT, "all"):
        raise InputError(f"--save {save}: keeps what 'vqseg bench {KEPT}' measures, not {name}")
    if save is not None and quick:
        raise InputError(f"--save {save}: figures of --quick say nothing about a study; leave one of the two out")
    if save is not None:
        require_name(save, "--save")
    names = [each for each in BENCHES if each not in LONG] if name == "all" else [pick(name, BENCHES, "bench")]
    extra = {**settings(set_), **({"targets": target} if target else {})}
    options = Options(pick_device(device), threads, repeats, quick, profile, data, workers, store, extra)
    failed = run(names, options, as_json=as_json, save=save)
    if failed:
        raise typer.Exit(1)


def settings(values: list[str] | None) -> dict[str, str]:
    """Read ``KEY=VALUE`` words.

    Raises:
        InputError: a word is none.
    """
    for value in values or []:
        if not value.partition("=")[0] or "=" not in value:
            raise InputError(f"--set {value!r}: expected KEY=VALUE")
    return {key: text for key, _, text in (value.partition("=") for value in values or [])}


def run(names: list[str], options: "Options", *, as_json: bool, save: str | None) -> list[str]:
    """Run benches one after another and print what each found; returns the names of those that failed.

    A single bench's own error goes to the caller; of several, each is told, and the others run.
    """
    import json

    from vqseg.bench import outcome as outcomes

    found: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for name in names:
        try:
            outcome = _one(name, options if len(names) == 1 else _tracing_apart(name, options), save)
        except Exception as error:  # whatever it is: the other benches are not its fault
            if len(names) == 1:
                raise
            failed[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            typer.echo(f"bench {name}: failed: {failed[name]}", err=True)
            continue
        found.append(outcomes.as_json(outcome))
        if not as_json:
            typer.echo(outcomes.table(outcome) + "\n")
        if options.profile and not outcome.profile:
            typer.echo(f"bench {name}: has nothing for torch's profiler; no trace was written", err=True)
    if as_json:
        typer.echo(json.dumps(found[0] if len(names) == 1 else {"benches": found, "failed": failed}, indent=1))
    return list(failed)


def _one(name: str, options: "Options", save: str | None) -> "Outcome":
    """Measure, and keep what was found where a name for it was given."""
    from vqseg import bench as benches
    from vqseg.bench.outcome import as_json

    outcome = benches.measure(name, options)
    if save and name == KEPT:
        from vqseg.records.speeds import save as keep

        keep(options.store or DEFAULT_STORE, save, as_json(outcome))
    return outcome


def _tracing_apart(name: str, options: "Options") -> "Options":
    """The options with a trace of the bench's own, for several that were asked to write one."""
    from dataclasses import replace

    path = options.profile
    return replace(options, profile=path and path.with_name(f"{path.stem}-{name}{path.suffix}"))
