"""Makes a set of small photographs: `python make_color.py skin` writes skin/images and skin/masks.

Nothing in it is skin: a pinkish ground with darker corners and hairs, on it a brown spot with a ragged outline. No two
need have the same size; six have no mask.

Letters: H x W pixels.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

PHOTOGRAPHS, ANNOTATED = 30, 24


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one photograph uint8 (H, W, 3), and its mask uint8 (H, W) of 0 and 255."""
    height, width = int(rng.integers(90, 130)), int(rng.integers(110, 170))
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1) - 0.5
    ground, spot = rng.normal([205, 160, 140], 6), rng.normal([120, 75, 55], 10)
    up, across = y - rng.uniform(-0.1, 0.1), x - rng.uniform(-0.1, 0.1)
    angle, far = np.arctan2(up, across), np.hypot(up, across)
    ragged = sum(rng.uniform(-0.02, 0.02) * np.cos(waves * angle + rng.uniform(0, 6)) for waves in range(2, 7))
    mask = far < rng.uniform(0.13, 0.28) + ragged
    soft = gaussian_filter(mask.astype(float), 1.5)[..., None]
    texture = gaussian_filter(rng.normal(0, 1, (height, width)), 3)[..., None] * 60
    image = ground * (1 - soft) + (spot + texture) * soft
    image *= 1 - 0.9 * np.hypot(x, y)[..., None] ** 2
    for _ in range(int(rng.integers(0, 6))):  # hairs
        start, slope, bend = rng.uniform(-0.5, 0.5), rng.uniform(-1, 1), rng.uniform(-1, 1)
        image[np.abs(y - start - slope * x - bend * x**2) < 0.6 / height] = 40
    image += rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8), (mask * 255).astype(np.uint8)


def main(out: Path) -> None:
    """Write the whole set."""
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for number in range(1, PHOTOGRAPHS + 1):
        image, mask = draw(np.random.default_rng(number))
        Image.fromarray(image).save(out / "images" / f"spot{number:02d}.jpg", quality=95)
        if number <= ANNOTATED:
            Image.fromarray(mask).save(out / "masks" / f"spot{number:02d}_mask.png")
    print(f"{out}: {PHOTOGRAPHS} photographs, {ANNOTATED} of them with masks (synthetic)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
