"""DINOv2 with register tokens.

Source: Darcet et al. 2024. No commit is pinned here: `vqseg prior fetch` records the one that it got.
"""

from vqseg.foundation import ViTPrior


class DINOv2Registers(ViTPrior):
    """DINOv2 small with four register tokens, which take the artifacts out of its patch features."""

    license = "Apache-2.0"

    def __init__(
        self,
        channels: int,
        *,
        weights: str = "facebook/dinov2-with-registers-small",
        layer: int = -1,
        size_px: int | None = None,
    ) -> None:
        super().__init__(channels, weights=weights, layer=layer, size_px=size_px)
