"""CLIP's vision tower, out of a full or a vision-only folder.

Source: Radford et al. 2021. No commit is pinned here: `vqseg prior fetch` records the one that it got
(and converts it, where it is published as a pickle alone).
"""

from vqseg.foundation import ViTPrior


class CLIP(ViTPrior):
    """CLIP's vision tower (ViT-B/16), trained on image and text pairs; patch features without a final norm."""

    license = "MIT (the code's; its page names none)"

    def __init__(
        self,
        channels: int,
        *,
        weights: str = "openai/clip-vit-base-patch16",
        layer: int = -1,
        size_px: int | None = None,
    ) -> None:
        super().__init__(channels, weights=weights, layer=layer, size_px=size_px)
