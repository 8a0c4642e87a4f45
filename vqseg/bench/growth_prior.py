"""What a step of training the local prior costs, so that a study that needs one can be estimated on another device."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from vqseg.bench.timing import interleaved
from vqseg.config import Choice, load_config
from vqseg.importers import phantom
from vqseg.optimizer import adamw
from vqseg.plan import plan, training_scans
from vqseg.pretrain import Images, MaskedAutoencoder
from vqseg.store import open_store

PATIENTS, PHANTOM_PX = 6, 48


def prior_ms(preset: str, folder: Path, device: torch.device, *, repeats: int = 5) -> float:
    """Return milliseconds of one step (batch, loss, backward, AdamW) of the local prior at a preset's image size.

    Args:
        preset: whose images it would see; which networks it has does not matter.
        folder: takes a phantom, or has it.
        device: where.
        repeats: timed steps; the median is taken.

    Raises:
        InputError: an unknown preset.
    """
    root = folder / "phantom"
    if not (root / "manifest.json").is_file():
        phantom.prepare(root, patients=PATIENTS, size=PHANTOM_PX)
    config = load_config(preset, ["prior=local"])
    # The prior waits for no network's weights.
    network = config.network.model_copy(update={"encoder": Choice(name="unet")})
    planned = plan(config.model_copy(update={"network": network}), root=root, split=None, store=folder)
    options, side = planned.parts["prior"].options, config.data.size_px
    store = open_store(
        root,
        planned.manifest,
        training_scans(planned.manifest, planned.split),
        size_px=side if config.data.geometry == "resize" else None,
        masks=False,
        cache=folder / "tensors",
        device=device,
    )
    images = Images(store, np.arange(len(store)), side, options["batch"], options["seed"])
    channels = planned.manifest.channels
    method = MaskedAutoencoder(planned, torch.zeros(channels), torch.ones(channels)).to(device)
    optimizer = adamw({"head": list(method.student.parameters())}, lr=options["lr"], weight_decay=0.05)
    step = partial(_step, method, images, optimizer)
    return 1000 * interleaved({"": step}, repeats=repeats, warmup=2, device=device)[""].median


def _step(method: MaskedAutoencoder, images: Images, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    method.losses(images.at(0), 0).losses["reconstruction"].backward()
    optimizer.step()
