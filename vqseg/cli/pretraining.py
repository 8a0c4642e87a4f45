"""Trains the local prior in the foreground, with its progress."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vqseg.errors import InputError
from vqseg.files import read_json

if TYPE_CHECKING:
    from vqseg.config import Config
    from vqseg.plan import Plan


def pretrain(data: Path, split: str | None, preset: str, overrides: list[str], device: str, store: Path) -> str:
    """Train the local prior for a preset, or find it there; return what it is, in words.

    Raises:
        InputError: the settings name another prior, or the data cannot be used.
    """
    import torch

    from vqseg import experiment
    from vqseg.build import build_prior

    settings = _settings(preset, overrides)
    plan = experiment.plan(settings, root=data, split=split, store=store)
    if plan.prior_folder is None:
        raise InputError(f"prior {plan.parts['prior'].name!r}: only 'local' is trained here")
    with torch.device("meta"):
        build_prior(plan)
    before = prepare(plan, device)
    told = read_json(plan.prior_folder / "prior.json")
    found = ", ".join(f"{key} {value:.4f}" for key, value in told["validation"].items())
    what = f"{told['data']['images']} images of {told['data']['name']}, {told['options']['steps']} steps"
    return f"{'trained' if before else 'already there'}: {plan.prior_folder} ({what}; {found})"


def _settings(preset: str, overrides: list[str]) -> "Config":
    """Return a preset's settings with the local prior in place of another, and an encoder that needs no weights.

    The local prior depends on the images and its own options: it need not wait for the weights of a network.
    """
    from vqseg.config import Choice, load_config

    local = load_config(preset).prior.name == "local"
    named = any(text.partition("=")[0].strip() == "prior" for text in overrides)
    settings = load_config(preset, [*([] if local or named else ["prior=local"]), *overrides])
    network = settings.network.model_copy(update={"encoder": Choice(name="unet")})
    return settings.model_copy(update={"network": network})


def prepare(plan: "Plan", device: str) -> bool:
    """Train the local prior that a plan needs, if it does and if it is not there; return whether it was trained."""
    from vqseg.cli.progress import run_bar, stopping
    from vqseg.experiment import prepare_prior
    from vqseg.train import Interrupted

    if plan.prior_folder is None or (plan.prior_folder / "prior.json").is_file():
        return False
    with run_bar("prior local", plan.parts["prior"].options["steps"]) as advance, stopping() as stop:
        try:
            return prepare_prior(plan, device, should_stop=lambda: bool(stop), on_progress=advance)
        except Interrupted as error:
            typer.echo(f"vqseg: prior local: {error}", err=True)
            raise typer.Exit(130) from None
