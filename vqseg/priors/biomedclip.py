"""BiomedCLIP's vision trunk. It is published for open_clip: `vqseg prior fetch` or `import` makes a ViT folder of it.

Source: Zhang et al. 2023; the pinned commit holds its checkpoint as a pickle of tensors.
"""

from vqseg.foundation import ViTPrior

REPOSITORY = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
COMMIT = "9f341de24bfb00180f1b847274256e9b65a3a32e"


class BiomedCLIP(ViTPrior):
    """BiomedCLIP's vision trunk (ViT-B/16), trained on figures and captions of PubMed Central; imported once."""

    license = "MIT"
    layout = "open_clip"

    def __init__(
        self,
        channels: int,
        *,
        weights: str = f"{REPOSITORY}@{COMMIT}",
        layer: int = -1,
        size_px: int | None = None,
    ) -> None:
        super().__init__(channels, weights=weights, layer=layer, size_px=size_px)
