"""SePPO, semi-policy preference optimisation (Zhang et al. 2024, arXiv 2410.05255), from chosen pictures alone.

    data form    one picture that is liked, of pairs and rankings the best; its rival is drawn while training
    corruption   one time and one noise for both pictures
    likelihood   mean squared error on the network's own target, unweighted
    objective    -log sigmoid(beta / 2 * (gain_w - s * gain_r)): the rival is learned from too, s = -1, where the
                 reference explains the liked picture better than the policy

The reference is one of the policy's own earlier states, drawn at random and drawn again every `every` steps, and the
rival is its picture of the same prompt, by the checkpoint's own sampler and through the autoencoder as the data's.

Official settings (SD1.5): effective batch 2048, a new earlier state every 30 steps. The training code is not published
and the paper is known to us second hand: beta is Diffusion-DPO's, and sampler steps and guidance are ours. Nothing is
published for flow. For each picture a step costs `steps` passes of the reference more (twice as many with guidance) and
one round trip through the autoencoder, which stays in memory. A tie is left out: nothing is liked in it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from .settings import MethodSettings

if TYPE_CHECKING:
    from ..method import Method


class SePPO(MethodSettings):
    """The recipe's `method` section for SePPO."""

    name: Literal["seppo"] = "seppo"
    beta: float = Field(default=2000.0, gt=0, description="beta / 2 multiplies the gains")
    reduction: Literal["mean", "sum"] = "mean"
    every: PositiveInt = Field(default=30, description="training steps from one reference to the next")
    steps: PositiveInt = Field(default=20, description="of the sampler that draws the rivals")
    guidance: float = Field(default=5.0, ge=1, description="of that sampler")

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...objectives import effective_temperature, seppo
        from ..method import Method, Rival

        return Method(
            name=self.name,
            objective=partial(seppo, beta=self.beta),
            candidates=1,
            fewest=1,
            rival=Rival(self.steps, self.guidance, self.every),
            reduction=self.reduction,
            temperature=effective_temperature(self.beta, True, self.reduction, elements),
        )
