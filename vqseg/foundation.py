"""Any flat vision transformer of transformers as maps of patch features, and the frozen prior made from one.

Letters: B images, C channels, H x W pixels, h x w patches, D channels of a feature, N tokens.

Source: DINOv2's intermediate layers, as UniMatch V2 and VQ-Seg's release take them: the tokens after a layer go
through the model's final layer norm, whichever layer it is, and the class and register tokens are left out.
CLIP normalizes its class token alone, so its patch features stay as they are, as in its own last hidden state.
Differs: positions are interpolated to another image size as transformers does it, without DINOv2's offset of .1.

Traps that this module closes: tensors that a file lacks are drawn at random with no more than a log line, a masked
auto-encoder shuffles its patches and drops most (its weights go into a plain ViT here), an image that is no multiple
of the patch is cut silently, half-precision files load in half precision, and a folder's own code is never asked for.
"""

import inspect
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqseg.errors import InputError
from vqseg.weights import PROCESSORS, loading, locate, read_config, read_mapping, weight_files, weights_digest

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Architecture:
    """The class of transformers that loads a kind of folder, its final norm, and what leaves out unused heads."""

    loader: str
    norm: str | None = "layernorm"
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


# By the ``model_type`` of a folder's config.json. Rad-DINO is a DINOv2; the encoder of a ViT-MAE is a plain ViT.
_CLIP = Architecture("CLIPVisionModel", None)
_SIGLIP = Architecture("SiglipVisionModel", "post_layernorm", {"vision_use_head": False})
_VIT = Architecture("ViTModel", options={"add_pooling_layer": False})
ARCHITECTURES = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "dinov2": Architecture("Dinov2Model"),
    "dinov2_with_registers": Architecture("Dinov2WithRegistersModel"),
    "dinov3_vit": Architecture("DINOv3ViTModel", "norm"),
    "ijepa": Architecture("IJepaModel", options={"add_pooling_layer": False}),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "vit": _VIT,
    "vit_mae": _VIT,
}
# Tensors that no feature of an unmasked image depends on.
UNUSED = ("pooler", "mask_token")


class FlatViT(nn.Module):
    """A vision transformer whose layers all keep one grid of patches.

    ``dim`` channels of a feature, ``patch`` pixels, ``depth`` layers, ``channels`` that it takes. Under the device
    *meta* it is built from ``config.json`` alone, without memory.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.name, self.folder = weights, locate(weights)
        self.architecture = _architecture(self.folder)
        self.trunk, self.missing = _load(self.folder, self.architecture)
        config = self.trunk.config
        self.dim, self.patch, self.depth = config.hidden_size, config.patch_size, config.num_hidden_layers
        self.channels: int = config.num_channels
        self._flag = "interpolate_pos_encoding" in inspect.signature(self.trunk.forward).parameters
        mean, std = normalization(self.folder, self.channels)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Images (B, C, H, W) in 0-1 -> the features (B, D, h, w) after each of ``layers``, counted from 0.

        C is ``channels``, or 1: then the image is repeated.

        Raises:
            InputError: the sides are no multiple of the patch, or C does not fit.
        """
        grid, last = self._grid(images), self.depth - 1
        out = self._run(images, any(layer != last for layer in layers))
        found = [out.last_hidden_state if k == last else self._normed(out.hidden_states[k + 1]) for k in layers]
        return [self._as_map(tokens, grid) for tokens in found]

    def prefix_tokens(self, images: Tensor) -> int:
        """Return how many tokens stand before those of the patches."""
        height, width = self._grid(images)
        return int(self._run(images, False).last_hidden_state.shape[1]) - height * width

    def _run(self, images: Tensor, output_hidden_states: bool) -> Any:
        pixels = (images.float().expand(-1, self.channels, -1, -1) - self.mean) / self.std
        options = {"interpolate_pos_encoding": True} if self._flag else {}
        return self.trunk(pixel_values=pixels, output_hidden_states=output_hidden_states, **options)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        channels, height, width = images.shape[-3:]
        if channels not in (1, self.channels):
            raise InputError(f"images of {channels} channels: {self.name} takes 1 or {self.channels}")
        if height % self.patch or width % self.patch or not height or not width:
            raise InputError(
                f"image of {height} x {width} px: sides must be multiples of {self.patch}, the patch of"
                f" {self.name}; data.size_px {max(round(height / self.patch), 1) * self.patch} would do"
            )
        return height // self.patch, width // self.patch

    def _normed(self, tokens: Tensor) -> Tensor:
        name = self.architecture.norm
        if name is None:
            return tokens
        # Some versions of transformers wrap the vision tower once more.
        owner = self.trunk if hasattr(self.trunk, name) else self.trunk.vision_model
        normed: Tensor = getattr(owner, name)(tokens)
        return normed

    @staticmethod
    def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        prefix = tokens.shape[1] - grid[0] * grid[1]
        return tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)


