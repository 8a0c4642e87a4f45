"""What a column of scored rows is called in print: header, unit, scale, and which way is better."""

from dataclasses import dataclass

from vqseg.errors import pick


@dataclass(frozen=True)
class Measure:
    """One score column; ``scale`` turns the stored number into the printed one."""

    header: str
    unit: str
    scale: float
    higher_is_better: bool

    def label(self, protocol: str) -> str:
        """Return the header with its unit; 2-D images have pixels, not voxels."""
        return f"{self.header} ({'px' if self.unit == 'voxel' and protocol == 'image' else self.unit})"

    def short(self, protocol: str) -> str:
        """Return the header, with its unit unless that is percent: differences of those are points."""
        return self.header if self.unit == "%" else self.label(protocol)


MEASURES = {
    "dice": Measure("Dice", "%", 100.0, True),
    "jaccard": Measure("Jaccard", "%", 100.0, True),
    "hd95_voxel": Measure("HD95", "voxel", 1.0, False),
    "asd_voxel": Measure("ASD", "voxel", 1.0, False),
    "assd_voxel": Measure("ASSD", "voxel", 1.0, False),
    "hd95_mm": Measure("HD95", "mm", 1.0, False),
    "asd_mm": Measure("ASD", "mm", 1.0, False),
    "assd_mm": Measure("ASSD", "mm", 1.0, False),
}

SHORT = {"hd95": "hd95_voxel", "asd": "asd_voxel", "assd": "assd_voxel"}


def measure_name(word: str) -> str:
    """Return the score column that ``word`` means; ``hd95`` is ``hd95_voxel``.

    Raises:
        InputError: no such metric.
    """
    return SHORT.get(word) or pick(word, [*MEASURES, *SHORT], "metric")
