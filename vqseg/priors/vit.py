"""Any flat vision transformer of transformers, by folder or hub name: one's own, or one that has no row."""

from vqseg.foundation import ViTPrior


class AnyViT(ViTPrior):
    """Any flat ViT: name its folder, or a hub's model, as weights."""

    license = "the model's own"

    def __init__(self, channels: int, *, weights: str, layer: int = -1, size_px: int | None = None) -> None:
        super().__init__(channels, weights=weights, layer=layer, size_px=size_px)
