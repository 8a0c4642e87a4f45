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

from vqseg import evaluate
from vqseg.errors import InputError
from vqseg.evaluate import COLUMNS, METRICS
from vqseg.identity import scoring_hash
from vqseg.manifest import Scan
from vqseg.metrics import class_dice

torch.set_num_threads(1)

ACDC = Path(__file__).resolve().parents[2] / "shared" / "data" / "acdc"
CLASSES = ["background", "RV", "Myo", "LV"]
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


@pytest.mark.parametrize("geometry", sorted(evaluate.GEOMETRIES))
@pytest.mark.parametrize("channels", [1, 3])
def test_a_perfect_network_gives_the_labels_back(geometry: str, channels: int) -> None:
    labels = label_volume((5, 64, 64))
    picture = labels * SHADE if channels == 1 else np.repeat((labels * SHADE)[..., None], 3, axis=3)
    found = evaluate.label_map(oracle, picture, geometry, 64, "cpu", batch=2)
    assert found.dtype == np.uint8
    assert found.shape == labels.shape
    assert np.array_equal(found, labels)


def test_native_geometry_resizes_to_the_recipe_and_back() -> None:
    seen: list[torch.Size] = []

    def predict(images: Tensor) -> Tensor:
        seen.append(images.shape)
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        return oracle(images)

    labels = (label_volume((3, 90, 70)) > 0).astype(np.uint8)
    found = evaluate.label_map(predict, labels * SHADE, "native", 48, batch=2)
    assert seen == [(2, 1, 48, 48), (1, 1, 48, 48)]
    assert found.shape == labels.shape
    assert class_dice(found, labels, 4)[0] > 0.97


def test_the_input_geometry_can_be_the_recipes_own() -> None:
    calls: list[tuple[tuple[int, ...], int]] = []

    def to_input(slices: np.ndarray, side: int) -> Tensor:
        calls.append((slices.shape, side))
        return torch.zeros(len(slices), 1, side, side)

    evaluate.label_map(oracle, label_volume((3, 30, 20)), "native", 16, to_input=to_input)
    evaluate.label_map(oracle, label_volume((3, 30, 20)), "zoom0-256", 16, to_input=to_input)
    assert calls == [((3, 30, 20), 16), ((3, 256, 256), 256)]


def test_batches_do_not_change_label_maps() -> None:
    volume = np.random.default_rng(0).integers(0, 255, (7, 40, 44), np.uint8)
    maps = [evaluate.label_map(oracle, volume, "native", 32, batch=batch) for batch in (1, 3, 7, 16)]
    assert all(np.array_equal(maps[0], other) for other in maps[1:])


def test_unknown_geometry_is_named() -> None:
    with pytest.raises(InputError, match=r"unknown geometry 'natve' .*'native'"):
        evaluate.label_map(oracle, label_volume(), "natve", 32)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 400), st.integers(2, 400))
def test_zoom_of_order_nought_is_scipys(size: int, target: int) -> None:
    image = np.random.default_rng(size).integers(1, 255, (size, 33)).astype(np.uint8)
    expected = zoom(image, (target / size, 47 / 33), order=0)
    assert np.array_equal(evaluate.zoom0(image[None], (target, 47))[0], expected)
    colored = evaluate.zoom0(np.stack([image, image + 1], -1)[None], (target, 47))[0]
    assert np.array_equal(colored[..., 0], expected)


def test_zoom_keeps_scipys_lost_last_line() -> None:
    image = np.ones((255, 4), np.uint8)
    assert zoom(image, (354 / 255, 1), order=0)[-1].tolist() == [0] * 4
    assert evaluate.zoom0(image[None], (354, 4))[0, -1].tolist() == [0] * 4


def test_the_zoom_geometry_is_the_published_loop() -> None:
    volume = np.random.default_rng(1).integers(0, 4, (2, 216, 247)).astype(np.uint8) * SHADE
    expected = []
    for image in volume:
        height, width = image.shape
        small = zoom(image, (256 / height, 256 / width), order=0)
        labels = oracle(torch.from_numpy(small)[None, None].float() / 255).argmax(1)[0].numpy()
        expected.append(zoom(labels, (height / 256, width / 256), order=0))
    assert np.array_equal(evaluate.label_map(oracle, volume, "zoom0-256", 64), np.stack(expected))


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
        class_dice(evaluate.label_map(oracle, array * SHADE, "zoom0-256", 256), array, 4) for array in labels.values()
    ]
    assert np.mean(kept) >= 0.999
