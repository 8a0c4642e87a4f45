"""Code of a user's own, by its name: ``path/to/file.py:NAME`` or ``package.module:NAME``.

Nothing is searched for and nothing registers itself: a name says which file and what in it. A file becomes a module of
a private package whose name is a digest of its text, so that two files of one name never meet, an edited file is
another module, and a file beside it is imported as ``from .blocks import Block``.

Who may name code is decided in `vqseg.parts`; here it is read, hashed and run.
"""

import ast
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from vqseg.errors import InputError, nearest
from vqseg.files import digest
from vqseg.identity import CORE, module_hash, source_hash

FORM = "FILE.py:NAME or PACKAGE.MODULE:NAME"


@dataclass(frozen=True)
class Code:
    """Loaded code: the thing itself, its name as given (files absolute), ``file.py:NAME``, its file, line and texts."""

    value: Any
    name: str
    label: str
    path: Path
    line: int
    texts: Callable[[], dict[Path, bytes]]

    @cached_property
    def hash(self) -> str:
        """The hash of its sources; of a large library that takes minutes, so it comes after all that can be refused."""
        return _hash(self.texts())

    @property
    def place(self) -> str:
        """``path/to/file.py:LINE``, as far as the line is known."""
        return f"{self.path}:{self.line}" if self.line else str(self.path)


def is_code(name: str) -> bool:
    """Whether ``name`` names code; no row of a table holds a colon."""
    return ":" in name


def absolute(name: str) -> str:
    """Return ``name`` with the path of its file made absolute, so that it is found from any folder."""
    place, attribute = _divided(name)
    return f"{os.path.abspath(os.path.expanduser(place))}:{attribute}" if place.endswith(".py") else name


def load(name: str) -> Code:
    """Run the code that ``name`` means (once per text) and return what it names.

    Raises:
        InputError: not of the form above, no such file, module or name, or the code does not run; file and line.
    """
    name = absolute(name)
    place, attribute = _divided(name)
    if place.endswith(".py"):
        path = _file(Path(place))
        texts = _texts(path)
        module, label = _run_file(path, texts), f"{path.name}:{attribute}"
    else:
        path = _origin(place, attribute)
        module, label = _guarded(lambda: importlib.import_module(place), path), name
        texts = {path: path.read_bytes()}
    if not hasattr(module, attribute):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise InputError(f"{path}: defines no {attribute!r}{nearest(attribute, own)}; it defines {_listed(own)}")
    line = _line(_parsed(path, texts[path]), attribute)
    whole = (lambda: texts) if place.endswith(".py") else (lambda: _module_texts(place, path))
    return Code(getattr(module, attribute), name, label, path, line, whole)


def place_of(error: BaseException, folder: Path) -> str:
    """Return ``file.py:LINE: `` for the last line in ``folder`` that an exception passed, or an empty text."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if folder in Path(frame.filename).parents]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def _divided(name: str) -> tuple[str, str]:
    place, _, attribute = name.rpartition(":")
    dotted = place.endswith(".py") or all(word.isidentifier() for word in place.split("."))
    if not place or not attribute.isidentifier() or not dotted:
        raise InputError(f"{name!r}: expected {FORM}")
    return place, attribute


def _file(path: Path) -> Path:
    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise InputError(f"{path}: no such file{nearest(path.name, beside)}; expected {FORM}")
    return path


def _origin(module: str, attribute: str) -> Path:
    """Return the source file of a module that Python finds."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise InputError(f"{module}: Python finds no such module; install it, or name its file: FILE.py:{attribute}")
    if not spec.origin or not spec.origin.endswith(".py"):
        raise InputError(f"{module}: has no Python source, which the identity of a run needs")
    return Path(spec.origin)


# --- what counts: the file, and what it imports of its own folder and of vqseg -------------------


def _texts(path: Path, module: str = "") -> dict[Path, bytes]:
    """Return the sources of a file and, through all of them, of the files beside it that it imports.

    Of a module that Python finds by its dotted name, what counts beside it is its own top-level package. Python runs
    the ``__init__.py`` of every package on the way to a module; so they count.
    """
    words = module.split(".") if module else []
    inside = len(words) - (path.name != "__init__.py")
    root, top = path.parents[max(inside, 0)], words[0] if words else ""
    texts: dict[Path, bytes] = {}
    todo = [*(_passed(root, module) if module else ()), path]
    while todo:
        one = todo.pop()
        if one not in texts:
            texts[one] = one.read_bytes()
            todo += _imported(one, texts[one], root, top)
    return texts


