"""What holds in an arm: what its row sets, the preset that it is, and what the user set on top."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from vqseg.config import Choice, Config, load_config, with_overrides
from vqseg.errors import InputError
from vqseg.parts import FAMILIES, require_admitted, resolve
from vqseg.study.rows import Arm

# Sections of a config that are no part of a recipe.
APART = ("preset", "seed")


def settled(arm: Arm, base: Mapping[str, Any], keeps: Iterable[str], *, allow_code: bool = False) -> Arm:
    """Return the arm with everything that it sets written out, so that its record stands by itself.

    An arm that is a preset sets every section as the preset has it, but for what is kept of ``base``. A part of
    ``carries`` is named with the options that it has too.

    Raises:
        InputError: the preset cannot be read, or what is to be kept or carried has no place in it.
    """
    sections = _sections(arm.preset, base, keeps, allow_code) if arm.preset is not None else {}
    held, where = with_overrides(base, sections), f"arm {arm.label!r}: "
    parts = {key: carried(held, key, arm.overrides[key], where, allow_code=allow_code) for key in arm.carries}
    overrides = {**sections, **arm.overrides, **parts}
    own = arm.overrides if overrides != arm.overrides else None
    return arm.model_copy(update={"overrides": overrides, "own": own, "carries": ()})


def carried(tree: Mapping[str, Any], key: str, value: Any, where: str, *, allow_code: bool = False) -> dict[str, Any]:
    """Return the part that ``value`` names, with the options of the tree's part at ``key`` that it has too.

    Raises:
        InputError: ``key`` is no part, ``value`` names none, or names code that is not allowed.
    """
    family = key.rpartition(".")[2]
    if family not in FAMILIES or not all(key.split(".")):
        raise InputError(f"{where}carries: {key!r} is no part; expected one such as method, prior or network.quantizer")
    try:
        choice = Choice.model_validate(value)
    except ValidationError:
        raise InputError(f"{where}{key}: expected a name, or {{name: ..., options}}, got {value!r}") from None
    require_admitted(key, choice.name, where.rstrip(": "), allowed=allow_code)
    known, held = resolve(family, choice).options, _at(tree, key)
    kept = held if isinstance(held, Mapping) else {}
    return {"name": choice.name, **{name: kept[name] for name in kept if name in known}, **choice.options}


def _sections(preset: str, base: Mapping[str, Any], keeps: Iterable[str], allow_code: bool) -> dict[str, Any]:
    """Return every section of a preset, without those that are kept whole, and its name."""
    config = load_config(preset, allow_code=allow_code)
    tree = config.plain()
    for key in keeps:
        if key in Config.model_fields:
            del tree[key]
        elif key.partition(".")[0] in tree:  # or it is kept whole anyway
            _keep(tree, base, key, config.preset)
    return {"preset": config.preset, **{name: tree[name] for name in tree if name not in APART}}


def _keep(tree: dict[str, Any], base: Mapping[str, Any], key: str, preset: str) -> None:
    """Give ``tree`` the setting of ``base``; an option that a part of that does not name goes to its default."""
    above, _, leaf = key.rpartition(".")
    theirs, ours = _at(tree, above), _at(base, above)
    if above.rpartition(".")[2] in FAMILIES and theirs["name"] != ours["name"]:
        raise InputError(
            f"keeps: {key}: preset {preset} has {above} {theirs['name']!r} and the study {ours['name']!r}, two parts;"
            f" keep {above} whole, or leave {key} out"
        )
    if leaf in ours:
        theirs[leaf] = ours[leaf]
    else:
        theirs.pop(leaf, None)


def taken(record: Mapping[str, Any], arm: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, bool]:
    """Return which of the user's settings hold in an arm, and whether they have to be set again there.

    What the arm's row or the supervised form sets itself stays theirs. Of a node that they replace (``perturbation:
    {name: qpm}``, a whole preset) the user's setting holds again if there is a place for it.
    """
    fixed, overrides = record.get("fixed", []), arm["overrides"]
    own = overrides if arm.get("own") is None else arm["own"]
    found = {}
    for key in record.get("overrides", {}):
        if key in own or key in fixed:
            continue
        replaced = any(key == other or key.startswith(f"{other}.") for other in (*overrides, *fixed))
        if replaced and (_given(own, key) or not _fits(tree, key)):
            continue
        found[key] = replaced
    return found


def again(record: Mapping[str, Any], arm: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has to be set once more in an arm: the user's settings, then what the arm's row sets below them."""
    user = {key: record["overrides"][key] for key, replaced in taken(record, arm, tree).items() if replaced}
    below = {
        key: value
        for key, value in (arm.get("own") or {}).items()
        if any(key.startswith(f"{other}.") for other in user)
    }
    return {**user, **below}


def _given(own: Mapping[str, Any], key: str) -> bool:
    """Whether a node that ``own`` sets says something of ``key``, which lies below it."""
    for above, value in own.items():
        if key.startswith(f"{above}."):
            for piece in key[len(above) + 1 :].split("."):
                if not isinstance(value, Mapping) or piece not in value:
                    break
                value = value[piece]
            else:
                return True
    return False


def _fits(tree: Mapping[str, Any], key: str) -> bool:
    """Whether ``tree`` has a place for ``key``: a section, or a part that has such an option."""
    above, _, leaf = key.rpartition(".")
    node, family = _at(tree, above), above.rpartition(".")[2]
    if family not in FAMILIES:
        return node is not None
    return node is not None and leaf in resolve(family, Choice.model_validate(node)).options


def _at(tree: Any, key: str) -> Any:
    """Return what stands at a dotted key, None where there is nothing."""
    for name in key.split(".") if key else []:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
