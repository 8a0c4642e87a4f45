"""Parts by name: look a `Choice` up in its family's table and bind its options.

The constructor's keyword-only parameters are the schema: names, types and required ones are checked before
anything is built, so a typo fails at once. Positional parameters are what `vqseg.experiment` supplies.
"""

import importlib
import inspect
import typing
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vqseg.config import Choice
from vqseg.errors import InputError, nearest, pick

FAMILIES = {
    "encoder": ("vqseg.encoder", "ENCODERS"),
    "decoder": ("vqseg.decoder", "DECODERS"),
    "quantizer": ("vqseg.quantizers", "QUANTIZERS"),
    "perturbation": ("vqseg.perturbations", "PERTURBATIONS"),
    "method": ("vqseg.methods", "METHODS"),
    "optimizer": ("vqseg.optimizer", "OPTIMIZERS"),
}


@dataclass(frozen=True)
class Part:
    """A part that is ready to be built: its class and every option, defaults filled in."""

    family: str
    name: str
    factory: Any
    options: dict[str, Any]

    def build(self, *supplied: Any) -> Any:
        """Build it from what the composition root supplies and its options."""
        return self.factory(*supplied, **self.options)

    @property
    def module(self) -> str:
        """The module whose code the run depends on."""
        return str(self.factory.__module__)

    def identity(self) -> dict[str, Any]:
        """Name and the options that differ from their first default (see `vqseg.config.identity_leaves`)."""
        was = getattr(self.factory, "WAS", {})
        defaults = {name: p.default for name, p in _options_of(self.factory).items()}
        changed = {name: value for name, value in self.options.items() if value != was.get(name, defaults[name])}
        return {"name": self.name, **dict(sorted(changed.items()))}


def resolve(family: str, choice: Choice) -> Part:
    """Look up and bind.

    Raises:
        InputError: unknown name or option (nearest given), wrong type, or a required option is missing.
    """
    factory = _factory(family, choice.name)
    known = _options_of(factory)
    hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    options: dict[str, Any] = {}
    for name, value in choice.options.items():
        if name not in known:
            raise InputError(
                f"{family} {choice.name!r}: unknown option {name!r}{nearest(name, known)};"
                f" known: {', '.join(known) or 'none'}"
            )
        options[name] = _typed(f"{family}.{name}", hints.get(name, Any), value)
    for name, parameter in known.items():
        if name not in options:
            if parameter.default is inspect.Parameter.empty:
                raise InputError(f"{family} {choice.name!r}: option {name!r} is required")
            options[name] = parameter.default
    return Part(family, choice.name, factory, options)


def _factory(family: str, name: str) -> Any:
    module, table = FAMILIES[family]
    known = getattr(importlib.import_module(module), table)
    return known[pick(name, known, family)]


def _options_of(factory: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _typed(where: str, annotation: Any, value: Any) -> Any:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise InputError(f"{where}: {message[0].lower()}{message[1:]}, got {value!r}") from None
