"""Files that are either whole or absent: write under a temporary name, then rename.

YAML is read with YAML 1.2 floats (``1e-4`` is a number) and duplicate keys are refused, because
PyYAML's own defaults read the first as text and keep the last of the second without a word. Tags make no values but
those that JSON has too: bytes (``!!binary``) would be looked at as no text and validated as one. A date is a text.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from vqseg.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in ``path``'s folder; rename it to ``path`` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON."""
    write_text(path, json.dumps(value, indent=1, sort_keys=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    return _read(path, json.loads, "JSON")


# What YAML's values may be, by the ends of their tags.
PLAIN_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    """SafeLoader of plain values, with YAML 1.2 floats, that refuses duplicate keys and nodes within themselves."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        return super().construct_object(node, deep=True)  # which refuses a node within itself

    def refuse(self, node: yaml.Node) -> Any:
        wanted = "expected plain texts, numbers, truth values, lists and mappings"
        raise yaml.constructor.ConstructorError(None, None, f"tag {node.tag}: {wanted}", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is a list or mapping", key_node.start_mark)
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_STEM = "tag:yaml.org,2002:"
_Loader.yaml_constructors = {
    **{_STEM + tag: yaml.SafeLoader.yaml_constructors[_STEM + tag] for tag in PLAIN_TAGS},
    None: _Loader.refuse,
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rows if tag not in (f"{_STEM}float", f"{_STEM}timestamp")]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_STEM}float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"),
    list("-+0123456789."),
)
# The float pattern also matches plain integers, so integers are asked first.
for _first in "-+0123456789":
    _Loader.yaml_implicit_resolvers[_first].sort(key=lambda row: row[0] != f"{_STEM}int")


def parse_yaml(text: str) -> Any:
    """Parse YAML with the rules above (no code is ever executed)."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader subclass


def read_yaml(path: Path) -> Any:
    """Read YAML.

    Raises:
        InputError: the file is missing, is not YAML, or repeats a key.
    """
    return _read(path, parse_yaml, "YAML")


def write_yaml(path: Path, value: Any) -> None:
    """Write ``value`` atomically as YAML in the given key order."""
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100))


def digest(value: Any, length: int = 16) -> str:
    """Return a short SHA-256 of a JSON-able ``value``, of text, or of bytes."""
    if not isinstance(value, (bytes, str)):
        value = json.dumps(value, sort_keys=True, separators=(",", ":"))
    data = value.encode() if isinstance(value, str) else value
    return hashlib.sha256(data).hexdigest()[:length]


def _read(path: Path, parse: Callable[[str], Any], kind: str) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not readable as {kind}: {reason}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
