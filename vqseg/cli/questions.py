"""What ``vqseg study list`` shows, read without what studies are checked with: a list shall answer at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vqseg import assets
from vqseg.files import read_yaml


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


def _checked(name: str) -> str:
    """The question, or what is wrong with the file: whatever says that best is not in a hurry."""
    from vqseg.study.definition import read_definition

    return read_definition(name)[1].question
