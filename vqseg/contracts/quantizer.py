"""The contract of a quantizer: tokens (B, N, C) -> `vqseg.codebook.Quantized`; ``codes()`` is its table (V, C)."""

import torch
from torch import Tensor, nn

from vqseg.codebook import Quantized
from vqseg.contracts import module
from vqseg.contracts.promise import FIRST, backward, expect, refuses, same
from vqseg.network import SegmentationNetwork
from vqseg.parts import Part

IMAGES, TOKENS, DIM = 2, 5, 8
TOLERANCE = 1e-4


def is_built(part: Part) -> None:
    """From the tokens' width."""
    module.is_built(part, DIM)


def keeps_the_shape(part: Part) -> None:
    """Three fields, of the shapes that everything else counts on."""
    found, tokens = _quantized(part)
    _is(found.tokens, tokens.shape, "tokens", "return one token of the same width for each")
    _is(found.indices, tokens.shape[:2], "indices", "return the number of each token's code")
    whole = found.indices.dtype == torch.int64
    expect(whole, "indices as int64", found.indices.dtype, "return what argmin returns")


def tokens_are_codes(part: Part) -> None:
    """What a perturbation replaces is ``codes()[index]``."""
    quantizer = module.built(part, DIM)
    found, codes = _forward(quantizer, _tokens()), quantizer.codes()
    shape = tuple(codes.shape)
    expect(
        len(shape) == 2 and shape[1] == DIM and shape[0] > 1, f"codes() of shape (V, {DIM})", shape, "one row a code"
    )
    inside = found.indices.min() >= 0 and found.indices.max() < shape[0]
    expect(inside, f"indices of 0 to {shape[0] - 1}", found.indices.unique().tolist(), "number the rows of codes()")
    away = (found.tokens - codes[found.indices]).abs().max().item()
    expect(
        away < TOLERANCE,
        "tokens equal to codes()[indices]",
        f"a difference of {away:.3g}",
        "perturbations replace codes by the rows of codes(): return those rows, or let codes() return what you return",
    )


def gradient_passes(part: Part) -> None:
    """Straight through: the encoder learns."""
    tokens, mend = (
        _tokens().requires_grad_(),
        "return tokens + (chosen - tokens).detach() (vqseg.codebook.quantize does)",
    )
    backward([_forward(module.built(part, DIM), tokens).tokens], "tokens", mend)
    reached = tokens.grad is not None and torch.isfinite(tokens.grad).all() and tokens.grad.any(-1).all()
    expect(
        reached,
        "a finite gradient at every token of the input",
        "none" if tokens.grad is None else "0 or not finite",
        mend,
    )


def losses_are_scalars(part: Part) -> None:
    """The two that methods weigh."""
    losses = _quantized(part)[0].losses
    expect(
        {"codebook", "commitment"} <= set(losses),
        "losses with the keys 'codebook' and 'commitment'",
        sorted(losses),
        "give a term that you do not have as tokens.new_zeros(())",
    )
    for name, value in losses.items():
        fine = isinstance(value, Tensor) and value.ndim == 0 and bool(torch.isfinite(value))
        expect(fine, f"losses[{name!r}] to be a finite scalar tensor", value, "average it over the tokens")


def table_learns(part: Part) -> None:
    """Tokens and losses together reach every trainable number."""
    quantizer = module.built(part, DIM).train()
    if any(value.requires_grad for value in quantizer.parameters()):
        found = _forward(quantizer, _tokens().requires_grad_())
        reached = [value for value in (found.tokens, *found.losses.values()) if value.requires_grad]
        backward(reached, "tokens and losses", "compute them without no_grad")
        module.gradients_arrive(quantizer)


def codebook_loss_pulls(part: Part) -> None:
    """A loss below 0 that grows as tokens and their codes come nearer to each other has the wrong sign."""
    quantizer, tokens = module.built(part, DIM), _tokens()
    far = _forward(quantizer, tokens)
    near = _forward(quantizer, (tokens + far.tokens.detach()) / 2)
    before, after = (float(found.losses["codebook"].detach()) for found in (far, near))
    expect(
        before >= 0 or after <= before,
        "losses['codebook'] to fall where tokens and codes come nearer",
        f"{after:.3g} after {before:.3g}",
        "losses are minimized: return the distance, not its negative",
    )


