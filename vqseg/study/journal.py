"""The locks of a study's folder and of its queue's journal: held by the kernel, so that a holder that is killed
holds nobody up.

Optuna's own lock files stay when their owner is killed; everybody then waits for a grace period, and a writer that
was merely stopped for longer loses its lock without noticing.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only one who changes a study's queue, or makes its record grow, while the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "queue.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class KernelLock:
    """A lock on the journal file itself, with the two methods that Optuna's journal asks of a lock."""

    def __init__(self, path: Path) -> None:
        self._path, self._held = path, list[BinaryIO]()

    def acquire(self) -> bool:
        """Wait until the journal is ours; cut off a line that its writer could not end (disk full, power cut)."""
        file = self._path.open("ab+")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._held.append(file)
        cut_unfinished_line(file)
        return True

    def release(self) -> None:
        """Let the next one write."""
        self._held.pop().close()


def whole_lines(path: Path) -> bytes:
    """Return a journal up to its last whole line, as it stands between two writes; nothing of it is changed."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        text = file.read()
    return text[: text.rfind(b"\n") + 1]


def cut_unfinished_line(file: BinaryIO) -> None:
    """Truncate a journal to its last whole line: the next line would otherwise be glued to the torn one."""
    size = end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(end - 4096, 0)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    if end != size:
        os.ftruncate(file.fileno(), end)
