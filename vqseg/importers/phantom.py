"""Draws a short-axis cardiac phantom: seeded, deterministic, with the classes of ACDC, and honest about it.

Patients differ in heart size, wall thickness, position, rotation, outline, tissue contrast, neighbours (lungs,
liver, stomach, aorta, vessels), texture, bias field and noise, so that one labelled patient does not
stand for all. Every patient has two scans, end-diastole (frame01) and end-systole (frame02: smaller cavities,
thicker wall), from base to apex. What is made from it is marked ``synthetic`` and proves nothing about patients.

How an image comes about: outlines in mm are painted as tissues on a grid ``SUPERSAMPLING`` times finer, at two
depths within the slice; tissue intensities are averaged over both (partial volume), multiplied by texture
and bias field, and get Rician noise. The mask is the majority class of each pixel at the middle depth.

Letters: S slices, H = W = size pixels, G = H x SUPERSAMPLING.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from vqseg import splits
from vqseg.errors import InputError
from vqseg.files import digest
from vqseg.importers.acdc import CLASSES
from vqseg.importers.writer import Imported, Pending, Plan, Volume, to_bytes, write
from vqseg.manifest import Manifest, Split

SUPERSAMPLING = 3
PHASES = ("frame01", "frame02")
TISSUES = ("air", "fat", "muscle", "lung", "vessel", "liver", "stomach", "wall", "rv", "myocardium", "lv", "papillary")
CODE = {tissue: code for code, tissue in enumerate(TISSUES)}
CLASS_OF = np.array(
    [{"rv": 1, "myocardium": 2, "lv": 3, "papillary": 3}.get(tissue, 0) for tissue in TISSUES], np.uint8
)


def prepare(
    out: Path, *, patients: int = 24, size: int = 96, seed: int = 0, labelled: str = "1", name: str = "phantom"
) -> Imported:
    """Draw the phantom into ``out``, with the splits ``labelled-all`` and ``labelled-N`` (the default one).

    Of the patients, in order, a quarter is the test part, a sixth val, the others train.

    Args:
        patients: number of patients, at least 4.
        size: side of an image in pixels, at least 32.
        seed: the same seed draws the same data, byte for byte.
        labelled: labelled training patients: a number, a share (``10%``) or ``all``.

    Raises:
        InputError: a number out of range, or ``out`` holds something else.
    """
    if patients < 4 or size < 32 or seed < 0:
        raise InputError(f"phantom: patients {patients}, size {size}, seed {seed}: at least 4, 32 and 0 are needed")
    drawn = [_patient(seed, number) for number in range(1, patients + 1)]
    splits.labelled_count(labelled, len(_parts([hearts.name for hearts in drawn])["train"]))
    options = {"importer": "phantom", "patients": patients, "size": size, "seed": seed}
    scans = [
        Pending(f"{who.name}_{frame}", who.name, list(range(1, who.slices + 1)), partial(_render, who, phase, size))
        for who in drawn
        for phase, frame in enumerate(PHASES)
    ]
    plan = Plan(name=name, classes=CLASSES, source=options, state=digest(options), scans=scans, synthetic=True)
    return write(out, plan, partial(_splits, labelled=labelled))


def _parts(names: list[str]) -> dict[str, list[str]]:
    test, val = max(1, round(len(names) / 4)), max(1, round(len(names) / 6))
    train = len(names) - test - val
    return {"train": names[:train], "val": names[train : train + val], "test": names[train + val :]}


def _splits(manifest: Manifest, *, labelled: str) -> list[Split]:
    others = _parts(manifest.patients)
    train = others.pop("train")
    made = []
    for wanted in dict.fromkeys(["all", labelled]):
        count = splits.labelled_count(wanted, len(train))
        name = f"labelled-{'all' if wanted == 'all' else count}"
        made.append(splits.first(manifest, name, train, count, others, "synthetic: a phantom, not patients"))
    return made


@dataclass(frozen=True)
class _Patient:
    """One patient's anatomy in mm (angles in radians) and contrast."""

    name: str
    key: tuple[int, int]
    slices: int
    gap: float
    field: float
    center: tuple[float, float]
    angle: float
    radius: float
    wall: float
    emptying: float
    thickening: float
    rv_size: float
    rv_reach: float
    outline: np.ndarray
    intensity: np.ndarray
    gamma: float
    noise: float
    bias: np.ndarray
    texture: float


