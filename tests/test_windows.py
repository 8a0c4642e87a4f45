import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vqseg.windows import cut, groups, windowed


def picture(count: int, height: int, width: int, channels: int = 1) -> Tensor:
    return torch.arange(1.0, count * channels * height * width + 1).view(count, channels, height, width)


def twice(images: Tensor) -> Tensor:
    """Two classes out of one channel."""
    return torch.cat([images, -images], dim=1)


@pytest.mark.parametrize("stride", [1, 3, 8, 20])
def test_an_image_of_one_window_is_predicted_directly(stride: int) -> None:
    image = picture(2, 8, 8)
    assert torch.equal(windowed(twice, image, 8, stride), twice(image))


def test_windows_side_by_side_are_put_back_in_place() -> None:
    seen: list[torch.Size] = []

    def predict(images: Tensor) -> Tensor:
        seen.append(images.shape)
        return images

    image = picture(2, 4, 6)
    assert torch.equal(windowed(predict, image, 2, 2), image)
    assert seen == [(12, 1, 2, 2)]  # 2 images of 2 x 3 windows in one pass


def test_padding_is_zero_at_the_right_and_bottom_and_cut_off_again() -> None:
    tiles: list[Tensor] = []

    def predict(images: Tensor) -> Tensor:
        tiles.extend(images)
        return images + 1

    image = torch.ones(1, 1, 5, 3)
    found = windowed(predict, image, 4, 4)
    assert found.shape == (1, 1, 5, 3)
    assert torch.equal(found, image + 1)
    upper, lower = tiles
    assert upper[0].tolist() == [[1, 1, 1, 0]] * 4
    assert lower[0].tolist() == [[1, 1, 1, 0], [0] * 4, [0] * 4, [0] * 4]


def test_logits_are_averaged_where_windows_overlap() -> None:
    numbers = iter(range(10))

    def predict(images: Tensor) -> Tensor:  # window number n says n everywhere
        return torch.stack([torch.full_like(each, float(next(numbers))) for each in images])

    found = windowed(predict, torch.zeros(1, 1, 2, 8), 4, 2)[0, 0]
    # One row of windows from columns 0, 2 and 4: numbers 0, 1, 2.
    assert found.tolist() == [[0, 0, 0.5, 0.5, 1.5, 1.5, 2, 2]] * 2


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 23), st.integers(1, 23), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
def test_every_pixel_is_covered_whatever_the_sizes(height: int, width: int, side: int, step: int, batch: int) -> None:
    stride = min(step, side)
    image = picture(2, height, width)
    found = windowed(twice, image, side, stride, batch=batch)
    assert torch.allclose(found, twice(image))


def test_passes_hold_no_more_windows_than_asked_for() -> None:
    sizes: list[int] = []

    def predict(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images

    windowed(predict, picture(3, 8, 8), 4, 4, batch=5)
    assert sizes == [5, 5, 2]


def test_cut_gives_the_windows_image_by_image() -> None:
    image = picture(2, 3, 4, channels=2)
    windows = cut(image, 2, 2)
    assert windows.shape == (8, 2, 2, 2)
    assert torch.equal(windows[0], image[0, :, :2, :2])
    assert torch.equal(windows[1], image[0, :, :2, 2:])
    assert torch.equal(windows[4], image[1, :, :2, :2])
    assert windows[2][:, 1].tolist() == [[0, 0], [0, 0]]  # the fourth row is padding
    assert cut(torch.ones(1, 1, 2, 2, dtype=torch.uint8), 4, 4).dtype == torch.uint8


def test_groups_are_no_larger_than_a_pass() -> None:
    assert list(groups(5, (4, 4), 4, 2)) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert list(groups(3, (100, 100), 4, 16)) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    rows = np.concatenate([np.arange(7)[group] for group in groups(7, (4, 8), 4, 6)])
    assert rows.tolist() == list(range(7))
