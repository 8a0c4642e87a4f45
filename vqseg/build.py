"""Builds what a plan names: the network, wired, the prior, and the method around them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vqseg import streams
from vqseg.alignment import Alignment
from vqseg.errors import InputError
from vqseg.network import SegmentationNetwork
from vqseg.parts import Part
from vqseg.plan import Plan
from vqseg.step import Setup, held_at
from vqseg.store import TensorStore


def check_parts(plan: Plan) -> None:
    """Build every part alone and without memory: a value out of its range is known before anything starts.

    Raises:
        InputError: names the part and the value.
    """
    config, parts = plan.config, plan.parts
    with torch.device("meta"):
        encoder = _built(parts["network.encoder"], plan.channels, config.network.norm)
        _built(parts["network.quantizer"], encoder.dims[-1])
        _built(parts["network.decoder"], encoder.dims, encoder.strides, 2, config.network.norm, config.network.skips)
        if plan.aligned:
            build_prior(plan)
    if config.data.size_px % encoder.stride:
        raise InputError(f"data.size_px: {config.data.size_px} is no multiple of the encoder's stride {encoder.stride}")
    perturbation = _built(parts["perturbation"])
    try:
        held_at(perturbation, parts["method"].options.get("distortion"))
    except ValueError as error:
        raise InputError(f"method.{error}, and {parts['perturbation'].name!r} has none") from None
    _built(parts["optimizer"], {"head": [nn.Parameter(torch.zeros(1))]})


def build_network(plan: Plan, device: torch.device, prior_dim: int | None = None) -> SegmentationNetwork:
    """Build the student, every parameter drawn from the stream of its own path.

    Where tokens are aligned with a prior, ``prior_dim`` says how wide its features are; None reads it off the prior.

    Raises:
        InputError: an option's value does not do.
    """
    config, parts = plan.config, plan.parts
    classes, norm = len(plan.manifest.classes), config.network.norm
    encoder = _built(parts["network.encoder"], plan.channels, norm)
    decoder, shape = parts["network.decoder"], (encoder.dims, encoder.strides)
    segment = _built(decoder, *shape, classes, norm, config.network.skips)
    dual = parts["method"].options.get("dual_branch", False)
    image = _built(decoder, *shape, plan.channels, norm, False) if dual else None
    adapter = None
    if plan.aligned:
        if prior_dim is None:
            with torch.device("meta"):
                prior_dim = build_prior(plan).dim
        adapter = nn.Conv2d(encoder.dims[-1], prior_dim, 1)
    quantizer = _built(parts["network.quantizer"], encoder.dims[-1])
    network = SegmentationNetwork(encoder, quantizer, segment, image, adapter)
    streams.initialize(network, config.seed)
    if config.train.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.to(device)


def build_prior(plan: Plan) -> Any:
    """Build the prior, its weights loaded; under the device *meta* its shape alone.

    Raises:
        InputError: its weights are missing or are not those of such a network.
    """
    return _built(plan.parts["prior"], plan.manifest.channels, *((plan.prior_folder,) if plan.prior_folder else ()))


def build_method(plan: Plan, device: torch.device, stores: dict[str, TensorStore] | None = None) -> Any:
    """Build the method around a fresh student; ``stores`` hold the images that a prior may see again, by part."""
    config, held = plan.config, stores or {}
    alignment, dim = None, None
    if plan.aligned:
        prior = build_prior(plan).to(device)

        def images(part: str, rows: np.ndarray) -> Tensor:
            return held[part].image(rows)

        counts = {part: len(store) for part, store in held.items()}
        alignment, dim = Alignment(prior, context=config.data.context, counts=counts, images=images), prior.dim
    separate = config.network.statistics == "separate"
    setup = Setup(config.seed, config.train.teacher_decay, separate, tuple(plan.manifest.classes), alignment)
    perturbation = _built(plan.parts["perturbation"])
    return _built(plan.parts["method"], build_network(plan, device, dim), perturbation, setup).to(device)


def _built(part: Part, *supplied: Any) -> Any:
    try:
        return part.build(*supplied)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{part.family} {part.name!r}: {error}") from None
