"""What methods share: what they are told, what one step returns, perturbing, the codebook's terms.

Letters: B images, N tokens per image, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vqseg import streams
from vqseg.codebook import Quantized, usage_loss
from vqseg.controller import Controller
from vqseg.network import SegmentationNetwork, to_coarser
from vqseg.replacement import changed_share, energies


class Perturbation(Protocol):
    """See `vqseg.perturbations`; ``rate`` is a scalar on the device while a controller holds it."""

    rate: float | Tensor

    def draw(self, quantized: Quantized, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Draw what changes."""
        ...

    def apply(self, quantized: Quantized, codes: Tensor, drawn: Tensor) -> Tensor:
        """Change it: tokens (B, N, C)."""
        ...


class Alignment(Protocol):
    """See `vqseg.alignment`."""

    def features(self, images: Tensor, grid: tuple[int, int], part: str, rows: Tensor | None) -> Tensor:
        """Return the prior's features (B, D', h', w') of images (B, C, H, W)."""
        ...


@dataclass(frozen=True)
class Setup:
    """What the composition root tells every method: ``classes`` with the background first, the prior if any."""

    seed: int
    teacher_decay: float
    separate_statistics: bool
    classes: tuple[str, ...] = ()
    alignment: Alignment | None = None


class Step(NamedTuple):
    """Weighted loss terms (the loop sums them), plain values to log, and the codes that all tokens took (B, N).

    ``indices`` is None where nothing is quantized.
    """

    losses: dict[str, Tensor]
    logs: dict[str, Tensor]
    indices: Tensor | None


def parameter_groups(student: SegmentationNetwork) -> dict[str, list[nn.Parameter]]:
    """Return the student's trained parameters, the encoder's apart."""
    encoder = [p for p in student.encoder.parameters() if p.requires_grad]
    own = {id(parameter) for parameter in student.encoder.parameters()}
    return {"encoder": encoder, "head": [p for p in student.parameters() if id(p) not in own and p.requires_grad]}


def perturb(
    perturbation: Perturbation,
    quantized: Quantized,
    codes: Tensor,
    generator: torch.Generator,
    controller: Controller | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the perturbed tokens (B, N, C) and what to log of the change; a controller sets the rate first."""
    codes, held = codes.detach(), dict[str, Tensor]()
    if controller is not None:
        perturbation.rate = held["perturbation/rate"] = controller.rate(codes.device)
    # Full precision also under autocast: differences of distances are what pi is made of.
    with torch.autocast(codes.device.type, enabled=False):
        perturbed = perturbation.apply(quantized, codes, perturbation.draw(quantized, codes, generator))
    moved, spread = energies(quantized.tokens, perturbed)
    if controller is not None:
        controller.observe(moved, spread)
    return perturbed, {
        **held,
        "perturbation/moved": moved,
        "perturbation/spread": spread,
        "perturbation/changed": changed_share(quantized.tokens, perturbed),
    }


def held_at(perturbation: Perturbation, distortion: float | None) -> Controller | None:
    """Return what holds a perturbation's distortion, from its own rate on; None if it is to keep that rate.

    Raises:
        ValueError: the perturbation has no rate to hold it by.
    """
    return None if distortion is None else Controller(distortion, float(perturbation.rate))


def perturbation_stream(setup: Setup, step: int, device: torch.device) -> torch.Generator:
    """Return the generator of a step's perturbation."""
    return streams.generator(setup.seed, "perturbation", step, device=device)


def align(
    alignment: Alignment,
    student: SegmentationNetwork,
    tokens: Tensor,
    grid: tuple[int, int],
    seen: Sequence[tuple[Tensor, Tensor | None, str]],
) -> tuple[Tensor, Tensor]:
    """Bring tokens and the prior's features together, on the coarser of both grids: each (B, N', D').

    Args:
        alignment: the prior.
        student: whose adapter brings the tokens to the prior's width.
        tokens: unperturbed, (B, N, C).
        grid: of the tokens.
        seen: the images (B_i, C, H, W) that the tokens are of, in order, each with its rows or None, and its part.
    """
    prior = torch.cat([alignment.features(image, grid, part, rows) for image, rows, part in seen])
    prior = to_coarser(prior, grid)
    adapted = student.adapt(tokens, grid, (prior.shape[-2], prior.shape[-1]))
    return adapted.flatten(2).transpose(1, 2), prior.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class CodebookWeights:
    """Weights of the codebook loss, of commitment relative to it, and of the release's usage loss."""

    codebook: float
    commitment: float
    usage: float

    def terms(self, tokens: Tensor, quantized: Quantized) -> dict[str, Tensor]:
        """Return the weighted terms for the encoder's tokens (B, N, C) and what the quantizer made of them."""
        losses = quantized.losses
        terms = {
            "codebook": self.codebook * losses["codebook"],
            "commitment": self.codebook * self.commitment * losses["commitment"],
        }
        if self.usage > 0:
            with torch.autocast(tokens.device.type, enabled=False):
                terms["usage"] = self.usage * usage_loss(tokens, quantized.table)
        return terms
