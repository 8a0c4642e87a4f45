"""Mask-and-replace: a changed token is masked with probability ``mask_share``, else it takes another code at random.

    stays 1 - rate        [MASK] rate * mask_share        each other code rate * (1 - mask_share) / (V - 1)

Source: VQ-Diffusion (Gu et al., CVPR 2022), its transition matrix. The default of ``mask_share`` is ours: mostly masks,
as there, and some tokens replaced (the released code's own default masks nearly all).
Differs: there a replaced token may draw its own code; here it may not, so that ``rate`` is the share of tokens that
change, as for the other arms (at ``mask_share`` 0 this is `uniform`, draw by draw). One step, no schedule.
VQ-Diffusion and MaskGIT learn an embedding of [MASK] with the network that fills it in; a codebook for segmentation
has none, and a perturbation learns nothing. The mean of the book's codes stands for it: it says nothing about its
place and lies amid the codes. With m the mean of tokens q, masking moves a token by |q - m|^2 + |m - mean code|^2 on
average, which is a distortion of 1 where codes are used evenly, and is less than what uniform replacement moves it by,
the difference being the variance of the book. Zero would move it by |q - m|^2 + |m|^2, which the codes' common mean
(the map's bias) sets and nothing bounds: a distortion of 4 on trained books of 1,024 codes, where uniform replacement
has 2. The mean of a batch's tokens would tie an image's result to its batch.
As with the other replacing arms, the gradient of a masked token passes to the encoder: arms differ in where tokens
go, not in what they let back.
"""

from typing import ClassVar

import torch
from torch import Tensor

from vqseg.codebook import Quantized
from vqseg.perturbations.uniform import Uniform
from vqseg.replacement import bernoulli, check_rate, replace_codes


class MaskAndReplace:
    """Uniform replacement of which a share is masked instead."""

    uses: ClassVar[tuple[str, ...]] = ("vqseg.perturbations.uniform",)

    def __init__(self, *, rate: float = 0.7, mask_share: float = 0.9) -> None:
        check_rate(rate)
        if not 0 <= mask_share <= 1:
            raise ValueError(f"mask_share must lie in [0, 1], got {mask_share}")
        self.mask_share, self.replacement = mask_share, Uniform(rate=rate)

    @property
    def rate(self) -> float | Tensor:
        """The share of tokens that change."""
        return self.replacement.rate

    @rate.setter
    def rate(self, rate: float | Tensor) -> None:
        self.replacement.rate = rate

    def draw(self, quantized: Quantized, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the new codes' indices (B, N); V, one past the last code, is [MASK]."""
        replaced = self.replacement.draw(quantized, codes, generator)
        masked = bernoulli(replaced.shape, self.mask_share, generator) & (replaced != quantized.indices)
        return replaced.masked_fill(masked, codes.shape[0])

    def apply(self, quantized: Quantized, codes: Tensor, drawn: Tensor) -> Tensor:
        """Replace the codes, with the mean code as one more."""
        mean = codes.detach().float().mean(0, keepdim=True)
        return replace_codes(quantized, torch.cat([codes.detach(), mean]), drawn)
