"""Which family a user's code belongs to, by how it is built and what it has."""

import inspect
from collections.abc import Mapping
from typing import Any

from vqseg import foreign_code
from vqseg.config import Choice
from vqseg.errors import InputError, pick
from vqseg.foreign_code import Code
from vqseg.importers.foreign import importer
from vqseg.parts import NEEDED, Part, resolve, supplied_to


def named(name: str, family: str | None, options: Mapping[str, Any]) -> Part:
    """Return what ``name`` means, its options bound; without ``family`` it is found out.

    Raises:
        InputError: the name, the family or an option does not do, or the code does not load.
    """
    if family is not None:
        pick(family, NEEDED, "family")
    elif foreign_code.is_code(name):
        family = kind_of(foreign_code.load(name))
    else:
        raise InputError(f"{name!r}: expected {foreign_code.FORM}, or with --family the name of a built-in part")
    if family == "importer":
        return importer(name, options)
    return resolve(family, Choice.model_validate({"name": name, **options}))


def kind_of(code: Code) -> str:
    """Return the family whose members are built alike and have alike.

    Something broken is taken for the family whose positional parameters it names (a perturbation has none: by
    its draw), so that the checks can say what it lacks.

    Raises:
        InputError: none or several are possible; ``--family`` is to say.
    """
    alike = [family for family in NEEDED if _count(code.value) == len(supplied_to(family))]
    whole = [family for family in alike if all(hasattr(code.value, name) for name in NEEDED[family])]
    named = [family for family in alike if _tells(code.value, family)]
    # Two names are a sign by themselves: only a quantizer has codes, only a perturbation draws.
    sure = [family for family in whole if len(NEEDED[family]) > 1] or [family for family in named if family in whole]
    found = sure or named or whole
    if len(found) != 1:
        which = f"could be {' or '.join(found)}" if found else "is built as no family is"
        raise InputError(f"{code.place}: {code.label} {which}; say which: --family {'|'.join(NEEDED)}")
    return found[0]


def _tells(factory: Any, family: str) -> bool:
    """Whether something names what members of a family are built with; where that is nothing, has their own method."""
    supplied = supplied_to(family)
    if not supplied:
        return hasattr(factory, NEEDED[family][0])
    return _names(factory)[: len(supplied)] == supplied


def _names(factory: Any) -> list[str]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in positional]


def _count(factory: Any) -> int:
    """Return how many positional parameters a factory asks for; -1 where it cannot be called at all."""
    if not callable(factory):
        return -1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return -1
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