def _patient(seed: int, number: int) -> _Patient:
    rng = np.random.default_rng([seed, number])
    u = rng.uniform
    slices = int(rng.integers(6, 10))
    return _Patient(
        name=f"phantom{number:03d}",
        key=(seed, number),
        slices=slices,
        gap=round(u(8.0, 10.0), 2),
        field=u(150.0, 195.0),
        center=(u(-16, 16), u(-16, 16)),
        angle=u(-0.9, 0.9),
        radius=u(18.0, 28.0),
        wall=u(5.5, 11.0),
        emptying=u(0.55, 0.8),
        thickening=u(1.2, 1.5),
        rv_size=u(0.85, 1.35),
        rv_reach=u(0.7, 0.92),
        outline=rng.normal(0, 0.05, (4, 2)) / np.arange(1, 5)[:, None],
        intensity=_contrast(rng),
        gamma=u(0.65, 1.5),
        noise=u(0.03, 0.09),
        bias=rng.normal(0, 0.22, 5),
        texture=u(0.05, 0.14),
    )


def _contrast(rng: np.random.Generator) -> np.ndarray:
    """Draw one intensity per tissue, (T,); ranges overlap, so that no grey level names a tissue."""
    u = rng.uniform
    blood = u(0.55, 0.95)
    muscle = u(0.15, 0.75) * blood * 0.85
    values = {
        "air": 0.02,
        "fat": u(0.35, 1.0),
        "muscle": u(0.2, 0.55),
        "lung": u(0.04, 0.22),
        "vessel": blood * u(0.7, 1.15),
        "liver": u(0.2, 0.75),
        "stomach": u(0.1, 0.95),
        "wall": u(0.2, 0.6),
        "rv": blood * u(0.88, 1.1),
        "myocardium": muscle,
        "lv": blood,
        "papillary": muscle * u(1.0, 1.2),
    }
    return np.array([values[tissue] for tissue in TISSUES], np.float32)


class _Canvas:
    """A (G, G) grid of tissue codes over a square field, in mm from its middle."""

    def __init__(self, field: float, side: int) -> None:
        self.axis = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5) * field
        self.tissue = np.full((side, side), CODE["air"], np.uint8)

    def blob(
        self,
        tissue: str,
        center: tuple[float, float],
        radii: tuple[float, float],
        angle: float = 0.0,
        outline: np.ndarray | None = None,
        only: tuple[str, ...] = (),
    ) -> None:
        """Paint an ellipse (row radius, column radius), turned by ``angle`` and bent by Fourier terms ``outline``."""
        reach = max(radii) * 1.35
        rows, columns = (
            slice(*np.searchsorted(self.axis, (middle - reach, middle + reach)).tolist()) for middle in center
        )
        y, x = self.axis[rows, None] - center[0], self.axis[None, columns] - center[1]
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        v, w = (y * cos - x * sin) / radii[0], (y * sin + x * cos) / radii[1]
        squared = v * v + w * w
        limit: np.ndarray = np.ones_like(squared)
        if outline is not None and squared.size:
            # Powers of the unit vector are the cosines and sines of multiples of its angle.
            unit = (w + 1j * v) / np.sqrt(np.maximum(squared, 1e-12))
            power = unit
            for a, b in outline.tolist():
                power = power * unit
                limit = limit + a * power.real + b * power.imag
            limit = limit * limit
        inside = squared < limit
        view = self.tissue[rows, columns]
        if only:
            inside &= np.isin(view, [CODE[name] for name in only])
        view[inside] = CODE[tissue]


def _surroundings(who: _Patient, side: int) -> np.ndarray:
    """Paint everything but the heart, (G, G); the same for both phases, new for every slice."""
    rng = np.random.default_rng([*who.key, 77])
    u = rng.uniform
    canvas, half = _Canvas(who.field, side), who.field / 2
    bend = rng.normal(0, 0.05, (3, 2))
    canvas.blob("fat", (0, 0), (half * u(0.85, 1.1), half * u(1.0, 1.25)), 0.0, bend)
    canvas.blob("muscle", (0, 0), (half * u(0.72, 0.9), half * u(0.85, 1.08)), 0.0, bend)
    for sign in (-1, 1):
        place = (half * u(-0.4, 0.3), sign * half * u(0.5, 0.75))
        canvas.blob("lung", place, (half * u(0.4, 0.7), half * u(0.3, 0.55)), u(-0.3, 0.3), rng.normal(0, 0.08, (3, 2)))
        for _ in range(rng.integers(2, 8)):
            spot = (place[0] + half * u(-0.4, 0.4), place[1] + half * u(-0.3, 0.3))
            canvas.blob("vessel", spot, (u(1.5, 4.5), u(1.5, 4.5)), only=("lung",))
    canvas.blob(
        "liver",
        (half * u(0.45, 0.8), -half * u(0.1, 0.7)),
        (half * u(0.25, 0.5), half * u(0.4, 0.7)),
        u(-0.4, 0.4),
        bend,
    )
    if u() < 0.7:  # a ring with contents: from far it looks like a left ventricle
        place, size, thick = (half * u(0.3, 0.75), half * u(0.25, 0.75)), u(12, 26), u(2, 7)
        squash = u(0.7, 1.0)
        canvas.blob("wall", place, (size + thick, (size + thick) * squash), u(-1, 1))
        canvas.blob("stomach", place, (size, size * squash), u(-1, 1))
    place, size = (half * u(0.2, 0.75), half * u(0.05, 0.5)), u(8, 14)
    canvas.blob("wall", place, (size + 2, size + 2))
    canvas.blob("vessel", place, (size, size))
    canvas.blob("fat", who.center, (who.radius + who.wall + u(2, 8),) * 2, 0.0, rng.normal(0, 0.09, (3, 2)))
    return canvas.tissue


