"""What a column of scored rows is called in print: header, unit, scale, and which way is better."""

from dataclasses import dataclass

import pandas as pd

from vqseg.errors import pick


@dataclass(frozen=True)
class Measure:
    """One score column; ``scale`` turns the stored number into the printed one.

    ``higher_is_better`` is None where neither end is: such a column is printed, but nothing is ranked by it.
    """

    header: str
    unit: str
    scale: float
    higher_is_better: bool | None

    def label(self, protocol: str) -> str:
        """Return the header with its unit; 2-D images have pixels, not voxels."""
        return f"{self.header} ({'px' if self.unit == 'voxel' and protocol == 'image' else self.unit})"

    def short(self, protocol: str) -> str:
        """Return the header, with its unit unless that is percent: differences of those are points."""
        return self.header if self.unit == "%" else self.label(protocol)

    def unit_of_difference(self, protocol: str) -> str:
        """Return what a difference of two values is counted in."""
        return "points" if self.unit == "%" else "px" if self.unit == "voxel" and protocol == "image" else self.unit


DISTANCES = {
    "hd95_voxel": Measure("HD95", "voxel", 1.0, False),
    "asd_voxel": Measure("ASD", "voxel", 1.0, False),
    "assd_voxel": Measure("ASSD", "voxel", 1.0, False),
    "hd95_mm": Measure("HD95", "mm", 1.0, False),
    "asd_mm": Measure("ASD", "mm", 1.0, False),
    "assd_mm": Measure("ASSD", "mm", 1.0, False),
}

LESIONS = {
    "lesion_sensitivity": Measure("Lesion sensitivity", "%", 100.0, True),
    "false_positives": Measure("False positives", "per case", 1.0, False),
    "surface_dice": Measure("Surface Dice", "%", 100.0, True),
    "volume_error_ml": Measure("Volume error", "ml", 1.0, None),
    "volume_error_voxel": Measure("Volume error", "voxel", 1.0, None),
}
"""In rows of classes that the manifest calls lesions; volume errors have a sign, so that neither end is better."""

SLICES = {
    "slice_consistency": Measure("Slice consistency", "%", 100.0, True),
    "slice_consistency_reference": Measure("Slice consistency of the reference", "%", 100.0, None),
}

MEASURES = {
    "dice": Measure("Dice", "%", 100.0, True),
    "jaccard": Measure("Jaccard", "%", 100.0, True),
    **DISTANCES,
    **LESIONS,
    **SLICES,
}

SHORT = {"hd95": "hd95_voxel", "asd": "asd_voxel", "assd": "assd_voxel"}


def measure_name(word: str) -> str:
    """Return the score column that ``word`` means, one by which arms can be ranked; ``hd95`` is ``hd95_voxel``.

    Raises:
        InputError: no such metric.
    """
    ranked = [key for key, measure in MEASURES.items() if measure.higher_is_better is not None]
    return SHORT.get(word) or pick(word, [*ranked, *SHORT], "metric")


def completed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return scored rows with every measure as a column: rows of older runs lack the newer ones."""
    return rows.assign(**{key: float("nan") for key in MEASURES if key not in rows})
