import dataclasses

import numpy as np
import pandas as pd
import pytest
from medpy.metric import binary

from vqseg.errors import InputError
from vqseg.evaluate import GEOMETRIES, METRICS, case_rows, score
from vqseg.manifest import Scan
from vqseg.protocols import CASE_UNITS, EMPTIES, PROTOCOLS, applicable_protocols, default_protocol, parts_read

CLASSES = ["background", "thing"]
SHAPE, SPACING = (2, 3, 6), (3.0, 1.0, 1.0)
VOXELS, MILLIMETRES = 7.0, 9.0  # diagonals: sqrt(4 + 9 + 36), sqrt(36 + 9 + 36)


def scan(name: str, shape: tuple[int, int, int] = SHAPE, mask: str | None = "masks/x.npz") -> Scan:
    return Scan(
        scan=name,
        patient=name.split("_")[0],
        slices=list(range(shape[0])),
        shape=shape,
        spacing_mm=SPACING,
        image=f"images/{name}.npz",
        image_sha256="0",
        range=(0, 1),
        mask=mask,
    )


def row(prediction: bool, reference: bool, protocol: str, shape: tuple[int, int, int] = SHAPE) -> dict[str, object]:
    arrays = [np.zeros(shape, np.uint8) for _ in range(2)]
    for array, filled in zip(arrays, (prediction, reference)):
        array[0, 1, 1] = filled
    (only,) = case_rows(*arrays, spacing_mm=SPACING, classes=CLASSES, protocol=protocol)
    return only


def values(found: dict[str, object]) -> list[object]:
    return [found[key] for key in ("dice", "jaccard", "hd95_voxel", "asd_voxel", "assd_voxel")]


def millimetres(found: dict[str, object]) -> list[object]:
    return [found[key] for key in ("hd95_mm", "asd_mm", "assd_mm")]


def test_scan_both_empty() -> None:
    found = row(False, False, "scan")
    assert values(found) == [1, 1, 0, 0, 0]
    assert millimetres(found) == [0, 0, 0]
    assert (found["empty_prediction"], found["empty_reference"]) == (True, True)


@pytest.mark.parametrize("filled", [(True, False), (False, True)])
def test_scan_one_empty_costs_the_diagonal(filled: tuple[bool, bool]) -> None:
    found = row(*filled, "scan")
    assert values(found) == [0, 0, VOXELS, VOXELS, VOXELS]
    assert millimetres(found) == [MILLIMETRES] * 3
    assert (found["empty_prediction"], found["empty_reference"]) == (not filled[0], not filled[1])


@pytest.mark.parametrize("filled", [(True, False), (False, True), (False, False)])
def test_ssl4mis_scores_nought_for_every_metric_when_a_mask_is_empty(filled: tuple[bool, bool]) -> None:
    found = row(*filled, "ssl4mis")
    assert values(found) == [0, 0, 0, 0, 0]
    assert np.isnan(np.array(millimetres(found), float)).all()  # the protocol knows voxels only
    assert (found["empty_prediction"], found["empty_reference"]) == (not filled[0], not filled[1])


def test_image_one_empty_costs_the_diagonal_of_the_image() -> None:
    assert values(row(True, False, "image", (1, 3, 4))) == [0, 0, 5, 5, 5]
    assert values(row(False, False, "image", (1, 3, 4))) == [1, 1, 0, 0, 0]


def test_image_measures_outlines_in_the_plane() -> None:
    square, smaller = np.zeros((1, 9, 9), np.uint8), np.zeros((1, 9, 9), np.uint8)
    square[0, 2:7, 2:7], smaller[0, 3:6, 3:6] = 1, 1
    (found,) = case_rows(square, smaller, spacing_mm=None, classes=CLASSES, protocol="image")
    # In the plane the centre voxel of neither square is outline; with a slice axis of 1 all of their voxels would be.
    # Outer outline: 12 pixels at 1, 4 corners at sqrt 2; inner outline: 8 pixels at 1.
    assert found["asd_voxel"] == pytest.approx((12 + 4 * 2**0.5) / 16)
    assert found["assd_voxel"] == pytest.approx((20 + 4 * 2**0.5) / 24)


@pytest.mark.parametrize("filled", [(True, False), (False, True), (False, False)])
def test_the_release_scores_nought_for_every_metric_when_a_mask_is_empty(filled: tuple[bool, bool]) -> None:
    found = row(*filled, "vqseg-release")
    assert values(found) == [0, 0, 0, 0, 0]
    assert np.isnan(np.array(millimetres(found), float)).all()


