"""Parts by name: look a `Choice` up in its family's table and bind its options.

The constructor's keyword-only parameters are the schema: names, types and required ones are checked before
anything is built, so a typo fails at once. Positional parameters are what `vqseg.experiment` supplies.

Wherever a part is named, ``FILE.py:NAME`` or ``PACKAGE.MODULE:NAME`` names one of the user's own. What the user types
is run; what a file says is refused by `admit_code` unless the command line has ``--allow-code``.
"""

from __future__ import annotations

import importlib
import inspect
import json
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from statistics import mode
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vqseg import foreign_code
from vqseg.errors import InputError, nearest, pick
from vqseg.foreign_code import Code
from vqseg.identity import CORE, module_hash

if typing.TYPE_CHECKING:
    from vqseg.config import Choice

FAMILIES = {
    "encoder": ("vqseg.encoders", "ENCODERS"),
    "decoder": ("vqseg.decoders", "DECODERS"),
    "quantizer": ("vqseg.quantizers", "QUANTIZERS"),
    "perturbation": ("vqseg.perturbations", "PERTURBATIONS"),
    "prior": ("vqseg.priors", "PRIORS"),
    "method": ("vqseg.methods", "METHODS"),
    "optimizer": ("vqseg.optimizer", "OPTIMIZERS"),
}
# What a part must have to be one of its family; `vqseg.contracts` says how it must behave.
NEEDED = {
    "encoder": ("forward",),
    "decoder": ("forward",),
    "quantizer": ("forward", "codes"),
    "perturbation": ("draw", "apply"),
    "prior": ("forward",),
    "method": ("needs_unlabelled", "losses", "groups", "after_step"),
    "optimizer": (),
    "importer": (),
}


@dataclass(frozen=True)
class Part:
    """A part that is ready to be built: its class and every option, defaults filled in; ``code`` where it is a user's.

    ``name`` is what a config records; ``label`` what people read, without the path of a user's file.
    """

    family: str
    name: str
    factory: Any
    options: dict[str, Any]
    code: Code | None = None

    def build(self, *supplied: Any) -> Any:
        """Build it from what the composition root supplies and its options."""
        return self.factory(*supplied, **self.options)

    @property
    def label(self) -> str:
        """The row's name, or ``file.py:NAME``."""
        return self.code.label if self.code else self.name

    @property
    def module(self) -> str:
        """The module that the part is defined in; ``family file.py:NAME`` for a user's own."""
        return f"{self.family} {self.code.label}" if self.code else str(self.factory.__module__)

    def hashes(self) -> dict[str, str]:
        """Return module -> hash of the code that a run depends on through this part.

        Beside its own module those that the class names in ``uses``; a user's code has one hash for all of its files,
        and of a class of ours that it derives from what that one needs.
        """
        uses = tuple(getattr(self.factory, "uses", ()))
        if not self.code:
            return {module: module_hash(module) for module in (self.module, *uses)}
        kin = self.factory.__mro__ if inspect.isclass(self.factory) else ()
        ours = {*uses, *(one.__module__ for one in kin if one.__module__.startswith("vqseg."))} - set(CORE)
        return {self.module: self.code.hash, **{module: module_hash(module) for module in sorted(ours)}}

    def identity(self) -> dict[str, Any]:
        """Name and the options that differ from their first default (see `vqseg.config.identity_leaves`).

        Of a user's own part all options: no ``WAS`` says what a default was.
        """
        if self.code:
            return {"name": self.label, **dict(sorted(self.options.items()))}
        was = getattr(self.factory, "WAS", {})
        defaults = {name: p.default for name, p in _options_of(self.factory).items()}
        changed = {name: value for name, value in self.options.items() if value != was.get(name, defaults[name])}
        return {"name": self.name, **dict(sorted(changed.items()))}


def resolve(family: str, choice: Choice) -> Part:
    """Look up and bind. Runs the user's code that the choice may name: see `admit_code`.

    Raises:
        InputError: unknown name or option (nearest given), wrong type, a required option is missing, or a user's
            code does not load or is no part of the family.
    """
    code = foreign_code.load(choice.name) if foreign_code.is_code(choice.name) else None
    factory = code.value if code else _row(family, choice.name)
    if code:
        require_kind(family, code)
    options = bind(family, factory, choice.options, code, code.label if code else choice.name)
    return Part(family, code.name if code else choice.name, factory, options, code)


def bind(
    family: str, factory: Any, given: Mapping[str, Any], code: Code | None = None, name: str = ""
) -> dict[str, Any]:
    """Return every option of a factory: as given, typed by its annotation, or its default.

    Raises:
        InputError: as `resolve`.
    """
    known, hints = _options_of(factory), _hints(factory, code)
    options: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise InputError(
                f"{family} {name!r}: unknown option {key!r}{nearest(key, known)}; known: {', '.join(known) or 'none'}"
            )
        options[key] = _typed(f"{family}.{key}", hints.get(key, Any), value)
    for key, parameter in known.items():
        if key not in options:
            if parameter.default is inspect.Parameter.empty:
                raise InputError(f"{family} {name!r}: option {key!r} is required")
            options[key] = parameter.default
    if code:
        _require_plain(family, name, options)
    return options


