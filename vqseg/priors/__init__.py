"""Priors: frozen foundation models whose patch features the quantized tokens are aligned with (PFA).

Built with (channels,) and their options. A prior is a frozen module that states ``dim`` (channels of its features)
and ``patch`` (pixels per feature of its input) and has ``forward(images, grid)``: images (B, C, H, W) in 0-1 and the
token grid (h, w) -> features (B, dim, h', w').
"""

from vqseg.priors.biomedclip import BiomedCLIP
from vqseg.priors.clip import CLIP
from vqseg.priors.dinov2 import DINOv2
from vqseg.priors.dinov2_registers import DINOv2Registers
from vqseg.priors.dinov3 import DINOv3
from vqseg.priors.local import LocalPrior
from vqseg.priors.mae import MAE
from vqseg.priors.none import NoPrior
from vqseg.priors.rad_dino import RadDINO
from vqseg.priors.siglip import SigLIP
from vqseg.priors.vit import AnyViT

PRIORS = {
    "biomedclip": BiomedCLIP,
    "clip": CLIP,
    "dinov2": DINOv2,
    "dinov2-registers": DINOv2Registers,
    "dinov3": DINOv3,
    "local": LocalPrior,
    "mae": MAE,
    "none": NoPrior,
    "rad-dino": RadDINO,
    "siglip": SigLIP,
    "vit": AnyViT,
}
