"""CaPO, calibrated preference optimisation (Lee et al. 2025, arXiv 2502.02588), on UNets and on rectified flow.

    data form    groups with calibrated labels: `palate data label --combine calibrated` or `frontier`
    corruption   one time and one noise for the best and the worst of a group
    likelihood   mean squared error, weighted by sigmoid(1.5 - lambda), lambda the log signal-to-noise ratio
    objective    ((label_w - label_l) - beta * margin)^2

Official settings: SDXL and SD3-medium, 100,000 prompts x 16 pictures, labels the mean probability to win under MPS,
VQAScore and VILA. No code is public and no beta is known to us.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import MethodSettings

if TYPE_CHECKING:
    from ..method import Method


class CaPO(MethodSettings):
    """The recipe's `method` section for CaPO."""

    name: Literal["capo"] = "capo"
    beta: float = Field(default=1000.0, gt=0, description="multiplies the margin; a guess")
    bias: float | None = Field(default=1.5, description="of the sigmoid weight on times; None: all alike")
    reduction: Literal["mean", "sum"] = "mean"

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...diffusion.likelihood import sigmoid_weight
        from ...objectives import capo
        from ..method import Method

        return Method(
            name=self.name,
            objective=partial(capo, beta=self.beta),
            label_range=(0, 1),
            reduction=self.reduction,
            weighting=None if self.bias is None else partial(sigmoid_weight, bias=self.bias),
        )
