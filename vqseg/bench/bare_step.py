"""A trainer's step on one batch, and the bare work within it, for `vqseg bench step` to compare.

Letters: B images, C channels, T tokens, V codes.
"""

from typing import Any

import torch
from torch import Tensor

from vqseg import streams
from vqseg.bench.growth_step import UNSEEN
from vqseg.bench.naive_step import vqseg_of
from vqseg.codebook import block_size, nearest_codes
from vqseg.dataset import Batch
from vqseg.train import Trainer


@torch.no_grad()
def spread_codes(trainer: Trainer, batch: Batch) -> int:
    """Lay the codes where the tokens of a batch are, and return how many distinct ones its views then take.

    As after a training with the usage loss. Fresh weights send all tokens to a few dozen codes, and the release's loop
    over codes would cost next to nothing. The learning rates become 0, which saves no work: else a few steps on one
    batch would end there again.
    """
    for group in trainer.optimizer.param_groups:
        group["lr"] = group["base_lr"] = 0.0
    method = vqseg_of(trainer)
    quantizer: Any = method.student.quantizer
    tokens = method.student.encode(_views(trainer, batch)).tokens.float().flatten(0, 1)
    stream = streams.generator(trainer.seed, "init", "spread codes", device=tokens.device)
    count = len(quantizer.table)
    shift = torch.randn(quantizer.table.shape, generator=stream, device=tokens.device)
    places = torch.arange(count, device=tokens.device) % len(tokens)
    for network in (method.student, method.teacher):
        own: Any = network.quantizer
        own.table.copy_(tokens[places] + 0.01 * tokens.std() * shift)
        torch.nn.init.eye_(own.map.weight)
        own.map.bias.zero_()
    return int(nearest_codes(tokens[None], method.student.codes()).unique().numel())


def _views(trainer: Trainer, batch: Batch) -> Tensor:
    """What the student sees of a batch: labelled, strong, and where it is perturbed the weak images (B, C, H, W)."""
    assert batch.unlabelled is not None
    views = [view.image for view in batch.unlabelled.strong]
    views += [] if vqseg_of(trainer).perturbs_strong else [batch.unlabelled.weak]
    return torch.cat([batch.labelled.image, *views])


class OurStep:
    """A trainer's step, again and again on one batch; no weights are kept as the best so far."""

    def __init__(self, trainer: Trainer, batch: Batch, precision: str) -> None:
        self.trainer, self.unlabelled, self._batch = trainer, batch.unlabelled, batch
        self.precision = precision
        trainer.batches = self
        trainer.validate = lambda step: dict.fromkeys(UNSEEN, float("nan"))

    def at(self, step: int) -> Batch:
        """The batch, whatever the step."""
        return self._batch

    def __call__(self) -> None:
        """Make the next step."""
        self.trainer.precision = self.precision
        self.trainer.settings = self.trainer.settings.model_copy(update={"steps": self.trainer.step + 1})
        self.trainer.run()


class BareStep:
    """What no step of this preset can do without, on the networks of a trainer.

    The products of T tokens with V codes: their distances (search and usage loss could share them) and, for the usage
    loss, one for the gradient of either side; QPM's rows of the distinct codes that change; the codes' own map and its
    gradient.
    """

    def __init__(self, trainer: Trainer, batch: Batch, precision: str) -> None:
        assert batch.unlabelled is not None
        self.method = vqseg_of(trainer)
        self.device, self.precision, self.weak = trainer.device, precision, batch.unlabelled.weak
        self.images = _views(trainer, batch)
        student = self.method.student
        with torch.no_grad():
            found = student(self.images)
            self.gradient = torch.randn_like(found.logits, dtype=torch.float32)
            self.tokens, self.table = found.encoded.tokens.float().flatten(0, 1), student.codes().float()
        shaken = len(self.images) - len(batch.labelled.image) if self.method.perturbs_strong else len(self.weak)
        own = found.quantized.indices[-shaken:].flatten()
        changed = torch.rand(own.shape, device=own.device) < self.method.perturbation.rate
        self.rows = self.table[own[changed].unique()]
        self.size = block_size(len(self.table))  # as in the search
        self.product = self.tokens.new_empty(self.size, len(self.table))

    def __call__(self) -> None:
        """Do the work."""
        with self._autocast():
            encoded = self.method.student.encode(self.images)
            logits = self.method.student.segment(encoded.tokens, encoded)
        logits.float().backward(self.gradient)
        self.method.student.zero_grad(set_to_none=True)
        with torch.no_grad():
            with self._autocast():
                seen = self.method.teacher.encode(self.weak)
                self.method.teacher.segment(seen.tokens, seen)
            self._products()

    def _products(self) -> None:
        table, usage = self.table, self.method.codebook_weights.usage > 0
        for _ in range(2):  # as wide as the codes' map, which is square; its gradient is as large
            table.T @ table
        for block in (*self.tokens.split(self.size), *self.rows.split(self.size)):
            torch.mm(block, table.T, out=self.product[: len(block)])
        for block in self.tokens.split(self.size) if usage else ():
            product = self.product[: len(block)]  # as large as the gradient of the distances
            product @ table
            product.T @ block

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
