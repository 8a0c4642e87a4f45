"""Importers: a foreign layout becomes a prepared folder (see `vqseg.manifest`).

One file per layout (it defines ``prepare``), one row per file; they share `writer` (atomic, resumable writing), `names`
(patient, scan and slice from file names, tables of patients) and, for volumes, `volumetric` (from cases to slices),
`intensities` (ranges and bits) and `parts` (the first split).
"""

from collections.abc import Callable

from vqseg.importers import acdc, folder, isic, nifti, nnunet, phantom
from vqseg.importers.writer import Imported

IMPORTERS: dict[str, Callable[..., Imported]] = {
    "acdc": acdc.prepare,
    "folder": folder.prepare,
    "isic": isic.prepare,
    "nifti": nifti.prepare,
    "nnunet": nnunet.prepare,
    "phantom": phantom.prepare,
}
