"""Makes a set of small CT-like volumes: `python make_ct.py ct` writes ct/images, ct/masks and ct/patients.csv.

Nothing in it is a patient: an ellipse of soft tissue with a rim of fat, a spine, a stomach, and an organ of 60 HU that
may hold a lesion or two of 15 HU, a few millimeters wide. Slices are 5 mm apart, pixels .8 mm; the volumes lie oblique
in the scanner, each at its own angle. Two patients were scanned twice, three were never annotated.

Letters: X, Y, Z voxels.
"""

import csv
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

PATIENTS, ANNOTATED, TWICE = 12, 9, (2, 5)
SPACING_MM = (0.8, 0.8, 5.0)
AIR, FAT, SOFT, ORGAN, LESION, STOMACH, BONE = -1000, -100, 40, 60, 15, 5, 600
NOISE_HU = 8


def inside(grid: list[np.ndarray], center: list[float], radii: list[float]) -> np.ndarray:
    """Return which voxels (X, Y, Z) lie in an ellipsoid, in mm."""
    return np.asarray(sum(((axis - at) / radius) ** 2 for axis, at, radius in zip(grid, center, radii))) < 1


def draw(rng: np.random.Generator, lesions: list[list[float]], shape: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    """Draw one scan: HU int16 and classes uint8 (0 background, 1 liver, 2 lesion), both (X, Y, Z)."""
    sides = [(np.arange(count) - (count - 1) / 2) * mm for count, mm in zip(shape, SPACING_MM)]
    grid = list(np.meshgrid(*sides, indexing="ij"))
    flat, tall = [grid[0], grid[1], 0 * grid[2]], rng.uniform(20, 26)
    hu = np.full(shape, float(AIR))
    hu[inside(flat, [0, 0, 0], [27, 23, 1])] = FAT
    hu[inside(flat, [0, 0, 0], [25, 21, 1])] = SOFT
    hu[inside(flat, [0, -14, 0], [4, 4, 1])] = BONE
    hu[inside(grid, [-13, 6, 0], [7, 6, 18])] = STOMACH
    liver = inside(grid, [*rng.uniform(7, 10, 1), *rng.uniform(1, 4, 1), 0], [*rng.uniform(11, 14, 2), tall])
    liver &= hu == SOFT
    lesion = np.zeros(shape, bool)
    for *center, radius in lesions:
        lesion |= inside(grid, center, [radius, radius, 1.2 * radius])
    lesion &= liver
    hu[liver], hu[lesion] = ORGAN, LESION
    hu = gaussian_filter(hu, (0.5, 0.5, 0)) + rng.normal(0, NOISE_HU, shape)
    return np.rint(hu).astype(np.int16), (liver + 1 * lesion).astype(np.uint8)


def oblique(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Return an affine (4, 4): voxels turned about two axes of the scanner, its origin in the middle of the volume."""
    about_x, about_z = np.deg2rad(rng.uniform(5, 15, 2))
    tilt = np.array(
        [[1, 0, 0], [0, np.cos(about_x), -np.sin(about_x)], [0, np.sin(about_x), np.cos(about_x)]],
    )
    turn = np.array(
        [[np.cos(about_z), -np.sin(about_z), 0], [np.sin(about_z), np.cos(about_z), 0], [0, 0, 1]],
    )
    affine = np.eye(4)
    affine[:3, :3] = tilt @ turn * SPACING_MM
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def save(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    """Write NIfTI with millimeters as its unit."""
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def main(out: Path) -> None:
    """Write the whole set."""
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(1, PATIENTS + 1):
        rng = np.random.default_rng(number)
        name, site = f"patient{number:02d}", "north" if number % 2 else "south"
        lesions = [[*rng.uniform(4, 13, 1), *rng.uniform(-3, 7, 2), rng.uniform(2.2, 3.4)] for _ in range(number % 3)]
        for scan in (f"{name}_a", f"{name}_b")[: 1 + (number in TWICE)]:
            shape = (72, 72, int(rng.integers(10, 15)))
            hu, classes = draw(rng, lesions, shape)
            affine = oblique(rng, shape)
            save(out / "images" / f"{scan}.nii.gz", hu, affine)
            if number <= ANNOTATED:
                save(out / "masks" / f"{scan}.nii.gz", classes, affine)
            rows.append({"image": f"{scan}.nii.gz", "patient": name, "site": site})
    with (out / "patients.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "patient", "site"])
        writer.writeheader()
        writer.writerows(rows)
    print(f"{out}: {len(rows)} scans of {PATIENTS} patients, {ANNOTATED} of them with masks (synthetic)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
