"""The contract of a method: it owns student and teacher, and computes the loss terms of a step.

Checked on a phantom of four patients, in networks of a few thousand numbers.
"""

import copy
import io
import tempfile
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqseg import experiment
from vqseg.config import Choice, load_config
from vqseg.contracts import module
from vqseg.contracts.promise import FIRST, backward, expect, same
from vqseg.dataset import Batch, Batches
from vqseg.importers import phantom
from vqseg.manifest import scans_of
from vqseg.parts import Part
from vqseg.step import Step
from vqseg.store import open_store
from vqseg.train import Interrupted

STEPS, STOP = 6, 3
# Past any warm-up and ramp.
LATE = 1_000_000
SETTINGS = (
    "data.size_px=16",
    "network.encoder={name: unet, widths: [4, 8], dropout: [0.1, 0.0]}",
    "network.quantizer={name: mapped, num_codes: 16}",
    "train.labelled_batch=2",
    "train.unlabelled_batch=2",
    f"train.steps={STEPS}",
    f"train.validate_steps={STEPS}",
    f"train.checkpoint_steps={STEPS}",
)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class _Bench:
    """A method built as a run builds it, and what it is asked with."""

    plan: experiment.Plan
    method: Any
    batches: Batches

    def step(self, number: int) -> Step:
        """Ask for a step's terms as the loop does."""
        self.method.student.train()
        torch.manual_seed(number)
        found: Step = self.method.losses(self.batch(number), number)
        return found

    def batch(self, number: int) -> Batch:
        """Return a step's images."""
        return self.batches.at(number)


def is_built(part: Part) -> None:
    """Around a student, with a teacher that is another network."""
    method = _bench(part).method
    expect(isinstance(method, nn.Module), "a torch.nn.Module", type(method).__name__, "derive it from nn.Module")
    for name in ("student", "teacher", "perturbation"):
        expect(getattr(method, name, None) is not None, f"an attribute {name!r}", None, f"set self.{name}")
    other = method.teacher is not method.student
    expect(other, "a teacher that is a network of its own", "the student", "use vqseg.teacher.make_teacher(student)")


def trains_the_whole_student(part: Part) -> None:
    """Every trainable parameter is in one group, and no other: only the student's are saved."""
    method = _bench(part).method
    groups = method.groups()
    fine = isinstance(groups, dict) and all(isinstance(name, str) for name in groups)
    expect(fine, "groups() to return {name: parameters}", type(groups).__name__, "use vqseg.step.parameter_groups")
    found = [id(value) for group in groups.values() for value in group]
    names = {id(value): name for name, value in method.student.named_parameters() if value.requires_grad}
    missing = [name for key, name in names.items() if key not in found]
    twice = len(found) != len(set(found))
    mend = "return every parameter of self.student that requires a gradient, once"
    expect(not missing and not twice, "each of the student's parameters once", missing[:3] or "some twice", mend)
    strange = len(set(found) - set(names))
    mend = "put what is trained into the student: a checkpoint holds student and teacher alone"
    expect(not strange, "parameters of the student alone", f"{strange} others", mend)


def gives_scalar_terms(part: Part) -> None:
    """In the first step and in a late one."""
    bench = _bench(part)
    for number in (0, LATE):
        step = bench.step(number)
        expect(
            isinstance(step, Step), "losses() to return vqseg.step.Step", type(step).__name__, "import and return it"
        )
        expect(step.losses, "at least one loss term", "none", "name each term: {'labelled': ...}")
        for kind, values in (("losses", step.losses), ("logs", step.logs)):
            for name, value in values.items():
                fine = isinstance(value, Tensor) and value.ndim == 0 and bool(torch.isfinite(value))
                wanted = f"{kind}[{name!r}] to be a finite scalar tensor in step {number}"
                expect(fine, wanted, value, "average it; leave it on the device, without item()")
        if step.indices is not None:
            codes = bench.method.student.codes().shape[0]
            inside = step.indices.dtype == torch.int64 and 0 <= step.indices.min() <= step.indices.max() < codes
            expect(inside, f"indices of 0 to {codes - 1}, or None", step.indices, "return quantized.indices")


def student_learns(part: Part) -> None:
    """Every parameter of it, in a late step."""
    bench = _bench(part)
    backward([_total(bench.step(LATE))], "loss terms", "return tensors with their graph, without detach or item()")
    module.gradients_arrive(bench.method.student)


