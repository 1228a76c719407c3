"""InPO, inversion preference optimisation (Lu et al. 2025, arXiv 2503.18454), on UNets and on rectified flow.

    data form    pairs
    corruption   one time for the pair; each picture is inverted to it by the current policy's own sampler
    likelihood   mean squared error on the target that the implied noise makes, unweighted
    objective    -log sigmoid(beta / 2 * margin); SmPO's soft labels on demand (`gamma`)

Official settings: SD1.5 from a fine-tuned checkpoint, beta 2000; SDXL beta 5000; 1,024 pairs a step, learning rate
1.024e-5, warm-up 200 of 400 steps, captions dropped in 20 %. SmPO (arXiv 2506.02698): `gamma: 10`, `corrections: 1`,
`eta: 0`, and labels that are scores of a reward. On a flow the sampler's ODE is run backwards; nothing is published
there.

What we do otherwise than the reference code: the inverted latent lies at its pair's t and not up to 100 timesteps
beside it; a micro-batch may hold more than one pair; the levels are not rounded to half precision; both pictures of a
pair are read, or neither.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import PairSettings, guarded

if TYPE_CHECKING:
    from ..method import Method


class InPO(PairSettings):
    """The recipe's `method` section for InPO."""

    name: Literal["inpo"] = "inpo"
    beta: float = Field(default=5000.0, gt=0, description="SDXL's; SD1.5 2000; beta / 2 multiplies the margin")
    steps: int = Field(default=5, ge=1, description="of the inversion: as many more forward passes")
    eta: float = Field(default=0.1, ge=0, le=1, description="share of the sampler's noise in each inversion step")
    corrections: int = Field(default=0, ge=0, description="ReNoise corrections in each step; SmPO 1")
    gamma: float | None = Field(default=None, gt=0, description="SmPO's soft labels: beta gamma (2 p - 1); SmPO 10")
    label_scale: float = Field(
        default=16.658, gt=0, description="labels to p = sigmoid(difference / scale); the default is PickScore's"
    )

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...diffusion.corruption import InvertedNoise
        from ...objectives import dpo, effective_temperature, soft_dpo
        from ..method import Method

        objective = partial(dpo, beta=self.beta)
        if self.gamma is not None:
            objective = partial(soft_dpo, beta=self.beta, gamma=self.gamma, label_scale=self.label_scale)
        return Method(
            name=self.name,
            corruption=InvertedNoise(self.steps, self.eta, self.corrections),
            reduction=self.reduction,
            temperature=effective_temperature(self.beta, True, self.reduction, elements),
            **guarded(objective, self.safeguard),
        )