@pytest.mark.parametrize("filled", [(True, False), (False, True), (False, False), (True, True)])
def test_unimatch_knows_overlap_alone(filled: tuple[bool, bool]) -> None:
    found = row(*filled, "unimatch")
    assert values(found)[:2] == [float(all(filled))] * 2
    assert np.isnan(np.array([*values(found)[2:], *millimetres(found)], float)).all()


@pytest.mark.parametrize("protocol", ["scan", "ssl4mis", "vqseg-release"])
def test_filled_masks_score_alike_under_every_volume_protocol(protocol: str) -> None:
    assert values(row(True, True, protocol)) == [1, 1, 0, 0, 0]


def test_volumes_do_not_get_the_image_protocol() -> None:
    names, reasons = applicable_protocols([scan("a_1"), scan("b_1", (1, 3, 6))], "val", [])
    assert names == ["scan", "ssl4mis"]
    assert reasons == {
        "image": "scan 'a_1' has 2 slices, but a case is one 2-D image",
        "unimatch": "val and test scans together; score test",
        "vqseg-release": "no ED/ES: patient 'a' has 1 scan, a case is two",
    }
    assert default_protocol([scan("a_1"), scan("b_1", (1, 3, 6))]) == "scan"


def test_single_images_get_the_image_protocol_only() -> None:
    scans = [scan("a_1", (1, 3, 6)), scan("b_1", (1, 9, 9))]
    names, reasons = applicable_protocols(scans, "test", scans)
    assert names == ["image"]
    assert set(reasons) == {"scan", "ssl4mis", "unimatch", "vqseg-release"}
    assert all("no volumes" in reason for reason in reasons.values())
    assert default_protocol(scans) == "image"


def test_scans_without_masks_get_no_protocol() -> None:
    names, reasons = applicable_protocols([scan("a_1"), scan("b_1", mask=None)], "test", [scan("c_1")])
    assert names == []
    assert reasons["scan"] == "1 of 2 scans have no mask, the first is 'b_1'"
    assert reasons["unimatch"] == "1 of 3 scans have no mask, the first is 'b_1'"
    assert applicable_protocols([], "test", [])[1]["scan"] == "no scans"


def test_a_data_set_with_everything_gets_every_volume_protocol_on_a_test_part() -> None:
    scans = [scan("p1_ED"), scan("p1_ES", (3, 3, 6))]
    for part in ("test", "devtest"):
        names, reasons = applicable_protocols(scans, part, [scan("p2_ED")])
        assert names == ["scan", "ssl4mis", "unimatch", "vqseg-release"]
        assert set(reasons) == {"image"}


def test_unimatch_needs_validation_scans_with_masks() -> None:
    rule, scans = PROTOCOLS["unimatch"], [scan("p1_ED")]
    assert rule.applicable(scans, "test", [scan("p2_ED")]) is None
    assert rule.applicable(scans, "test", []) == "val and test scans together, but the split has no val scans"
    assert rule.applicable(scans, "test", [scan("p2_ED", mask=None)]) == (
        "1 of 2 scans have no mask, the first is 'p2_ED'"
    )
    for part in ("val", "labelled", "unlabelled"):
        assert rule.applicable(scans, part, [scan("p2_ED")]) == "val and test scans together; score test"


@pytest.mark.parametrize(
    ("names", "shapes", "reason"),
    [
        (["p1_a"], [SHAPE], "no ED/ES: patient 'p1' has 1 scan, a case is two"),
        (["p1_a", "p1_b", "p1_c"], [SHAPE] * 3, "no ED/ES: patient 'p1' has 3 scans, a case is two"),
        (
            ["p1_a", "p1_b"],
            [(2, 3, 6), (2, 4, 6)],
            "no ED/ES: the two scans of patient 'p1' have 3 x 6 and 4 x 6 pixels, a case has one",
        ),
    ],
)
def test_the_release_needs_two_scans_of_one_shape(
    names: list[str], shapes: list[tuple[int, int, int]], reason: str
) -> None:
    scans = [scan("p0_a"), scan("p0_b"), *map(scan, names, shapes)]
    assert PROTOCOLS["vqseg-release"].applicable(scans, "test") == reason
    assert PROTOCOLS["vqseg-release"].applicable(scans[:2], "val") is None


