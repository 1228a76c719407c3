"""Exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter


class Ema:
    """shadow <- d shadow + (1 - d) weight, with d = min(decay, (1 + n) / (10 + n)) at update n.

    The ramp, as in TensorFlow's ExponentialMovingAverage, lets a short run forget its starting weights. As d depends on
    the step alone, the shadow is all there is to save.
    """

    def __init__(self, parameters: dict[str, Parameter], decay: float) -> None:
        self.decay = decay
        self._parameters = parameters
        self.shadow: dict[str, Tensor] = {name: weight.detach().clone() for name, weight in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [weight.detach() for weight in self._parameters.values()]
        torch._foreach_lerp_(list(self.shadow.values()), weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The network holds the averaged weights within the block, and its own again after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._parameters.items():
            own = weight.detach().clone()
            weight.copy_(self.shadow[name])
            self.shadow[name].copy_(own)
