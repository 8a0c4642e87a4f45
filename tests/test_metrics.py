import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from medpy.metric import binary
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

from vqseg import metrics

SPACINGS = (None, (10.0, 1.5625, 1.25), (0.3, 2.0, 7.0))


def medpy(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...] | None) -> tuple[float, ...]:
    return tuple(each(prediction, reference, spacing) for each in (binary.hd95, binary.asd, binary.assd))


def blob(shape: tuple[int, ...], seed: int, centre: tuple[float, ...], radius: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)
    distance = np.sqrt(sum(((axis - c) / (s / 2)) ** 2 for axis, c, s in zip(grid, centre, shape)))
    mask = distance + rng.normal(0, 0.08, shape) < radius
    mask[tuple(min(round(c), s - 1) for c, s in zip(centre, shape))] = True  # never empty, however thin
    return mask


def assert_equal_to_medpy(prediction: np.ndarray, reference: np.ndarray) -> None:
    spacings = [None if spacing is None else spacing[-prediction.ndim :] for spacing in SPACINGS]
    found = metrics.distances_in_units(prediction, reference, spacings)
    for spacing, ours in zip(spacings, found):
        assert ours == pytest.approx(medpy(prediction, reference, spacing), abs=1e-9, rel=0)
        assert metrics.distances(prediction, reference, spacing) == ours
    assert metrics.dice(prediction, reference) == binary.dc(prediction, reference)
    assert metrics.jaccard(prediction, reference) == binary.jc(prediction, reference)


def test_shifted_squares_by_hand() -> None:
    one, other = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    one[2:6, 2:6] = True
    other[2:6, 4:8] = True
    assert metrics.dice(one, other) == 2 * 8 / 32
    assert metrics.jaccard(one, other) == 8 / 24


def test_two_voxels_three_mm_apart() -> None:
    one, other = np.zeros((3, 5, 5), bool), np.zeros((3, 5, 5), bool)
    one[1, 2, 2] = other[2, 2, 2] = True
    assert metrics.distances(one, other, (3.0, 1.0, 1.0)) == (3.0, 3.0, 3.0)
    assert metrics.distances(one, other) == (1.0, 1.0, 1.0)


def test_asd_has_a_direction_and_hd95_has_none() -> None:
    point, pair = np.zeros(10, bool), np.zeros(10, bool)
    point[2] = True
    pair[[2, 8]] = True
    there, back = metrics.distances(point, pair), metrics.distances(pair, point)
    assert (there.asd, back.asd) == (0.0, 3.0)  # (0) against (0 + 6) / 2
    assert there.assd == back.assd == 2.0  # (0 + 0 + 6) / 3
    assert there.hd95 == back.hd95 == pytest.approx(5.4)  # 0, 0, 6: 95 % lies .9 of the way from 0 to 6


