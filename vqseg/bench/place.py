"""Where a bench finds data and keeps runs; what was not named lies in a temporary folder."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqseg.bench.options import Options
from vqseg.importers import phantom


@contextmanager
def prepared(options: Options) -> Iterator[tuple[Path, Path]]:
    """Yield a prepared data folder, the phantom where none was named, and an empty store, which is taken away.

    Raises:
        InputError: the phantom cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="vqseg-bench-") as name:
        root = options.data or Path(name) / "phantom"
        if options.data is None:
            patients, size = (4, 32) if options.quick else (24, 96)
            phantom.prepare(root, patients=patients, size=size, labelled="1" if options.quick else "3")
        yield root, Path(name) / "store"
