"""What a frozen prior says of images, computed once where the same image comes again.

Letters: B images, C channels, H x W pixels, M images of a part, D channels of the prior's features, h x w their grid.
Source: VQ-Seg, section 3.4: the features of the same crop.
"""

from collections.abc import Callable, Mapping

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from vqseg.store import middle

# Share of the free memory that kept features may take.
MEMORY_SHARE = 0.25
CHUNK = 32


class Alignment:
    """Holds the prior, outside of the networks: it is neither trained nor averaged nor saved with them.

    ``images`` gives the stored images (B, C, H, W) of a part by row, ``counts`` how many there are: where a batch
    names the rows of its images (its views are the stored images themselves), the features of the whole part are
    computed at the first call and kept on the device.
    """

    def __init__(
        self,
        prior: nn.Module,
        *,
        context: int,
        counts: Mapping[str, int],
        images: Callable[[str, np.ndarray], Tensor],
    ) -> None:
        self.prior, self.context, self.counts, self.images = prior.eval().requires_grad_(False), context, counts, images
        self._kept: dict[str, Tensor] = {}

    def features(self, images: Tensor, grid: tuple[int, int], part: str, rows: Tensor | None) -> Tensor:
        """Return the features (B, D, h, w) of images (B, C, H, W) for tokens on ``grid``."""
        if rows is None:
            return self._see(images, grid)
        if part not in self._kept:
            first = self._see(images[:1], grid)
            if not self._fits(first, self.counts[part]):
                return self._see(images, grid)
            chunks = np.split(np.arange(self.counts[part]), range(CHUNK, self.counts[part], CHUNK))
            self._kept[part] = torch.cat([self._see(self.images(part, chunk), grid) for chunk in chunks])
        return self._kept[part][rows]

    @torch.no_grad()
    def _see(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        seen: Tensor = self.prior(middle(images, self.context), grid)
        return seen

    @staticmethod
    def _fits(one: Tensor, count: int) -> bool:
        size = one.numel() * one.element_size() * count
        device = one.device
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
        return size <= free * MEMORY_SHARE
