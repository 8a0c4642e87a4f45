"""Rad-DINO, a DINOv2 of chest X-rays.

Source: Perez-Garcia et al. 2024. No commit is pinned here: `vqseg prior fetch` records the one that it got.
"""

from vqseg.foundation import ViTPrior


class RadDINO(ViTPrior):
    """Rad-DINO: a DINOv2 base trained on chest X-rays; for research, not for clinical use."""

    license = "MIT (until 2025: MSRLA)"

    def __init__(
        self,
        channels: int,
        *,
        weights: str = "microsoft/rad-dino",
        layer: int = -1,
        size_px: int | None = None,
    ) -> None:
        super().__init__(channels, weights=weights, layer=layer, size_px=size_px)
