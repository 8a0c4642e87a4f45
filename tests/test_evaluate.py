import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom
from torch import Tensor
from torch.nn import functional

from vqseg import evaluate
from vqseg.errors import InputError
from vqseg.evaluate import COLUMNS, CONSISTENCY, EXTRAS, METRICS, Recipe
from vqseg.identity import scoring_hash
from vqseg.inference import zoom0
from vqseg.lesions import COLUMNS as LESIONS_COLUMNS
from vqseg.manifest import Scan
from vqseg.metrics import class_dice, slice_consistency

torch.set_num_threads(1)

ACDC = Path(__file__).resolve().parents[2] / "shared" / "data" / "acdc"
CLASSES = ["background", "RV", "Myo", "LV"]
LESIONS = list(LESIONS_COLUMNS)
SHADE = 60  # grey levels between classes in the pictures that the oracle reads


def oracle(images: Tensor) -> Tensor:
    """A perfect network on pictures whose grey value is SHADE times the class."""
    levels = torch.arange(4).view(1, 4, 1, 1) * SHADE / 255
    return -((images[:, :1] - levels) ** 2) * 1e3


def label_volume(shape: tuple[int, int, int] = (5, 60, 52), seed: int = 0) -> np.ndarray:
    """Nested discs: classes 0 ... 3 from the outside in."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape[1:]) / 2 + rng.uniform(-3, 3, 2)
    rows, columns = np.indices(shape[1:])
    radius = np.hypot(rows - centre[0], columns - centre[1])
    volume = np.stack([np.digitize(-radius, [-(20 - s), -(13 - s), -(7 - s)]) for s in range(shape[0])])
    return volume.astype(np.uint8)


def scans_of(shapes: dict[str, tuple[int, int, int]], spacing: tuple[float, float, float] | None = None) -> list[Scan]:
    return [
        Scan(
            scan=name,
            patient=name.split("_")[0],
            slices=list(range(shape[0])),
            shape=shape,
            spacing_mm=spacing,
            image=f"images/{name}.npz",
            image_sha256="0",
            range=(0, 1),
            mask=f"masks/{name}.npz",
        )
        for name, shape in shapes.items()
    ]


def scored(
    predictions: dict[str, np.ndarray],
    references: dict[str, np.ndarray],
    spacing: tuple[float, float, float] | None = None,
    **options: object,
) -> pd.DataFrame:
    settings_ = {"protocols": ["scan"], "classes": CLASSES, "part": "val", "checkpoint": "last", "network": "teacher"}
    scans = scans_of({name: array.shape for name, array in references.items()}, spacing)
    maps = {"native": predictions, "zoom0-256": predictions}
    return evaluate.score(maps, references, scans, **{**settings_, **options})  # type: ignore[arg-type]


# --- label maps


@pytest.mark.parametrize("recipe", [Recipe(64), Recipe(64, "crop"), Recipe(24, "crop")])
@pytest.mark.parametrize("geometry", sorted(evaluate.GEOMETRIES))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("levels", [255, 65535])
def test_a_perfect_network_gives_the_labels_back(geometry: str, channels: int, levels: int, recipe: Recipe) -> None:
    labels = label_volume((5, 64, 64))
    picture = labels.astype(np.uint8 if levels == 255 else np.uint16) * (SHADE * (levels // 255))
    picture = picture if channels == 1 else np.repeat(picture[..., None], 3, axis=3)
    found = evaluate.label_map(oracle, picture, geometry, recipe, "cpu", batch=2)
    assert found.dtype == np.uint8
    assert found.shape == labels.shape
    kept = class_dice(found, labels, 4)
    assert kept.min() > (0.97 if geometry == "bilinear-256" else 1 - 1e-9)  # grey between two classes is a third one


def test_native_geometry_resizes_to_the_recipe_and_back() -> None:
    seen: list[torch.Size] = []

    def predict(images: Tensor) -> Tensor:
        seen.append(images.shape)
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        return oracle(images)

    labels = (label_volume((3, 90, 70)) > 0).astype(np.uint8)
    found = evaluate.label_map(predict, labels * SHADE, "native", Recipe(48), batch=2)
    assert seen == [(2, 1, 48, 48), (1, 1, 48, 48)]
    assert found.shape == labels.shape
    assert class_dice(found, labels, 4)[0] > 0.97


def test_native_geometry_of_crops_slides_half_a_window() -> None:
    corners: list[float] = []

    def predict(images: Tensor) -> Tensor:
        assert images.shape[1:] == (1, 16, 16)
        corners.extend(images[:, 0, 0, 0].mul(255).round().tolist())
        return oracle(images)

    places = np.add.outer(np.arange(32), np.zeros(24)).astype(np.uint8)[None]  # grey value = row
    evaluate.label_map(predict, places, "native", Recipe(16, "crop"))
    assert corners == [0, 0, 8, 8, 16, 16]  # rows 0, 8, 16 by columns 0, 8


def test_the_size_of_the_recipe_does_not_change_a_protocols_own() -> None:
    sizes: list[tuple[int, ...]] = []

    def predict(images: Tensor) -> Tensor:
        sizes.append(tuple(images.shape))
        return oracle(images)

    for geometry in ("zoom0-256", "bilinear-256", "tiles-224"):
        evaluate.label_map(predict, label_volume((3, 300, 20)), geometry, Recipe(16))
    # 300 pixels are two tiles of 224; three slices of 300 x 20 fit into one pass.
    assert sizes == [(3, 1, 256, 256), (3, 1, 256, 256), (6, 1, 224, 224)]


@pytest.mark.parametrize(
    ("geometry", "recipe", "own"),
    [
        ("native", Recipe(100), True),
        ("native", Recipe(100, "crop"), True),
        ("zoom0-256", Recipe(256), True),
        ("zoom0-256", Recipe(224), False),
        ("bilinear-256", Recipe(256, "crop"), False),
        ("tiles-224", Recipe(224, "crop"), True),
        ("tiles-224", Recipe(224), False),
    ],
)
def test_a_geometry_is_a_recipes_own_if_size_and_kind_agree(geometry: str, recipe: Recipe, own: bool) -> None:
    assert evaluate.GEOMETRIES[geometry].own(recipe) is own


@pytest.mark.parametrize("recipe", [Recipe(32), Recipe(16, "crop")])
def test_batches_do_not_change_label_maps(recipe: Recipe) -> None:
    volume = np.random.default_rng(0).integers(0, 255, (7, 40, 44), np.uint8)
    maps = [evaluate.label_map(oracle, volume, "native", recipe, batch=batch) for batch in (1, 3, 7, 16)]
    assert all(np.array_equal(maps[0], other) for other in maps[1:])


@pytest.mark.parametrize("geometry", sorted(evaluate.GEOMETRIES))
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["resize", "crop"])
def test_neighboring_slices_come_as_channels_across_batches(geometry: str, channels: int, kind: str) -> None:
    seen: list[np.ndarray] = []

    def predict(images: Tensor) -> Tensor:
        seen.extend(images[:, :, 8, 8].mul(255).round().numpy().astype(int))
        return torch.zeros(len(images), 2, *images.shape[-2:])

    volume = np.broadcast_to(np.arange(1, 6, dtype=np.uint8)[:, None, None], (5, 16, 16))
    if channels == 2:
        volume = np.stack([volume, volume + 100], axis=-1)
    found = evaluate.label_map(predict, volume, geometry, Recipe(16, kind, 3), batch=2)  # type: ignore[arg-type]
    assert found.shape == (5, 16, 16)
    around = [[1, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 5]]
    expected = around if channels == 1 else [[v for n in row for v in (n, n + 100)] for row in around]
    kept = {tuple(row) for row in expected}
    assert [tuple(row) for row in seen if tuple(row) in kept] == [tuple(row) for row in expected]


def test_unknown_geometry_is_named() -> None:
    with pytest.raises(InputError, match=r"unknown geometry 'natve' .*'native'"):
        evaluate.label_map(oracle, label_volume(), "natve", Recipe(32))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 400), st.integers(2, 400))
def test_zoom_of_order_nought_is_scipys(size: int, target: int) -> None:
    image = np.random.default_rng(size).integers(1, 255, (size, 33)).astype(np.uint8)
    expected = zoom(image, (target / size, 47 / 33), order=0)
    assert np.array_equal(zoom0(image[None], (target, 47))[0], expected)
    colored = zoom0(np.stack([image, image + 1], -1)[None], (target, 47))[0]
    assert np.array_equal(colored[..., 0], expected)


def test_zoom_keeps_scipys_lost_last_line() -> None:
    image = np.ones((255, 4), np.uint8)
    assert zoom(image, (354 / 255, 1), order=0)[-1].tolist() == [0] * 4
    assert zoom0(image[None], (354, 4))[0, -1].tolist() == [0] * 4


def test_the_zoom_geometry_is_the_published_loop() -> None:
    volume = np.random.default_rng(1).integers(0, 4, (2, 216, 247)).astype(np.uint8) * SHADE
    expected = []
    for image in volume:
        height, width = image.shape
        small = zoom(image, (256 / height, 256 / width), order=0)
        labels = oracle(torch.from_numpy(small)[None, None].float() / 255).argmax(1)[0].numpy()
        expected.append(zoom(labels, (height / 256, width / 256), order=0))
    assert np.array_equal(evaluate.label_map(oracle, volume, "zoom0-256", Recipe(64)), np.stack(expected))


def test_the_bilinear_geometry_is_the_published_loop() -> None:
    volume = np.random.default_rng(1).integers(0, 256, (3, 216, 447)).astype(np.uint8)
    images = torch.from_numpy(volume).float()[None] / 255  # UniMatch's loader: one scan a batch, slices as channels
    small = functional.interpolate(images, (256, 256), mode="bilinear", align_corners=False).permute(1, 0, 2, 3)
    full = functional.interpolate(oracle(small), (216, 447), mode="bilinear", align_corners=False)
    found = evaluate.label_map(oracle, volume, "bilinear-256", Recipe(64))
    assert np.array_equal(found, full.argmax(1).numpy())
    antialiased = evaluate.label_map(oracle, volume, "native", Recipe(256))
    assert not np.array_equal(found, antialiased)  # the recipe's own resizing is another one


def release_tiles(image: np.ndarray, side: int = 224) -> np.ndarray:
    """Tiles of one slice as the release cuts them, here with numpy alone."""
    height, width = image.shape
    padded = np.pad(image, [(0, -height % side), (0, -width % side)])
    labels = np.zeros(padded.shape, np.uint8)
    for top in range(0, padded.shape[0], side):
        for left in range(0, padded.shape[1], side):
            tile = padded[top : top + side, left : left + side].astype(np.float32) / 255
            labels[top : top + side, left : left + side] = corner(torch.from_numpy(tile)[None, None]).argmax(1)[0]
    return labels[:height, :width]


def corner(images: Tensor) -> Tensor:
    """A network whose classes depend on where in its input a pixel lies, and on the brightness of all of it."""
    rows = torch.linspace(0, 1, images.shape[-1])[None, None, :, None]
    return oracle(images * 0.5 + rows * 0.2 + images.mean(dim=(1, 2, 3), keepdim=True) * 0.3)


@pytest.mark.parametrize("shape", [(224, 224), (100, 90), (256, 216), (300, 500), (448, 224)])
def test_the_tiles_are_the_releases(shape: tuple[int, int]) -> None:
    volume = np.random.default_rng(2).integers(0, 256, (2, *shape)).astype(np.uint8)
    found = evaluate.label_map(corner, volume, "tiles-224", Recipe(64))
    assert np.array_equal(found, np.stack([release_tiles(image) for image in volume]))


def test_an_image_of_one_tile_is_predicted_directly() -> None:
    volume = np.random.default_rng(3).integers(0, 256, (2, 224, 224)).astype(np.uint8)
    direct = corner(torch.from_numpy(volume).float()[:, None] / 255).argmax(1).numpy()
    assert np.array_equal(evaluate.label_map(corner, volume, "tiles-224", Recipe(224, "crop")), direct)
    assert np.array_equal(evaluate.label_map(corner, volume, "native", Recipe(224, "crop")), direct)
    assert np.array_equal(evaluate.label_map(corner, volume, "native", Recipe(224)), direct)


def test_label_maps_survive_the_disk(tmp_path: Path) -> None:
    path = evaluate.label_path(
        tmp_path, part="val", checkpoint="last", network="teacher", geometry="native", scan="p1_ED"
    )
    assert path == tmp_path / "labels" / "val-last-teacher-native" / "p1_ED.npz"
    evaluate.save_label_map(path, label_volume())
    assert np.array_equal(evaluate.load_label_map(path), label_volume())
    assert [each.name for each in path.parent.iterdir()] == ["p1_ED.npz"]
    path.write_bytes(b"half a file")
    with pytest.raises(InputError, match="not readable"):
        evaluate.load_label_map(path)
    with pytest.raises(InputError, match="no such label map"):
        evaluate.load_label_map(tmp_path / "none.npz")


# --- rows


def test_rows_have_the_documented_columns() -> None:
    labels = label_volume()
    rows = scored({"p1_ED": labels}, {"p1_ED": labels}, (10.0, 1.5, 1.5), protocols=["scan", "ssl4mis"])
    assert list(rows.columns) == COLUMNS
    assert len(rows) == 6
    assert rows["class_name"].tolist() == CLASSES[1:] * 2
    assert rows["class_index"].tolist() == [1, 2, 3] * 2
    assert rows["geometry"].tolist() == ["native"] * 3 + ["zoom0-256"] * 3
    assert set(rows["case_unit"]) == {"scan"}
    assert set(rows["patient"]) == {"p1"}
    assert set(rows["scoring"]) == {scoring_hash()}
    assert (rows["dice"] == 1).all()
    assert (rows["hd95_voxel"] == 0).all()
    assert rows["hd95_mm"].isna().tolist() == [False] * 3 + [True] * 3


def test_unknown_spacing_leaves_millimetres_empty() -> None:
    labels = label_volume()
    rows = scored({"p1_ED": np.roll(labels, 2, 1)}, {"p1_ED": labels})
    assert rows[["hd95_mm", "asd_mm", "assd_mm"]].isna().all(axis=None)
    assert (rows["hd95_voxel"] > 0).all()


def test_medpy_as_the_library_gives_the_same_rows() -> None:
    labels = label_volume()
    arrays = {"p1_ED": np.roll(labels, (2, 3), (1, 2))}, {"p1_ED": labels}
    own = scored(*arrays, (10.0, 1.5, 1.2), protocols=["scan", "ssl4mis"])
    medpy = scored(*arrays, (10.0, 1.5, 1.2), protocols=["scan", "ssl4mis"], library="medpy")
    np.testing.assert_allclose(own[METRICS].to_numpy(float), medpy[METRICS].to_numpy(float), rtol=0, atol=1e-9)


def test_a_missing_medpy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "medpy.metric", None)
    labels = label_volume()
    with pytest.raises(InputError, match=r"medpy.*not installed"):
        scored({"p1_ED": labels}, {"p1_ED": labels}, library="medpy")
    assert len(scored({"p1_ED": labels}, {"p1_ED": labels})) == 3


def test_what_cannot_be_scored_is_named() -> None:
    labels = label_volume()
    with pytest.raises(InputError, match="'image' is not applicable to part val: scan 'p1_ED' has 5 slices"):
        scored({"p1_ED": labels}, {"p1_ED": labels}, protocols=["image"])
    with pytest.raises(InputError, match=r"unknown protocol 'scna'.*'scan'"):
        scored({"p1_ED": labels}, {"p1_ED": labels}, protocols=["scna"])
    with pytest.raises(InputError, match="'p1_ED' has no label map of geometry 'native'"):
        scored({}, {"p1_ED": labels})
    with pytest.raises(InputError, match="unknown distance library"):
        scored({"p1_ED": labels}, {"p1_ED": labels}, library="monai")
    with pytest.raises(ValueError, match="shape"):
        scored({"p1_ED": labels[1:]}, {"p1_ED": labels})


def test_merge_replaces_a_key_and_keeps_the_others(tmp_path: Path) -> None:
    path, labels = tmp_path / "rows.parquet", label_volume()
    references = {"p1_ED": labels}
    evaluate.merge_rows(path, scored({"p1_ED": labels}, references, protocols=["scan", "ssl4mis"]))
    evaluate.merge_rows(path, scored({"p1_ED": labels}, references, network="student"))
    worse = scored({"p1_ED": np.roll(labels, 5, 1)}, references)
    evaluate.merge_rows(path, worse)
    evaluate.merge_rows(path, worse)
    rows = pd.read_parquet(path)
    assert list(rows.columns) == COLUMNS
    assert rows["empty_prediction"].dtype == bool
    counts = rows.groupby(["network", "protocol"])["dice"].agg(["size", "max"])
    assert counts["size"].to_dict() == {("student", "scan"): 3, ("teacher", "scan"): 3, ("teacher", "ssl4mis"): 3}
    assert counts.loc[("teacher", "scan"), "max"] < 1 == counts.loc[("teacher", "ssl4mis"), "max"]
    assert [each.name for each in tmp_path.iterdir()] == ["rows.parquet"]


def test_rows_of_before_a_column_merge_read_and_average(tmp_path: Path) -> None:
    path, labels = tmp_path / "rows.parquet", label_volume()
    rows = scored({"p1_ED": labels}, {"p1_ED": labels}, protocols=["scan", "ssl4mis"])
    old = rows.drop(columns=EXTRAS).assign(mark="kept")
    old.to_parquet(path, index=False)
    (mean, _) = evaluate.aggregate(old).to_dict("records")
    assert mean["dice"] == 1
    assert np.isnan([mean[name] for name in EXTRAS]).all()
    evaluate.merge_rows(path, rows[rows["protocol"] == "scan"])
    merged = pd.read_parquet(path)
    assert list(merged.columns) == [*COLUMNS, "mark"]
    assert merged["empty_prediction"].dtype == bool
    known = merged.set_index("protocol")["slice_consistency"].notna()
    assert known["scan"].all() and not known["ssl4mis"].any()
    assert len(merged) == 6
    assert len(evaluate.aggregate(merged)) == 2


def test_columns_of_lesions_are_filled_for_lesions_alone() -> None:
    labels = label_volume()
    found = np.where(labels == 1, 0, labels)
    found[0, 0, :3] = 1
    rows = scored({"p1_ED": found}, {"p1_ED": labels}, (10.0, 1.5, 2.0), lesions={"RV": 2.0, "other": 1.0})
    rows = rows.set_index("class_name")
    assert rows.loc[["Myo", "LV"], LESIONS].isna().all(axis=None)
    voxels = 3 - int((labels == 1).sum())
    values = {"lesions": 1, "lesions_found": 0, "lesion_sensitivity": 0, "false_positives": 1, "surface_dice": 0}
    values |= {"volume_error_voxel": voxels, "volume_error_ml": pytest.approx(voxels * 30 / 1000)}
    assert rows.loc["RV", LESIONS].to_dict() == values
    assert scored({"p1_ED": found}, {"p1_ED": labels})[LESIONS].isna().all(axis=None)


@pytest.mark.parametrize(("protocol", "surface"), [("scan", 1.0), ("ssl4mis", 0.0)])
def test_an_absent_lesion_scores_as_the_protocol_has_it(protocol: str, surface: float) -> None:
    healthy = {"p1_ED": np.zeros((3, 8, 8), np.uint8)}
    rows = scored(healthy, healthy, (5.0, 1.0, 1.0), protocols=[protocol], lesions={"RV": 2.0})
    found = rows.set_index("class_name").loc["RV"]
    assert found[["lesions", "lesions_found", "false_positives"]].tolist() == [0, 0, 0]
    assert np.isnan(found["lesion_sensitivity"])
    assert found["surface_dice"] == surface
    assert found["volume_error_ml"] == found["volume_error_voxel"] == 0


def test_aggregate_sums_lesions_and_averages_what_is_known() -> None:
    labels, healthy = label_volume(), np.zeros((5, 60, 52), np.uint8)
    wrong = healthy.copy()
    wrong[0, 0, 0] = wrong[0, 5, 5] = 1
    predictions = {"p1_ED": labels, "p2_ED": np.where(labels == 1, 0, labels).astype(np.uint8), "p3_ED": wrong}
    references = {"p1_ED": labels, "p2_ED": labels, "p3_ED": healthy}
    rows = scored(predictions, references, (5.0, 1.0, 1.0), lesions={"RV": 1.0})
    (mean,) = evaluate.aggregate(rows).to_dict("records")
    assert (mean["lesions"], mean["lesions_found"]) == (2, 1)
    assert mean["lesion_sensitivity"] == 0.5  # of the two cases that have one
    assert mean["false_positives"] == pytest.approx(2 / 3)  # per scan, healthy ones too
    assert mean["surface_dice"] == pytest.approx(1 / 3)
    assert mean["slice_consistency"] == pytest.approx(rows["slice_consistency"].mean())
    rows.loc[rows.index[0], "volume_error_ml"] = np.nan
    (mean,) = evaluate.aggregate(rows).to_dict("records")
    assert np.isnan(mean["volume_error_ml"])


def test_slice_consistency_is_that_of_each_mask() -> None:
    labels = label_volume()
    torn = labels.copy()
    torn[2] = np.roll(torn[2], 9, 0)
    rows = scored({"p1_ED": torn}, {"p1_ED": labels})
    assert (rows["slice_consistency"] < rows["slice_consistency_reference"]).all()
    expected = [slice_consistency(labels == index) for index in (1, 2, 3)]
    assert rows["slice_consistency_reference"].tolist() == expected
    image = {"a": labels[:1]}
    assert scored(image, image, protocols=["image"])[CONSISTENCY].isna().all(axis=None)


def test_aggregate_counts_empties_and_averages_beside_them() -> None:
    labels = label_volume()
    lost = np.where(labels == 1, 0, labels)  # the RV is gone
    rows = scored({"p1_ED": labels, "p1_ES": lost}, {"p1_ED": labels, "p1_ES": labels}, (2.0, 1.0, 1.0))
    (mean,) = evaluate.aggregate(rows).to_dict("records")
    voxels, millimetres = (np.linalg.norm(np.array(labels.shape) * s) for s in (1, (2, 1, 1)))
    assert mean["dice"] == mean["jaccard"] == pytest.approx(5 / 6)
    assert mean["hd95_voxel"] == pytest.approx(voxels / 6)
    assert mean["hd95_mm"] == pytest.approx(millimetres / 6)
    assert mean["hd95_voxel_nonempty"] == mean["asd_mm_nonempty"] == 0
    assert (mean["empties"], mean["cases"], mean["patients"]) == (1, 2, 1)
    assert mean["jaccard_plausible"]
    by_class = evaluate.aggregate(rows, [*evaluate.KEYS, "class_name"]).set_index("class_name")
    assert by_class["dice"].to_dict() == {"RV": 0.5, "Myo": 1.0, "LV": 1.0}


def test_aggregate_does_not_average_over_a_part_of_the_cases() -> None:
    labels = label_volume()
    rows = scored({"p1_ED": labels}, {"p1_ED": labels}, (2.0, 1.0, 1.0))
    other = scored({"p2_ED": labels}, {"p2_ED": labels})
    (mean,) = evaluate.aggregate(pd.concat([rows, other])).to_dict("records")
    assert np.isnan(mean["hd95_mm"])
    assert mean["hd95_voxel"] == 0


def test_importing_the_scorer_loads_no_torch() -> None:
    code = "import sys, vqseg.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- real scans


def acdc(count: int) -> dict[str, np.ndarray]:
    if not (ACDC / "val.list").is_file():
        pytest.skip("no ACDC data beside the checkout")
    import h5py

    names = (ACDC / "val.list").read_text().split()[:count]
    labels = {}
    for name in names:
        with h5py.File(ACDC / "data" / f"{name}.h5") as file:
            labels[name] = file["label"][:].astype(np.uint8)
    return labels


def simulated(labels: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    noisy = {name: np.where(rng.random(a.shape) < 0.02, rng.integers(0, 4, a.shape), a) for name, a in labels.items()}
    return {
        "random": {name: array.astype(np.uint8) for name, array in noisy.items()},
        "shifted": {name: np.roll(array, (1, 3, -2), (0, 1, 2)) for name, array in labels.items()},
        "empty": {name: np.zeros_like(array) for name, array in labels.items()},
        "perfect": labels,
    }


def assert_scorer_is_medpys(labels: dict[str, np.ndarray]) -> None:
    for predictions in simulated(labels).values():
        rows = [scored(predictions, labels, (10.0, 1.5625, 1.25), library=library) for library in ("own", "medpy")]
        own, medpy = (table[METRICS].to_numpy(float) for table in rows)
        np.testing.assert_allclose(own, medpy, rtol=0, atol=1e-9)


def heart(labels: np.ndarray, margin: int = 6) -> np.ndarray:
    """Cut a scan down to the heart: medpy's time grows with the field of view."""
    lines = [np.flatnonzero(labels.any(axis=axes)) for axes in ((0, 2), (0, 1))]
    rows, columns = (slice(max(line[0] - margin, 0), line[-1] + margin) for line in lines)
    return labels[:, rows, columns]


def test_scorer_equals_medpy_on_the_hearts_of_all_validation_scans() -> None:
    labels = acdc(20)
    assert len(labels) == 20
    assert_scorer_is_medpys({name: heart(array) for name, array in labels.items()})


@pytest.mark.slow
def test_scorer_equals_medpy_on_all_whole_validation_scans() -> None:
    assert_scorer_is_medpys(acdc(20))


def test_the_256_px_round_trip_keeps_real_labels() -> None:
    labels = acdc(20)
    kept = [
        class_dice(evaluate.label_map(oracle, array * SHADE, "zoom0-256", Recipe(256)), array, 4)
        for array in labels.values()
    ]
    assert np.mean(kept) >= 0.999
