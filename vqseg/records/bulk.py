"""Reads one file of each of many runs at once: a call costs more than the bytes of a small file.

Both readers give bit for bit what reading file by file gives, and read so where files are not alike.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqseg.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

HEADER = "step,name,value\n"
BATCH = 1 << 26
"""Characters of metrics that are parsed at a time: files of long runs are large."""


def metrics(paths: Mapping[str, Path], names: Collection[str] | None = None) -> Iterator[pd.DataFrame]:
    """Read every ``metrics.csv``; a last line that is still being written is left out.

    Args:
        paths: identity -> file; one that is not there has no lines.
        names: which metrics; all by default.

    Yields:
        ``step``, ``name``, ``value``, ``identity`` of some of the runs, in their order; never a part of a run.

    Raises:
        InputError: a file is damaged.
    """
    batch: dict[str, str] = {}
    size = 0
    for identity, path in paths.items():
        batch[identity] = _whole_lines(path)
        size += len(batch[identity])
        if size > BATCH:
            yield _parsed(batch, paths, names)
            batch, size = {}, 0
    if batch:
        yield _parsed(batch, paths, names)


def tables(paths: Mapping[str, Path], columns: Collection[str] | None = None) -> pd.DataFrame:
    """Read one Parquet file of every run, one after another, with a last column ``identity``; empty without files.

    Args:
        paths: identity -> file.
        columns: which, as far as a file has them; all by default.

    Raises:
        InputError: a file is damaged.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    read = {identity: _table(path, columns) for identity, path in paths.items()}
    if not read:
        return pd.DataFrame({"identity": []})
    if not _alike([table.schema for table in read.values()]):
        frames = [table.to_pandas().assign(identity=identity) for identity, table in read.items()]
        return pd.concat(frames, ignore_index=True)
    lengths = [len(table) for table in read.values()]
    whole = pa.concat_tables([table.replace_schema_metadata() for table in read.values()], promote_options="default")
    owner = pa.array(list(read)).take(pa.array(np.repeat(np.arange(len(read)), lengths)))
    frame: pd.DataFrame = whole.append_column("identity", owner).to_pandas(split_blocks=True)
    return frame


def _whole_lines(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return HEADER
    return text[: text.rfind("\n") + 1] or HEADER


def _parsed(texts: Mapping[str, str], paths: Mapping[str, Path], names: Collection[str] | None) -> pd.DataFrame:
    import pandas as pd

    table = _together(texts)
    if table is None:
        table = pd.concat([_alone(text, paths[identity]).assign(identity=identity) for identity, text in texts.items()])
    table = table.dropna(subset=["name"])
    return (table if names is None else table[table["name"].isin(list(names))]).reset_index(drop=True)


def _together(texts: Mapping[str, str]) -> pd.DataFrame | None:
    """Parse the files as one; None where a file is such that its lines cannot be told from another's."""
    import numpy as np
    import pandas as pd

    odd = re.compile(r'["\r]|\n\n')
    if not all(text.startswith(HEADER) and not odd.search(text) for text in texts.values()):
        return None
    counts = [text.count("\n") - 1 for text in texts.values()]
    try:
        table = _csv(HEADER + "".join(text[len(HEADER) :] for text in texts.values()))
    except ValueError:  # the file that is to blame shows when read alone
        return None
    if len(table) != sum(counts):
        return None
    owner = pd.array(list(texts), dtype="str").take(np.repeat(np.arange(len(texts)), counts))
    return table.assign(identity=owner)


def _alone(text: str, path: Path) -> pd.DataFrame:
    try:
        return _csv(text)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not readable: {reason}; expected lines of step,name,value") from None


def _csv(text: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(io.StringIO(text), dtype={"step": "int64", "name": "str", "value": "float64"})


def _table(path: Path, columns: Collection[str] | None) -> Any:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wanted = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
            # Threads would cost more than they bring for files of some kilobytes.
            return file.read(columns=wanted, use_threads=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not readable: {reason}; score the run again with 'vqseg evaluate'") from None


def _alike(schemas: list[Any]) -> bool:
    """Whether files can be joined as they are: same types, no index, and columns that some lack are floats."""
    types: dict[str, Any] = {}
    for schema in schemas:
        for field in schema:
            if types.setdefault(field.name, field.type) != field.type or field.name.startswith("__index_level"):
                return False
    common = set.intersection(*(set(schema.names) for schema in schemas))
    return all(str(kind) == "double" for name, kind in types.items() if name not in common)
