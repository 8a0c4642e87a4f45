"""All images of a part as one tensor: converted once, kept below the store, on the device or memory-mapped.

Letters: M images of a part, B images of a batch, S slices, C channels of a slice, n neighbouring slices,
P = size_px pixels a side, H x W pixels.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from vqseg.errors import InputError
from vqseg.files import digest, replacing
from vqseg.identity import module_hash
from vqseg.manifest import Manifest, Scan, read_image, read_mask
from vqseg.upload import upload

# Share of the free memory that a store may take before it stays on disk, memory-mapped.
MEMORY_SHARE = 0.5


def with_context(volume: np.ndarray, context: int) -> np.ndarray:
    """Return every slice with its neighbours as channels: (S, H, W[, C]) -> (S, H, W, n C), slice by slice.

    At the ends the last slice is repeated. ``context`` 1 returns the volume as it is.
    """
    if context == 1:
        return volume
    slices = volume if volume.ndim == 4 else volume[..., None]
    return np.concatenate([slices[rows] for rows in _neighbours(len(volume), context).T], axis=-1)


def middle(images: Tensor, context: int) -> Tensor:
    """Return the channels of the slice itself: (B, n C, H, W) -> (B, C, H, W)."""
    channels = images.shape[1] // context
    return images[:, channels * (context // 2) : channels * (context // 2 + 1)]


def to_input(volume: np.ndarray, size_px: int) -> Tensor:
    """Slices uint8 or uint16 (S, H, W[, C]) -> (S, C, P, P) float in 0-1, bilinear with antialiasing."""
    slices = to_unit(volume)
    return F.interpolate(slices, size=(size_px, size_px), mode="bilinear", antialias=True, align_corners=False)


def to_unit(volume: np.ndarray) -> Tensor:
    """Slices uint8 or uint16 (S, H, W[, C]) -> (S, C, H, W) float in 0-1."""
    slices = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32)).div_(np.iinfo(volume.dtype).max)
    return slices[:, None] if slices.ndim == 3 else slices.movedim(-1, 1)


def mask_to_input(mask: np.ndarray, size_px: int) -> Tensor:
    """Masks uint8 (S, H, W) -> (S, P, P), nearest pixel centre."""
    slices = torch.from_numpy(np.ascontiguousarray(mask))[:, None]
    return F.interpolate(slices, size=(size_px, size_px), mode="nearest-exact")[:, 0]


class TensorStore:
    """All images of some scans, uint8 or uint16, on ``device`` or memory-mapped where they do not fit.

    Resized images are P x P; others lie in the first rows and columns of one ``canvas``, ``sizes`` (M, 2) of each.
    """

    def __init__(
        self,
        images: np.ndarray,
        masks: np.ndarray | None,
        device: torch.device,
        *,
        neighbours: np.ndarray | None = None,
        sizes: np.ndarray | None = None,
        color: bool = False,
    ) -> None:
        self.device, self.count, self.color = device, len(images), color
        self.cropped, self.canvas = sizes is not None, (int(images.shape[-2]), int(images.shape[-1]))
        self.sizes = torch.from_numpy(np.array(sizes)).float() if sizes is not None else torch.zeros(0, 2)
        self.neighbours, self.levels = neighbours, int(np.iinfo(images.dtype).max)
        self._labels = masks
        held = _fits(images.nbytes + (0 if masks is None else masks.nbytes), device)
        self.images: Tensor | np.ndarray = _held(images, device) if held else images
        self.masks: Tensor | np.ndarray | None = masks
        if held and masks is not None:
            self.masks = _held(masks, device)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.count

    def image(self, rows: np.ndarray) -> Tensor:
        """Return images (B, n C, H, W) in 0-1 on the device."""
        wanted = rows if self.neighbours is None else self.neighbours[rows].ravel()
        taken = self._take(self.images, wanted)
        whole = (taken.int() & 0xFFFF if self.levels > 255 else taken).float().div_(self.levels)
        return whole if self.neighbours is None else whole.unflatten(0, (len(rows), -1)).flatten(1, 2)

    def mask(self, rows: np.ndarray) -> Tensor:
        """Return masks (B, H, W) on the device.

        Raises:
            ValueError: the store was made without masks.
        """
        if self.masks is None:
            raise ValueError("this store was made without masks")
        return self._take(self.masks, rows).long()

    def showing(self, classes: Sequence[int]) -> np.ndarray:
        """Return which images show one of ``classes``, bool (M,)."""
        assert self._labels is not None
        return np.array([bool(np.isin(mask, classes).any()) for mask in self._labels], bool)

    def pixel(self, row: int, classes: Sequence[int], at: float) -> tuple[int, int]:
        """Return row and column of one pixel of ``classes``: of all that an image has, the one at ``at`` (0-1)."""
        assert self._labels is not None
        found = np.flatnonzero(np.isin(self._labels[row], classes))
        place = int(found[min(int(at * len(found)), len(found) - 1)])
        return divmod(place, self.canvas[1])

    def _take(self, source: Tensor | np.ndarray, rows: np.ndarray) -> Tensor:
        if isinstance(source, np.ndarray):
            return upload(_tensor(source[rows]), self.device)
        return source[upload(torch.from_numpy(rows), self.device)]


def open_store(
    root: Path,
    manifest: Manifest,
    scans: Sequence[Scan],
    *,
    size_px: int | None,
    masks: bool,
    cache: Path,
    device: torch.device,
    context: int = 1,
) -> TensorStore:
    """Open the store of ``scans``, made once below ``cache`` (memory-mappable .npy files, written atomically).

    Args:
        root: the prepared folder.
        manifest: its manifest.
        scans: whose slices.
        size_px: side that slices are resized to; None keeps their own size, on a common canvas.
        masks: whether to read masks too.
        cache: where to keep the arrays.
        device: where to hold them.
        context: so many neighbouring slices come as channels.
    """
    content = [[scan.image_sha256, scan.mask_sha256 if masks else None] for scan in scans]
    folder = cache / digest([content, size_px, manifest.channels, module_hash(__name__)])
    canvas = tuple(max(scan.shape[axis] for scan in scans) for axis in (1, 2))
    _make(folder / "images.npy", lambda scan: _images(read_image(root, scan), size_px, canvas), scans)
    if masks:
        _make(folder / "masks.npy", lambda scan: _masks(read_mask(root, scan), size_px, canvas), scans)
    neighbours, sizes = None, None
    if context > 1:
        starts = np.cumsum([0, *(len(scan.slices) for scan in scans)])
        pairs = zip(scans, starts[:-1], strict=True)
        neighbours = np.concatenate([_neighbours(len(scan.slices), context) + start for scan, start in pairs])
    if size_px is None:
        sizes = np.concatenate([np.tile(scan.shape[1:], (len(scan.slices), 1)) for scan in scans])
    return TensorStore(
        np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
        np.load(folder / "masks.npy", mmap_mode="r", allow_pickle=False) if masks else None,
        device,
        neighbours=neighbours,
        sizes=sizes,
        color=manifest.color,
    )


def _neighbours(count: int, context: int) -> np.ndarray:
    """Return for each of ``count`` slices the rows of itself and its neighbours, (S, n), clipped at the ends."""
    around = np.arange(context) - context // 2
    return np.clip(np.arange(count)[:, None] + around, 0, count - 1)


def _images(volume: np.ndarray, size_px: int | None, canvas: tuple[int, ...]) -> np.ndarray:
    levels = int(np.iinfo(volume.dtype).max)
    if size_px is not None:
        return (to_input(volume, size_px) * levels).round().numpy().astype(volume.dtype)
    slices = volume[:, None] if volume.ndim == 3 else np.moveaxis(volume, -1, 1)
    return np.pad(slices, [(0, 0), (0, 0), *_padding(slices.shape[-2:], canvas)])


def _masks(mask: np.ndarray, size_px: int | None, canvas: tuple[int, ...]) -> np.ndarray:
    if size_px is not None:
        return mask_to_input(mask, size_px).numpy()
    return np.pad(mask, [(0, 0), *_padding(mask.shape[-2:], canvas)])


def _padding(shape: tuple[int, ...], canvas: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(0, large - small) for small, large in zip(shape, canvas, strict=True)]


def _make(path: Path, convert: Callable[[Scan], np.ndarray], scans: Sequence[Scan]) -> None:
    if path.is_file():
        return
    parts = [convert(scan) for scan in scans]
    for scan, part in zip(scans, parts, strict=True):
        if part.dtype != parts[0].dtype:
            raise InputError(
                f"scan {scan.scan!r}: stored as {part.dtype}, scan {scans[0].scan!r} as {parts[0].dtype}; one data set"
                " is of one depth: import the data again"
            )
    stacked = np.concatenate(parts)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, stacked, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _tensor(array: np.ndarray) -> Tensor:
    """Return an array as a tensor; 16 bits as int16, whose indexing every device knows (`TensorStore.image` reads)."""
    return (
        torch.from_numpy(np.array(array)).view(torch.int16)
        if array.dtype == np.uint16
        else torch.from_numpy(np.array(array))
    )


def _held(array: np.ndarray, device: torch.device) -> Tensor:
    return _tensor(array).to(device)


def _fits(size: int, device: torch.device) -> bool:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return size <= free * MEMORY_SHARE
