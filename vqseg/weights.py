"""Where the weights of foundation models lie, and who they are: folders, fetched ones, the hub's cache, digests.

A text names weights: the path of a transformers folder, the name of a fetched one, or a hub's ``NAME@REVISION``.
Nothing here asks a network for anything; `vqseg.hub` does, when a user says ``vqseg prior fetch``.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from vqseg.errors import InputError, MissingWeights
from vqseg.files import digest, read_json

CONFIG = "config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# What may say how images are normalized; the first that is there does.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# What `vqseg.hub` writes beside fetched weights: repository, what was asked for, the commit that it was.
SOURCE = "source.json"


def home() -> Path:
    """Return the folder of fetched weights: VQSEG_WEIGHTS, or one in the user's cache."""
    given = os.environ.get("VQSEG_WEIGHTS")
    return Path(given) if given else Path.home() / ".cache" / "vqseg" / "weights"


def parse(weights: str) -> tuple[str, str | None]:
    """Return the name and the revision of ``NAME@REVISION``, or the name and None."""
    name, _, revision = weights.partition("@")
    return name, revision or None


def locate(weights: str) -> Path:
    """Return the folder that ``weights`` names; it holds a ``config.json``.

    Raises:
        MissingWeights: there is none; says how to get it.
        InputError: the folder holds something else.
    """
    folder = Path(weights).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise InputError(f"{weights}: holds no {CONFIG}; expected a transformers folder ({CONFIG}, {SINGLE})")
        return folder
    if weights.startswith((".", "/", "~")) or weights.count("/") > 1 or not weights:
        raise MissingWeights(
            f"{weights or 'weights'}: no such folder; expected a transformers folder ({CONFIG}, {SINGLE})"
        )
    found = _fetched(weights) or _cached(weights)
    if found is None:
        raise MissingWeights(
            f"{weights}: no such folder, and neither {home()} nor the hub's cache holds it;"
            f" 'vqseg prior fetch {weights}' gets it, or name a folder ({CONFIG}, {SINGLE})"
        )
    return found


def _fetched(weights: str) -> Path | None:
    name, revision = parse(weights)
    if not name.count("/") and (home() / name / CONFIG).is_file():
        return home() / name
    for path in sorted(home().glob(f"*/{SOURCE}")):
        source = read_mapping(path)
        if source.get("repository") == name and revision in (None, source.get("asked"), source.get("revision")):
            return path.parent
    return None


def _cached(weights: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, revision = parse(weights)
    try:
        found = try_to_load_from_cache(name, CONFIG, revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder.

    Raises:
        InputError: there are none, or some are missing; pickled weights do not count, loading them may run code.
    """
    names = [SINGLE]
    if not (folder / SINGLE).is_file() and (folder / INDEX).is_file():
        names = [INDEX, *_shards(folder / INDEX)]
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return [folder / name for name in names]
    pickled = next((path.name for path in sorted(folder.glob("*.bin"))), None)
    if pickled:
        raise InputError(
            f"{folder}: holds {pickled}, a pickle, and no {SINGLE};"
            f" 'vqseg prior import {folder / pickled} NEW_FOLDER' converts it without running code from it"
        )
    raise InputError(f"{folder}: holds no {', '.join(missing)}; copy or fetch the model again")


def _shards(index: Path) -> list[str]:
    files = read_mapping(index).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
        raise InputError(f"{index}: holds no weight_map from tensors to files; copy or fetch the model again")
    return sorted(set(files.values()))


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds names and values.

    Raises:
        InputError: it is missing, is not JSON, or holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, expected names and values; copy or fetch it again")
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """Read a transformers folder's config.json.

    Raises:
        InputError: it is missing or damaged, or asks for code of a hub (an attention kernel's).
    """
    found = read_mapping(folder / CONFIG)
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        if "/" in str(found.get(key) or ""):
            raise InputError(f"{folder / CONFIG}: {key} {found[key]!r} is code of a hub; take that line out")
    return found


def weights_digest(weights: str) -> str:
    """Return who these weights are: 16 hex digits over the configuration, the normalization and all tensors' files.

    Raises:
        InputError: there are none.
    """
    folder = locate(weights)
    others = [folder / name for name in (CONFIG, *PROCESSORS) if (folder / name).is_file()]
    return digest({path.name: _sha256(path) for path in [*others, *weight_files(folder)]})


def _sha256(path: Path) -> str:
    state = path.stat()
    return _sha256_of(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and reports off the screen."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


@contextmanager
def loading(folder: Path, do: str) -> Iterator[None]:
    """Be `quiet`, and turn what transformers raises into one line that ends with what to ``do``.

    Raises:
        InputError: ``folder`` cannot be loaded.
    """
    with quiet():
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # transformers, huggingface_hub and safetensors each raise their own
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{folder}: not loadable as a vision transformer ({reason}); {do}") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it becomes ``path`` when the block ends well, and goes otherwise.

    Raises:
        InputError: ``path`` is there already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: is there already; delete it, or name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
