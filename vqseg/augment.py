"""Augmentation of whole batches: draw the parameters on the CPU, then apply them on the images' device.

Drawn numbers depend on (seed, step) alone, so every arm of a study and every device sees the same ones.
Letters: B images, C channels, H x W pixels; images lie in 0-1.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vqseg.config import Augment
from vqseg.upload import upload, upload_all

# NTSC's luma and two axes of color.
TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
FROM_YIQ = torch.linalg.inv(TO_YIQ)


@dataclass(frozen=True)
class CutMix:
    """A box per image, pasted from a partner image: ``box`` (B, H, W) bool, ``partner`` (B,)."""

    box: Tensor
    partner: Tensor

    def mix(self, values: Tensor) -> Tensor:
        """Paste: values (B, H, W) or (B, C, H, W)."""
        box = self.box if values.ndim == 3 else self.box[:, None]
        return torch.where(box, values[self.partner], values)


def draw_geometry(settings: Augment, count: int, generator: torch.Generator) -> Tensor:
    """Draw one affine map per image, output to input coordinates: (B, 2, 3)."""
    u = torch.rand(count, 5, generator=generator)
    quarter = torch.randint(4, (count,), generator=generator) * (u[:, 4] < settings.rotate90_probability)
    angle = torch.deg2rad((u[:, 0] * 2 - 1) * settings.rotation_degrees) + quarter * (math.pi / 2)
    low, high = settings.scale_range
    zoom = 1 / (low + u[:, 1] * (high - low))
    vertical = (
        settings.flip_probability
        if settings.flip_vertical_probability is None
        else (settings.flip_vertical_probability)
    )
    flip_x = 1 - 2 * (u[:, 2] < settings.flip_probability).float()
    flip_y = 1 - 2 * (u[:, 3] < vertical).float()
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    zero = torch.zeros(count)
    rows = [torch.stack([cos * flip_x, -sin * flip_y, zero], 1), torch.stack([sin * flip_x, cos * flip_y, zero], 1)]
    return torch.stack(rows, 1)


def draw_crop(
    theta: Tensor,
    sizes: Tensor,
    canvas: tuple[int, int],
    side: int,
    generator: torch.Generator,
    *,
    points: Tensor | None = None,
) -> Tensor:
    """Turn maps of `draw_geometry` into random crops of ``side`` pixels from images on a larger canvas.

    An image is scaled, a window is drawn that does not leave it (where it is smaller than the window, the window
    begins at its first pixel), and the window is turned and flipped about its own centre.

    Args:
        theta: what `draw_geometry` drew, (B, 2, 3).
        sizes: rows and columns of each image, (B, 2); it lies in the canvas' first rows and columns.
        canvas: rows and columns that the images are stored with.
        side: pixels a side of the crop.
        generator: what draws the windows.
        points: x, y in pixels of the image that the window is to show, (B, 2), NaN where any will do. It does, unless
            a window at the edge of the image turns its corner away.

    Returns:
        Maps from the crop's to the canvas' coordinates, (B, 2, 3).

    Source: VQ-Seg's release, `acdc_dataset.py` (scale, pad at the right and bottom, crop, flip).
    Differs: one bilinear interpolation does all of it; shrinking does not blur first.
    """
    u = torch.rand(len(sizes), 2, generator=generator)
    zoom = theta[:, :, :2].square().sum(1).mean(1).sqrt()  # native pixels per pixel of the crop
    extent = torch.stack([sizes[:, 1], sizes[:, 0]], 1) / zoom[:, None]  # x, y of the scaled image, in crop pixels
    first, last = torch.zeros_like(extent), (extent - side).clamp_min(0)
    if points is not None:
        # Half a side of the square that stays in the window however that is turned.
        near = side / math.sqrt(8)
        middle = points / zoom[:, None] - side / 2
        free = points.isnan()
        first = first.where(free, torch.clamp(middle - near, first, last))
        last = last.where(free, torch.clamp(middle + near, torch.zeros_like(last), last))
    start = first + u * (last - first)
    middle = (start + side / 2) * zoom[:, None]
    scale = side / torch.tensor([canvas[1], canvas[0]], dtype=theta.dtype)
    shift = 2 * middle / torch.tensor([canvas[1], canvas[0]], dtype=theta.dtype) - 1
    return torch.cat([theta[:, :, :2] * scale[:, None], shift[:, :, None]], 2)


def apply_geometry(
    theta: Tensor, images: Tensor, masks: Tensor | None, side: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Warp images (bilinear) and masks (nearest) to ``side`` pixels; what comes from outside is 0 and background."""
    shape = list(images.shape) if side is None else [*images.shape[:2], side, side]
    grid = _affine_grid(upload(theta, images.device), (shape[-2], shape[-1]))
    warped = F.grid_sample(images, grid, align_corners=False)
    if masks is None:
        return warped, None
    moved = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)
    return warped, moved[:, 0].long()


