"""DPO with label-noise-robust weights: which votes are flipped is a latent variable, found by expectation-maximisation.

data form    pairs
corruption   one time and one noise for both pictures of a pair
likelihood   mean squared error on the network's own target, unweighted
objective    -w log sigmoid(z) - (1 - w) log sigmoid(-z), w the posterior that the vote is right under the policy
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import PairSettings, guarded

if TYPE_CHECKING:
    from ..method import Method


class EmDPO(PairSettings):
    """The recipe's `method` section for DPO with weights by expectation-maximisation."""

    name: Literal["em_dpo"] = "em_dpo"
    beta: float = Field(default=5000.0, gt=0, description="beta / 2 multiplies the margin")
    flip_prior: float = Field(
        default=0.1, gt=0, lt=0.5, description="share of votes that are wrong, before any is seen"
    )
    rounds: int = Field(default=3, ge=1, description="of re-estimating that share within a micro-batch")

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...objectives import effective_temperature, em_dpo
        from ..method import Method

        return Method(
            name=self.name,
            reduction=self.reduction,
            temperature=effective_temperature(self.beta, True, self.reduction, elements),
            **guarded(
                partial(em_dpo, beta=self.beta, flip_prior=self.flip_prior, rounds=self.rounds),
                self.safeguard,
                over_batch=True,  # the share of wrong votes is the micro-batch's
            ),
        )
