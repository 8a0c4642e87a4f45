"""What every part that is a module promises: it is built without memory, starts from the seed, is saved and copied."""

import copy
import io
from typing import Any

import torch
from torch import nn

from vqseg import streams
from vqseg.contracts.promise import Broken, expect, same
from vqseg.parts import Part

SEED = 3


def built(part: Part, *supplied: object, seed: int = SEED) -> Any:
    """Build and initialize a part as a run does."""
    module = part.build(*supplied)
    streams.initialize(module, seed, part.family)
    return module


def is_built(part: Part, *supplied: object) -> None:
    """It is a module, and its constructor looks at no value of a tensor."""
    with torch.device("meta"):
        module = part.build(*supplied)
    expect(isinstance(module, nn.Module), "a torch.nn.Module", type(module).__name__, "derive it from nn.Module")


def starts_from_the_seed(part: Part, *supplied: object) -> None:
    """Two of one seed are equal, whatever torch's global generator is at."""
    modules = []
    for state in (1, 2):
        torch.manual_seed(state)
        modules.append(built(part, *supplied).state_dict())
    for name, value in modules[0].items():
        expect(
            same(value, modules[1][name]),
            "equal initial values from equal seeds",
            f"{name!r} differing between two of one seed",
            "draw it in 'initialize(self, generator_for)' with 'generator=generator_for(name)'",
        )
        expect(
            torch.isfinite(value).all(),
            "finite initial values",
            f"{name!r} with others",
            "set every parameter and buffer in 'initialize(self, generator_for)'",
        )


def is_saved_and_copied(part: Part, *supplied: object) -> None:
    """Its state dict is all that it knows, and a teacher can be a copy of it."""
    module, other = built(part, *supplied), built(part, *supplied, seed=SEED + 1)
    held = {id(value) for value in (*module.parameters(), *module.buffers())}
    for child in module.modules():
        for name, value in vars(child).items():
            if isinstance(value, torch.Tensor) and id(value) not in held:
                raise Broken(
                    "tensors that are parameters or buffers",
                    f"self.{name}, which is neither",
                    f"write self.register_buffer({name!r}, ...) or nn.Parameter: it would be lost with the checkpoint",
                )
    memory = io.BytesIO()
    torch.save(module.state_dict(), memory)
    memory.seek(0)
    other.load_state_dict(torch.load(memory, weights_only=True))
    expect(
        same(other.state_dict(), module.state_dict()) and same(copy.deepcopy(module).state_dict(), module.state_dict()),
        "the same values after saving and loading, and in a deep copy",
        "others",
        "keep all state in parameters and buffers",
    )


def gradients_arrive(module: nn.Module) -> None:
    """Every trainable parameter got a finite gradient, at least one of them another than 0."""
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    for name, value in trained.items():
        expect(
            value.grad is not None and torch.isfinite(value.grad).all(),
            f"a finite gradient at {name!r}",
            "none" if value.grad is None else "one that is not finite",
            "use the parameter in forward, without detach or no_grad, or set requires_grad False",
        )
    moved = any(value.grad is not None and value.grad.any() for value in trained.values())
    expect(moved or not trained, "gradients other than 0", "only 0", "see what cuts the graph: detach, argmax, round")
