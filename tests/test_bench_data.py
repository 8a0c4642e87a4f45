import numpy as np
import pytest
import torch

from vqseg.bench import data
from vqseg.bench.options import Options
from vqseg.config import Augment
from vqseg.dataset import Batches
from vqseg.errors import InputError
from vqseg.store import TensorStore

CPU = torch.device("cpu")


def test_a_quick_run_tells_images_and_their_share(tmp_path):
    trace = tmp_path / "trace.json"
    found = data.measure(Options(repeats=2, quick=True, profile=trace))
    images, share = found.rows
    assert images.unit == "ms" and 0 < images.limit < images.ours and images.naive > 0
    assert 0 < share.ours < 100 and share.target == "<= 8 %" and share.met is not None
    assert found.settings["size_px"] == 16 and trace.is_file() and "aten::" in found.profile


def test_an_unknown_setting_is_named():
    with pytest.raises(InputError, match="--set prest"):
        data.measure(Options(quick=True, extra={"prest": "unet"}))


@pytest.mark.parametrize("views", [1, 2])
def test_the_naive_loader_makes_the_same_kinds_of_tensors(views):
    random = np.random.default_rng(0)
    images, masks = random.integers(0, 256, (6, 1, 24, 24), dtype=np.uint8), np.ones((6, 24, 24), np.uint8)
    masks[:, 8:16] = 2
    augment = Augment(strong_views=views, labelled_strong=True, cutmix_probability=1.0, rotate90_probability=0.5)
    stores = TensorStore(images, masks, CPU), TensorStore(images, None, CPU)
    batches = Batches(*stores, augment=augment, size_px=24, sizes=(3, 4), seed=0)
    image, mask, weak, *strong = data.naive_batch(batches, random)
    batch = batches.at(0)
    assert image.shape == batch.labelled.image.shape and mask.shape == batch.labelled.mask.shape
    assert set(mask.unique().tolist()) <= {0, 1, 2}
    assert len(strong) == len(batch.unlabelled.strong) == views
    for each in (weak, *strong):
        assert each.shape == batch.unlabelled.weak.shape and each.dtype == torch.float32
        assert each.min() >= 0 and each.max() <= 1
    assert not torch.equal(weak, strong[0])


def test_without_any_change_the_naive_loader_gives_the_stored_images():
    images = np.random.default_rng(1).integers(0, 256, (4, 2, 9, 11), dtype=np.uint8)
    still = Augment(
        flip_probability=0, rotation_degrees=0, scale_range=(1, 1), jitter_probability=0, blur_probability=0
    )
    store = TensorStore(images, np.zeros((4, 9, 11), np.uint8), CPU)
    moved, _ = data._moved(store.image(np.array([2])).numpy()[0], None, still, np.random.default_rng(0))
    assert np.allclose(moved, images[2] / 255, atol=1e-6)
    for scale in (0.7, 1.4):
        assert data._fitted(np.ones((round(9 * scale), round(11 * scale))), (9, 11)).shape == (9, 11)
