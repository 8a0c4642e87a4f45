"""Holds the distortion of a perturbation at a target while training, by its rate.

A rate of .7 means different things to different perturbations; arms that are held at one distortion are shaken alike.

    x <- x + gain * clip(1 - D / target, -1, 1),     rate = sigmoid(x)

D is the step's centered distortion E|q' - q|^2 / E|q - mean q|^2. The update has mean zero where the mean of D is the
target, and does not wait for the device. A target that a perturbation cannot reach drives its rate to the end of the
range, where the logged rate and distortion show it.
"""

import math

import torch
from torch import Tensor

GAIN = 0.1
LEAST_RATE, MOST_RATE = 1e-4, 0.995
"""Rates that are set: at 1 a dropout would leave nothing."""


class Controller:
    """The integral controller of one perturbation; its ``state`` belongs into the checkpoint."""

    def __init__(self, target: float, rate: float) -> None:
        """Start at ``rate``; ``target`` is the distortion to hold.

        Raises:
            ValueError: a perturbation of rate 0 has nothing to be held by.
        """
        if rate <= 0:
            raise ValueError("distortion: needs a perturbation with a rate above 0 to hold it by")
        self.target = target
        self.state = torch.tensor(_logit(min(max(rate, LEAST_RATE), MOST_RATE)), dtype=torch.float64)

    def rate(self, device: torch.device) -> Tensor:
        """Return the rate of the next draw, a scalar on ``device``."""
        if self.state.device != device:
            self.state = self.state.to(device)
        return self.state.sigmoid().float()

    def observe(self, moved: Tensor, spread: Tensor) -> None:
        """Learn what the last draw did (`vqseg.replacement.energies`)."""
        # While all tokens still share one code there is no spread, and no distortion to be told.
        error = torch.where(spread > 0, 1 - moved / (self.target * spread), 0.0).clamp(-1, 1)
        self.state = (self.state + GAIN * error.double()).clamp(_logit(LEAST_RATE), _logit(MOST_RATE))


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
