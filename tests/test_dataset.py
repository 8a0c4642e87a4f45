import numpy as np
import pytest
import torch

from vqseg import store
from vqseg.augment import draw_crop, inside
from vqseg.config import Augment
from vqseg.dataset import Batches, Order, Views
from vqseg.errors import InputError
from vqseg.losses import IGNORE
from vqseg.manifest import read_manifest, read_split, scans_of
from vqseg.store import TensorStore, mask_to_input, middle, open_store, to_input, with_context

CPU = torch.device("cpu")


def test_the_order_is_a_permutation_per_epoch_and_needs_no_history():
    order = Order(7, 3, "labelled")
    sequence = np.concatenate([order.rows(step, 4) for step in range(7)])
    for epoch in range(4):
        assert sorted(sequence[epoch * 7 : epoch * 7 + 7]) == list(range(7))
    assert not np.array_equal(sequence[:7], sequence[7:14])
    assert np.array_equal(Order(7, 3, "labelled").rows(5, 4), sequence[20:24])
    assert not np.array_equal(Order(7, 3, "unlabelled").rows(0, 4), sequence[:4])
    assert not np.array_equal(Order(7, 4, "labelled").rows(0, 7), sequence[:7])


def test_a_batch_larger_than_the_data_repeats_it():
    rows = Order(3, 0, "labelled").rows(0, 7)
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [0, 1, 2]


def test_to_input_keeps_range_and_channels():
    volume = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    assert to_input(volume, 16).shape == (3, 1, 16, 16)
    colour = np.stack([volume, volume, volume], -1)
    assert to_input(colour, 16).shape == (3, 3, 16, 16)
    assert to_input(volume, 16).min() >= 0 and to_input(volume, 16).max() <= 1
    assert torch.allclose(to_input(np.full((1, 9, 9), 255, np.uint8), 4), torch.ones(1, 1, 4, 4))


def test_masks_are_resized_by_the_pixel_centre():
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, :, 2:] = 3
    assert mask_to_input(mask, 2)[0].tolist() == [[0, 3], [0, 3]]
    assert mask_to_input(mask, 8)[0, 0].tolist() == [0, 0, 0, 0, 3, 3, 3, 3]


@pytest.fixture
def parts(phantom_root):
    manifest = read_manifest(phantom_root)
    split = read_split(phantom_root, manifest)
    return manifest, scans_of(manifest, split, "labelled"), scans_of(manifest, split, "unlabelled")


def test_a_store_on_disk_gives_the_same_batches_as_one_in_memory(phantom_root, parts, tmp_path, monkeypatch):
    manifest, labelled, _ = parts
    options = {"size_px": 16, "masks": True, "cache": tmp_path, "device": CPU}
    held = open_store(phantom_root, manifest, labelled, **options)
    monkeypatch.setattr(store, "MEMORY_SHARE", 0.0)
    mapped = open_store(phantom_root, manifest, labelled, **options)
    assert isinstance(mapped.images, np.memmap) and isinstance(held.images, torch.Tensor)
    rows = np.array([3, 0, 5])
    assert torch.equal(held.image(rows), mapped.image(rows)) and torch.equal(held.mask(rows), mapped.mask(rows))


def test_a_store_is_made_once(phantom_root, parts, tmp_path):
    manifest, labelled, _ = parts
    for _ in range(2):
        open_store(phantom_root, manifest, labelled, size_px=16, masks=False, cache=tmp_path, device=CPU)
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["images.npy"]


def test_batches_depend_on_the_step_alone(phantom_root, parts, tmp_path):
    manifest, labelled, unlabelled = parts

    def batches():
        stores = [
            open_store(phantom_root, manifest, scans, size_px=16, masks=masks, cache=tmp_path, device=CPU)
            for scans, masks in ((labelled, True), (unlabelled, False))
        ]
        return Batches(*stores, augment=Augment(strong_views=2), size_px=16, sizes=(2, 3), seed=1)

    one, other = batches(), batches()
    for step in range(4):
        one.at(step)
    a, b = one.at(9), other.at(9)
    assert torch.equal(a.labelled.image, b.labelled.image) and torch.equal(a.labelled.mask, b.labelled.mask)
    assert torch.equal(a.unlabelled.weak, b.unlabelled.weak) and len(a.unlabelled.strong) == 2
    for ours, theirs in zip(a.unlabelled.strong, b.unlabelled.strong, strict=True):
        assert torch.equal(ours.image, theirs.image) and torch.equal(ours.mix.box, theirs.mix.box)
    assert not torch.equal(a.unlabelled.strong[0].image, a.unlabelled.strong[1].image)
    assert a.labelled.image.shape == (2, 1, 16, 16) and a.unlabelled.weak.shape == (3, 1, 16, 16)


def test_a_store_without_masks_has_none_to_give():
    store = TensorStore(np.zeros((2, 1, 4, 4), np.uint8), None, CPU)
    with pytest.raises(ValueError, match="without masks"):
        store.mask(np.array([0]))


