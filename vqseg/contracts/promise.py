"""What a check is: a sentence that holds or does not, and then what was expected, what was seen and how to mend it."""

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vqseg.errors import InputError
from vqseg.foreign_code import place_of
from vqseg.parts import Part

Check = Callable[[Part], None]
# The check that builds the part; what follows it makes no sense where it fails.
FIRST = "is built as its family is"


class Broken(Exception):
    """A check that does not hold."""

    def __init__(self, expected: str, seen: object, mend: str) -> None:
        super().__init__(f"expected {expected}, saw {seen}; {mend}")


class Result(NamedTuple):
    """One check of one part; ``failure`` is empty where it holds."""

    check: str
    failure: str


def expect(holds: object, expected: str, seen: object, mend: str) -> None:
    """Go on if it ``holds``.

    Raises:
        Broken: it does not.
    """
    if not holds:
        raise Broken(expected, seen, mend)


def run(checks: Mapping[str, Check], part: Part) -> Iterator[Result]:
    """Run the checks of a family on a part, each on its own; the global random generators stay as they were."""
    for name, check in checks.items():
        failure = ""
        with _randomness_kept():
            torch.manual_seed(0)
            try:
                check(part)
            except Broken as broken:
                failure = str(broken)
            except Exception as error:  # whatever the code of a user raises
                failure = _raised(error, part)
        yield Result(name, failure)
        if failure and name == FIRST:
            return


@contextmanager
def _randomness_kept() -> Iterator[None]:
    legacy, own = np.random.get_state(), random.getstate()  # noqa: NPY002 - checks seed it
    with torch.random.fork_rng(devices=[]):
        yield
    np.random.set_state(legacy)  # noqa: NPY002
    random.setstate(own)


def refuses(attempt: Callable[[], object], what: str, mend: str) -> None:
    """Go on if the attempt raises ValueError (which InputError is) or what torch raises for sizes.

    Raises:
        Broken: it goes through.
    """
    try:
        attempt()
    except (ValueError, RuntimeError):
        return
    raise Broken(f"a ValueError for {what}", "none", mend)


def backward(outputs: Sequence[Tensor], what: str, mend: str) -> None:
    """Send a gradient back from ``outputs``, another one at each number: a plain sum is blind to what a norm undoes.

    Raises:
        Broken: no graph leads back from one of them.
    """
    whole = all(output.requires_grad for output in outputs)
    expect(whole, f"{what} with a graph behind", "none", mend)
    torch.stack([(output * torch.randn_like(output)).sum() for output in outputs]).sum().backward()


def _raised(error: BaseException, part: Part) -> str:
    """Say what was raised, and where in the part's own file."""
    try:
        where = place_of(error, Path(inspect.getsourcefile(part.factory) or "").parent)
    except TypeError:
        where = ""
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return f"{where}{kind}{' '.join(str(error).split()) or 'no message'}"


def same(first: Any, second: Any) -> bool:
    """Whether two state dicts or tensors are equal, number by number."""
    if isinstance(first, torch.Tensor):
        return first.shape == second.shape and torch.equal(first, second)
    return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
