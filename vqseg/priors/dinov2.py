"""DINOv2, the prior with which the paper's table is best.

Source: Oquab et al. 2023; the pinned commit is the hub's last one of its safetensors (September 2023).
"""

from vqseg.foundation import ViTPrior


class DINOv2(ViTPrior):
    """DINOv2 small: self-supervised on 142 million natural images; the paper's best prior is a DINOv2."""

    license = "Apache-2.0"

    def __init__(
        self,
        channels: int,
        *,
        weights: str = "facebook/dinov2-small@ed25f3a31f01632728cabb09d1542f84ab7b0056",
        layer: int = -1,
        size_px: int | None = None,
    ) -> None:
        super().__init__(channels, weights=weights, layer=layer, size_px=size_px)