def repeats(part: Part) -> None:
    """In evaluation it is a function of one image, and changes nothing in itself."""
    quantizer = module.built(part, DIM).eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    first, second = (_forward(quantizer, _tokens()) for _ in range(2))
    expect(
        same(before, quantizer.state_dict()),
        "no change of the quantizer in evaluation",
        "one",
        "update moving averages only 'if self.training'",
    )
    equal = same(first.tokens, second.tokens) and same(first.indices, second.indices)
    expect(equal, "the same result for the same tokens", "another", "draw nothing in forward")
    alone = _forward(quantizer, _tokens()[:1]).tokens
    near = torch.allclose(alone, first.tokens[:1], atol=TOLERANCE)
    expect(near, "the codes of an image alone as in a batch", "others", "mix no images of a batch in evaluation")


def follows_its_state(part: Part) -> None:
    """After a step of training, and after loading: parameters and buffers are all that decides."""
    first, second = module.built(part, DIM), module.built(part, DIM, seed=module.SEED + 1)
    for quantizer in (first, second):
        for training in (True, False):
            _forward(quantizer.train(training), _tokens())
    with torch.no_grad():
        for value in first.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value))
    second.load_state_dict(first.state_dict())
    found = [(_forward(quantizer, _tokens()).tokens, quantizer.codes()) for quantizer in (first, second)]
    for name, one, other in zip(("tokens", "codes()"), *found, strict=True):
        equal = one.shape == other.shape and torch.allclose(one, other, atol=TOLERANCE)
        mend = "keep no table, count or copy beside parameters and buffers, and none from one call to the next"
        expect(equal, f"equal {name} from equal parameters and buffers", "what was before they changed", mend)


def refuses_other_widths(part: Part) -> None:
    """A mistake in wiring shows at once."""
    quantizer = module.built(part, DIM)
    refuses(
        lambda: quantizer(torch.randn(IMAGES, TOKENS, DIM + 1)),
        f"tokens of {DIM + 1} channels where it was built for {DIM}",
        "compare tokens.shape[-1] with the width of codes() (vqseg.codebook.quantize does)",
    )


def works_in_a_network(part: Part) -> None:
    """Under autocast too: the network hands it full precision."""
    network = SegmentationNetwork(nn.Identity(), module.built(part, DIM), nn.Identity(), None)
    with torch.autocast("cpu", torch.bfloat16):
        found, codes = network.quantize(_tokens().bfloat16()), network.codes()
    for name, value in (("tokens", found.tokens), ("codes()", codes)):
        expect(value.dtype == torch.float32, f"{name} as float32", value.dtype, "compute in the precision of the input")


def starts_from_the_seed(part: Part) -> None:
    """As `module.starts_from_the_seed`."""
    module.starts_from_the_seed(part, DIM)


def is_saved_and_copied(part: Part) -> None:
    """As `module.is_saved_and_copied`."""
    module.is_saved_and_copied(part, DIM)


def _tokens() -> Tensor:
    return torch.randn(IMAGES, TOKENS, DIM, generator=torch.Generator().manual_seed(1))


def _quantized(part: Part) -> tuple[Quantized, Tensor]:
    tokens = _tokens()
    return _forward(module.built(part, DIM), tokens), tokens


def _forward(quantizer: nn.Module, tokens: Tensor) -> Quantized:
    found = quantizer(tokens)
    expect(
        isinstance(found, Quantized),
        "forward to return vqseg.codebook.Quantized(tokens, indices, losses)",
        type(found).__name__,
        "import Quantized and return it",
    )
    quantized: Quantized = found
    return quantized


def _is(value: Tensor, shape: tuple[int, ...], name: str, mend: str) -> None:
    expect(tuple(value.shape) == tuple(shape), f"{name} of shape {tuple(shape)}", tuple(value.shape), mend)


CHECKS = {
    FIRST: is_built,
    "keeps the tokens' shape and gives each an index": keeps_the_shape,
    "tokens are rows of codes()": tokens_are_codes,
    "the gradient passes straight through": gradient_passes,
    "losses are the scalars that methods weigh": losses_are_scalars,
    "the table learns": table_learns,
    "the codebook loss draws codes and tokens together": codebook_loss_pulls,
    "the same tokens give the same codes": repeats,
    "tokens of another width raise": refuses_other_widths,
    "works in a network, under autocast too": works_in_a_network,
    "starts from the seed alone": starts_from_the_seed,
    "is saved, loaded and copied": is_saved_and_copied,
    "follows its parameters and buffers": follows_its_state,
}
