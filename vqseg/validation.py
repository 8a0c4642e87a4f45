"""What is measured on the validation part while training: Dice of both networks, and the teacher's reach.

Reach: the Dice lost and the share of pixels whose class flips when a perturbation acts on q at inference, for
the arm's own perturbation and for uniform replacement of every code. Dice is that of the `scan` protocol; a recipe of
crops is measured in windows side by side, without the overlap that scoring spends time on.
Letters: S slices, H x W pixels, C channels, K classes, A perturbations, B slices or windows of a pass.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vqseg import streams
from vqseg.manifest import Scan, read_image, read_mask
from vqseg.metrics import class_dice
from vqseg.network import SegmentationNetwork
from vqseg.perturbations.uniform import Uniform
from vqseg.step import Perturbation
from vqseg.store import to_input, to_unit, with_context
from vqseg.windows import groups, windowed

# Slices and windows of one pass, and logits (floats) that are brought to the native grid at once.
SLICES, WINDOWS, LOGITS = 64, 16, 2**26


class Validation:
    """Holds the validation scans and their masks on the native grid.

    ``images`` are the network's inputs (S, C, P, P) where slices are resized, and the stored volumes where windows
    slide over them: as floats with their neighbors they would be up to twenty times as large.
    """

    def __init__(
        self,
        root: Path,
        scans: Sequence[Scan],
        *,
        size_px: int,
        classes: Sequence[str],
        device: torch.device,
        seed: int,
        geometry: Literal["resize", "crop"] = "resize",
        context: int = 1,
    ) -> None:
        self.classes, self.device, self.seed = list(classes), device, seed
        self.side, self.geometry, self.context = size_px, geometry, context
        self.images: list[Tensor | np.ndarray] = []
        for scan in scans:
            volume = read_image(root, scan)
            held = to_input(with_context(volume, context), size_px) if geometry == "resize" else volume
            self.images.append(held)
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
        for number, mask in enumerate(self.masks):
            labels, *shaken = self._segment(teacher, number, arms)
            clean.append(class_dice(labels, mask, len(self.classes)))
            for name, found in zip(arms, shaken, strict=True):
                shaken_scores[name].append(class_dice(found, mask, len(self.classes)))
                flips[name] += float((found != labels).sum()) / pixels
            (plain,) = self._segment(student, number, {})
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
    def _segment(self, network: SegmentationNetwork, number: int, arms: dict[str, Perturbation]) -> list[np.ndarray]:
        """Class indices (S, H, W) of one scan: undisturbed, then under each of ``arms``."""
        # The same draws at every validation: a curve of reach then moves with the network alone.
        generators = [streams.generator(self.seed, "validation", arm, number, device=self.device) for arm in arms]
        streamed = list(zip(arms.values(), generators, strict=True))
        run = self._resized if self.geometry == "resize" else self._slid
        parts = list(run(network, number, streamed))
        return [np.concatenate(labels) for labels in zip(*parts, strict=True)]

    def _resized(
        self, network: SegmentationNetwork, number: int, arms: list[tuple[Perturbation, torch.Generator]]
    ) -> Iterator[list[np.ndarray]]:
        shape = self.masks[number].shape[1:]
        images = self.images[number]
        assert isinstance(images, Tensor)
        for part in images.split(SLICES):
            yield [_labels(logits, shape) for logits in _passes(network, part.to(self.device), arms)]

    def _slid(
        self, network: SegmentationNetwork, number: int, arms: list[tuple[Perturbation, torch.Generator]]
    ) -> Iterator[list[np.ndarray]]:
        def predict(images: Tensor) -> Tensor:
            return torch.cat(list(_passes(network, images, arms)), dim=1)

        volume = self.images[number]
        assert isinstance(volume, np.ndarray)
        slices = with_context(volume, self.context)
        for group in groups(len(slices), slices.shape[1:3], self.side, WINDOWS):
            images = to_unit(slices[group]).to(self.device)
            logits = windowed(predict, images, self.side, self.side, batch=WINDOWS)
            yield [_largest(each).cpu().numpy() for each in logits.chunk(1 + len(arms), dim=1)]


def _passes(
    network: SegmentationNetwork, images: Tensor, arms: list[tuple[Perturbation, torch.Generator]]
) -> Iterator[Tensor]:
    """Yield logits (B, K, h, w): undisturbed, then under each perturbation."""
    encoded = network.encode(images)
    quantized = network.quantize(encoded.tokens)
    codes = network.codes()
    yield network.segment(quantized.tokens, encoded)
    for perturbation, generator in arms:
        drawn = perturbation.draw(quantized, codes, generator)
        yield network.segment(perturbation.apply(quantized, codes, drawn), encoded)


def _labels(logits: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Logits (S, K, h, w) -> class indices (S, H, W), by bilinear logits on the native grid."""
    step = max(LOGITS // (logits.shape[1] * shape[0] * shape[1]), 1)
    found = []
    for part in logits.float().contiguous().split(step):
        full = functional.interpolate(part, size=tuple(shape), mode="bilinear", align_corners=False)
        found.append(_largest(full).cpu().numpy())
    return np.concatenate(found)


def _largest(logits: Tensor) -> Tensor:
    """Logits (S, K, H, W) -> the class of the largest, uint8 (S, H, W); of equal ones the first.

    Plane by plane: argmax over so few classes, pixel by pixel, takes longer than the interpolation before it.
    """
    best, label = logits[:, 0], torch.zeros_like(logits[:, 0], dtype=torch.uint8)
    for index in range(1, logits.shape[1]):
        label = torch.maximum(label, (logits[:, index] > best).byte().mul_(index))
        best = torch.maximum(best, logits[:, index])
    return label
