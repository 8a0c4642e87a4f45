"""Supervised training through the quantized space: labelled images alone, or all of them with their hidden labels.

    L = lambda_l seg(y, D_s(q')) + L1(x, D_i(q)) + lambda_a L_align
        + lambda_q (codebook + .25 commitment) + lambda_h usage

With ``data.labels: all`` this is the fully supervised bound, and with a perturbation the setting of the paper's Fig. 1.
Source: VQ-Seg, Fig. 1 (drawn, its recipe is not printed: the perturbation acts on q in every training pass here).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqseg.dataset import Batch
from vqseg.losses import info_nce, segmentation_loss
from vqseg.network import SegmentationNetwork, running_statistics_kept
from vqseg.ranges import Positive, Weight
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


class Supervised(nn.Module):
    """One perturbed pass per step; the averaged weights are scored as *teacher*, though they teach nobody.

    ``distortion``: the perturbation's rate is moved so that its centered distortion stays there.
    """

    needs_unlabelled = False

    def __init__(
        self,
        student: SegmentationNetwork,
        perturbation: Perturbation,
        setup: Setup,
        *,
        segmentation: Literal["ce", "dice_ce"] = "ce",
        labelled_weight: Weight = 1.0,
        dual_branch: bool = True,
        reconstruction_weight: Weight = 1.0,
        align_weight: Weight = 5.0,
        align_temperature: Positive = 0.07,
        codebook_weight: Weight = 1.0,
        commitment: Weight = 0.25,
        usage_weight: Weight = 0.0,
        distortion: Positive | None = None,
    ) -> None:
        super().__init__()
        if dual_branch != (student.image_decoder is not None):
            raise ValueError(f"dual_branch is {dual_branch}, but the network was built otherwise")
        self.student, self.teacher = student, make_teacher(student)
        self.perturbation, self.setup, self.segmentation = perturbation, setup, segmentation
        self.controller = held_at(perturbation, distortion)
        # Before a controller makes the rate a number of the device, which would have to be waited for.
        self.separates = setup.separate_statistics and bool(perturbation.rate > 0)
        self.labelled_weight, self.reconstruction_weight = labelled_weight, reconstruction_weight
        self.align_weight, self.align_temperature = align_weight, align_temperature
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
        """Return the terms of one step."""
        image, mask = batch.labelled.image, batch.labelled.mask
        encoded = self.student.encode(image)
        quantized = self.student.quantize(encoded.tokens)
        stream = perturbation_stream(self.setup, step, image.device)
        perturbed, change = perturb(self.perturbation, quantized, quantized.table, stream, self.controller)
        with running_statistics_kept(self.student.segment_decoder, self.separates):
            logits = self.student.segment(perturbed, encoded)
        if self.separates:
            # No clean pass would otherwise move the decoder's running statistics that validation uses.
            with torch.no_grad():
                self.student.segment(quantized.tokens, encoded)
        terms = {
            "labelled": self.labelled_weight * segmentation_loss(self.segmentation, logits, mask),
            **self.codebook_weights.terms(encoded.tokens, quantized),
        }
        if self.student.image_decoder is not None:
            rebuilt = self.student.reconstruct(quantized.tokens, encoded)
            terms["reconstruction"] = self.reconstruction_weight * F.l1_loss(rebuilt.float(), image)
        if self.setup.alignment is not None:
            seen = [(image, batch.labelled.rows, "labelled")]
            aligned = align(self.setup.alignment, self.student, quantized.tokens, encoded.grid, seen)
            terms["align"] = self.align_weight * info_nce(*aligned, self.align_temperature)
        return Step(terms, change, quantized.indices)

    def after_step(self, step: int) -> None:
        """Let the averaged weights follow."""
        follow(self.teacher, self.student, step, self.setup.teacher_decay)
