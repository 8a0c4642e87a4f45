"""Quantizers: tokens (B, N, C) -> `vqseg.codebook.Quantized`. A module's ``codes()`` is its table (V, C)."""

from vqseg.quantizers.mapped import MappedQuantizer
from vqseg.quantizers.plain import PlainQuantizer

QUANTIZERS = {"mapped": MappedQuantizer, "plain": PlainQuantizer}
