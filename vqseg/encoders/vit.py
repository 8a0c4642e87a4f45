"""A pre-trained flat vision transformer: images (B, C, H, W) in 0-1 -> features after four of its layers.

Letters: B images, C channels, H x W pixels, h x w patches.
Source: UniMatch V2 and VQ-Seg's release (DINOv2-S, layers 2, 5, 8 and 11 counted from 0, each through the final layer
norm; `vqseg.foundation` has the rule). Its own learning rate is the optimizer's ``encoder_factor``.
Differs: other depths take evenly spaced layers, the last one included (a depth of 24: 5, 11, 17, 23; UniMatch V2 has
4, 11, 17, 23). DINOv3 shakes its rotary positions in training mode, as in its own recipe.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from vqseg.foundation import FlatViT
from vqseg.weights import weights_digest

COUNT = 4


class ViTEncoder(nn.Module):
    """Any flat ViT by folder or hub name; with ``trained: false`` frozen, in eval mode."""

    pretrained = True
    uses: ClassVar[tuple[str, ...]] = ("vqseg.foundation",)

    def __init__(
        self,
        channels: int,
        norm: str,
        *,
        weights: str,
        layers: tuple[int, ...] | None = None,
        trained: bool = True,
    ) -> None:
        super().__init__()
        self.vit = FlatViT(weights)
        if channels not in (1, self.vit.channels):
            raise ValueError(
                f"{weights} takes images of {self.vit.channels} channels, or gray ones, which it sees repeated; these"
                f" have {channels}: prepare 1 or {self.vit.channels} windows or sequences, with data.context"
                " neighbours counted, or use encoder unet"
            )
        depth = self.vit.depth
        self.layers = evenly_spaced(depth) if layers is None else tuple(layers)
        if (
            not self.layers
            or list(self.layers) != sorted(self.layers)
            or not 0 <= min(self.layers) <= max(self.layers) < depth
        ):
            raise ValueError(
                f"encoder.layers: expected ascending layers from 0 to {depth - 1}, got {list(self.layers)}"
            )
        self.trained = trained
        self.dims = (self.vit.dim,) * len(self.layers)
        self.strides = (self.vit.patch,) * len(self.layers)
        self.stride = self.vit.patch
        if not trained:
            self.requires_grad_(False)
            self.eval()

    @classmethod
    def digest(cls, *, weights: str, **options: object) -> str:
        """Return the digest of the weights that these options name."""
        return weights_digest(weights)

    def train(self, mode: bool = True) -> "ViTEncoder":
        """Switch the mode; frozen, it stays in eval mode."""
        return super().train(mode and self.trained)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return one map (B, D, h, w) per layer, the last one last; all have one size.

        Raises:
            InputError: the sides are no multiple of the patch.
        """
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            maps: list[Tensor] = self.vit(images, self.layers)
        return maps


def evenly_spaced(depth: int) -> tuple[int, ...]:
    """Return four layers of ``depth``, counted from 0, the last one included; a shallow model gives some twice."""
    return tuple(-(-(k + 1) * depth // COUNT) - 1 for k in range(COUNT))
