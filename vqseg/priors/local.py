"""The offline prior: a small masked auto-encoder trained on the data set's own training images.

It is built once, before the first run that needs it (`vqseg.pretrain`), and lies in the store as a transformers
folder. Nothing of validation or test images enters it.

Letters: B images, C channels, H x W pixels, h x w patches.
Source: masked auto-encoders (He et al. 2022), transformers' ViT-MAE.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vqseg.errors import InputError
from vqseg.ranges import Count, Positive, Share
from vqseg.weights import loading, read_config, read_mapping

SETTINGS = "prior.json"
# The side of a patch that is aimed at, in pixels.
PATCH_PX = 8


class LocalPrior(nn.Module):
    """A small masked auto-encoder trained on the data set's own training images.

    What stands here is its encoder, frozen; the options from ``mask_ratio`` on say how it is trained. Without
    ``patch_px`` a plan takes the divisor of the images' side that is nearest to 8 (`fitted`).
    """

    pretrained = True
    WAS: ClassVar[dict[str, Any]] = {"patch_px": PATCH_PX}
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int,
        folder: Path,
        *,
        patch_px: Count | None = None,
        dim: Count = 128,
        depth: Count = 4,
        heads: Count = 4,
        mask_ratio: Share = 0.75,
        normalized_target: bool = False,
        steps: Count = 1500,
        batch: Count = 32,
        lr: Positive = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got {dim} and {heads}")
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie in (0, 1), got {mask_ratio}")
        self.dim, self.patch = dim, patch_px or PATCH_PX
        shape = {"channels": channels, "patch_px": self.patch, "dim": dim, "depth": depth, "heads": heads}
        self.vit, mean, std = _shape_of(shape) if _on_meta() else _load(folder, shape)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def fitted(cls, options: dict[str, Any], size_px: int) -> dict[str, Any]:
        """Return the options with ``patch_px`` as a number: without one, the divisor of ``size_px`` nearest to 8.

        Raises:
            InputError: its patches do not fill an image of ``size_px`` a side.
        """
        dividing = [side for side in range(1, size_px + 1) if size_px % side == 0]
        patch = options["patch_px"] or min(dividing, key=lambda side: abs(side - PATCH_PX))
        if patch not in dividing:
            near = [max(side for side in dividing if side < patch), *[side for side in dividing if side > patch][:1]]
            raise InputError(
                f"prior.patch_px: {patch} does not divide data.size_px {size_px}; expected for example"
                f" {' or '.join(map(str, near))}"
            )
        return {**options, "patch_px": patch}

    def train(self, mode: bool = True) -> "LocalPrior":
        """Stay as it is: frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images (B, C, H, W) in 0-1 -> features (B, dim, h, w); ``grid`` is not asked: the size is the training's.

        Raises:
            InputError: the sides are no multiple of the patch.
        """
        height, width = images.shape[-2:]
        if height % self.patch or width % self.patch:
            raise InputError(f"image of {height} x {width} px: sides must be multiples of prior.patch_px {self.patch}")
        pixels = (images - self.mean) / self.std
        with torch.autocast(images.device.type, enabled=False):
            seen = self.vit(pixels.float(), interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        features: Tensor = seen.transpose(1, 2).unflatten(2, (height // self.patch, width // self.patch))
        return features


def shape_config(shape: dict[str, Any], size_px: int, **more: Any) -> dict[str, Any]:
    """Return the options of a transformers ViT of this shape for images of ``size_px`` a side."""
    return {
        "image_size": size_px,
        "patch_size": shape["patch_px"],
        "num_channels": shape["channels"],
        "hidden_size": shape["dim"],
        "num_hidden_layers": shape["depth"],
        "num_attention_heads": shape["heads"],
        "intermediate_size": 4 * shape["dim"],
        **more,
    }


def _on_meta() -> bool:
    return torch.get_default_device().type == "meta"


def _shape_of(shape: dict[str, Any]) -> tuple[nn.Module, list[float], list[float]]:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(**shape_config(shape, 2 * shape["patch_px"]))
    return ViTModel(config, add_pooling_layer=False), [0.0], [1.0]


def _load(folder: Path, shape: dict[str, Any]) -> tuple[nn.Module, list[float], list[float]]:
    from transformers import ViTModel

    if not (folder / SETTINGS).is_file():
        raise InputError(f"{folder}: the local prior is not trained; 'vqseg prior pretrain' does it, or any run of it")
    told = read_mapping(folder / SETTINGS)
    if told.get("shape") != shape:
        raise InputError(f"{folder}: holds a prior of shape {told.get('shape')}, wanted {shape}; delete the folder")
    read_config(folder)
    with loading(folder, "delete the folder, it is made anew"):
        vit, info = ViTModel.from_pretrained(
            folder, add_pooling_layer=False, output_loading_info=True, use_safetensors=True, local_files_only=True
        )
    if info["missing_keys"] or info["mismatched_keys"]:
        raise InputError(f"{folder}: weights are missing or of another shape; delete the folder, it is made anew")
    return vit, told["mean"], told["std"]
