"""The error that a user can mend: one line on standard error, exit code 2, no traceback."""

import difflib
import re
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong; the message names it, what was expected and what to do."""


class MissingWeights(InputError):
    """A model's weights are not on this machine; what is wrong with those that are is another matter."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'a' or 'b'?)"``, or an empty text when nothing known resembles ``word``."""
    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(name) for name in close)}?)" if close else ""


def require_name(name: str, option: str = "--name") -> str:
    """Return ``name`` if it can be part of a file name anywhere.

    Raises:
        InputError: it is empty, starts with a dot or holds other characters.
    """
    if re.fullmatch(r"[\w=-][\w.=-]*", name):
        return name
    raise InputError(f"{option} {name!r}: expected letters, digits, '-', '_', '.' or '='")


def pick(word: str, known: Iterable[str], what: str) -> str:
    """Return ``word`` if it is among ``known``.

    Raises:
        InputError: naming ``what``, the nearest names and all that are known.
    """
    names = list(known)
    if word in names:
        return word
    raise InputError(f"unknown {what} {word!r}{nearest(word, names)}; known: {', '.join(names) or 'none'}")
