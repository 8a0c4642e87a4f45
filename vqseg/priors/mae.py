"""The encoder of a masked auto-encoder, every patch in its place.

Source: He et al. 2022. No commit is pinned here: `vqseg prior fetch` records the one that it got.
"""

from vqseg.foundation import ViTPrior


class MAE(ViTPrior):
    """ViT-MAE base: a masked auto-encoder of natural images, loaded as a plain ViT, nothing masked."""

    license = "Apache-2.0"

    def __init__(
        self,
        channels: int,
        *,
        weights: str = "facebook/vit-mae-base",
        layer: int = -1,
        size_px: int | None = None,
    ) -> None:
        super().__init__(channels, weights=weights, layer=layer, size_px=size_px)