def _affine_grid(theta: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the coordinates (B, H, W, 2) that maps (B, 2, 3) read pixel centres from.

    As `torch.nn.functional.affine_grid` without aligned corners; that multiplies a matrix of three columns for it,
    at several times the cost of this one addition.
    """
    y, x = ((torch.arange(side, device=theta.device) * 2 + 1) / side - 1 for side in shape)
    across = x[:, None] * theta[:, None, :, 0]
    down = y[:, None] * theta[:, None, :, 1] + theta[:, None, :, 2]
    return down[:, :, None] + across[:, None]


def inside(theta: Tensor, sizes: Tensor, canvas: tuple[int, int], side: int) -> Tensor:
    """Return which pixels of crops (see `draw_crop`) come from within the image: bool (B, side, side)."""
    grid = _affine_grid(theta, (side, side))
    x, y = (grid[..., 0] + 1) / 2 * canvas[1], (grid[..., 1] + 1) / 2 * canvas[0]
    rows, columns = sizes[:, 0, None, None], sizes[:, 1, None, None]
    return (x >= 0) & (x <= columns) & (y >= 0) & (y <= rows)


@dataclass(frozen=True)
class Intensity:
    """Per image (B,): brightness factor, contrast factor, blur sigma in pixels (0: none), noise sigma.

    ``color`` (B, 2): factor of the saturation and turn of the hue in whole turns, where the image has colors.
    """

    brightness: Tensor
    contrast: Tensor
    blur: Tensor
    noise: Tensor
    noise_seed: int
    color: Tensor | None = None


def draw_intensity(settings: Augment, count: int, generator: torch.Generator, *, color: bool = False) -> Intensity:
    """Draw brightness, contrast, blur and noise for each image; saturation, hue and grey if it has ``color``."""
    u = torch.rand(count, 6, generator=generator)
    jitter = u[:, 0] < settings.jitter_probability
    low, high = settings.blur_sigma_px
    return Intensity(
        brightness=torch.where(jitter, 1 + (u[:, 1] * 2 - 1) * settings.brightness, 1.0),
        contrast=torch.where(jitter, 1 + (u[:, 2] * 2 - 1) * settings.contrast, 1.0),
        blur=torch.where(u[:, 3] < settings.blur_probability, low + u[:, 4] * (high - low), 0.0),
        noise=torch.where(u[:, 5] < settings.noise_probability, settings.noise_sigma, 0.0),
        noise_seed=int(torch.randint(2**62, (1,), generator=generator)),
        color=_draw_color(settings, jitter, generator) if color else None,
    )


def _draw_color(settings: Augment, jitter: Tensor, generator: torch.Generator) -> Tensor:
    u = torch.rand(len(jitter), 3, generator=generator)
    saturation = torch.where(jitter, 1 + (u[:, 0] * 2 - 1) * settings.saturation, 1.0).clamp_min(0)
    hue = torch.where(jitter, (u[:, 1] * 2 - 1) * settings.hue, 0.0)
    return torch.stack([torch.where(u[:, 2] < settings.gray_probability, 0.0, saturation), hue], 1)


def apply_intensity(drawn: Intensity, images: Tensor) -> Tensor:
    """Change the intensities of images (B, C, H, W), clamped to 0-1."""
    shape = (-1, 1, 1, 1)
    device = images.device
    blurred = drawn.blur.nonzero()[:, 0]
    kernels = _gaussians(drawn.blur[blurred])
    color = drawn.brightness.new_zeros(0) if drawn.color is None else drawn.color
    drawn_here = (drawn.brightness, drawn.contrast, drawn.noise, color, blurred, kernels)
    brightness, contrast, sigma, color, rows, kernels = upload_all(drawn_here, device)
    images = images * brightness.view(shape)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean).mul_(contrast.view(shape)).add_(mean)
    if drawn.color is not None:
        images = _recolor(images, color)
    if len(blurred) == len(images):
        images = _blur(images, kernels)
    elif len(blurred):
        images = images.index_copy(0, rows, _blur(images[rows], kernels))
    if bool(drawn.noise.any()):
        generator = torch.Generator(device=device).manual_seed(drawn.noise_seed)
        noise = torch.randn(images.shape, generator=generator, device=device, dtype=images.dtype)
        images = images + noise * sigma.view(shape)
    return images.clamp_(0, 1)


def draw_cutmix(
    settings: Augment,
    count: int,
    size: tuple[int, int],
    generator: torch.Generator,
    *,
    device: torch.device | str = "cpu",
) -> CutMix:
    """Draw a box of 2 to 40 % of the image, aspect .3 to 3.3, for each image that is mixed, and its partner.

    Its edges are drawn on the CPU; ``device`` is where the box is filled.
    """
    height, width = size
    u = torch.rand(count, 5, generator=generator)
    area = (0.02 + u[:, 0] * 0.38) * height * width
    aspect = torch.exp((u[:, 1] * 2 - 1) * math.log(1 / 0.3))
    box_h = (area * aspect).sqrt().clamp(max=height)
    box_w = (area / aspect).sqrt().clamp(max=width)
    top, left = u[:, 2] * (height - box_h), u[:, 3] * (width - box_w)
    # The box of an image that is not mixed ends where it begins.
    bottom = torch.where(u[:, 4] < settings.cutmix_probability, top + box_h, top)
    edges = torch.stack([top, bottom, left, left + box_w])
    place = torch.device(device)
    edges, partner = upload_all((edges, torch.randperm(count, generator=generator)), place)
    y, x = (torch.arange(side, device=place) + 0.5 for side in size)
    inside_y = (y >= edges[0, :, None]) & (y < edges[1, :, None])
    inside_x = (x >= edges[2, :, None]) & (x < edges[3, :, None])
    return CutMix(inside_y[:, :, None] & inside_x[:, None], partner)


def _recolor(images: Tensor, color: Tensor) -> Tensor:
    """Scale the saturation and turn the hue of RGB images (B, 3, H, W), keeping their luma.

    In the YIQ space hue is an angle and saturation a radius, so both are one 2 x 2 map per image.
    """
    y, i, q = torch.einsum("ij,bjhw->ibhw", upload(TO_YIQ, images.device), images)
    angle = color[:, 1] * (2 * math.pi)
    cos, sin = ((color[:, 0] * f(angle)).view(-1, 1, 1) for f in (torch.cos, torch.sin))
    turned = torch.stack([y, cos * i - sin * q, sin * i + cos * q])
    return torch.einsum("ij,jbhw->bihw", upload(FROM_YIQ, images.device), turned)


def _gaussians(sigma: Tensor) -> Tensor:
    """Return the kernel of each standard deviation in pixels, all as wide as the widest: (B, taps)."""
    if not len(sigma):
        return sigma.new_zeros(0, 1)
    radius = max(math.ceil(2.5 * float(sigma.max())), 1)
    offset = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp_min(1e-3)[:, None]) ** 2)
    return kernel / kernel.sum(1, keepdim=True)


def _blur(images: Tensor, kernel: Tensor) -> Tensor:
    """Blur each image with its own kernel (B, taps), separably."""
    count, channels, *_ = images.shape
    radius = kernel.shape[1] // 2
    kernel = kernel.to(images.dtype).repeat_interleave(channels, 0)
    flat = images.reshape(1, count * channels, *images.shape[-2:])
    flat = F.pad(flat, (radius, radius, 0, 0), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
    flat = F.pad(flat, (0, 0, radius, radius), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
    return flat.view_as(images)
