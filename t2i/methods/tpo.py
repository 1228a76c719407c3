"""TPO, text preference optimisation (arXiv 2509.25771): one picture, a caption that fits it and one that does not.

    data form    one picture twice, with two captions (`palate data captions --mode tpo` writes them)
    corruption   one time and one noise: both candidates are the same noisy latent
    likelihood   mean squared error on the network's own target, under each of the captions
    objective    Diffusion-DPO's (TDPO) or Diffusion-KTO's (TKTO)

The paper is known to us by its abstract: SD1.5; no settings are published that we could read. The defaults are
Diffusion-DPO's for SD1.5 and Diffusion-KTO's.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from .settings import PairSettings, guarded

if TYPE_CHECKING:
    from ..method import Method


class TPO(PairSettings):
    """The recipe's `method` section for TPO."""

    name: Literal["tpo"] = "tpo"
    form: Literal["dpo", "kto"] = "dpo"
    beta: float | None = Field(
        default=None, gt=0, description="beta / 2 multiplies the margin (kto: beta); None: 2000, for kto 1000"
    )

    @model_validator(mode="after")
    def _a_safeguard_needs_pairs(self) -> TPO:
        if self.form == "kto" and self.safeguard is not None:
            raise ValueError("method.safeguard guards the winner of a pair, and form kto has none; leave it out")
        return self

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        from ...objectives import OBJECTIVES, effective_temperature
        from ..method import Method

        unpaired = self.form == "kto"
        beta = self.beta or (1000.0 if unpaired else 2000.0)
        return Method(
            name=self.name,
            requires=frozenset({"captions"}),
            reduction=self.reduction,
            temperature=effective_temperature(beta, not unpaired, self.reduction, elements),
            **guarded(
                partial(OBJECTIVES[self.form], beta=beta),
                self.safeguard,
                over_batch=unpaired,  # its reference point is the batch's mean
            ),
        )