def _heart(who: _Patient, phase: int, depth: float, canvas: _Canvas) -> None:
    """Paint the ventricles at ``depth`` (0 base, 1 apex) over the surroundings."""
    shrink, thicken = (who.emptying, who.thickening) if phase else (1.0, 1.0)
    taper = float(np.sqrt(max(0.0, 1 - (0.93 * depth) ** 2)))
    inner = who.radius * taper * shrink
    outer = inner + who.wall * thicken * (0.75 + 0.25 * taper)
    drift = 6.0 * depth
    center = (who.center[0] + drift * np.sin(who.angle), who.center[1] + drift * np.cos(who.angle))
    toward = np.array([np.sin(who.angle), -np.cos(who.angle)])  # from the left to the right ventricle
    if depth < who.rv_reach:
        size = who.radius * who.rv_size * np.sqrt(1 - (depth / who.rv_reach) ** 2) * (0.5 + 0.5 * shrink)
        middle = np.array(center) + toward * (outer * 0.55 + size * 0.45)
        spot = (float(middle[0]), float(middle[1]))
        radii = (size * 1.25, size * 0.95)
        canvas.blob("wall", spot, (radii[0] + 2.5, radii[1] + 2.5), -who.angle, who.outline[:2])
        canvas.blob("rv", spot, radii, -who.angle, who.outline[:2])
    canvas.blob("myocardium", center, (outer, outer), 0.0, who.outline)
    if inner > 1.5:
        canvas.blob("lv", center, (inner, inner * 0.96), 0.0, who.outline)
        for turn in (0.9, 2.6):
            spot = (center[0] + 0.62 * inner * np.sin(turn), center[1] + 0.62 * inner * np.cos(turn))
            canvas.blob("papillary", spot, (0.17 * inner, 0.2 * inner), only=("lv",))


def _render(who: _Patient, phase: int, size: int) -> Volume:
    """Return one scan: image and mask (S, size, size), spacing in mm."""
    rng = np.random.default_rng([*who.key, phase, 99])
    side = size * SUPERSAMPLING
    behind = _surroundings(who, side)
    images, masks = [], []
    for place in range(who.slices):
        middle = (place + 0.3) / who.slices
        painted = [_painted(who, phase, middle + step / who.slices, behind) for step in (-0.25, 0.0, 0.25)]
        images.append(_averaged(who.intensity[painted[0]] + who.intensity[painted[2]], size) / 2)
        masks.append(_majority(CLASS_OF[painted[1]], size))
    signal = np.stack(images) ** who.gamma * _shading(who, size)
    smooth = gaussian_filter(rng.normal(0, 1, signal.shape), (0, 1.2, 1.2)) * 3.0
    signal = signal * (1 + who.texture * smooth)
    noisy = np.hypot(signal + rng.normal(0, who.noise, signal.shape), rng.normal(0, who.noise, signal.shape))
    # Rounding first keeps the last bit of a platform's mathematics library out of the 8 bits.
    image, span = to_bytes(np.round(noisy, 6), who.name)
    pixel = round(who.field / size, 4)
    return Volume(image, np.stack(masks), span, (who.gap, pixel, pixel))


def _painted(who: _Patient, phase: int, depth: float, behind: np.ndarray) -> np.ndarray:
    canvas = _Canvas(who.field, len(behind))
    canvas.tissue = behind.copy()
    _heart(who, phase, min(max(depth, 0.0), 1.0), canvas)
    return canvas.tissue


def _averaged(fine: np.ndarray, size: int) -> np.ndarray:
    return fine.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING).mean((1, 3), dtype=np.float64)


def _majority(fine: np.ndarray, size: int) -> np.ndarray:
    tiles = fine.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING)
    counts = [(tiles == index).sum((1, 3), dtype=np.uint8) for index in range(len(CLASSES))]
    return np.argmax(counts, axis=0).astype(np.uint8)


def _shading(who: _Patient, size: int) -> np.ndarray:
    """Return the coil's bias field, (size, size), positive."""
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    a, b, c, d, e = who.bias
    return np.exp(a * x + b * y + c * x * y + d * (x * x - 0.3) + e * (y * y - 0.3))
