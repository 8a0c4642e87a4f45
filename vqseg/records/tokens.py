"""Which code every token of a part took, as a run folder keeps it once `vqseg codes` has looked.

    STORE/runs/IDENTITY/
      tokens-PART.parquet   one line per token of the last teacher: `COLUMNS`
      moments-PART.npz      the codebook and its use at some moments of the training: `Moments`

Both are made from kept weights (`vqseg.token_codes`) and can be made again; scores do not depend on them.
The status says under ``tokens`` of which parts they are, when they were made and of which weights.

Letters: T tokens, M moments, V codes, C channels, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vqseg.errors import InputError
from vqseg.files import replacing
from vqseg.manifest import write_array

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("patient", "scan", "slice", "row", "top", "left", "bottom", "right", "code", "class_index")
"""Of a token: whose it is, the source's slice number and the slice's place in the scan, the box of pixels on the native
grid that is its cell (cut to the image; empty where the cell lies in padding), its code, the class of most of its cell.
"""
AGAIN = "delete it and run 'vqseg codes' again"


class Moments(NamedTuple):
    """The teacher's codebook at ``steps`` (M,), in order: ``codes`` (M, V, C), ``tokens`` (M, K, V) by majority class.

    Step 0 is the network as it was drawn, the last one the last teacher; between them stands the best on validation
    where its weights were kept.
    """

    steps: np.ndarray
    codes: np.ndarray
    tokens: np.ndarray


def tokens_path(folder: Path, part: str) -> Path:
    """Return where a run folder keeps the tokens of a part."""
    return folder / f"tokens-{part}.parquet"


def moments_path(folder: Path, part: str) -> Path:
    """Return where a run folder keeps the moments, with the use on a part."""
    return folder / f"moments-{part}.npz"


def write(folder: Path, part: str, tokens: pd.DataFrame, moments: Moments) -> None:
    """Write both files, each atomically; codes in half precision."""
    halved = moments._replace(codes=moments.codes.astype(np.float16))
    write_array(moments_path(folder, part), **halved._asdict())
    with replacing(tokens_path(folder, part)) as temporary:
        tokens[list(COLUMNS)].to_parquet(temporary, index=False)


def read_tokens(folder: Path, part: str) -> pd.DataFrame | None:
    """Return the tokens of a part, None if nobody has looked.

    Raises:
        InputError: the file is damaged.
    """
    import pandas as pd

    path = tokens_path(folder, part)
    if not path.is_file():
        return None
    try:
        return pd.read_parquet(path, columns=list(COLUMNS))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable: {' '.join(str(error).split())}; {AGAIN}") from None


def read_moments(folder: Path, part: str) -> Moments | None:
    """Return the moments with the use on a part, codes in single precision; None if nobody has looked.

    Raises:
        InputError: the file is damaged.
    """
    path = moments_path(folder, part)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = Moments(*(archive[name] for name in Moments._fields))
    except Exception as error:  # zipfile, zlib and numpy each raise their own for a damaged archive
        raise InputError(f"{path}: not readable: {' '.join(str(error).split())}; {AGAIN}") from None
    return found._replace(codes=found.codes.astype(np.float32))
