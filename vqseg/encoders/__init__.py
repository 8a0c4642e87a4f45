"""Encoders: images (B, C, H, W) in 0-1 -> feature maps, finest first; the last one is quantized.

Built with (channels, norm) and their options. An encoder states ``dims`` (channels of each map), ``strides`` (pixels
per cell of each map), both finest first, and ``stride``, of which the sides of an image must be a multiple.
"""

from vqseg.encoders.unet import UNetEncoder
from vqseg.encoders.vit import ViTEncoder

ENCODERS = {"unet": UNetEncoder, "vit": ViTEncoder}
