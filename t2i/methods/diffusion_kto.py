"""Diffusion-KTO (Li et al. 2024, arXiv 2404.04465), on UNets and on rectified flow.

    data form    pictures that are good or bad by themselves, in groups of one; of larger groups the best and the worst
    corruption   a time and a noise of its own for every picture
    likelihood   mean squared error on the network's own target, unweighted
    objective    1 - sigmoid(y beta (g - z0)), g the gain over the reference, z0 the mean gain of the batch

Official settings (SD1.5): beta 1000 without a half, learning rate 1e-7, warm-up 200, 20,000 steps, batch 2 x 4 GPUs,
8-bit Adam, captions dropped in 20 %, 80 % good pictures in a batch. In a group of one a label above 0.5 is good; of two
pictures the better one is.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import MethodSettings

if TYPE_CHECKING:
    from ..method import Method


class DiffusionKTO(MethodSettings):
    """The recipe's `method` section for Diffusion-KTO."""

    name: Literal["diffusion_kto"] = "diffusion_kto"
    beta: float = Field(default=1000.0, gt=0, description="multiplies the gain itself")
    desirable_weight: float = Field(default=1.0, ge=0)
    undesirable_weight: float = Field(default=1.0, ge=0)
    reduction: Literal["mean", "sum"] = "mean"

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...diffusion.corruption import ForwardNoise
        from ...objectives import effective_temperature, kto
        from ..method import Method

        weights = {"desirable_weight": self.desirable_weight, "undesirable_weight": self.undesirable_weight}
        return Method(
            name=self.name,
            objective=partial(kto, beta=self.beta, **weights),
            fewest=1,
            corruption=ForwardNoise(shared_noise=False, shared_times=False),
            reduction=self.reduction,
            over_batch=True,  # its reference point is the batch's mean
            temperature=effective_temperature(self.beta, False, self.reduction, elements),
        )