def test_sixteen_bits_are_read_as_they_are():
    volume = np.array([[[0, 1, 32767], [32768, 40000, 65535]]], np.uint16)
    expected = torch.from_numpy(volume.astype(np.float64) / 65535).float()
    held = TensorStore(volume[:, None], None, CPU)
    assert torch.allclose(held.image(np.array([0]))[0, 0], expected[0], atol=1e-7)
    assert torch.allclose(to_input(volume.repeat(3, 1).repeat(2, 2), 6).max(), torch.tensor(1.0))


def test_context_is_the_slices_around_with_the_last_one_repeated():
    volume = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    assert with_context(volume, 1) is volume
    assert with_context(volume, 3)[:, 0, 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert with_context(volume[:1], 5)[:, 0, 0].tolist() == [[0, 0, 0, 0, 0]]
    two = np.stack([volume, volume + 10], -1)
    assert with_context(two, 3)[1, 0, 0].tolist() == [0, 10, 1, 11, 2, 12]
    images = torch.from_numpy(with_context(two, 3)).movedim(-1, 1)
    assert middle(images, 3)[1, :, 0, 0].tolist() == [1, 11]


def test_a_store_with_context_gives_what_inference_sees(phantom_root, parts, tmp_path):
    from vqseg.manifest import read_image

    manifest, labelled, _ = parts
    held = open_store(phantom_root, manifest, labelled, size_px=32, masks=False, cache=tmp_path, device=CPU, context=3)
    volume = read_image(phantom_root, labelled[1])
    start = len(labelled[0].slices)
    rows = np.arange(start, start + len(volume))
    expected = to_input(with_context(volume, 3), 32)
    assert torch.allclose(held.image(rows), expected, atol=0.5 / 255)


def test_a_share_of_foreground_is_kept_in_every_batch_and_none_asked_changes_nothing():
    images, masks = np.zeros((20, 1, 4, 4), np.uint8), np.zeros((20, 4, 4), np.uint8)
    masks[[3, 11], 0, 0] = 1

    def rows(share):
        made = Batches(
            TensorStore(images, masks, CPU),
            None,
            augment=Augment(),
            size_px=4,
            sizes=(5, 0),
            seed=0,
            foreground_share=share,
            foreground=[1],
        )
        return [made._labelled_rows(step) for step in range(12)]

    plain, helped = rows(0.0), rows(0.3)
    assert min(int(np.isin(each, [3, 11]).sum()) for each in plain) == 0
    assert min(int(np.isin(each, [3, 11]).sum()) for each in helped) == 2
    for one, other in zip(plain, helped, strict=True):
        kept = one == other
        assert kept.sum() >= 3 and np.isin(other[~kept], [3, 11]).all()


def test_a_share_of_one_class_is_not_filled_by_another():
    images, masks = np.zeros((20, 1, 4, 4), np.uint8), np.ones((20, 4, 4), np.uint8)
    masks[[3, 11], 0, 0] = 2
    made = Batches(
        *(TensorStore(images, masks, CPU), None),
        augment=Augment(),
        size_px=4,
        sizes=(5, 0),
        seed=0,
        foreground_share=0.3,
        foreground=[2],
    )
    for step in range(12):
        assert int(np.isin(made._labelled_rows(step), [3, 11]).sum()) == 2


def test_a_share_of_what_resizing_lost_is_refused():
    held = TensorStore(np.zeros((3, 1, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), CPU)
    with pytest.raises(InputError, match="no labelled image as it is stored shows .* data.geometry=crop"):
        Batches(held, None, augment=Augment(), size_px=4, sizes=(2, 0), seed=0, foreground_share=0.5, foreground=[1])


@pytest.mark.parametrize("turned", [False, True])
def test_a_share_of_foreground_is_kept_in_crops_too(turned):
    random = np.random.default_rng(0)
    images, masks = np.zeros((12, 1, 200, 160), np.uint8), np.zeros((12, 200, 160), np.uint8)
    masks[:, :, 0] = 1  # at the edge of every image, and not asked for
    for row, column, mask in zip(random.integers(40, 150, 6), random.integers(40, 110, 6), masks[::2], strict=True):
        mask[row : row + 5, column : column + 5] = 2
    settings = Augment() if turned else Augment(rotation_degrees=0, scale_range=(1.0, 1.0), flip_probability=0)
    held = TensorStore(images, masks, CPU, sizes=np.tile([200, 160], (12, 1)))

    def shown(share):
        made = Batches(
            held, None, augment=settings, size_px=48, sizes=(4, 0), seed=0, foreground_share=share, foreground=[2]
        )
        return [int((made.at(step).labelled.mask == 2).any(-1).any(-1).sum()) for step in range(40)]

    assert min(shown(0.0)) == 0
    assert min(shown(0.5)) >= 2


def test_windows_upon_a_point_wander_and_stay_in_the_image():
    theta = torch.eye(2, 3).expand(200, 2, 3)
    sizes, canvas = torch.tensor([[40.0, 60.0]]).expand(200, 2), (40, 60)
    points = torch.full((200, 2), torch.nan)
    points[:100] = torch.tensor([50.5, 3.5])
    drawn = draw_crop(theta, sizes, canvas, 16, torch.Generator().manual_seed(0), points=points)
    free = draw_crop(theta, sizes, canvas, 16, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[100:], free[100:])
    left = (drawn[:100, 0, 2] + 1) / 2 * 60 - 8
    top = (drawn[:100, 1, 2] + 1) / 2 * 40 - 8
    assert left.min() > 35 and left.max() < 44.01 and left.max() - left.min() > 5
    assert top.min() >= 0 and top.max() < 3.5
    assert inside(drawn, sizes, canvas, 16).all()


def test_scans_of_two_depths_are_no_one_store(phantom_root, parts, tmp_path, monkeypatch):
    manifest, labelled, _ = parts
    read = store.read_image
    second = labelled[1].scan

    def mixed(root, scan):
        volume = read(root, scan)
        return volume.astype(np.uint16) if scan.scan == second else volume

    monkeypatch.setattr(store, "read_image", mixed)
    with pytest.raises(InputError, match=f"scan '{second}': stored as uint16, scan .* as uint8"):
        open_store(phantom_root, manifest, labelled, size_px=32, masks=False, cache=tmp_path, device=CPU)


def a_canvas():
    """Two images whose value is their row / 100: 20 x 30 and 40 x 16 pixels."""
    sizes = [(20, 30), (40, 16)]
    images, masks = np.zeros((2, 1, 40, 30), np.uint8), np.zeros((2, 40, 30), np.uint8)
    for place, (height, width) in enumerate(sizes):
        images[place, 0, :height, :width] = 10 + np.arange(height)[:, None]
        masks[place, :height, :width] = 1
    return TensorStore(images, masks, CPU, sizes=np.array(sizes))


def test_crops_keep_the_scale_and_what_leaves_the_image_is_ignored():
    settings = Augment(flip_probability=0, rotation_degrees=0, scale_range=(1.0, 1.0))
    made = Batches(a_canvas(), None, augment=settings, size_px=24, sizes=(2, 0), seed=3)
    for step in range(5):
        batch, rows = made.at(step).labelled, made._labelled_rows(step)
        for image, mask, row in zip(batch.image[:, 0], batch.mask, rows, strict=True):
            height, width = [(20, 30), (40, 16)][row]
            there = mask != IGNORE
            assert there.sum() == min(height, 24) * min(width, 24)
            assert (mask[there] == 1).all() and not image[~there].any()
            # A row further down is one value more: no scaling, and the window starts at a whole or half pixel.
            down = image[:, 0][there[:, 0]] * 255
            assert torch.allclose(down.diff()[1:-1], torch.ones(1), atol=1e-3)


def test_crops_of_smaller_images_begin_at_their_first_pixel_and_windows_wander_in_larger_ones():
    settings = Augment(flip_probability=0, rotation_degrees=0, scale_range=(1.0, 1.0))
    views = Views(a_canvas(), settings, 24)
    generator = torch.Generator().manual_seed(0)
    rows = np.array([0, 1] * 20)
    there = views.there(rows, views.geometry(rows, generator))
    assert there[::2, 0, :].all() and not there[::2, 20:, :].any()
    image, _ = views.take(rows, views.geometry(rows, generator), masks=False)
    starts = image[1::2, 0, 0, 0] * 255 - 10
    assert 0 <= starts.min() < 4 and 12 < starts.max() <= 16.01


def test_flips_and_scales_of_crops_stay_inside():
    settings = Augment(flip_probability=1.0, flip_vertical_probability=0.0, rotation_degrees=0, scale_range=(2.0, 2.0))
    views = Views(a_canvas(), settings, 24)
    rows = np.array([0, 1])
    theta = views.geometry(rows, torch.Generator().manual_seed(1))
    assert views.there(rows, theta).all()  # at twice the size both are larger than the window
    image, _ = views.take(rows, theta, masks=False)
    assert torch.allclose((image[:, 0, :, 5] * 255).diff(dim=1)[:, 1:-1], torch.full((2, 21), 0.5), atol=1e-3)
    assert (theta[:, 0, 0] < 0).all() and (theta[:, 1, 1] > 0).all()


def test_views_are_the_stored_images_only_without_any_geometry(phantom_root, parts, tmp_path):
    manifest, labelled, _ = parts
    held = open_store(phantom_root, manifest, labelled, size_px=16, masks=True, cache=tmp_path, device=CPU)
    still = Augment(flip_probability=0, rotation_degrees=0, scale_range=(1.0, 1.0))
    views = Views(held, still, 16)
    rows = np.array([2, 0])
    image, _ = views.take(rows, views.geometry(rows, torch.Generator()), masks=False)
    assert views.numbers(rows).tolist() == [2, 0] and torch.allclose(image, held.image(rows), atol=1e-6)
    for moving in ({"flip_probability": 0.1}, {"rotation_degrees": 1.0}, {"scale_range": (1.0, 1.1)}):
        assert Views(held, still.model_copy(update=moving), 16).numbers(rows) is None
    assert not Views(a_canvas(), still, 24).still