@pytest.mark.parametrize("shape", [(12, 40, 36), (3, 30, 44), (1, 20, 20), (2, 2, 30), (30, 26)])
@pytest.mark.parametrize("seed", range(3))
def test_blobs_equal_medpy(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres = [tuple(rng.uniform(0.3, 0.6, len(shape)) * (np.array(shape) - 1)) for _ in range(2)]
    assert_equal_to_medpy(blob(shape, seed, centres[0], 0.5), blob(shape, seed + 10, centres[1], 0.4))


@pytest.mark.parametrize("shape", [(8, 20, 24), (24, 20)])
def test_masks_that_touch_the_edges_equal_medpy(shape: tuple[int, ...]) -> None:
    corner, full = np.zeros(shape, bool), np.ones(shape, bool)
    corner[tuple(slice(0, side // 2) for side in shape)] = True
    far = np.flip(corner)
    for pair in ((corner, full), (full, corner), (corner, far), (full, full)):
        assert_equal_to_medpy(*pair)
    assert_equal_to_medpy(blob(shape, 0, (0,) * len(shape), 0.8), blob(shape, 1, shape, 0.9))


def test_single_and_stray_voxels_equal_medpy() -> None:
    one, other = np.zeros((6, 30, 30), bool), np.zeros((6, 30, 30), bool)
    one[0, 0, 0] = other[5, 29, 29] = True
    assert_equal_to_medpy(one, other)
    other[2:4, 10:20, 10:20] = True
    assert_equal_to_medpy(one, other)
    one[2:4, 11:21, 9:20] = True
    assert_equal_to_medpy(one, other)


def test_shifted_masks_and_strided_views_equal_medpy() -> None:
    mask = blob((10, 40, 40), 3, (5, 20, 20), 0.6)
    assert_equal_to_medpy(np.roll(mask, (1, 3, -4), (0, 1, 2)), mask)
    assert_equal_to_medpy(mask.T, np.roll(mask, 2, 1).T)
    assert_equal_to_medpy(mask[:, ::2, ::-1], mask[:, 1::2])


def whole(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...] | None) -> tuple[float, ...]:
    """The plain twin: a distance transform of the whole array per direction and unit."""
    surfaces = [mask & ~binary_erosion(mask) for mask in (prediction, reference)]
    there, back = (
        distance_transform_edt(~goal, sampling=spacing)[start] for start, goal in (surfaces, reversed(surfaces))
    )
    pooled = np.concatenate((there, back))
    return float(np.percentile(pooled, 95)), float(there.mean()), float(pooled.mean())


@pytest.mark.parametrize("shape", [(7, 90, 140), (40, 45, 50), (120, 150)])
@pytest.mark.parametrize("seed", range(2))
def test_islands_everywhere_equal_the_distance_transform_of_the_whole(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    compact = blob(shape, seed, tuple(side * 0.7 for side in shape), 0.2)
    islands = gaussian_filter(rng.standard_normal(shape), 1.5)
    few, corner = islands > np.quantile(islands, 0.9999), np.zeros(shape, bool)
    corner[(0,) * len(shape)] = True  # further off than any first look
    for other in (islands > np.quantile(islands, 0.9), few, corner, ~corner):
        for pair in ((other, compact), (compact, other)):
            for spacing in (*SPACINGS, (2.5, 1.25, 1.25)):
                sides = None if spacing is None else spacing[-len(shape) :]
                found, expected = metrics.distances(*pair, sides), whole(*pair, sides)
                if spacing is None:
                    assert found == expected  # roots of whole numbers: bit for bit
                assert found == pytest.approx(expected, rel=1e-12, abs=0)


def test_units_asked_for_together_are_those_asked_for_alone() -> None:
    one, other = blob((6, 50, 60), 0, (3, 20, 20), 0.5), blob((6, 50, 60), 1, (2, 30, 40), 0.4)
    together = metrics.distances_in_units(one, other, SPACINGS)
    assert together == [metrics.distances(one, other, spacing) for spacing in SPACINGS]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7))
def test_random_masks_equal_medpy(data: st.DataObject, shape: tuple[int, ...]) -> None:
    masks = hnp.arrays(bool, shape).filter(lambda mask: bool(mask.any()))
    assert_equal_to_medpy(data.draw(masks), data.draw(masks))


def test_distances_take_integer_masks() -> None:
    mask = np.zeros((4, 9, 9), np.uint8)
    mask[1:3, 2:6, 2:6] = 2
    assert metrics.distances(mask, np.roll(mask, 1, 2) // 2) == metrics.distances(mask > 0, np.roll(mask, 1, 2) > 0)


def test_distances_refuse_what_has_none() -> None:
    mask, empty = np.ones((2, 3, 3), bool), np.zeros((2, 3, 3), bool)
    with pytest.raises(ValueError, match="prediction is empty"):
        metrics.distances(empty, mask)
    with pytest.raises(ValueError, match="reference is empty"):
        metrics.distances(mask, empty)
    with pytest.raises(ValueError, match="shape"):
        metrics.distances(mask, mask[0])
    for spacing in ((1.0, 1.0), (1.0, 0.0, 1.0)):
        with pytest.raises(ValueError, match="3 positive lengths"):
            metrics.distances(mask, mask, spacing)


def test_class_dice_is_dice_per_class() -> None:
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 3, (2, 5, 8, 9)).astype(np.uint8)
    found = metrics.class_dice(prediction, reference, 4)
    assert found[:2] == pytest.approx([metrics.dice(prediction == k, reference == k) for k in (1, 2)], abs=1e-15)
    assert found[2] == 1.0  # neither holds class 3
    reference[0, 0, 0] = 3
    assert metrics.class_dice(prediction, reference, 4)[2] == 0.0


def test_confusion_counts_reference_by_prediction() -> None:
    counts = metrics.confusion(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]), 3)
    assert counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    dice, jaccard = metrics.overlaps(counts)
    assert dice.tolist() == pytest.approx([2 / 3, 2 / 3])
    assert jaccard.tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match=r"reference holds 0 \.\.\. 3"):
        metrics.confusion(np.array([0, 1]), np.array([0, 3]), 3)
    with pytest.raises(ValueError, match="prediction has shape"):
        metrics.confusion(np.zeros((2, 2)), np.zeros(4), 3)


