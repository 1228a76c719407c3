"""DMPO (arXiv 2507.07510), on UNets and on rectified flow.

    data form    pairs
    corruption   one time and one noise for both pictures of a pair
    likelihood   mean squared error on the network's own target, unweighted
    objective    KL(Bernoulli(sigmoid(beta / 2 * margin)) || Bernoulli(1 - alpha)), least at 1 - alpha

Official settings: alpha 0.01, beta 2000 (SD1.5) or 6000 (SDXL); its code pairs it with a safeguard of 0.9 (SD1.5).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import PairSettings, guarded

if TYPE_CHECKING:
    from ..method import Method


class DMPO(PairSettings):
    """The recipe's `method` section for DMPO."""

    name: Literal["dmpo"] = "dmpo"
    beta: float = Field(default=2000.0, gt=0, description="SD1.5's; SDXL 6000; beta / 2 multiplies the margin")
    alpha: float = Field(default=0.01, gt=0, lt=0.5, description="1 - alpha is the probability of a win to reach")

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...objectives import dmpo, effective_temperature
        from ..method import Method

        return Method(
            name=self.name,
            reduction=self.reduction,
            temperature=effective_temperature(self.beta, True, self.reduction, elements),
            **guarded(partial(dmpo, beta=self.beta, alpha=self.alpha), self.safeguard),
        )
