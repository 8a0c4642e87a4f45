"""Methods: they own their networks and compute losses; one loop trains them all.

A method is built with (student, perturbation, setup) and has ``losses(batch, step) -> Step``, ``after_step(step)``,
``groups()`` for the optimizer, ``student`` and ``teacher``.
"""

from vqseg.methods.supervised import Supervised
from vqseg.methods.vqseg import VQSeg

METHODS = {"supervised": Supervised, "vqseg": VQSeg}
