"""What differs between two runs: leaves of their settings, and everything around them. Loads nothing heavy."""

from collections.abc import Iterator, Mapping
from typing import Any

AROUND = (("data", "digest"), ("split", "name"), ("split", "digest"))
Pairs = dict[str, tuple[Any, Any]]


def settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> Pairs:
    """Return dotted key -> both values, of every leaf in which two configs differ; None where one lacks it."""
    return _differing(_leaves(one), _leaves(other))


def circumstances(one: Mapping[str, Any], other: Mapping[str, Any]) -> Pairs:
    """Return what differs between two statuses beside settings: data, split, labelled patients, code, machine.

    Of code only the modules that both runs used: an arm that uses another part has other modules by its settings.
    """
    return dict(_circumstances(one, other))


def _circumstances(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    places = [{f"{part}.{key}": (status.get(part) or {}).get(key) for part, key in AROUND} for status in (one, other)]
    yield from _differing(*places).items()
    yield from _differing({"labelled patients": _labelled(one)}, {"labelled patients": _labelled(other)}).items()
    yield from _differing({"scoring code": one.get("scoring")}, {"scoring code": other.get("scoring")}).items()
    codes = [status.get("code") or {} for status in (one, other)]
    shared = [{f"code of {name}": code[name] for name in codes[0] if name in codes[1]} for code in codes]
    yield from _differing(*shared).items()
    yield from _differing(one.get("provenance") or {}, other.get("provenance") or {}).items()


def _labelled(status: Mapping[str, Any]) -> Any:
    parts = (status.get("split") or {}).get("parts") or {}
    return (parts.get("labelled") or {}).get("patients")


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Pairs:
    keys = dict.fromkeys([*one, *other])
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
