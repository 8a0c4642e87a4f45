import math

import pytest
import torch
import torch.nn.functional as F

from vqseg.augment import (
    CutMix,
    _affine_grid,
    apply_geometry,
    apply_intensity,
    draw_cutmix,
    draw_geometry,
    draw_intensity,
)
from vqseg.config import Augment

STILL = Augment(flip_probability=0, rotation_degrees=0, scale_range=(1, 1))


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(count=4):
    images = torch.rand(count, 1, 16, 16, generator=stream(1))
    return images, (images[:, 0] * 3).long()


def test_without_change_geometry_is_the_identity():
    images, masks = picture()
    out, moved = apply_geometry(draw_geometry(STILL, 4, stream()), images, masks)
    assert torch.allclose(out, images, atol=1e-5) and torch.equal(moved, masks)


def test_flips_and_quarter_turns_move_image_and_mask_alike():
    images, masks = picture()
    settings = Augment(flip_probability=1, rotation_degrees=0, scale_range=(1, 1))
    out, moved = apply_geometry(draw_geometry(settings, 4, stream()), images, masks)
    assert torch.allclose(out, images.flip(2, 3), atol=1e-5) and torch.equal(moved, masks.flip(1, 2))
    settings = Augment(flip_probability=0, rotate90_probability=1, rotation_degrees=0, scale_range=(1, 1))
    out, moved = apply_geometry(draw_geometry(settings, 64, stream()), images[:1].expand(64, -1, -1, -1), None)
    turns = [torch.rot90(images[0, 0], k) for k in range(4)]
    found = {min(range(4), key=lambda k: (row[0] - turns[k]).abs().sum().item()) for row in out}
    assert found == {0, 1, 2, 3}


@pytest.mark.parametrize("degrees", [0.0, 45.0])
def test_masks_keep_their_classes(degrees):
    images, masks = picture()
    _, moved = apply_geometry(draw_geometry(Augment(rotation_degrees=degrees), 4, stream()), images, masks)
    assert moved.dtype == torch.long and set(moved.unique().tolist()) <= {0, 1, 2}


def test_intensity_stays_in_range_and_depends_on_the_stream_alone():
    images, _ = picture(32)
    settings = Augment(noise_sigma=0.1, noise_probability=0.5)
    a, b, c = (apply_intensity(draw_intensity(settings, 32, stream(s)), images) for s in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.min() >= 0 and a.max() <= 1


def test_blur_keeps_a_constant_and_smooths_a_point():
    settings = Augment(jitter_probability=0, blur_probability=1, blur_sigma_px=(1, 1))
    flat = torch.full((2, 1, 16, 16), 0.4)
    assert torch.allclose(apply_intensity(draw_intensity(settings, 2, stream()), flat), flat, atol=1e-5)
    point = torch.zeros(1, 1, 17, 17)
    point[0, 0, 8, 8] = 1
    out = apply_intensity(draw_intensity(settings, 1, stream()), point)
    assert out.sum() == pytest.approx(1, abs=1e-3) and out[0, 0, 8, 8] == pytest.approx(1 / (2 * torch.pi), abs=0.01)


def test_cutmix_pastes_the_partner_inside_the_box():
    drawn = draw_cutmix(Augment(cutmix_probability=1), 8, (32, 32), stream())
    values = torch.arange(8).view(8, 1, 1).expand(8, 32, 32)
    mixed = drawn.mix(values)
    for row in range(8):
        assert (mixed[row][drawn.box[row]] == drawn.partner[row]).all()
        assert (mixed[row][~drawn.box[row]] == row).all()
    share = drawn.box.float().mean((1, 2))
    assert (share > 0.01).all() and (share < 0.45).all()
    assert not draw_cutmix(Augment(cutmix_probability=0), 8, (32, 32), stream()).box.any()


def test_images_and_labels_are_mixed_alike():
    drawn = CutMix(torch.rand(3, 4, 4, generator=stream()) < 0.5, torch.tensor([2, 0, 1]))
    images = torch.rand(3, 2, 4, 4, generator=stream(2))
    assert torch.equal(drawn.mix(images)[:, 0], drawn.mix(images[:, 0]))


@pytest.mark.parametrize("shape", [(16, 16), (7, 12), (64, 64)])
def test_the_grid_is_torch_s_affine_grid(shape):
    theta = draw_geometry(Augment(rotation_degrees=180, rotate90_probability=0.5), 6, stream())
    theta = theta + torch.tensor([0.0, 0.0, 0.3])
    found = _affine_grid(theta, shape)
    assert torch.allclose(found, F.affine_grid(theta, [6, 1, *shape], align_corners=False), atol=1e-6)


def plain_intensity(drawn, images):
    """Image by image, with a kernel of its own, for those that are blurred."""
    generator = stream(drawn.noise_seed)
    noise = torch.randn(images.shape, generator=generator)
    changed = []
    for place, image in enumerate(images):
        image = image * drawn.brightness[place]
        image = (image - image.mean()) * drawn.contrast[place] + image.mean()
        sigma = float(drawn.blur[place])
        if sigma > 0:
            radius = math.ceil(2.5 * float(drawn.blur.max()))
            line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
            line = line / line.sum()
            padded = F.pad(image[:, None], [radius] * 4, mode="replicate")
            image = F.conv2d(padded, line[:, None].mul(line)[None, None])[:, 0]
        changed.append((image + noise[place] * drawn.noise[place]).clamp(0, 1))
    return torch.stack(changed)


@pytest.mark.parametrize("blur", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_intensities_are_those_of_each_image_alone(blur, noise):
    images = torch.rand(9, 2, 20, 24, generator=stream(5))
    settings = Augment(blur_probability=blur, noise_sigma=0.1, noise_probability=noise)
    drawn, before = draw_intensity(settings, 9, stream(6)), images.clone()
    assert torch.allclose(apply_intensity(drawn, images), plain_intensity(drawn, images), atol=2e-6)
    assert torch.equal(images, before)
    assert (drawn.blur > 0).float().mean() == pytest.approx(blur, abs=0.35)


def test_boxes_are_filled_where_they_are_drawn():
    settings, (height, width) = Augment(cutmix_probability=0.6), (24, 40)
    drawn = draw_cutmix(settings, 50, (height, width), stream(2))
    u = torch.rand(50, 5, generator=(generator := stream(2)))
    partner = torch.randperm(50, generator=generator)
    assert torch.equal(drawn.partner, partner)
    for row, (share, lean, down, right, chance) in enumerate(u.tolist()):
        area, aspect = (0.02 + share * 0.38) * height * width, math.exp((lean * 2 - 1) * math.log(1 / 0.3))
        tall, wide = min(math.sqrt(area * aspect), height), min(math.sqrt(area / aspect), width)
        top, left = down * (height - tall), right * (width - wide)
        y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
        box = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide) & (chance < 0.6)
        assert torch.equal(drawn.box[row], box)
