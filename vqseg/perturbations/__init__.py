"""Perturbations of quantized tokens, all at one place: on q, between quantizer and decoder.

A perturbation has ``draw(quantized, codes, generator) -> Tensor`` (what changes) and
``apply(quantized, codes, drawn) -> tokens (B, N, C)`` (the change), so that what was drawn can be looked at.
``rate`` lies in [0, 1]; at 0 it is the identity. Gradients reach the encoder through what is left of the tokens.
"""

from vqseg.perturbations.channel_dropout import ChannelDropout
from vqseg.perturbations.cluster_qpm import ClusterQPM
from vqseg.perturbations.dropout import Dropout
from vqseg.perturbations.mask_and_replace import MaskAndReplace
from vqseg.perturbations.none import NoPerturbation
from vqseg.perturbations.qpm import QPM
from vqseg.perturbations.shuffle import Shuffle
from vqseg.perturbations.uniform import Uniform

PERTURBATIONS = {
    "channel-dropout": ChannelDropout,
    "cluster-qpm": ClusterQPM,
    "dropout": Dropout,
    "mask-and-replace": MaskAndReplace,
    "none": NoPerturbation,
    "qpm": QPM,
    "shuffle": Shuffle,
    "uniform": Uniform,
}
