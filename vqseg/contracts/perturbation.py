"""The contract of a perturbation: ``draw`` what changes, ``apply`` it to quantized tokens (B, N, C)."""

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vqseg.codebook import Quantized, quantize
from vqseg.contracts.promise import FIRST, Broken, backward, expect, same
from vqseg.parts import Part
from vqseg.step import Perturbation, perturb

IMAGES, TOKENS, DIM, CODES = 3, 48, 6, 32


def is_built(part: Part) -> None:
    """From its options alone; its rate can be read."""
    rate = getattr(part.build(), "rate", None)
    known = isinstance(rate, (int, float)) and 0 <= rate <= 1
    expect(known, "an attribute 'rate' in [0, 1]", rate, "set self.rate; methods and figures read it")


def keeps_the_shape(part: Part) -> None:
    """Whatever the number of images and tokens."""
    for images, tokens in ((IMAGES, TOKENS), (1, 1)):
        _, quantized, codes = _sample(images, tokens)
        found, shape = _perturbed(part.build(), quantized, codes), tuple(quantized.tokens.shape)
        expect(tuple(found.shape) == shape, f"tokens of shape {shape}", tuple(found.shape), "apply returns (B, N, C)")
        expect(torch.isfinite(found).all(), "finite tokens", "others", "look at divisions, by 1 - rate for instance")


def gradient_passes(part: Part) -> None:
    """Through what is left of the tokens."""
    tokens, quantized, codes = _sample()
    mend = "build on quantized.tokens, without detach (vqseg.replacement.replace_codes does)"
    backward([_perturbed(part.build(), quantized, codes)], "tokens", mend)
    grad = tokens.grad
    reached = grad is not None and grad.any() and torch.isfinite(grad).all()
    seen = "none" if grad is None or not grad.any() else "one that is not finite"
    expect(reached, "a finite gradient at the encoder's tokens", seen, mend)


