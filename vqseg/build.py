"""Builds what a plan names: the network, wired, and the method around it."""

from typing import Any

import torch
from torch import nn

from vqseg import streams
from vqseg.errors import InputError
from vqseg.network import SegmentationNetwork
from vqseg.parts import Part
from vqseg.plan import Plan
from vqseg.step import Setup


def check_parts(plan: Plan) -> None:
    """Build every part alone and without memory: a value out of its range is known before anything starts.

    Raises:
        InputError: names the part and the value.
    """
    parts = plan.parts
    with torch.device("meta"):
        dims = _built(parts["network.encoder"], plan.manifest.channels, plan.config.network.norm).dims
        _built(parts["network.quantizer"], dims[-1])
    _built(parts["perturbation"])
    _built(parts["optimizer"], {"head": [nn.Parameter(torch.zeros(1))]})


def build_network(plan: Plan, device: torch.device) -> SegmentationNetwork:
    """Build the student, every parameter drawn from the stream of its own path.

    Raises:
        InputError: an option's value does not do.
    """
    config, parts = plan.config, plan.parts
    channels, classes, norm = plan.manifest.channels, len(plan.manifest.classes), config.network.norm
    encoder = _built(parts["network.encoder"], channels, norm)
    decoder, dims = parts["network.decoder"], encoder.dims
    segment = _built(decoder, dims, classes, norm, config.network.skips)
    dual = parts["method"].options.get("dual_branch", False)
    image = _built(decoder, dims, channels, norm, False) if dual else None
    network = SegmentationNetwork(encoder, _built(parts["network.quantizer"], dims[-1]), segment, image)
    streams.initialize(network, config.seed)
    if config.train.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.to(device)


def build_method(plan: Plan, device: torch.device) -> Any:
    """Build the method around a fresh student."""
    config = plan.config
    separate = config.network.statistics == "separate"
    setup = Setup(config.seed, config.train.teacher_decay, separate)
    perturbation = _built(plan.parts["perturbation"])
    return _built(plan.parts["method"], build_network(plan, device), perturbation, setup).to(device)


def _built(part: Part, *supplied: Any) -> Any:
    try:
        return part.build(*supplied)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{part.family} {part.name!r}: {error}") from None