def test_two_empty_masks_overlap_fully() -> None:
    empty = np.zeros((2, 2), bool)
    assert metrics.dice(empty, empty) == metrics.jaccard(empty, empty) == 1.0
    assert metrics.dice(empty, ~empty) == metrics.jaccard(empty, ~empty) == 0.0


def test_diagonal_in_voxels_and_mm() -> None:
    assert metrics.diagonal((2, 3, 6)) == 7.0
    assert metrics.diagonal((2, 3, 6), (3.0, 1.0, 1.0)) == 9.0


# The published ACDC table of the method: Dice, Jaccard, whether one set of cases can give both.
@pytest.mark.parametrize(
    ("dice", "jaccard", "possible"),
    [
        (0.9057, 0.8173, False),
        (0.9103, 0.8327, False),
        (0.8874, 0.7924, False),
        (0.8915, 0.7983, False),
        (0.8920, 0.8082, True),
        (0.9040, 0.8278, True),
        (0.5, 0.6, False),
        (1.0, 1.0, True),
        (0.0, 0.0, True),
    ],
)
def test_jaccard_plausible(dice: float, jaccard: float, possible: bool) -> None:
    assert metrics.jaccard_plausible(dice, jaccard, tolerance=5e-5) is possible


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_own_means_are_always_plausible(scores: list[float]) -> None:
    values = np.array(scores)
    assert metrics.jaccard_plausible(float(values.mean()), float((values / (2 - values)).mean()))


def test_token_classes_take_the_majority() -> None:
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, :2, :2] = [[1, 1], [1, 0]]
    mask[0, 2:, 2:] = [[2, 2], [1, 1]]
    assert metrics.token_classes(mask, (2, 2), 3).tolist() == [[[1, 0], [0, 1]]]


def test_token_classes_share_pixels_across_borders() -> None:
    # Three pixels over two cells: each cell is one whole pixel and half of the middle one.
    assert metrics.token_classes(np.array([[[1, 0, 2]]], np.uint8), (1, 2), 3).tolist() == [[[1, 2]]]
    # Five over two: 2.5 pixels each, of which cell 0 has 1 + .5 of class 1 and cell 1 has 1.5 of class 0.
    assert metrics.token_classes(np.array([[[0, 1, 1, 0, 0]]], np.uint8), (1, 2), 2).tolist() == [[[1, 0]]]
    # Finer than the mask: every cell lies in one pixel.
    assert metrics.token_classes(np.array([[[1, 2]]], np.uint8), (1, 4), 3).tolist() == [[[1, 1, 2, 2]]]


def test_token_classes_equal_supersampling() -> None:
    mask = np.random.default_rng(2).integers(0, 4, (2, 9, 10)).astype(np.uint8)
    fine = mask.repeat(4, 1).repeat(3, 2)  # (36, 30): divisible by 4 x 6
    cells = fine.reshape(2, 4, 9, 6, 5).transpose(0, 1, 3, 2, 4).reshape(2, 4, 6, 45)
    expected = np.stack([(cells == k).sum(-1) for k in range(4)]).argmax(0)
    assert np.array_equal(metrics.token_classes(mask, (4, 6), 4), expected)


def line(*columns: int, width: int = 10) -> np.ndarray:
    """One row of pixels, all of which are surface."""
    mask = np.zeros((1, width), bool)
    mask[0, list(columns)] = True
    return mask


