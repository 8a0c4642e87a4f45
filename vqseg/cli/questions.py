"""What ``vqseg study list`` and ``show`` say. A list shall answer at once: it is read without what checks studies."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqseg import assets
from vqseg.files import read_yaml

if TYPE_CHECKING:
    from vqseg.study.definition import Definition


def questions() -> Iterator[tuple[str, str]]:
    """Yield name and question of every built-in study.

    Raises:
        InputError: a study's file cannot be read, or has no question.
    """
    for name in assets.names("studies"):
        tree = read_yaml(assets.find("studies", name, "study"))
        question = tree.get("question") if isinstance(tree, dict) else None
        yield name, question if isinstance(question, str) else _checked(name)


def recorded(store: Path) -> list[dict[str, Any]]:
    """Return the records of the store's studies, newest first.

    Raises:
        InputError: a record is damaged.
    """
    if not (store / "studies").is_dir():
        return []
    from vqseg.records.index import studies

    return studies(store)


def described(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield a line per study of a store: its size, its split, and what tells it from others of the same kind."""
    alike: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    listed = list(records)
    for record in listed:
        alike.setdefault(_kind(record), []).append(record)
    for record in listed:
        draws = record.get("draws", 1)
        words = [f"{len(record['cells'])} cells"]
        words += [f"the runs of {record['of']}"] if record.get("of") else []
        words += [f"{draws} draws of the labelled patients"] if draws > 1 else []
        words += [f"{len(record['skipped'])} arms skipped"] if record.get("skipped") else []
        words += [f"split {record.get('split', {}).get('name', 'unknown')}"]
        words += _settings(record, alike[_kind(record)])
        yield f"{record['name']} ({', '.join([*words, str(record.get('created', ''))])})"


def _kind(record: dict[str, Any]) -> tuple[Any, ...]:
    """What a study's name says of it, where it was given none."""
    return record["study"], record["data"]["name"], record.get("preset"), record.get("supervised")


def _settings(record: dict[str, Any], others: list[dict[str, Any]]) -> list[str]:
    """Return the settings, and the data, in which a study differs from others of its kind."""
    if len(others) == 1:
        return []
    from vqseg.config import Config
    from vqseg.presets import leaves

    usual = leaves(Config().plain())  # what settings were before a record knew of them
    trees = [{**usual, **leaves(other.get("base_config") or {})} for other in others]
    own = leaves(record.get("base_config") or {})
    differ = [key for key in own if any(tree.get(key) != own[key] for tree in trees)]
    digests = {other["data"].get("digest") for other in others}
    return [f"{key} {own[key]}" for key in differ] + ([f"data {record['data']['root']}"] if len(digests) > 1 else [])


def outline(stem: str, definition: "Definition") -> Iterator[str]:
    """Yield what there is to say of a study's definition, line by line."""
    from vqseg.study.rows import axes_of, shown

    yield f"{stem}: {' '.join(definition.question.split())}"
    if definition.rescore:
        yield f"trains nothing; scores the study that --of names again: protocols {_list(definition.rescore.protocols)}"
        return
    yield f"preset {definition.preset}, seeds {definition.seeds}, reference {definition.reference!r}" + (
        f", {definition.draws} draws of the labelled patients" if definition.draws > 1 else ""
    )
    arms = definition.expand()
    if definition.search:
        yield f"search: {definition.search.budget} trials over {_list(definition.search.space)}"
    yield from (f"axis {axis}: {_list(map(shown, values))}" for axis, values in axes_of(arms).items())
    if definition.keeps:
        yield f"kept of the study's own where an arm is a preset: {_list(definition.keeps)}"
    for preset, thinning in definition.thinned.items():
        seeds = f", seeds {thinning.seeds}" if thinning.seeds else ""
        reference = f", reference {thinning.reference!r}" if thinning.reference else ""
        yield f"at preset {preset}: arms {_list(thinning.arms)}{seeds}{reference}"
    for arm in arms:
        preset = f"preset {arm.preset}, " if arm.preset is not None else ""
        yield f"  {arm.label:45} {preset}{arm.overrides}" + (" (optional)" if arm.optional else "")


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)


def _checked(name: str) -> str:
    """The question, or what is wrong with the file: whatever says that best is not in a hurry."""
    from vqseg.study.definition import read_definition

    return read_definition(name)[1].question
