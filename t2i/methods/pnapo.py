"""PNAPO (arXiv 2605.09433, ICML 2026), on rectified flow and on UNets: the noise that a picture was generated from.

    data form    pairs with the seed that each picture was generated from (`palate generate` and the builders keep it)
    corruption   one time for the pair; each picture meets the noise that it was made of
    likelihood   mean squared error on the network's own target, unweighted
    objective    -log sigmoid(beta / 2 * (2 p - 1) * margin), p the label's own probability to win; beta falls to half
                 its value over the run, by a cosine

Official settings: SD3-medium beta 5000, Flux beta 2000, learning rate 1e-6, 20,000 prompts x 2 pictures of 50 Euler
steps without guidance, labels of HPSv2.1. Their unit is not known to us: `label_scale` 0.01 makes of HPSv2.1's cosines
its own probability to win, where 1 would leave 2 p - 1 at 0.01 or less.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import PairSettings, guarded

if TYPE_CHECKING:
    from ..method import Method


class PNAPO(PairSettings):
    """The recipe's `method` section for PNAPO."""

    name: Literal["pnapo"] = "pnapo"
    beta: float = Field(default=5000.0, gt=0, description="SD3's; Flux 2000; beta / 2 multiplies the margin")
    label_scale: float = Field(default=1.0, gt=0, description="labels to p = sigmoid(difference / scale)")
    decay: float = Field(default=0.5, ge=0, lt=1, description="the share of beta that is gone at the end; 0: constant")

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...diffusion.corruption import SourceNoise
        from ...objectives import effective_temperature, soft_dpo
        from ..method import Method

        return Method(
            name=self.name,
            requires=frozenset({"seeds"}),
            corruption=SourceNoise(),
            reduction=self.reduction,
            temperature=effective_temperature(self.beta, True, self.reduction, elements),
            **guarded(
                partial(soft_dpo, beta=self.beta, gamma=1.0, label_scale=self.label_scale, decay=self.decay),
                self.safeguard,
                frozenset({"progress"}) if self.decay else frozenset(),
            ),
        )