def repeats(part: Part) -> None:
    """The generator is all the chance there is."""
    _, quantized, codes = _sample()
    perturbation, states = part.build(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global state is what is checked
        random.seed(seed)
        states.append(_perturbed(perturbation, quantized, codes))
    mend = "pass generator=generator to every draw; apply draws nothing"
    expect(same(*states), "the same result from the same generator", "another", mend)


def changes_something(part: Part) -> None:
    """At rate 1, or near it where nothing would be left; where it has no rate, as it is, unless it states rate 0."""
    _, quantized, codes = _sample()
    perturbation = _strongest(part)
    if perturbation.rate > 0:
        moved = not torch.equal(_perturbed(perturbation, quantized, codes), quantized.tokens)
        mend = "return other tokens from apply, or state rate 0"
        expect(moved, f"other tokens at rate {perturbation.rate:g}", "all of them as they were", mend)


def draws_from_the_generator(part: Part) -> None:
    """Half of the tokens are others in every step, unless it states that nothing of it is chance."""
    _, quantized, codes = _sample()
    perturbation = _with_rate(part, 0.5) if "rate" in part.options else part.build()
    if perturbation.rate > 0 and not getattr(perturbation, "deterministic", False):
        one, other = (_perturbed(perturbation, quantized, codes, seed) for seed in (1, 2))
        mend = "pass generator=generator to every draw, or state 'deterministic = True' if nothing of it is chance"
        expect(not torch.equal(one, other), "another result from another generator", "the same", mend)


def leaves_global_randomness(part: Part) -> None:
    """An arm with it sees the same data as one without."""
    _, quantized, codes = _sample()
    before = _global_states()
    _perturbed(part.build(), quantized, codes)
    for name, state in _global_states().items():
        same_state = np.array_equal(state, before[name])
        expect(same_state, f"{name} untouched", "a draw from it", "draw from the generator that draw() is given")


def rate_zero_is_the_identity(part: Part) -> None:
    """Where it has a rate."""
    if "rate" in part.options:
        _, quantized, codes = _sample()
        found = _perturbed(_with_rate(part, 0.0), quantized, codes)
        away = (found - quantized.tokens).abs().max().item()
        expect(away == 0, "the tokens as they were at rate 0", f"a difference of {away:.3g}", "change a share of rate")


def a_rate_set_later_acts(part: Part) -> None:
    """Where it has a rate: a controller that holds the distortion sets it in training."""
    if "rate" in part.options:
        _, quantized, codes = _sample()
        for rate in (0.0, torch.tensor(0.0)):
            perturbation = _with_rate(part, 0.5)
            perturbation.rate = rate
            away = (_perturbed(perturbation, quantized, codes) - quantized.tokens).abs().max().item()
            kind = "a number" if isinstance(rate, float) else "a scalar tensor"
            mend = "read self.rate in draw and apply, or write a setter that hands it on"
            expect(away == 0, f"the tokens as they were after rate = 0, {kind}", f"a difference of {away:.3g}", mend)


def refuses_bad_rates(part: Part) -> None:
    """Where it has a rate."""
    for rate in (-0.1, 1.1):
        if "rate" in part.options:
            try:
                _with_rate(part, rate)
            except ValueError:
                continue
            mend = "write self.rate = check_rate(rate) (vqseg.replacement)"
            raise Broken(f"a ValueError for rate {rate}", "none", mend)


def changes_nothing_in_place(part: Part) -> None:
    """The clean tokens are used after it."""
    _, quantized, codes = _sample()
    kept = {"quantized.tokens": quantized.tokens, "quantized.indices": quantized.indices, "codes": codes}
    before = {name: value.detach().clone() for name, value in kept.items()}
    perturbation: Perturbation = part.build()
    drawn = perturbation.draw(quantized, codes, _generator())
    kept["what was drawn"], before["what was drawn"] = drawn, drawn.clone()
    perturbation.apply(quantized, codes, drawn)
    for name, value in kept.items():
        expect(same(value.detach(), before[name]), f"{name} as they were", "a change in place", "work on new tensors")


def works_in_a_method(part: Part) -> None:
    """As methods call it, with what they log of it."""
    _, quantized, codes = _sample()
    with torch.autocast("cpu", torch.bfloat16):
        found, logs = perturb(part.build(), quantized, codes, _generator())
    precision = found.dtype == torch.float32
    expect(precision, "tokens as float32", found.dtype, "keep the precision of quantized.tokens")
    finite = all(torch.isfinite(value) for value in logs.values())
    expect(finite, "finite distortion", {name: float(value) for name, value in logs.items()}, "bound the change")


def _perturbed(perturbation: Perturbation, quantized: Quantized, codes: Tensor, seed: int = 1) -> Tensor:
    drawn = perturbation.draw(quantized, codes, _generator(seed))
    expect(isinstance(drawn, Tensor), "draw to return a tensor", type(drawn).__name__, "return what apply needs")
    found = perturbation.apply(quantized, codes, drawn)
    expect(isinstance(found, Tensor), "apply to return a tensor", type(found).__name__, "return tokens (B, N, C)")
    return found


def _with_rate(part: Part, rate: float) -> Perturbation:
    built: Callable[..., Perturbation] = part.factory
    return built(**{**part.options, "rate": rate})


def _strongest(part: Part) -> Perturbation:
    if "rate" not in part.options:
        built: Perturbation = part.build()
        return built
    try:
        return _with_rate(part, 1.0)
    except ValueError:
        return _with_rate(part, 0.9)


def _sample(images: int = IMAGES, tokens: int = TOKENS) -> tuple[Tensor, Quantized, Tensor]:
    """Return the encoder's tokens, quantized, and the codes."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(CODES, DIM, generator=generator)
    found = torch.randn(images, tokens, DIM, generator=generator, requires_grad=True)
    return found, quantize(found, codes), codes


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _global_states() -> dict[str, np.ndarray]:
    legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - the global state is what is checked
    return {
        "torch's global generator": torch.get_rng_state().numpy(),
        "numpy's global generator": np.array([*legacy["key"], legacy["pos"]]),
        "Python's global generator": np.array(random.getstate()[1]),
    }


CHECKS = {
    FIRST: is_built,
    "keeps the tokens' shape": keeps_the_shape,
    "the gradient reaches the encoder": gradient_passes,
    "the same generator gives the same result": repeats,
    "another generator gives another result": draws_from_the_generator,
    "draws from its own generator alone": leaves_global_randomness,
    "rate 0 is the identity": rate_zero_is_the_identity,
    "rate 1 changes tokens": changes_something,
    "a rate that is set later acts": a_rate_set_later_acts,
    "a rate outside [0, 1] raises": refuses_bad_rates,
    "changes nothing in place": changes_nothing_in_place,
    "works as methods call it, under autocast too": works_in_a_method,
}
