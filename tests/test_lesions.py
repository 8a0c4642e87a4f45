import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqseg.lesions import COLUMNS, lesion_counts, lesion_values


def mask(*voxels: tuple[int, ...], shape: tuple[int, ...] = (4, 9, 9)) -> np.ndarray:
    found = np.zeros(shape, bool)
    for voxel in voxels:
        found[voxel] = True
    return found


def counts(prediction: np.ndarray, reference: np.ndarray) -> tuple[float, ...]:
    found = lesion_counts(prediction, reference)
    return tuple(found[name] for name in ("lesions", "lesions_found", "lesion_sensitivity", "false_positives"))


def test_two_lesions_one_of_them_missed() -> None:
    reference = mask((0, 1, 1), (0, 1, 2), (3, 7, 7))
    prediction = mask((0, 1, 2), (0, 1, 3))
    assert counts(prediction, reference) == (2, 1, 0.5, 0)


def test_invented_lesions_are_counted_one_by_one() -> None:
    reference = mask((0, 1, 1))
    prediction = mask((0, 1, 1), (0, 5, 5), (0, 5, 6), (3, 8, 8))
    assert counts(prediction, reference) == (1, 1, 1, 2)


def test_touching_without_a_common_voxel_finds_nothing() -> None:
    assert counts(mask((1, 4, 5)), mask((1, 4, 4))) == (1, 0, 0, 1)


def test_lesions_that_touch_are_one_and_one_prediction_may_find_two() -> None:
    assert counts(mask((1, 4, 4)), mask((1, 4, 4), (1, 4, 5))) == (1, 1, 1, 0)
    bridge = mask((1, 4, 2), (1, 4, 3), (1, 4, 4))
    assert counts(bridge, mask((1, 4, 2), (1, 4, 4))) == (2, 2, 1, 0)


@pytest.mark.parametrize("other", [(2, 5, 5), (1, 5, 5), (2, 5, 4), (2, 3, 5)])
def test_diagonal_neighbors_belong_together_in_a_volume(other: tuple[int, int, int]) -> None:
    assert counts(mask(), mask((1, 4, 4), other))[0] == 1


def test_voxels_two_apart_do_not_belong_together() -> None:
    assert counts(mask(), mask((1, 4, 4), (3, 4, 4), (1, 6, 6)))[0] == 3


def test_diagonal_neighbors_belong_together_in_an_image() -> None:
    assert counts(mask(shape=(9, 9)), mask((4, 4), (5, 5), (3, 5), shape=(9, 9)))[0] == 1
    assert counts(mask((0, 0), (1, 1), (0, 8), shape=(9, 9)), mask((1, 1), shape=(9, 9))) == (1, 1, 1, 1)


def test_empty_masks() -> None:
    assert counts(mask((0, 0, 0), (3, 8, 8)), mask())[:2] == (0, 0)
    assert counts(mask((0, 0, 0), (3, 8, 8)), mask())[3] == 2
    assert counts(mask(), mask((0, 0, 0))) == (1, 0, 0, 0)
    nothing = counts(mask(), mask())
    assert nothing[:2] == (0, 0)
    assert math.isnan(nothing[2])
    assert nothing[3] == 0
    assert math.isnan(counts(mask((0, 0, 0)), mask())[2])


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="prediction has shape"):
        lesion_counts(mask(), mask(shape=(9, 9)))


def flood(volume: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Components by a plain flood fill over all neighbors, diagonal ones too."""
    left = {tuple(int(i) for i in voxel) for voxel in np.argwhere(volume)}
    found = []
    while left:
        edge = [left.pop()]
        component = set(edge)
        while edge:
            here = edge.pop()
            near = {v for v in left if max(abs(a - b) for a, b in zip(v, here)) == 1}
            left -= near
            component |= near
            edge += near
        found.append(component)
    return found


@settings(max_examples=60, deadline=None)
@given(st.data(), hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6))
def test_counts_are_those_of_a_flood_fill(data: st.DataObject, shape: tuple[int, ...]) -> None:
    thin = hnp.arrays(np.uint8, shape, elements=st.integers(0, 5)).map(lambda array: array == 0)
    prediction, reference = data.draw(thin), data.draw(thin)
    lesions, found, _, invented = counts(prediction, reference)
    theirs, ours = flood(reference), flood(prediction)
    assert lesions == len(theirs)
    assert found == sum(any(prediction[voxel] for voxel in component) for component in theirs)
    assert invented == sum(not any(reference[voxel] for voxel in component) for component in ours)


def test_volume_error_is_prediction_minus_reference() -> None:
    few, many = mask((0, 0, 0)), mask((0, 0, 0), (0, 0, 1), (0, 0, 2))
    more = lesion_values(many, few, tolerance=1, spacing=(5.0, 2.0, 1.5), empty_surface=0)
    assert more["volume_error_voxel"] == 2
    assert more["volume_error_ml"] == pytest.approx(2 * 15 / 1000)
    less = lesion_values(few, many, tolerance=1, spacing=(5.0, 2.0, 1.5), empty_surface=0)
    assert less["volume_error_ml"] == -more["volume_error_ml"]
    unknown = lesion_values(many, few, tolerance=1, spacing=None, empty_surface=0)
    assert math.isnan(unknown["volume_error_ml"])
    assert unknown["volume_error_voxel"] == 2


def test_an_image_has_no_volume() -> None:
    found = lesion_values(
        mask((0, 0), shape=(9, 9)), mask((0, 1), shape=(9, 9)), tolerance=1, spacing=(1, 1), empty_surface=0
    )
    assert math.isnan(found["volume_error_ml"])
    assert found["volume_error_voxel"] == 0
    assert found["surface_dice"] == 1
    assert tuple(found) == COLUMNS


@pytest.mark.parametrize(("tolerance", "expected"), [(2.9, 0.0), (3.0, 1.0)])
def test_the_tolerance_is_in_mm_where_the_spacing_is_known(tolerance: float, expected: float) -> None:
    one, other = mask((1, 4, 4)), mask((2, 4, 4))
    found = lesion_values(one, other, tolerance=tolerance, spacing=(3.0, 1.0, 1.0), empty_surface=0)
    assert found["surface_dice"] == expected
    assert lesion_values(one, other, tolerance=tolerance, spacing=None, empty_surface=0)["surface_dice"] == 1


@pytest.mark.parametrize("pair", [(mask(), mask()), (mask((0, 0, 0)), mask()), (mask(), mask((0, 0, 0)))])
def test_the_protocol_says_what_the_surface_of_an_empty_mask_scores(pair: tuple[np.ndarray, np.ndarray]) -> None:
    for value in (0.0, 1.0):
        assert lesion_values(*pair, tolerance=1, spacing=None, empty_surface=value)["surface_dice"] == value
