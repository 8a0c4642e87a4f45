"""What is measured on the validation part while training: Dice of both networks, and the teacher's reach.

Reach: the Dice lost and the share of pixels whose class flips when a perturbation acts on q at inference, for
the arm's own perturbation and for uniform replacement of every code. Dice is that of the `scan` protocol.
Letters: S slices, H x W pixels, K classes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vqseg import streams
from vqseg.dataset import to_input
from vqseg.manifest import Scan, read_image, read_mask
from vqseg.metrics import class_dice
from vqseg.network import SegmentationNetwork
from vqseg.perturbations.uniform import Uniform
from vqseg.step import Perturbation


class Validation:
    """Holds the validation scans at input size and their masks on the native grid."""

    def __init__(
        self,
        root: Path,
        scans: Sequence[Scan],
        *,
        size_px: int,
        classes: Sequence[str],
        device: torch.device,
        seed: int,
    ) -> None:
        self.classes, self.device, self.seed = list(classes), device, seed
        self.images = [to_input(read_image(root, scan), size_px) for scan in scans]
        self.masks = [read_mask(root, scan) for scan in scans]

    def measure(
        self, teacher: SegmentationNetwork, student: SegmentationNetwork, perturbation: Perturbation
    ) -> dict[str, float]:
        """Return the values to log; both networks are left in evaluation mode."""
        teacher.eval()
        student.eval()
        arms: dict[str, Perturbation] = {"own": perturbation, "uniform": Uniform(rate=1.0)}
        clean: list[np.ndarray] = []
        taught: list[np.ndarray] = []
        shaken_scores: dict[str, list[np.ndarray]] = {name: [] for name in arms}
        flips = dict.fromkeys(arms, 0.0)
        pixels = sum(mask.size for mask in self.masks)
        for number, (images, mask) in enumerate(zip(self.images, self.masks, strict=True)):
            images = images.to(self.device)
            labels, shaken = self._segment(teacher, images, mask.shape[1:], arms, number)
            clean.append(class_dice(labels, mask, len(self.classes)))
            for name, scores in shaken_scores.items():
                scores.append(class_dice(shaken[name], mask, len(self.classes)))
                flips[name] += float((shaken[name] != labels).sum()) / pixels
            plain, _ = self._segment(student, images, mask.shape[1:], {}, number)
            taught.append(class_dice(plain, mask, len(self.classes)))
        values = {"val/dice_teacher": float(np.mean(clean)), "val/dice_student": float(np.mean(taught))}
        for index, name in enumerate(self.classes[1:]):
            values[f"val/dice_teacher_{name}"] = float(np.mean([row[index] for row in clean]))
        for name, scores in shaken_scores.items():
            values[f"reach/dice_{name}"] = values["val/dice_teacher"] - float(np.mean(scores))
            values[f"reach/flips_{name}"] = flips[name]
        if hasattr(perturbation, "perplexity"):
            values["perturbation/pi_perplexity"] = float(perturbation.perplexity(teacher.codes()))
        return values

    @torch.no_grad()
    def _segment(
        self,
        network: SegmentationNetwork,
        images: Tensor,
        shape: tuple[int, ...],
        arms: dict[str, Perturbation],
        number: int,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        encoded = network.encode(images)
        quantized = network.quantize(encoded.tokens)
        clean = _labels(network.segment(quantized.tokens, encoded), shape)
        codes, shaken = network.codes(), {}
        for name, perturbation in arms.items():
            # The same draws at every validation: a curve of reach then moves with the network alone.
            generator = streams.generator(self.seed, "validation", name, number, device=self.device)
            drawn = perturbation.draw(quantized, codes, generator)
            tokens = perturbation.apply(quantized, codes, drawn)
            shaken[name] = _labels(network.segment(tokens, encoded), shape)
        return clean, shaken


def _labels(logits: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Logits (S, K, h, w) -> class indices (S, H, W), by bilinear logits on the native grid."""
    full = functional.interpolate(logits.float(), size=tuple(shape), mode="bilinear", align_corners=False)
    labels: np.ndarray = full.argmax(1).byte().cpu().numpy()
    return labels
