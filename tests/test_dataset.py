import numpy as np
import pytest
import torch

from vqseg import dataset
from vqseg.config import Augment
from vqseg.dataset import Batches, Order, TensorStore, mask_to_input, open_store, to_input
from vqseg.manifest import read_manifest, read_split, scans_of

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
    monkeypatch.setattr(dataset, "MEMORY_SHARE", 0.0)
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
        return Batches(*stores, augment=Augment(), sizes=(2, 3), seed=1)

    one, other = batches(), batches()
    for step in range(4):
        one.at(step)
    a, b = one.at(9), other.at(9)
    assert torch.equal(a.labelled.image, b.labelled.image) and torch.equal(a.labelled.mask, b.labelled.mask)
    assert torch.equal(a.unlabelled.weak, b.unlabelled.weak) and torch.equal(a.unlabelled.strong, b.unlabelled.strong)
    assert a.labelled.image.shape == (2, 1, 16, 16) and a.unlabelled.weak.shape == (3, 1, 16, 16)


def test_a_store_without_masks_has_none_to_give():
    store = TensorStore(np.zeros((2, 1, 4, 4), np.uint8), None, CPU)
    with pytest.raises(ValueError, match="without masks"):
        store.mask(np.array([0]))
