import dataclasses

import numpy as np
import pytest

from vqseg.evaluate import GEOMETRIES, case_rows
from vqseg.manifest import Scan
from vqseg.protocols import CASE_UNITS, EMPTIES, PROTOCOLS, applicable_protocols, default_protocol

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


@pytest.mark.parametrize("protocol", ["scan", "ssl4mis"])
def test_filled_masks_score_alike_under_every_volume_protocol(protocol: str) -> None:
    assert values(row(True, True, protocol)) == [1, 1, 0, 0, 0]


def test_volumes_do_not_get_the_image_protocol() -> None:
    names, reasons = applicable_protocols([scan("a_1"), scan("b_1", (1, 3, 6))])
    assert names == ["scan", "ssl4mis"]
    assert reasons == {"image": "scan 'a_1' has 2 slices, but a case is one 2-D image"}
    assert default_protocol([scan("a_1"), scan("b_1", (1, 3, 6))]) == "scan"


def test_single_images_get_the_image_protocol_only() -> None:
    scans = [scan("a_1", (1, 3, 6)), scan("b_1", (1, 9, 9))]
    names, reasons = applicable_protocols(scans)
    assert names == ["image"]
    assert set(reasons) == {"scan", "ssl4mis"}
    assert "no volumes" in reasons["scan"]
    assert default_protocol(scans) == "image"


def test_scans_without_masks_get_no_protocol() -> None:
    names, reasons = applicable_protocols([scan("a_1"), scan("b_1", mask=None)])
    assert names == []
    assert reasons["scan"] == "1 of 2 scans have no mask, the first is 'b_1'"
    assert applicable_protocols([])[1]["scan"] == "no scans"


def test_every_row_names_rows_that_exist() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.geometry in GEOMETRIES
        assert protocol.case_unit in CASE_UNITS
        assert protocol.empty in EMPTIES
        assert protocol.units[0] == "voxel"


def test_rows_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROTOCOLS["scan"].empty = "zero"  # type: ignore[misc]


def test_a_case_is_a_scan() -> None:
    cases = PROTOCOLS["scan"].cases([scan("p1_ED"), scan("p1_ES")])
    assert [(case.name, case.patient, case.scans, case.spacing_mm) for case in cases] == [
        ("p1_ED", "p1", ("p1_ED",), SPACING),
        ("p1_ES", "p1", ("p1_ES",), SPACING),
    ]
