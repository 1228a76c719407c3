"""CaPO, calibrated preference optimisation (Lee et al. 2025, arXiv 2502.02588), on UNets and on rectified flow.

    data form    groups with calibrated labels: `palate data label --combine calibrated` or `frontier`
    corruption   one time and one noise for the best and the worst of a group
    likelihood   mean squared error in the noise, weighted by sigmoid(1.5 - lambda), lambda the log SNR
    objective    ((label_w - label_l) - beta * margin)^2

Official settings: SDXL and SD3-medium, 100,000 prompts x 16 pictures, labels the mean probability to win under MPS,
VQAScore and VILA. No code is public and no beta is known to us. The weight was made for errors in the noise; that it
is one on them for v and for flow too, whose own errors are others, is our reading.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import PairSettings, guarded

if TYPE_CHECKING:
    from torch import Tensor

    from ...diffusion import NoiseProcess
    from ..method import Method


class CaPO(PairSettings):
    """The recipe's `method` section for CaPO."""

    name: Literal["capo"] = "capo"
    beta: float = Field(default=1000.0, gt=0, description="multiplies the margin; a guess")
    bias: float | None = Field(default=1.5, description="of the sigmoid weight on times; None: all alike")

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...objectives import capo
        from ..method import Method

        return Method(
            name=self.name,
            label_range=(0, 1),
            reduction=self.reduction,
            weighting=None if self.bias is None else partial(_weight, bias=self.bias),
            **guarded(partial(capo, beta=self.beta), self.safeguard),
        )


def _weight(process: NoiseProcess, times: Tensor, bias: float) -> Tensor:
    """Turns an error in the network's own target into a weighted one in the noise, `[n]`."""
    from ...diffusion.likelihood import epsilon_weight, sigmoid_weight

    return sigmoid_weight(process, times, bias) * epsilon_weight(process, times)
