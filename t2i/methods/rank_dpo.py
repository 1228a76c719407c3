"""RankDPO (Karthik et al. 2024, arXiv 2410.18013), on UNets and on rectified flow.

    data form    rankings: one prompt, k pictures (the paper: one from each of 4 generators), labels in [0, 1]
    corruption   one time for the group, a noise of its own for every picture
    likelihood   mean squared error on the network's own target, unweighted
    objective    sum over pairs of |gain_i - gain_j| |1/D_i - 1/D_j| * -log sigmoid(beta / 2 * margin_ij)

Official settings (no code is public): SDXL and SD3-medium, 400 steps of 1,024 groups, beta as Diffusion-DPO's 5000,
`palate data synpic` builds the groups. Algorithm 2 ranks by the labels, a figure's caption by the current model's
errors: `rank_source` has both.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import MethodSettings

if TYPE_CHECKING:
    from ..method import Method


class RankDPO(MethodSettings):
    """The recipe's `method` section for RankDPO."""

    name: Literal["rank_dpo"] = "rank_dpo"
    beta: float = Field(default=5000.0, gt=0, description="beta / 2 multiplies each pair's margin")
    rank_source: Literal["label", "model"] = Field(default="label", description="what the discount's ranks are by")
    gains: Literal["win_rate", "label"] = Field(
        default="win_rate", description="phi: the share of the group that a picture beats, or its label as it is"
    )
    reduction: Literal["mean", "sum"] = "mean"

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...diffusion.corruption import ForwardNoise
        from ...objectives import effective_temperature, rank_dpo
        from ..method import Method

        return Method(
            name=self.name,
            objective=partial(rank_dpo, beta=self.beta, rank_source=self.rank_source, gains=self.gains),
            candidates=None,
            label_range=(0, 1) if self.gains == "label" else None,
            corruption=ForwardNoise(shared_noise=False),
            reduction=self.reduction,
            temperature=effective_temperature(self.beta, True, self.reduction, elements),
        )
