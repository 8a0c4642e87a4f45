"""VQ-Seg: mean-teacher consistency through a quantized space whose codes are perturbed.

    L   = lambda_l L_l + lambda_u L_u + lambda_a L_align + lambda_q (codebook + .25 commitment) + lambda_h usage
    L_l = L1(x_l, D_i(q_l)) + seg(y_l, D_s(q_l))
    L_u = L1(x_u, D_i(q'_u)) + seg(y~, D_s(q'_u)) + seg(y~, D_s(q_a)),     q' = perturbation(q)
    L_align = InfoNCE(adapter(q), prior(x)) over the places of one image, for x_l and x_u, q unperturbed

x_u is the weak view, x_a its strong one (CutMix included; the mean over several), y~ the teacher's argmax on x_u.
Source: VQ-Seg, section 3. With ``perturb: strong`` the form of its release: q' of the strong views instead, and no
student pass on the weak one.
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
from vqseg.losses import IGNORE, class_thresholds, info_nce, pseudo_labels, ramp, segmentation_loss
from vqseg.network import Encoded, SegmentationNetwork, running_statistics_kept
from vqseg.ranges import Positive, Share, Steps, Weight
from vqseg.step import (
    CodebookWeights,
    Perturbation,
    Setup,
    Step,
    align,
    held_at,
    parameter_groups,
    perturb,
    perturbation_stream,
)
from vqseg.teacher import follow, make_teacher

Target = tuple[Tensor, Tensor]


class VQSeg(nn.Module):
    """The semi-supervised method; without perturbation, dual branch and prior it is the VQ-embedded base.

    ``codebook_passes``: the codebook and usage terms of labelled and unlabelled tokens in one mean (``joint``), or
    the sum of one mean each (``separate``, the release's). ``distortion``: the perturbation's rate is moved so that
    its centered distortion stays there (`vqseg.controller`).
    """

    needs_unlabelled = True
    thresholds: Tensor

    def __init__(
        self,
        student: SegmentationNetwork,
        perturbation: Perturbation,
        setup: Setup,
        *,
        segmentation: Literal["ce", "dice_ce"] = "ce",
        labelled_weight: Weight = 1.0,
        unlabelled_weight: Weight = 1.0,
        perturb: Literal["weak", "strong"] = "weak",
        perturbed_weight: Weight = 1.0,
        strong_weight: Weight = 1.0,
        warmup_steps: Steps = 0,
        ramp_steps: Steps = 0,
        confidence: Share = 0.0,
        class_confidence: dict[str, float] | None = None,
        dual_branch: bool = True,
        reconstruction_weight: Weight = 1.0,
        align_weight: Weight = 5.0,
        align_temperature: Positive = 0.07,
        codebook_weight: Weight = 1.0,
        commitment: Weight = 0.25,
        codebook_passes: Literal["joint", "separate"] = "joint",
        usage_weight: Weight = 0.0,
        distortion: Positive | None = None,
    ) -> None:
        super().__init__()
        if dual_branch != (student.image_decoder is not None):
            raise ValueError(f"dual_branch is {dual_branch}, but the network was built otherwise")
        self.student, self.teacher = student, make_teacher(student)
        self.perturbation, self.setup = perturbation, setup
        self.controller = held_at(perturbation, distortion)
        thresholds = class_thresholds(confidence, class_confidence or {}, setup.classes)
        self.register_buffer("thresholds", thresholds, persistent=False)
        self.segmentation, self.perturbs_strong = segmentation, perturb == "strong"
        self.warmup_steps, self.ramp_steps = warmup_steps, ramp_steps
        self.labelled_weight, self.unlabelled_weight = labelled_weight, unlabelled_weight
        self.perturbed_weight, self.strong_weight = perturbed_weight, strong_weight
        self.reconstruction_weight = reconstruction_weight
        self.align_weight, self.align_temperature = align_weight, align_temperature
        self.codebook_passes = codebook_passes
        self.codebook_weights = CodebookWeights(codebook_weight, commitment, usage_weight)

    @property
    def memory(self) -> dict[str, Tensor]:
        """What is kept from step to step beside the networks, for the checkpoint."""
        return {} if self.controller is None else {"controller": self.controller.state}

    @memory.setter
    def memory(self, kept: dict[str, Tensor]) -> None:
        if self.controller is not None:
            self.controller.state = kept["controller"]

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return what is trained."""
        return parameter_groups(self.student)

    def losses(self, batch: Batch, step: int) -> Step:
        """Return the terms of one step.

        All views go through encoder and quantizer together; the clean ones are decoded together, the perturbed
        ones in a pass of their own, whose batch norm statistics are kept apart.
        """
        labelled, unlabelled = batch.labelled, batch.unlabelled
        if unlabelled is None:
            raise ValueError("VQ-Seg needs unlabelled images in every batch")
        if step < self.warmup_steps:
            return self._warmup(labelled)
        target, logs = self._pseudo_labels(unlabelled)
        views = [view.image for view in unlabelled.strong] + ([] if self.perturbs_strong else [unlabelled.weak])
        encoded = self.student.encode(torch.cat([labelled.image, *views]))
        quantized = self.student.quantize(encoded.tokens)
        count, n_labelled = len(encoded.tokens), len(labelled.image)
        # What the perturbation acts on: the strong views, or the weak one behind them.
        first = n_labelled if self.perturbs_strong else count - len(unlabelled.weak)
        whole, shaken = encoded.split(first)
        stream = perturbation_stream(self.setup, step, encoded.tokens.device)
        after, change = perturb(self.perturbation, quantized.part(first), quantized.table, stream, self.controller)

        clean = self.student.segment(quantized.tokens[:first], whole)
        with running_statistics_kept(self.student.segment_decoder, self.setup.separate_statistics):
            perturbed = self.student.segment(after, shaken)
        scale = self.unlabelled_weight * ramp(step - self.warmup_steps, self.ramp_steps)
        strong = perturbed if self.perturbs_strong else clean[n_labelled:]
        terms = {
            **self._labelled(labelled, clean[:n_labelled], quantized.tokens[:n_labelled], encoded.part(0, n_labelled)),
            "strong": scale * self.strong_weight * self._strong(strong, unlabelled, target),
        }
        if not self.perturbs_strong:
            loss = segmentation_loss(self.segmentation, perturbed, *target)
            terms["perturbed"] = scale * self.perturbed_weight * loss
        if self.student.image_decoder is not None:
            with running_statistics_kept(self.student.image_decoder, self.setup.separate_statistics):
                rebuilt = self.student.reconstruct(after, shaken)
            seen = torch.cat(views) if self.perturbs_strong else unlabelled.weak
            l1 = F.l1_loss(rebuilt.float(), seen)
            terms["reconstruction_perturbed"] = scale * self.reconstruction_weight * l1
        terms |= self._codebook(encoded.tokens, quantized, n_labelled)
        if self.setup.alignment is not None:
            images = torch.cat(views) if self.perturbs_strong else unlabelled.weak
            rows = None if self.perturbs_strong else unlabelled.rows
            pairs = [(labelled.image, labelled.rows, "labelled"), (images, rows, "unlabelled")]
            tokens = torch.cat([quantized.tokens[:n_labelled], quantized.tokens[first:]])
            terms["align"] = self._align(tokens, encoded.grid, pairs)
        return Step(terms, {**logs, **change}, quantized.indices)

    def _warmup(self, labelled: Labelled) -> Step:
        """Return the labelled terms alone: a teacher that knows nothing teaches background everywhere."""
        encoded = self.student.encode(labelled.image)
        quantized = self.student.quantize(encoded.tokens)
        logits = self.student.segment(quantized.tokens, encoded)
        terms = {
            **self._labelled(labelled, logits, quantized.tokens, encoded),
            **self.codebook_weights.terms(encoded.tokens, quantized),
        }
        if self.setup.alignment is not None:
            pairs = [(labelled.image, labelled.rows, "labelled")]
            terms["align"] = self._align(quantized.tokens, encoded.grid, pairs)
        return Step(terms, {}, quantized.indices)

    def _labelled(self, labelled: Labelled, logits: Tensor, tokens: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        loss = segmentation_loss(self.segmentation, logits, labelled.mask)
        terms = {"labelled": self.labelled_weight * loss}
        if self.student.image_decoder is not None:
            rebuilt = self.student.reconstruct(tokens, encoded)
            terms["reconstruction"] = self.reconstruction_weight * F.l1_loss(rebuilt.float(), labelled.image)
        return terms

    def _strong(self, logits: Tensor, unlabelled: Unlabelled, target: Target) -> Tensor:
        """Return the mean loss of the strong views (their logits stacked) against the mixed pseudo-labels."""
        pairs = zip(logits.chunk(len(unlabelled.strong)), unlabelled.strong, strict=True)
        label, weight = target
        losses = [
            segmentation_loss(self.segmentation, each, view.mix.mix(label), view.mix.mix(weight))
            for each, view in pairs
        ]
        return torch.stack(losses).mean()

    def _codebook(self, tokens: Tensor, quantized: Quantized, n_labelled: int) -> dict[str, Tensor]:
        if self.codebook_passes == "joint":
            return self.codebook_weights.terms(tokens, quantized)
        chosen = F.embedding(quantized.indices, quantized.table)
        parts = []
        for part in (slice(0, n_labelled), slice(n_labelled, None)):
            ours, codes = tokens[part].float(), chosen[part]
            losses = {"codebook": F.mse_loss(codes, ours.detach()), "commitment": F.mse_loss(ours, codes.detach())}
            parts.append(self.codebook_weights.terms(tokens[part], quantized._replace(losses=losses)))
        return {name: parts[0][name] + parts[1][name] for name in parts[0]}

    def _align(self, tokens: Tensor, grid: tuple[int, int], seen: list[tuple[Tensor, Tensor | None, str]]) -> Tensor:
        """Return the weighted alignment of unperturbed tokens (B, N, C) with what the prior sees of their images."""
        assert self.setup.alignment is not None
        aligned = align(self.setup.alignment, self.student, tokens, grid, seen)
        return self.align_weight * info_nce(*aligned, self.align_temperature)

    @torch.no_grad()
    def _pseudo_labels(self, unlabelled: Unlabelled) -> tuple[Target, dict[str, Tensor]]:
        label, confidence, weight = pseudo_labels(self.teacher(unlabelled.weak).logits, self.thresholds)
        logs = {
            "pseudo/confidence": confidence.mean(),
            "pseudo/coverage": weight.mean(),
            "pseudo/foreground": (label > 0).float().mean(),
        }
        if unlabelled.there is not None:
            label = label.where(unlabelled.there, IGNORE)
        return (label, weight), logs

    def after_step(self, step: int) -> None:
        """Let the teacher follow."""
        follow(self.teacher, self.student, step, self.setup.teacher_decay)
