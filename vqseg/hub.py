"""Fetches published weights from a hub: the one place of vqseg that asks a network for them.

A fetched model is a plain folder below `vqseg.weights.home`: its configuration, its safetensors, how images are
normalized, its license file, and ``source.json`` with the commit that the weights are of. Weights that are published as
a pickle alone are converted once; nothing in them is run.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqseg.catalog import Entry, find
from vqseg.errors import InputError
from vqseg.files import write_json
from vqseg.trunk import import_weights
from vqseg.weights import CONFIG, INDEX, PROCESSORS, SINGLE, SOURCE, home, new_folder, parse, read_mapping

PICKLED = "pytorch_model.bin"
OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
TIMEOUT_S = 20.0
# Errors of the disk, not of the network.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def fetch(name: str, *, revision: str | None = None, out: Path | None = None) -> Path:
    """Fetch a prior by its name, or a hub's model by ``OWNER/NAME`` or ``OWNER/NAME@REVISION``; return its folder.

    What is there already, at the revision asked for, is not fetched again.

    Raises:
        InputError: the hub is out of reach, has no such model or revision, asks for a login, or holds no weights that
            can be loaded without running code; or the folder holds another revision.
    """
    entry = find(name)
    assert entry.weights is not None
    repository, pinned = parse(name if "/" in name and "@" in name else entry.weights)
    asked = revision or pinned or "main"
    target = out or home() / entry.name
    if (target / SOURCE).is_file():
        return _same(target, repository, asked)
    commit, files = _listing(repository, asked, entry)
    with new_folder(target) as folder:
        _download(repository, commit, files, folder / "download")
        _settle(entry, folder, files)
        source = {"repository": repository, "asked": asked, "revision": commit, "license": entry.license}
        write_json(folder / SOURCE, source)
    return target


def _same(target: Path, repository: str, asked: str) -> Path:
    source = read_mapping(target / SOURCE)
    if source.get("repository") == repository and asked in (source.get("asked"), source.get("revision")):
        return target
    raise InputError(
        f"{target}: holds {source.get('repository')} at {source.get('revision')}, not {repository} at {asked};"
        " delete it, or name another folder with --out"
    )


def _listing(repository: str, revision: str, entry: Entry) -> tuple[str, list[str]]:
    """Return the commit that a revision is, and the files of it that are needed."""
    from huggingface_hub import HfApi

    with _one_line(repository, revision):
        info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_S)
    names = {sibling.rfilename for sibling in info.siblings or []}
    kept = [name for name in sorted(names) if name in PROCESSORS or name.upper().startswith("LICENSE")]
    where = f"{repository} at {revision}"
    if entry.layout == "open_clip":
        weights = [name for name in OPEN_CLIP if name in names][:1]
        kept += [name for name in ("open_clip_config.json",) if name in names]
    else:
        if CONFIG not in names:
            raise InputError(f"{where}: holds no {CONFIG}; expected a model of transformers")
        kept.append(CONFIG)
        weights = _weights_among(names)
    if not weights:
        raise InputError(f"{where}: holds no weights that can be read ({SINGLE} or {PICKLED}); try another --revision")
    return str(info.sha), [*kept, *weights]


def _weights_among(names: set[str]) -> list[str]:
    if SINGLE in names:
        return [SINGLE]
    if INDEX in names:
        return [INDEX, *sorted(name for name in names if name.startswith("model-") and name.endswith(".safetensors"))]
    return [PICKLED] if PICKLED in names else []


def _download(repository: str, commit: str, files: list[str], folder: Path) -> None:
    from huggingface_hub import snapshot_download

    with _one_line(repository, commit):
        snapshot_download(repository, revision=commit, allow_patterns=files, local_dir=folder)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{repository} at {commit}: {', '.join(missing)} did not arrive; run the same command again")


def _settle(entry: Entry, folder: Path, files: list[str]) -> None:
    """Turn the download into a folder of transformers."""
    download = folder / "download"
    if entry.layout == "open_clip" or PICKLED in files:
        made = import_weights(download / files[-1], folder / "made")
        for path in made.iterdir():
            path.rename(folder / path.name)
        made.rmdir()
        files = [name for name in files if name.upper().startswith("LICENSE")]
    for name in files:
        (download / name).rename(folder / name)
    shutil.rmtree(download)


@contextmanager
def _one_line(repository: str, revision: str) -> Iterator[None]:
    """Say in one line why a hub gave nothing, and what to do."""
    from huggingface_hub import errors

    what, page = f"{repository} at {revision}", f"https://huggingface.co/{repository}"
    elsewhere = "fetch it on a machine that can, and name the copied folder as weights"
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(f"{what}: asks for a license to be accepted; do so at {page}, then 'hf auth login'") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{what}: no such revision; see {page}/commits/main") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise InputError(f"{what}: no such model, or a private one; see {page}") from None
    except errors.OfflineModeIsEnabled:
        raise InputError(f"{what}: HF_HUB_OFFLINE is set; unset it, or {elsewhere}") from None
    except OSError as error:
        if error.errno in DISK:
            raise
        raise InputError(f"{what}: the hub cannot be reached ({_reason(error)}); {elsewhere}") from None
    except Exception as error:  # httpx and the transfer libraries each raise their own
        raise InputError(f"{what}: the hub cannot be reached ({_reason(error)}); {elsewhere}") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
