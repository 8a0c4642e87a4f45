import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vqseg import overlays
from vqseg.manifest import Scan, write_array

CLASSES = ["background", "RV", "Myo", "LV"]


def heart(shift: int = 0, side: int = 64) -> np.ndarray:
    rows, columns = np.indices((side, side))
    left = np.hypot(rows - side / 2, columns - side * 0.6 - shift)
    right = np.hypot(rows - side / 2, columns - side * 0.3 - shift)
    labels = np.where(right < side * 0.15, 1, 0)
    return np.where(left < side * 0.11, 3, np.where(left < side * 0.19, 2, labels)).astype(np.uint8)


def picture(side: int = 64) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 12, (side, side))
    return np.clip(np.array([40, 190, 90, 200])[heart(side=side)] + noise, 0, 255).astype(np.uint8)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def drawn(**changes: object) -> Figure:
    arguments = {"classes": CLASSES, "title": "p1_ED, slice 4", "synthetic": False, **changes}
    image, reference = arguments.pop("image", picture()), arguments.pop("reference", heart())
    return overlays.draw_overlay(image, heart(2), reference, **arguments)  # type: ignore[arg-type]


def test_prediction_is_solid_and_reference_dashed_in_the_class_color() -> None:
    outlines = drawn().axes[0].collections
    assert len(outlines) == 6
    colors = [tuple(outline.get_edgecolor()[0]) for outline in outlines]
    assert colors[0::2] == colors[1::2]
    assert len(set(colors)) == 3
    assert [outline.get_linestyle()[0][1] is None for outline in outlines] == [True, False] * 3


def test_the_legend_names_classes_and_lines() -> None:
    (legend,) = drawn().legends
    assert [text.get_text() for text in legend.get_texts()] == ["RV", "Myo", "LV", "prediction", "reference"]


def test_dice_stands_in_the_corner() -> None:
    (corner,) = texts(drawn())
    assert corner.splitlines()[0] == "Dice of this slice"
    assert [line.split()[0] for line in corner.splitlines()[1:]] == ["RV", "Myo", "LV"]
    assert all(0 < float(line.split()[1]) < 1 for line in corner.splitlines()[1:])


def test_a_class_that_is_not_there_gets_no_dice() -> None:
    figure = overlays.draw_overlay(
        picture(), heart() * (heart() != 1), heart() * (heart() != 1), classes=CLASSES, title="", synthetic=False
    )
    assert texts(figure) == ["Dice of this slice\nMyo 1.00\nLV 1.00"]
    empty = np.zeros((64, 64), np.uint8)
    figure = overlays.draw_overlay(picture(), empty, empty, classes=CLASSES, title="", synthetic=False)
    assert texts(figure) == ["Dice of this slice\nno foreground"]


def test_without_a_reference_only_the_prediction_is_drawn() -> None:
    figure = drawn(reference=None)
    assert len(figure.axes[0].collections) == 3
    assert texts(figure) == []
    assert "reference" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_phantom_is_watermarked() -> None:
    assert "phantom" in texts(drawn(synthetic=True))
    assert "phantom" not in texts(drawn())


def test_color_images_and_edges_are_drawn() -> None:
    full = np.ones((64, 64), np.uint8)
    figure = drawn(image=np.repeat(picture()[..., None], 3, axis=2), reference=full)
    outline = next(each for each in figure.axes[0].collections if each.get_linestyle()[0][1] is not None)
    assert len(outline.get_paths()[0].vertices) >= 4 * 64  # the mask fills the image and still has an outline


def store(root: Path, count: int) -> list[Scan]:
    scans = []
    for number in range(count):
        name = f"p{number}_ED"
        write_array(root / "images" / f"{name}.npz", image=np.stack([picture()] * 3))
        write_array(root / "masks" / f"{name}.npz", mask=np.stack([heart()] * 3))
        files = {"image": f"images/{name}.npz", "mask": f"masks/{name}.npz" if number != 1 else None}
        size = {"slices": [4, 5, 6], "shape": (3, 64, 64)}
        scans.append(Scan(scan=name, patient=f"p{number}", image_sha256="0", range=(0, 1), **size, **files))  # type: ignore[arg-type]
    return scans


def test_first_middle_and_last_scan_are_written(tmp_path: Path) -> None:
    scans = store(tmp_path, 5)
    maps = {scan.scan: np.stack([heart(1)] * 3) for scan in scans}
    settings = {"root": tmp_path, "scans": scans, "label_maps": maps, "classes": CLASSES, "synthetic": True}
    paths = overlays.write_overlays(tmp_path / "overlays", **settings, name="qpm eps=0.7, seed 1")  # type: ignore[arg-type]
    assert [path.name for path in paths] == ["p0_ED-5.png", "p2_ED-5.png", "p4_ED-5.png"]
    assert sorted(each.name for each in (tmp_path / "overlays").iterdir()) == [path.name for path in paths]
    with Image.open(paths[0]) as picture_:
        assert picture_.size[0] == 600
    before = paths[0].read_bytes()
    overlays.write_overlays(tmp_path / "overlays", **settings, name="qpm eps=0.7, seed 1")  # type: ignore[arg-type]
    assert paths[0].read_bytes() == before


@pytest.mark.parametrize(("count", "names"), [(0, []), (1, ["p0"]), (2, ["p0", "p1"]), (3, ["p0", "p1", "p2"])])
def test_few_scans_are_drawn_once_each(tmp_path: Path, count: int, names: list[str]) -> None:
    scans = store(tmp_path, count)
    assert [scan.patient for scan in overlays.fixed_cases(scans)] == names
    maps = {scan.scan: np.stack([heart(1)] * 3) for scan in scans}
    paths = overlays.write_overlays(
        tmp_path / "o", root=tmp_path, scans=scans, label_maps=maps, classes=CLASSES, synthetic=False
    )
    assert len(paths) == count


def test_drawing_leaves_pyplot_alone() -> None:
    code = "import sys, vqseg.overlays; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