def require_kind(family: str, code: Code) -> None:
    """Refuse a user's code that cannot be a part of ``family``.

    Raises:
        InputError: says what it lacks, or how its constructor has to look.
    """
    value, where = code.value, f"{code.place}: {code.name.rpartition(':')[2]}"
    if not callable(value):
        raise InputError(f"{where} is a {type(value).__name__}; expected a class that is built as a {family}")
    lacking = next((name for name in NEEDED[family] if not hasattr(value, name)), None)
    if lacking:
        raise InputError(f"{where} is no {family}: it has no {lacking!r}; 'vqseg check' says what a {family} does")
    supplied = supplied_to(family)
    wanted = f"({', '.join([*supplied, '*', 'options'])})"
    try:
        inspect.signature(value).bind(*supplied, **_options_of(value))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: a {family} is built with {wanted}: {error}") from None
    loose = list(_positional(value))[len(supplied) :]
    if loose:
        raise InputError(
            f"{where}: a {family} is built with {wanted}; put a '*' before {loose[0]!r}, so that it is an option"
        )


def supplied_to(family: str) -> list[str]:
    """Return the names of what parts of ``family`` are built with, before their options: what most rows take."""
    if family == "importer":
        return ["source"]
    rows = [tuple(_positional(factory)) for factory in _table(family).values()]
    return list(mode(rows))


def admit_code(tree: Mapping[str, Any], origin: str, *, allowed: bool, typed: Collection[str] = ()) -> dict[str, Any]:
    """Return a tree of settings (or of a study) with the paths of the user's files absolute.

    Raises:
        InputError: a part in it names code that is neither ``allowed`` nor ``typed``: key, name and ``--allow-code``.
    """
    for key, name in _named_code(tree, ""):
        require_admitted(key, name, origin, allowed=allowed, typed=typed)
    found: dict[str, Any] = _absolute(tree, "")
    return found


def require_admitted(key: str, name: str, origin: str, *, allowed: bool, typed: Collection[str] = ()) -> None:
    """Refuse a part's name that is code, unless code is ``allowed`` or the command line itself has that name.

    Raises:
        InputError: key, name and ``--allow-code`` are named.
    """
    if foreign_code.is_code(name) and not allowed and foreign_code.absolute(name) not in typed:
        raise InputError(
            f"{origin}: {key} names code, {name!r}, which is run only if the command line says --allow-code;"
            " read that code first"
        )


def code_in(tree: Mapping[str, Any]) -> set[str]:
    """Return the code that parts in a tree of settings (or of a study) name, paths absolute."""
    return {foreign_code.absolute(name) for _, name in _named_code(tree, "")}


def _named_code(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        if _names_part(key) and foreign_code.is_code(node):
            yield key, node
        return
    for name, value in _entries(node):
        yield from _named_code(value, f"{key}.{name}" if key else str(name))


def _absolute(node: Any, key: str) -> Any:
    if isinstance(node, str) and _names_part(key) and foreign_code.is_code(node):
        return foreign_code.absolute(node)
    inner = [(name, _absolute(value, f"{key}.{name}" if key else str(name))) for name, value in _entries(node)]
    if isinstance(node, Mapping):
        return dict(inner)
    return [value for _, value in inner] if isinstance(node, (list, tuple)) else node


def _entries(node: Any) -> Iterator[tuple[Any, Any]]:
    yield from node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()


def _names_part(key: str) -> bool:
    """Whether a text at this dotted key is the name of a part."""
    return key.removesuffix(".name").rpartition(".")[2] in FAMILIES


def _row(family: str, name: str) -> Any:
    known = _table(family)
    if name not in known and (name.endswith(".py") or "/" in name):
        raise InputError(f"{family} {name!r}: which class in it? expected {foreign_code.FORM}")
    return known[pick(name, known, family)]


def _table(family: str) -> dict[str, Any]:
    module, table = FAMILIES[family]
    found: dict[str, Any] = getattr(importlib.import_module(module), table)
    return found


def _options_of(factory: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _positional(factory: Any) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {name: p for name, p in inspect.signature(factory).parameters.items() if p.kind in kinds}


def _hints(factory: Any, code: Code | None) -> dict[str, Any]:
    try:
        return typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    except Exception as error:  # an annotation is an expression of the user's
        if code is None:
            raise
        raise InputError(f"{code.place}: the annotations of {code.label} cannot be read: {error}") from None


def _require_plain(family: str, name: str, options: dict[str, Any]) -> None:
    """Refuse options that neither an identity nor a recorded config can hold."""
    for key, value in options.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise InputError(
                f"{family} {name!r}: option {key!r} is a {type(value).__name__}; expected numbers, texts, truth values,"
                " or lists of them"
            ) from None


def _typed(where: str, annotation: Any, value: Any) -> Any:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise InputError(f"{where}: {message[0].lower()}{message[1:]}, got {value!r}") from None