@cache
def _module_texts(module: str, path: Path) -> dict[Path, bytes]:
    """As `_texts`, once per process: a module that is imported stays what it was."""
    return _texts(path, module)


def _imported(path: Path, text: bytes, root: Path, top: str) -> Iterator[Path]:
    """Yield the files that a source imports: relative to itself, or by a name that ``root`` holds."""
    for node in ast.walk(_parsed(path, text)):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        names, level = [alias.name for alias in node.names], 0
        if isinstance(node, ast.ImportFrom):
            stem, level = node.module, node.level
            # What is imported from a module may be a module itself.
            names = [stem, *(f"{stem}.{name}" for name in names)] if stem else names
        folder = path.parents[min(level, len(path.parents)) - 1] if level else root
        for name in names:
            first = name.split(".")[0]
            known = level or (first == top if top else first != "vqseg")
            if known:
                yield from _passed(folder, name)


def _passed(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files that an import of the dotted ``name`` from ``folder`` runs, as far as there are any."""
    words = name.split(".")
    for count in range(1, len(words) + 1):
        found = _beside(folder, ".".join(words[:count]))
        if found and (count == len(words) or found.name == "__init__.py"):
            yield found


def _beside(folder: Path, name: str) -> Path | None:
    place = folder.joinpath(*name.split("."))
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


def _hash(texts: dict[Path, bytes]) -> str:
    """Return the hash of sources wherever they lie; defaults count, for nothing else says when one changes."""
    first = next(iter(texts))
    own = {os.path.relpath(path, first.parent): source_hash(text, defaults=True) for path, text in texts.items()}
    used = {module for path, text in texts.items() for module in _of_vqseg(_parsed(path, text))}
    return digest({**own, **{module: module_hash(module) for module in sorted(used - set(CORE))}})


def _of_vqseg(tree: ast.Module) -> Iterator[str]:
    """Yield the modules of vqseg that define what a source imports from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("vqseg."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vqseg" and not node.level:
            module = importlib.import_module(str(node.module))
            for value in (getattr(module, alias.name, None) for alias in node.names):
                home = str(value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", ""))
                yield home if home.startswith("vqseg.") else str(node.module)
                yield from getattr(value, "uses", ())


# --- running it -----------------------------------------------------------------------------------


def _run_file(path: Path, texts: dict[Path, bytes]) -> ModuleType:
    """Run a file as a module of a package of its own, named after all the text that it is made of."""
    package = "vqseg_foreign_" + digest(repr([str(path.parent), sorted(texts.items())]))
    name = f"{package}.{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    folder = ModuleType(package)
    folder.__path__ = [str(path.parent)]
    module = ModuleType(name)
    module.__file__, module.__package__ = str(path), package
    sys.modules.update({package: folder, name: module})

    def run() -> ModuleType:
        # Not through an import: the text that was hashed is the text that runs.
        exec(compile(texts[path], path, "exec", dont_inherit=True), vars(module))  # noqa: S102 - the user named it
        return module

    try:
        return _guarded(run, path)
    except InputError:
        for key in [key for key in sys.modules if key == package or key.startswith(f"{package}.")]:
            del sys.modules[key]
        raise


def _guarded(run: Callable[[], ModuleType], path: Path) -> ModuleType:
    try:
        return run()
    except SyntaxError as error:
        raise InputError(f"{error.filename}:{error.lineno}: {error.msg}; mend it and try again") from None
    except (Exception, SystemExit) as error:  # whatever the code of a user raises
        where = place_of(error, path.parent) or f"{path}: "
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name and _beside(path.parent, error.name):
            hint = f"; a file beside it is imported as 'from .{error.name} import ...'"
        text = " ".join(str(error).split()) or "no message"
        raise InputError(f"{where}{type(error).__name__} while it was loaded: {text}{hint}") from None


def _parsed(path: Path, text: bytes) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise InputError(f"{path}:{error.lineno}: {error.msg}; mend it and try again") from None
    except ValueError as error:
        raise InputError(f"{path}: is no Python source: {error}") from None


def _line(tree: ast.Module, name: str) -> int:
    """Return where a class or function of a module begins; 0 where it is none of its own."""
    defined = [node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name]
    return defined[-1].lineno if defined else 0


def _listed(names: list[str]) -> str:
    return ", ".join(name for name in names if not name.startswith("_")) or "nothing"
