"""DINOv3, a ViT of its family (not its ConvNeXts).

Source: Simeoni et al. 2025. No commit is pinned here: `vqseg prior fetch` records the one that it got.
"""

from vqseg.foundation import ViTPrior


class DINOv3(ViTPrior):
    """DINOv3 small (ViT-S/16): rotary positions, four register tokens; its license must be accepted on its page."""

    license = "DINOv3 License (gated)"

    def __init__(
        self,
        channels: int,
        *,
        weights: str = "facebook/dinov3-vits16-pretrain-lvd1689m",
        layer: int = -1,
        size_px: int | None = None,
    ) -> None:
        super().__init__(channels, weights=weights, layer=layer, size_px=size_px)
