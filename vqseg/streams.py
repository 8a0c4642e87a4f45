"""Named random streams: every draw is a function of (seed, purpose, step), every initial weight of (seed, path).

So switching one part reshuffles no other (two arms of a study see the same data in the same order with the same
augmentation, and share the initial value of every parameter that both have), and a resumed run needs
no generator state beyond the step.
"""

import hashlib
import math
from collections.abc import Callable

import torch
from torch import nn

# What draws: the purposes that the loop uses. A new consumer of randomness gets a new purpose.
PURPOSES = ("data", "augmentation", "perturbation", "network", "validation", "init", "pretraining")


def key(seed: int, *names: object) -> int:
    """Return a 63-bit integer that depends on all arguments."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator for (seed, purpose, ...)."""
    return torch.Generator(device=device).manual_seed(key(seed, *names))


def initialize(module: nn.Module, seed: int, prefix: str = "") -> None:
    """Give every parameter its initial value from a generator keyed by (seed, its path).

    Convolutions and linear maps get PyTorch's default law (uniform, Kaiming with gain sqrt(1/3)). A module
    with a method ``initialize(generator_for)`` sets its own; ``generator_for(name)`` is keyed by its path.
    A module whose attribute ``pretrained`` is true keeps its weights, and so does everything in it.
    """
    kept = {each for child in module.modules() if getattr(child, "pretrained", False) for each in child.modules()}
    for path, child in module.named_modules(prefix=prefix):
        if child in kept:
            continue

        def generator_for(name: str, path: str = path) -> torch.Generator:
            return generator(seed, "init", f"{path}.{name}")

        own: Callable[[Callable[[str], torch.Generator]], None] | None = getattr(child, "initialize", None)
        if own is not None:
            own(generator_for)
        elif isinstance(child, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            _default(child, generator_for)


@torch.no_grad()
def _default(
    layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, generator_for: Callable[[str], torch.Generator]
) -> None:
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    bound = 1 / math.sqrt(fan_in)
    layer.weight.uniform_(-bound, bound, generator=generator_for("weight"))
    if layer.bias is not None:
        layer.bias.uniform_(-bound, bound, generator=generator_for("bias"))
