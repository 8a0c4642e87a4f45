"""A whole training step as the release makes it: what `vqseg bench step` holds ours against.

Letters: B images, C channels, H x W pixels, N tokens per image, V codes.
Source: VQ-Seg's public release of 2026-01, as METHOD describes it: the student sees labelled and strong views in
passes of their own, each with its own search, codebook and usage terms from whole token x code matrices; the codes
are mapped anew wherever they are used; QPM loops over distinct codes; full precision; the teacher follows parameter
by parameter; the optimizer is not fused.
Differs: written anew around vqseg's networks and losses, so that nothing but the step's own work differs. Presets that
perturb the weak view get a pass for it, too.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqseg import streams
from vqseg.bench.naive import naive_qpm, naive_quantize, naive_usage_loss
from vqseg.dataset import Batch, Unlabelled
from vqseg.errors import InputError
from vqseg.losses import IGNORE, pseudo_labels, segmentation_loss
from vqseg.methods.vqseg import VQSeg
from vqseg.train import Trainer


class NaiveStep:
    """Steps of the networks of a trainer, which it takes over: they become plain in layout, and follow this alone.

    Raises:
        InputError: the method is not VQ-Seg's, or has an image decoder or a prior.
    """

    def __init__(self, trainer: Trainer) -> None:
        method = vqseg_of(trainer)
        if method.student.image_decoder is not None or method.setup.alignment is not None:
            raise InputError(
                "bench step: the release's step has no image decoder and no prior; take preset release, cpu, unet or"
                " smoke"
            )
        self.method, self.seed, self.step = method, trainer.seed, 0
        self.student, self.teacher = (_plain(network) for network in (method.student, method.teacher))
        self.optimizer = _unfused(trainer.optimizer)

    def __call__(self, batch: Batch) -> Tensor:
        """Make one step and return its loss."""
        labelled, unlabelled, method = batch.labelled, batch.unlabelled, self.method
        assert unlabelled is not None
        self.student.train()
        label, weight = self._taught(unlabelled)
        logits, codebook = self._seen(labelled.image, perturbed=False)
        total = method.labelled_weight * segmentation_loss(method.segmentation, logits, labelled.mask) + codebook
        strong = torch.cat([view.image for view in unlabelled.strong])
        logits, codebook = self._seen(strong, perturbed=method.perturbs_strong)
        pairs = zip(logits.chunk(len(unlabelled.strong)), unlabelled.strong, strict=True)
        losses = [
            segmentation_loss(method.segmentation, each, view.mix.mix(label), view.mix.mix(weight))
            for each, view in pairs
        ]
        total = total + method.unlabelled_weight * method.strong_weight * torch.stack(losses).mean() + codebook
        if not method.perturbs_strong:
            logits, codebook = self._seen(unlabelled.weak, perturbed=True)
            loss = segmentation_loss(method.segmentation, logits, label, weight)
            total = total + method.unlabelled_weight * method.perturbed_weight * loss + codebook
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self._follow()
        self.step += 1
        return total.detach()

    def _seen(self, images: Tensor, *, perturbed: bool) -> tuple[Tensor, Tensor]:
        """One pass of the student over images (B, C, H, W): logits, and its weighted codebook terms."""
        encoded, weights = self.student.encode(images), self.method.codebook_weights
        quantized = naive_quantize(encoded.tokens, self.student.codes())
        tokens = quantized.tokens
        if perturbed:
            stream = streams.generator(self.seed, "perturbation", self.step, device=images.device)
            table = self.student.codes().detach()
            drawn = naive_qpm(table, quantized.indices, float(self.method.perturbation.rate), stream)
            tokens = tokens + F.embedding(drawn, table) - F.embedding(quantized.indices, table)
        found = quantized.losses
        terms = weights.codebook * (found["codebook"] + weights.commitment * found["commitment"])
        if weights.usage > 0:
            terms = terms + weights.usage * naive_usage_loss(encoded.tokens, self.student.codes())
        return self.student.segment(tokens, encoded), terms

    @torch.no_grad()
    def _taught(self, unlabelled: Unlabelled) -> tuple[Tensor, Tensor]:
        encoded = self.teacher.encode(unlabelled.weak)
        logits = self.teacher.segment(naive_quantize(encoded.tokens, self.teacher.codes()).tokens, encoded)
        label, _, weight = pseudo_labels(logits, self.method.thresholds)
        return (label if unlabelled.there is None else label.where(unlabelled.there, IGNORE)), weight

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(1 - 1 / (self.step + 1), self.method.setup.teacher_decay)
        for kept, current in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            kept.mul_(decay).add_(current, alpha=1 - decay)
        for kept, current in zip(self.teacher.buffers(), self.student.buffers(), strict=True):
            kept.copy_(current)


def vqseg_of(trainer: Trainer) -> VQSeg:
    """Return a trainer's method.

    Raises:
        InputError: it is another one.
    """
    method: object = trainer.method
    if isinstance(method, VQSeg):
        return method
    raise InputError("bench step: knows method vqseg alone; take preset release, cpu, unet or smoke")


def _plain(network: nn.Module) -> Any:
    return network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _unfused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same optimizer as torch makes it where nothing is asked for."""
    kind: Any = type(optimizer)
    plain: torch.optim.Optimizer = kind([{**group, "fused": None} for group in optimizer.param_groups])
    return plain
