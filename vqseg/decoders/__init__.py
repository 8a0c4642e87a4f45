"""Decoders: the (quantized) coarsest map and the encoder's finer maps -> (B, out_channels, H, W).

Built with (dims, strides, out_channels, norm, skips) and their options; dims and strides are the encoder's.
"""

from vqseg.decoders.dpt import DPTDecoder
from vqseg.decoders.unet import UNetDecoder

DECODERS = {"dpt": DPTDecoder, "unet": UNetDecoder}