def teacher_learns_nothing(part: Part) -> None:
    """It is in evaluation mode and outside the graph."""
    bench = _bench(part)
    backward([_total(bench.step(LATE))], "loss terms", "return tensors with their graph, without detach or item()")
    touched = [n for n, p in bench.method.teacher.named_parameters() if p.requires_grad or p.grad is not None]
    expect(not touched, "a teacher without gradients", touched[:3], "use make_teacher, and torch.no_grad() around it")
    expect(not bench.method.teacher.training, "a teacher in evaluation mode", "training mode", "use make_teacher")


def teacher_follows(part: Part) -> None:
    """And the student stays."""
    method = _bench(part).method
    with torch.no_grad():
        for value in method.student.parameters():
            value.add_(0.1)
    student, teacher = (copy.deepcopy(network.state_dict()) for network in (method.student, method.teacher))
    method.after_step(LATE)
    moved = not same(method.teacher.state_dict(), teacher)
    expect(moved, "a teacher that moves after a step", "the same", "call vqseg.teacher.follow in after_step")
    kept = same(method.student.state_dict(), student)
    expect(kept, "a student that after_step leaves alone", "another", "change it by the optimizer alone")


def repeats(part: Part) -> None:
    """A step's terms depend on weights, batch, step and seed alone."""
    bench = _bench(part)
    twin = _Bench(bench.plan, copy.deepcopy(bench.method), bench.batches)
    bench.step(0)
    first, second = bench.step(1).losses, twin.step(1).losses
    alike = {name: float(value.detach()) for name, value in first.items()}
    other = {name: float(value.detach()) for name, value in second.items()}
    mend = "draw from streams.generator(setup.seed, purpose, step) and keep no counters: a resumed run has none"
    expect(alike == other, f"the same terms whatever came before: {other}", alike, mend)


def resumes(part: Part) -> None:
    """A run that is stopped and resumed ends as one that is not, bit for bit."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        plans = [_plan(part, Path(folder) / name) for name in ("whole", "stopped")]
        whole = experiment.run(plans[0], name="whole")
        steps = iter(range(STEPS))
        with suppress(Interrupted):
            experiment.run(plans[1], name="stopped", should_stop=lambda: next(steps) == STOP)
        stopped = experiment.run(plans[1], name="stopped")
        for path in sorted((whole.path / "weights").glob("*.safetensors")):
            equal = same(load_file(path), load_file(stopped.path / "weights" / path.name))
            mend = "keep no state beside student, teacher and the optimizer: a checkpoint holds nothing else"
            expect(equal, f"equal weights ({path.stem}) after a stop at step {STOP} and without", "others", mend)


def _total(step: Step) -> Tensor:
    return torch.stack([term.float() for term in step.losses.values()]).sum()


def _bench(part: Part) -> _Bench:
    with tempfile.TemporaryDirectory() as folder:
        plan = _plan(part, Path(folder))
        config, parts = plan.config, ("labelled", "unlabelled")
        stores = [
            open_store(
                plan.root,
                plan.manifest,
                scans_of(plan.manifest, plan.split, name),
                size_px=config.data.size_px,
                masks=name == "labelled",
                cache=plan.store,
                device=CPU,
            )
            for name in parts
        ]
        batches = Batches(
            stores[0],
            stores[1] if part.factory.needs_unlabelled else None,
            augment=config.augment,
            size_px=config.data.size_px,
            sizes=(config.train.labelled_batch, config.train.unlabelled_batch),
            seed=config.seed,
        )
        return _Bench(plan, experiment.build_method(plan, CPU), batches)


def _plan(part: Part, store: Path) -> experiment.Plan:
    choice = Choice.model_validate({"name": part.name, **part.options})
    config = load_config("smoke", SETTINGS).model_copy(update={"method": choice})
    return experiment.plan(config, root=Path(_data().name), split=None, store=store)


@cache
def _data() -> "tempfile.TemporaryDirectory[str]":
    """Draw the phantom, once; it goes with the process."""
    folder = tempfile.TemporaryDirectory()
    with redirect_stderr(io.StringIO()):
        phantom.prepare(Path(folder.name), patients=4, size=32)
    return folder


CHECKS = {
    FIRST: is_built,
    "trains the whole student, and nothing else": trains_the_whole_student,
    "loss terms and logs are finite scalars": gives_scalar_terms,
    "the student learns": student_learns,
    "the teacher is outside the graph": teacher_learns_nothing,
    "the teacher follows the student": teacher_follows,
    "a step repeats itself": repeats,
    "stopped and resumed equals never stopped": resumes,
}
