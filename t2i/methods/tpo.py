"""TPO, text preference optimisation (arXiv 2509.25771): one picture, a caption that fits it and one that does not.

    data form    one picture twice, with two captions (`palate data captions --mode tpo` writes them)
    corruption   one time and one noise: both candidates are the same noisy latent
    likelihood   mean squared error on the network's own target, under each of the captions
    objective    Diffusion-DPO's (TDPO) or Diffusion-KTO's (TKTO)

The paper is known to us by its abstract: SD1.5; no settings are published that we could read. The defaults are
Diffusion-DPO's and Diffusion-KTO's.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from .settings import MethodSettings

if TYPE_CHECKING:
    from ..method import Method


class TPO(MethodSettings):
    """The recipe's `method` section for TPO."""

    name: Literal["tpo"] = "tpo"
    form: Literal["dpo", "kto"] = "dpo"
    beta: float = Field(default=2000.0, gt=0, description="beta / 2 multiplies the margin (kto: beta)")
    reduction: Literal["mean", "sum"] = "mean"

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...objectives import OBJECTIVES, effective_temperature
        from ..method import Method

        unpaired = self.form == "kto"
        return Method(
            name=self.name,
            objective=partial(OBJECTIVES[self.form], beta=self.beta),
            requires=frozenset({"captions"}),
            reduction=self.reduction,
            over_batch=unpaired,  # its reference point is the batch's mean
            temperature=effective_temperature(self.beta, not unpaired, self.reduction, elements),
        )
