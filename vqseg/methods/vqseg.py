"""VQ-Seg: mean-teacher consistency through a quantized space whose codes are perturbed.

    L   = L_l + lambda_u L_u + lambda_q (codebook + .25 commitment) + lambda_h usage
    L_l = L1(x_l, D_i(q_l)) + seg(y_l, D_s(q_l))
    L_u = L1(x_u, D_i(q'_u)) + seg(y~, D_s(q'_u)) + seg(y~, D_s(q_a)),     q' = perturbation(q)

x_u is the weak view, x_a its strong one (CutMix included), y~ the teacher's argmax on x_u.
Source: VQ-Seg, section 3. The prior alignment (PFA) joins with its priors.
Differs: the codebook term is not printed in the paper, without it a straight-through codebook gets no gradient;
it is taken on unperturbed q of labelled and unlabelled images. The image decoder sees no skips.
The optional usage term is the release's. The first ``warmup_steps`` train on labelled images alone.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqseg.codebook import Quantized
from vqseg.dataset import Batch, Labelled, Unlabelled
from vqseg.losses import pseudo_labels, ramp, segmentation_loss
from vqseg.network import Encoded, SegmentationNetwork, running_statistics_kept
from vqseg.ranges import Steps, Weight
from vqseg.step import CodebookWeights, Perturbation, Setup, Step, parameter_groups, perturb, perturbation_stream
from vqseg.teacher import follow, make_teacher


class VQSeg(nn.Module):
    """The semi-supervised method; with perturbation ``none`` and no dual branch it is the VQ-embedded base."""

    needs_unlabelled = True

    def __init__(
        self,
        student: SegmentationNetwork,
        perturbation: Perturbation,
        setup: Setup,
        *,
        segmentation: Literal["ce", "dice_ce"] = "ce",
        unlabelled_weight: Weight = 1.0,
        perturbed_weight: Weight = 1.0,
        strong_weight: Weight = 1.0,
        warmup_steps: Steps = 0,
        ramp_steps: Steps = 0,
        confidence: float = 0.0,
        dual_branch: bool = True,
        reconstruction_weight: Weight = 1.0,
        codebook_weight: Weight = 1.0,
        commitment: Weight = 0.25,
        usage_weight: Weight = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= confidence < 1:
            raise ValueError(f"confidence must lie in [0, 1), got {confidence}")
        if dual_branch != (student.image_decoder is not None):
            raise ValueError(f"dual_branch is {dual_branch}, but the network was built otherwise")
        self.student, self.teacher = student, make_teacher(student)
        self.perturbation, self.setup = perturbation, setup
        self.segmentation, self.confidence = segmentation, confidence
        self.warmup_steps, self.ramp_steps = warmup_steps, ramp_steps
        self.unlabelled_weight, self.perturbed_weight = unlabelled_weight, perturbed_weight
        self.strong_weight, self.reconstruction_weight = strong_weight, reconstruction_weight
        self.codebook_weights = CodebookWeights(codebook_weight, commitment, usage_weight)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return what is trained."""
        return parameter_groups(self.student)

    def losses(self, batch: Batch, step: int) -> Step:
        """Return the terms of one step.

        The three views go through encoder and quantizer together; the clean ones are decoded together, the
        perturbed ones in a pass of their own, whose batch norm statistics are kept apart.
        """
        labelled, unlabelled = batch.labelled, batch.unlabelled
        if unlabelled is None:
            raise ValueError("VQ-Seg needs unlabelled images in every batch")
        if step < self.warmup_steps:
            return self._warmup(labelled)
        target, weight, logs = self._pseudo_labels(unlabelled)
        n_labelled, n_clean = len(labelled.image), len(labelled.image) + len(unlabelled.strong)
        encoded = self.student.encode(torch.cat([labelled.image, unlabelled.strong, unlabelled.weak]))
        quantized = self.student.quantize(encoded.tokens)
        weak = encoded.part(n_clean, len(encoded.tokens))
        weak_quantized = Quantized(quantized.tokens[n_clean:], quantized.indices[n_clean:], {})
        stream = perturbation_stream(self.setup, step, encoded.tokens.device)
        perturbed, change = perturb(self.perturbation, weak_quantized, self.student.codes(), stream)

        logits = self.student.segment(quantized.tokens[:n_clean], encoded.part(0, n_clean))
        with running_statistics_kept(self.student.segment_decoder, self.setup.separate_statistics):
            shaken = self.student.segment(perturbed, weak)
        scale = self.unlabelled_weight * ramp(step - self.warmup_steps, self.ramp_steps)
        mix = unlabelled.mix.mix
        strong_loss = segmentation_loss(self.segmentation, logits[n_labelled:], mix(target), mix(weight))
        perturbed_loss = segmentation_loss(self.segmentation, shaken, target, weight)
        terms = {
            **self._labelled(labelled, logits[:n_labelled], quantized.tokens[:n_labelled], encoded.part(0, n_labelled)),
            "strong": scale * self.strong_weight * strong_loss,
            "perturbed": scale * self.perturbed_weight * perturbed_loss,
            **self.codebook_weights.terms(self.student, encoded.tokens, quantized.losses),
        }
        if self.student.image_decoder is not None:
            with running_statistics_kept(self.student.image_decoder, self.setup.separate_statistics):
                rebuilt = self.student.reconstruct(perturbed, weak)
            l1 = F.l1_loss(rebuilt.float(), unlabelled.weak)
            terms["reconstruction_perturbed"] = scale * self.reconstruction_weight * l1
        return Step(terms, {**logs, **change}, quantized.indices)

    def _warmup(self, labelled: Labelled) -> Step:
        """Return the labelled terms alone: a teacher that knows nothing teaches background everywhere."""
        encoded = self.student.encode(labelled.image)
        quantized = self.student.quantize(encoded.tokens)
        logits = self.student.segment(quantized.tokens, encoded)
        terms = {
            **self._labelled(labelled, logits, quantized.tokens, encoded),
            **self.codebook_weights.terms(self.student, encoded.tokens, quantized.losses),
        }
        return Step(terms, {}, quantized.indices)

    def _labelled(self, labelled: Labelled, logits: Tensor, tokens: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        terms = {"labelled": segmentation_loss(self.segmentation, logits, labelled.mask)}
        if self.student.image_decoder is not None:
            rebuilt = self.student.reconstruct(tokens, encoded)
            terms["reconstruction"] = self.reconstruction_weight * F.l1_loss(rebuilt.float(), labelled.image)
        return terms

    @torch.no_grad()
    def _pseudo_labels(self, unlabelled: Unlabelled) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        label, confidence, weight = pseudo_labels(self.teacher(unlabelled.weak).logits, self.confidence)
        logs = {
            "pseudo/confidence": confidence.mean(),
            "pseudo/coverage": weight.mean(),
            "pseudo/foreground": (label > 0).float().mean(),
        }
        return label, weight, logs

    def after_step(self, step: int) -> None:
        """Let the teacher follow."""
        follow(self.teacher, self.student, step, self.setup.teacher_decay)