def test_the_parts_that_are_read() -> None:
    assert parts_read(None, "test") == ("test",)
    assert parts_read(["scan", "vqseg-release"], "test") == ("test",)
    assert parts_read(["scan", "unimatch"], "test") == ("test", "val")
    assert parts_read(["all"], "devtest") == ("devtest", "val")
    assert parts_read(["all"], "val") == ("val",)
    assert parts_read(["unimatch"], "labelled") == ("labelled",)  # not applicable there, so nothing else is opened
    with pytest.raises(InputError, match="unknown protocol 'unimtch' .did you mean 'unimatch'"):
        parts_read(["unimtch"], "test")


def test_every_row_names_rows_that_exist() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.geometry in GEOMETRIES
        assert protocol.case_unit in CASE_UNITS
        assert protocol.empty in EMPTIES
        assert protocol.units[:1] == (() if name == "unimatch" else ("voxel",))


def test_rows_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROTOCOLS["scan"].empty = "zero"  # type: ignore[misc]


def test_a_case_is_a_scan() -> None:
    cases = PROTOCOLS["scan"].cases([scan("p1_ED"), scan("p1_ES")])
    assert [(case.name, case.patient, case.scans, case.spacing_mm) for case in cases] == [
        ("p1_ED", "p1", ("p1_ED",), SPACING),
        ("p1_ES", "p1", ("p1_ES",), SPACING),
    ]


# --- vqseg-release: ED and ES stacked in the order of file names


def numbered(name: str, numbers: list[int]) -> Scan:
    return scan(name, (len(numbers), 3, 6)).model_copy(update={"slices": numbers})


def test_slices_stack_as_strings_sort() -> None:
    scans = [numbered("p1_frame12", [1, 2, 10]), numbered("p1_frame01", [9, 10, 11, 100])]
    (case,) = PROTOCOLS["vqseg-release"].cases(scans)
    assert (case.name, case.patient, case.spacing_mm) == ("p1", "p1", None)
    stacked = [f"{each.scan}_{number}" for each in scans for number in each.slices]
    assert case.order is not None
    assert [stacked[place] for place in case.order] == [
        "p1_frame01_10",
        "p1_frame01_100",
        "p1_frame01_11",
        "p1_frame01_9",
        "p1_frame12_1",
        "p1_frame12_10",
        "p1_frame12_2",
    ]


def test_one_case_per_patient_whatever_stands_between_its_scans() -> None:
    scans = [numbered("p1_a", [1]), numbered("p2_a", [1]), numbered("p1_b", [1]), numbered("p2_b", [1])]
    cases = PROTOCOLS["vqseg-release"].cases(scans)
    assert [(case.name, case.scans) for case in cases] == [("p1", ("p1_a", "p1_b")), ("p2", ("p2_a", "p2_b"))]


def heart(slices: int, seed: int, shift: int = 0) -> np.ndarray:
    """Two nested discs that wander from slice to slice."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((20, 24))
    centers = np.array([9 + shift, 11]) + np.cumsum(rng.uniform(-2, 2, (slices, 2)), axis=0)
    radius = np.stack([np.hypot(rows - row, columns - column) for row, column in centers])
    return np.digitize(-radius, [-6, -3]).astype(np.uint8)


def patients() -> tuple[list[Scan], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Two patients of two scans; one prediction loses a class."""
    depths = {"p1_frame01": 12, "p1_frame10": 11, "p2_frame01": 3, "p2_frame10": 10}
    references = {name: heart(depth, seed) for seed, (name, depth) in enumerate(depths.items())}
    predictions = {name: heart(depth, seed + 9, 2) for seed, (name, depth) in enumerate(depths.items())}
    for name in ("p2_frame01", "p2_frame10"):
        predictions[name][predictions[name] == 2] = 1
    scans = [
        numbered(name, list(range(1, depth + 1))).model_copy(update={"shape": (depth, 20, 24)})
        for name, depth in depths.items()
    ]
    return scans, predictions, references


def scored(protocol: str, **options: object) -> pd.DataFrame:
    """All four scans under one protocol, the first two of them from the validation part where it has a pool."""
    scans, predictions, references = patients()
    taken = 2 if PROTOCOLS[protocol].pool else 0
    keys = {"classes": ["background", "outer", "inner"], "checkpoint": "last", "network": "teacher", "part": "test"}
    maps = dict.fromkeys(GEOMETRIES, predictions)
    return score(maps, references, scans[taken:], protocols=[protocol], pool=scans[:taken], **{**keys, **options})  # type: ignore[arg-type]