class ViTPrior(nn.Module):
    """A frozen `FlatViT` as a prior: the features of one layer, the last by default.

    ``license`` and ``layout`` of a row say what its weights may be used for and how they are published.
    """

    pretrained = True
    uses: ClassVar[tuple[str, ...]] = ("vqseg.foundation",)
    license: ClassVar[str] = ""
    layout: ClassVar[str] = "transformers"

    def __init__(self, channels: int, *, weights: str, layer: int = -1, size_px: int | None = None) -> None:
        super().__init__()
        self.vit = FlatViT(weights)
        self.dim, self.patch, self.size_px = self.vit.dim, self.vit.patch, size_px
        if not -self.vit.depth <= layer < self.vit.depth:
            raise ValueError(f"prior.layer: the model has layers 0 to {self.vit.depth - 1}, got {layer}")
        if size_px is not None and (size_px < 1 or size_px % self.patch):
            raise ValueError(f"prior.size_px must be a multiple of the model's patch {self.patch}, got {size_px}")
        self.layer = layer % self.vit.depth
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def digest(cls, *, weights: str, **options: object) -> str:
        """Return the digest of the weights that these options name."""
        return weights_digest(weights)

    def train(self, mode: bool = True) -> "ViTPrior":
        """Stay as it is: frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images (B, C, H, W) in 0-1 -> features (B, dim, h', w'), in full precision.

        The images are resized so that every token of ``grid`` gets a patch, or to squares of ``size_px``. An image
        of other channels than the model's enters as the mean of its channels.
        """
        channels = self.vit.channels
        seen = images if images.shape[1] in (1, channels) else images.mean(1, keepdim=True)
        size = (grid[0] * self.patch, grid[1] * self.patch) if self.size_px is None else (self.size_px, self.size_px)
        with torch.autocast(images.device.type, enabled=False):
            if tuple(seen.shape[-2:]) != size:
                seen = F.interpolate(seen.float(), size, mode="bilinear", align_corners=False, antialias=True)
            return self.vit(seen, [self.layer])[0].float()


def normalization(folder: Path, channels: int) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each channel, for images in 0-1: the processor's, or ImageNet's where it has none.

    A model of other than three channels without a processor gets ImageNet's averages.

    Raises:
        InputError: the processor's numbers do not fit the model's channels.
    """
    path = next((folder / name for name in PROCESSORS if (folder / name).is_file()), None)
    read = read_mapping(path) if path else {}
    told = read.get("image_processor", read)
    if not isinstance(told, dict):
        raise InputError(f"{path}: image_processor is a {type(told).__name__}, expected names and values")
    if told.get("do_normalize", True) is False:
        return [0.0] * channels, [1.0] * channels
    pairs = []
    for key, default in zip(("image_mean", "image_std"), IMAGENET, strict=True):
        given = told.get(key) or (default if channels == 3 else [sum(default) / 3])
        values = _numbers(given, f"{folder}: {key}", least=0.0 if key == "image_std" else -math.inf)
        if len(values) not in (1, channels):
            raise InputError(f"{folder}: {key} has {len(values)} numbers, but the model takes {channels} channels")
        pairs.append(values * (channels // len(values)))
    return pairs[0], pairs[1]


def _numbers(given: Any, where: str, *, least: float) -> list[float]:
    """Return one number or a list of them as a list; all are above ``least``."""
    values = given if isinstance(given, (list, tuple)) else [given]
    if not all(isinstance(value, (int, float)) and least < value < math.inf for value in values):
        wanted = "numbers" if least < 0 else "numbers above 0"
        raise InputError(f"{where} is {str(given)[:80]}, expected {wanted}; mend the file, or fetch the model again")
    return [float(value) for value in values]


def _architecture(folder: Path) -> Architecture:
    kind = read_config(folder).get("model_type")
    if isinstance(kind, str) and kind in ARCHITECTURES:
        return ARCHITECTURES[kind]
    raise InputError(f"{folder}: model_type {kind!r} is no flat ViT that vqseg knows: {', '.join(ARCHITECTURES)}")


def _load(folder: Path, architecture: Architecture) -> tuple[Any, tuple[str, ...]]:
    """Return the model, every tensor from the file, and the names of unused tensors that the file lacks."""
    import transformers

    loader = getattr(transformers, architecture.loader)
    with loading(folder, "copy or fetch it again"):
        config = loader.config_class.from_pretrained(folder, local_files_only=True, **architecture.settings)
        if not isinstance(config.patch_size, int) or config.patch_size < 1:
            raise InputError(f"{folder}: patches of {config.patch_size} px; expected square ones of a pixel or more")
        if torch.get_default_device().type == "meta":
            return loader(config, **architecture.options), ()
        weight_files(folder)
        model, info = loader.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named and refused below
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **architecture.options,
        )
    lacking = sorted(str(name) for name in info["missing_keys"])
    needed = [name for name in lacking if not any(part in name for part in UNUSED)]
    other = sorted(each if isinstance(each, str) else str(each[0]) for each in info["mismatched_keys"])
    surplus = _of_layers(info["unexpected_keys"], model)
    shape = "of another shape than config.json says"
    for names, what in ((other, shape), (needed, "missing"), (surplus, "of layers that config.json does not have")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InputError(
                f"{folder}: weights {', '.join(names[:3])}{more} are {what}; copy or fetch the model again"
            )
    return model, tuple(lacking)


def _of_layers(unexpected: Iterable[str], model: Any) -> list[str]:
    """Return which tensors without a place belong to the trunk's layers; heads, decoders and text towers do not."""
    stems = {_stem(name) for name in model.state_dict()} - {""}
    # A file of a larger model has its trunk under a name of its own.
    towers = ("", f"{model.base_model_prefix}.", "vision_model.")
    places = {tower + stem for tower in towers for stem in stems}
    return sorted(name for name in map(str, unexpected) if _stem(name) in places)


def _stem(name: str) -> str:
    """Return a tensor's name up to the number of its layer, or nothing."""
    found = re.match(r"(.*?\.)\d+\.", name)
    return found[1] if found else ""
