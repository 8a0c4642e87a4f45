"""Importers: a foreign layout becomes a prepared folder (see `vqseg.manifest`).

One file per layout (it defines ``prepare``), one row per file; they share `writer` (atomic, resumable writing) and
`names` (patient, scan and slice from file names).
"""

from collections.abc import Callable

from vqseg.importers import acdc, folder, phantom
from vqseg.importers.writer import Imported

IMPORTERS: dict[str, Callable[..., Imported]] = {
    "acdc": acdc.prepare,
    "folder": folder.prepare,
    "phantom": phantom.prepare,
}
