"""Finds what a researcher edits: ``studies/``, ``reports/`` and ``configs/``, in a checkout or inside the wheel."""

from pathlib import Path

from vqseg.errors import InputError, pick


def folder(family: str) -> Path:
    """Return the folder of ``family`` (``studies``, ``configs`` or ``reports``)."""
    package = Path(__file__).parent
    checkout = package.parent / family
    return (
        checkout
        if checkout.is_dir() and (package.parent / "pyproject.toml").is_file()
        else package / "builtin" / family
    )


def names(family: str) -> list[str]:
    """Return the names of ``family``'s YAML files; the folder is the list."""
    return sorted(path.stem for path in folder(family).glob("*.yaml"))


def find(family: str, name: str, what: str) -> Path:
    """Return the file that ``name`` means: a path to a YAML file, or a built-in name.

    Raises:
        InputError: neither; the nearest built-in names are given.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{name}: no such {what} file")
        return path
    return folder(family) / f"{pick(name, names(family), what)}.yaml"