@pytest.mark.parametrize(("tolerance", "expected"), [(0, 0.8), (0.99, 0.8), (1, 0.9), (2, 1.0), (9, 1.0)])
def test_surface_dice_is_the_share_of_both_surfaces_within_the_tolerance(tolerance: float, expected: float) -> None:
    # Six pixels against four: those in columns 4 and 5 lie 1 and 2 pixels from the nearest of the other.
    one, other = line(0, 1, 2, 3, 4, 5), line(0, 1, 2, 3)
    assert metrics.surface_dice(one, other, tolerance) == pytest.approx(expected, abs=1e-15)
    assert metrics.surface_dice(other, one, tolerance) == pytest.approx(expected, abs=1e-15)


def test_surface_dice_in_mm_on_anisotropic_voxels() -> None:
    one, other = np.zeros((3, 5, 5), bool), np.zeros((3, 5, 5), bool)
    one[1, 2, 2] = other[2, 2, 2] = True
    assert metrics.surface_dice(one, other, 4.999, (5.0, 1.0, 1.0)) == 0
    assert metrics.surface_dice(one, other, 5.0, (5.0, 1.0, 1.0)) == 1
    assert metrics.surface_dice(one, np.roll(one, 1, 2), 1.0, (5.0, 1.0, 1.0)) == 1
    assert metrics.surface_dice(one, other, 1.0) == 1


def test_a_distance_equal_to_the_tolerance_is_within_it_whatever_floats_say() -> None:
    assert 3 * 0.1 > 0.3
    assert metrics.surface_dice(line(0), line(3), 0.3, (1.0, 0.1)) == 1


@pytest.mark.parametrize("spacing", [None, (4.0, 1.0, 0.5)])
def test_surface_dice_equals_all_pairs_of_surface_voxels(spacing: tuple[float, ...] | None) -> None:
    one, other = blob((6, 14, 15), 0, (2.5, 6, 7), 0.5), blob((6, 14, 15), 1, (2.5, 7, 8), 0.45)
    points = []
    for mask in (one, other):
        padded = np.pad(mask, 1)
        inner = np.ones_like(mask)
        for axis in range(3):
            for step in (-1, 1):
                inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
        points.append(np.argwhere(mask & ~inner) * np.array(spacing or (1, 1, 1)))
    apart = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    for tolerance in (0.0, 1.0, 2.0, 3.5):
        within = (apart.min(1) <= tolerance).sum() + (apart.min(0) <= tolerance).sum()
        expected = within / sum(map(len, points))
        assert metrics.surface_dice(one, other, tolerance, spacing) == pytest.approx(expected, abs=1e-12)


def test_surface_dice_refuses_what_has_no_surface() -> None:
    with pytest.raises(ValueError, match="reference is empty"):
        metrics.surface_dice(line(1), line(), 1.0)
    with pytest.raises(ValueError, match="2 positive lengths"):
        metrics.surface_dice(line(1), line(2), 1.0, (1.0,))


def stack(*slices: tuple[int, ...]) -> np.ndarray:
    return np.stack([line(*columns) for columns in slices])


def test_slice_consistency_is_the_mean_dice_of_neighboring_slices() -> None:
    assert metrics.slice_consistency(stack((1, 2), (1, 2), (1, 2))) == 1
    # Dice 2 * 1 / 4, then 2 * 1 / 3.
    assert metrics.slice_consistency(stack((1, 2), (2, 3), (3,))) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_slice_consistency_looks_from_the_first_slice_of_a_class_to_its_last() -> None:
    assert metrics.slice_consistency(stack((), (), (1, 2), (1, 2), ())) == 1  # where it ends is no inconsistency
    assert metrics.slice_consistency(stack((1,), (), (1,))) == 0  # a hole is
    assert metrics.slice_consistency(stack((1,), (1,), (), (), (1,))) == pytest.approx(1 / 3)  # pairs 1-2, 2-3, 4-5


@pytest.mark.parametrize("slices", [((), ()), ((1,), ()), ((1, 2),)])
def test_slice_consistency_needs_a_pair(slices: tuple[tuple[int, ...], ...]) -> None:
    assert np.isnan(metrics.slice_consistency(stack(*slices)))
