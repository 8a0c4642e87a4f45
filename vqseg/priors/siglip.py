"""SigLIP's vision tower, out of a full or a vision-only folder.

Source: Zhai et al. 2023. No commit is pinned here: `vqseg prior fetch` records the one that it got.
"""

from vqseg.foundation import ViTPrior


class SigLIP(ViTPrior):
    """SigLIP's vision tower (ViT-B/16), trained on image and text pairs; no class token."""

    license = "Apache-2.0"

    def __init__(
        self,
        channels: int,
        *,
        weights: str = "google/siglip-base-patch16-224",
        layer: int = -1,
        size_px: int | None = None,
    ) -> None:
        super().__init__(channels, weights=weights, layer=layer, size_px=size_px)
