"""Turns published weights of other forms into a transformers folder with safetensors.

A vision transformer in timm's layout, as open_clip keeps BiomedCLIP's, gets the names of a ViT; a pickle beside the
``config.json`` of a known model keeps its own. Neither library is needed, and no code of a file is run: safetensors, or
a pickle of plain tensors.
Source: the names of both layouts; timm's ViTs use an epsilon of 1e-6 and heads of 64 channels.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqseg.errors import InputError
from vqseg.files import write_json
from vqseg.weights import CONFIG, PROCESSORS, SINGLE, new_folder, read_mapping

PREFIX = "visual.trunk."
HEAD_CHANNELS = 64
# What of the trunk the features do not depend on.
IGNORED = ("head.",)
# BiomedCLIP and open_clip's own models normalize as OpenAI's CLIP does.
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

WHOLE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def import_weights(source: Path, out: Path, *, heads: int | None = None) -> Path:
    """Write ``source`` as the folder ``out``: as it is where its model is known, else as a trunk of timm's.

    Raises:
        InputError: see `import_trunk`.
    """
    from vqseg.foundation import ARCHITECTURES, FlatViT

    beside = source.parent / CONFIG
    if not beside.is_file() or str(read_mapping(beside).get("model_type")) not in ARCHITECTURES:
        return import_trunk(source, out, heads=heads)
    tensors = read_tensors(source)
    with new_folder(out) as folder:
        write_tensors(tensors, folder / SINGLE)
        for name in (CONFIG, *PROCESSORS):
            if (source.parent / name).is_file():
                shutil.copy(source.parent / name, folder)
        FlatViT(str(folder))
    return out


def import_trunk(source: Path, out: Path, *, heads: int | None = None) -> Path:
    """Write the vision trunk of ``source`` as the ViT folder ``out``, and load it once to see that it is whole.

    ``heads`` is not in the file; the default is one per 64 channels, as in every ViT from tiny to giant.

    Raises:
        InputError: the file holds no such trunk, or holds parts that a plain ViT has no place for.
    """
    from vqseg.foundation import FlatViT

    found = read_tensors(source)
    tensors = trunk_of(found, source)
    config = _config(tensors, heads, source)
    mean, std = _normalization(source, any(name.startswith(PREFIX) for name in found))
    with new_folder(out) as folder:
        write_tensors(_renamed(tensors, source), folder / SINGLE)
        write_json(folder / CONFIG, config)
        write_json(folder / "preprocessor_config.json", {"do_normalize": True, "image_mean": mean, "image_std": std})
        FlatViT(str(folder))
    return out


def read_tensors(source: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file, or of a pickled state dict with nothing but tensors in it.

    Raises:
        InputError: the file is missing or is neither.
    """
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    try:
        if source.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(source))
        found: Any = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{source}: not readable as a file of tensors ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise InputError(f"{source}: holds no state dict; expected names and tensors")
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, each with memory of its own."""
    from safetensors.torch import save_file

    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, path, metadata={"format": "pt"})


def trunk_of(tensors: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Return the vision trunk's tensors without their prefix (a file of timm's has none).

    Raises:
        InputError: there is none.
    """
    prefix = PREFIX if any(name.startswith(PREFIX) for name in tensors) else ""
    found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    missing = [name for name in WHOLE if name not in found]
    if missing:
        raise InputError(
            f"{source}: holds no vision transformer in timm's layout ({prefix}{missing[0]} is missing);"
            " expected open_clip's file of BiomedCLIP, or a file of timm's"
        )
    return found


def _config(tensors: dict[str, Tensor], heads: int | None, source: Path) -> dict[str, Any]:
    kernel, positions = tensors["patch_embed.proj.weight"].shape, tensors["pos_embed"].shape
    if len(kernel) != 4 or len(positions) != 3:
        shapes = f"{list(kernel)} and {list(positions)}"
        raise InputError(f"{source}: patch_embed.proj.weight and pos_embed are {shapes}, expected 4 and 3 axes")
    dim, channels, patch, other = kernel
    depth = _depth(tensors, source)
    tokens = tensors["pos_embed"].shape[1] - 1
    side = math.isqrt(tokens)
    if patch != other or side * side != tokens:
        raise InputError(f"{source}: patches of {patch} x {other} px on {tokens} positions; expected square ones")
    heads = heads or dim // HEAD_CHANNELS
    if not heads or dim % heads:
        raise InputError(f"{source}: {dim} channels do not divide into {heads} heads; say --heads")
    return {
        "model_type": "vit",
        "architectures": ["ViTModel"],
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": tensors["blocks.0.mlp.fc1.weight"].shape[0],
        "image_size": side * patch,
        "patch_size": patch,
        "num_channels": channels,
        "hidden_act": "gelu",
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "layer_norm_eps": 1e-6,
    }


def _depth(tensors: dict[str, Tensor], source: Path) -> int:
    """Return how many blocks a trunk has; each has its number in its name."""
    numbers = [name.split(".")[1] for name in tensors if name.startswith("blocks.")]
    odd = next((number for number in numbers if not number.isdecimal()), None)
    if odd is not None or "blocks.0.mlp.fc1.weight" not in tensors:
        found = f"blocks.{odd}" if odd is not None else "no blocks.0.mlp.fc1.weight"
        raise InputError(f"{source}: holds {found}; expected blocks of a plain ViT (blocks.0.mlp.fc1.weight and so on)")
    return 1 + max(map(int, numbers))


def _normalization(source: Path, of_clip: bool) -> tuple[list[float], list[float]]:
    """Return mean and deviation from the file's own configuration beside it; a trunk of open_clip's needs none."""
    for name, key in (("open_clip_config.json", "preprocess_cfg"), (CONFIG, "pretrained_cfg")):
        path = source.parent / name
        told = read_mapping(path).get(key) if path.is_file() else None
        if isinstance(told, dict) and told.get("mean") and told.get("std"):
            return told["mean"], told["std"]  # `vqseg.foundation.normalization` sees that they are numbers
    if of_clip:
        return CLIP_MEAN, CLIP_STD
    raise InputError(f"{source}: says not how images are normalized; put timm's {CONFIG} (pretrained_cfg) beside it")


def _renamed(tensors: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Return the tensors under the names of transformers' ViT, queries, keys and values apart."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in WHOLE:
            found[WHOLE[name]] = value.float()
        elif name.startswith("blocks."):
            found |= {key: each.float() for key, each in _of_block(name, value, source).items()}
        elif not name.startswith(IGNORED):
            raise InputError(f"{source}: holds {name}, for which a plain ViT has no place")
    return found


def _of_block(name: str, value: Tensor, source: Path) -> dict[str, Tensor]:
    _, index, inner = name.split(".", 2)
    part, _, kind = inner.rpartition(".")
    layer = f"encoder.layer.{index}"
    if part == "attn.qkv":
        names = ("query", "key", "value")
        return {f"{layer}.attention.attention.{n}.{kind}": v for n, v in zip(names, value.chunk(3), strict=True)}
    if part in BLOCK:
        return {f"{layer}.{BLOCK[part]}.{kind}": value}
    raise InputError(f"{source}: holds {name}, for which a plain ViT has no place")