def releases_table() -> dict[str, list[tuple[float, ...]]]:
    """The release's loop over files, with medpy: patient -> (dice, jaccard, hd95, asd) of each class."""
    _, predictions, references = patients()
    files = {
        f"{name}_slice_{place + 1}.png": (name, place) for name, a in references.items() for place in range(len(a))
    }
    table: dict[str, list[tuple[float, ...]]] = {}
    for patient in sorted({name.split("_")[0] for name in files}):
        own = [files[name] for name in sorted(files) if name.split("_")[0] == patient]
        ours, theirs = (np.stack([a[name][place] for name, place in own]) for a in (predictions, references))
        for index in (1, 2):
            pair = ours == index, theirs == index
            measures = (binary.dc, binary.jc, binary.hd95, binary.asd)
            filled = pair[0].any() and pair[1].any()
            table.setdefault(patient, []).append(tuple(each(*pair) if filled else 0.0 for each in measures))
    return table


def test_the_release_protocol_is_the_releases_loop_with_medpy() -> None:
    rows = scored("vqseg-release").set_index(["case", "class_index"])
    expected = releases_table()
    assert len(rows) == 4
    for (case, index), found in rows.iterrows():
        numbers = [found[key] for key in ("dice", "jaccard", "hd95_voxel", "asd_voxel")]
        assert numbers == pytest.approx(expected[case][index - 1], abs=1e-9, rel=0)
    assert rows.loc[("p2", 2), METRICS[:5]].tolist() == [0] * 5
    assert rows["hd95_mm"].isna().all()


def test_the_string_order_changes_distances_and_no_overlap() -> None:
    rows = scored("vqseg-release")
    _, predictions, references = patients()
    natural = case_rows(
        *(np.concatenate([a["p1_frame01"], a["p1_frame10"]]) for a in (predictions, references)),
        spacing_mm=None,
        classes=["background", "outer", "inner"],
        protocol="vqseg-release",
    )
    first = rows[rows["case"] == "p1"]
    assert first["dice"].tolist() == [each["dice"] for each in natural]
    assert all(first["assd_voxel"].to_numpy() != [each["assd_voxel"] for each in natural])


@pytest.mark.parametrize("protocol", ["scan", "ssl4mis", "vqseg-release", "unimatch"])
def test_every_protocol_agrees_with_medpy(protocol: str) -> None:
    own, medpy = (scored(protocol, library=library) for library in ("own", "medpy"))
    assert len(own) == (4 if protocol == "vqseg-release" else 8)
    np.testing.assert_allclose(own[METRICS].to_numpy(float), medpy[METRICS].to_numpy(float), rtol=0, atol=1e-9)


def test_lesions_and_neighboring_slices_mean_nothing_in_a_stack_of_two_scans() -> None:
    lesions = {"outer": 1.0}
    stacked, whole = (scored(protocol, lesions=lesions) for protocol in ("vqseg-release", "scan"))
    for column in ("lesions", "surface_dice", "slice_consistency", "slice_consistency_reference"):
        assert stacked[column].isna().all()
        assert whole[column].notna().any()


# --- unimatch: val and test scans together


def test_unimatch_scores_the_validation_scans_beside_the_test_scans() -> None:
    scans, predictions, references = patients()
    keys = {"classes": ["background", "outer", "inner"], "checkpoint": "last", "network": "teacher", "part": "devtest"}
    maps = {"bilinear-256": predictions, "native": predictions}
    rows = score(maps, references, scans[2:], protocols=["scan", "unimatch"], pool=scans[:2], **keys)  # type: ignore[arg-type]
    assert set(rows["part"]) == {"devtest"}
    cases = rows.groupby("protocol")["case"].agg(lambda names: list(dict.fromkeys(names)))
    assert cases["scan"] == ["p2_frame01", "p2_frame10"]
    assert cases["unimatch"] == ["p1_frame01", "p1_frame10", "p2_frame01", "p2_frame10"]
    with pytest.raises(
        InputError, match="'unimatch' is not applicable to part devtest: val and test scans together, but"
    ):
        score(maps, references, scans[2:], protocols=["unimatch"], **keys)  # type: ignore[arg-type]


def test_unimatchs_dice_is_the_published_loop() -> None:
    _, predictions, references = patients()
    rows = scored("unimatch")
    assert len(rows) == 8
    for _, found in rows.iterrows():
        ours, theirs = (a[found["case"]] == found["class_index"] for a in (predictions, references))
        expected = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
        assert found["dice"] == pytest.approx(expected, abs=1e-15)
        assert found["jaccard"] == pytest.approx(expected / (2 - expected), abs=1e-12)  # ours, beside the published
