"""DCPO (Saeedi et al. 2025, arXiv 2502.06023), on UNets and on rectified flow.

    data form    pairs with a caption for each picture (`palate data captions` writes them)
    corruption   one time and one noise for both pictures of a pair
    likelihood   mean squared error on the network's own target, each picture under its own caption
    objective    Diffusion-DPO's

Official settings (SD2.1 only): beta 500, 2,000 steps, learning rate 1e-8 scaled by a batch of 128 a GPU, warm-up 500.
For SDXL and SD3 nothing is published.

What we do otherwise than the reference code: a v-prediction checkpoint gets the v target (it forces epsilon on SD2.1);
captions are dropped, once for the pair, where the recipe says so (its dual path drops none); SDXL has two captions
too; a picture and its caption cannot come apart when labels are exchanged.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import PairSettings, guarded

if TYPE_CHECKING:
    from ..method import Method


class DCPO(PairSettings):
    """The recipe's `method` section for DCPO."""

    name: Literal["dcpo"] = "dcpo"
    beta: float = Field(default=500.0, gt=0, description="the paper's value; beta / 2 multiplies the margin")

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...objectives import dpo, effective_temperature
        from ..method import Method

        return Method(
            name=self.name,
            requires=frozenset({"captions"}),
            reduction=self.reduction,
            temperature=effective_temperature(self.beta, True, self.reduction, elements),
            **guarded(partial(dpo, beta=self.beta), self.safeguard),
        )
