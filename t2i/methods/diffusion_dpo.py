"""Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908), on UNets and on rectified flow.

    data form    pairs
    corruption   one time and one noise for both pictures of a pair
    likelihood   mean squared error on the network's own target; Flow-DPO's weight (1 - t)^2 on demand
    objective    -log sigmoid(beta / 2 * margin); IPO, hinge and a winner anchor take its place on demand

Official settings: SD1.5 beta 2000 (paper) or 5000 (launcher), SDXL beta 5000, effective batch 2048 pairs, AdamW
(SD1.5) or Adafactor (SDXL), learning rate 2.048e-5 at that batch, warm-up 25 %, captions dropped in 20 % of the pairs,
1,000 to 2,000 steps. For flow there is no official setting; shared noise, logit-normal times and a constant beta is
what published flow trainers agree on. Flow-DPO (Liu et al. 2025, arXiv 2501.13918) derives beta (1 - t)^2, and finds
the constant better: `times: epsilon` is the derived one (and weighs a v-prediction's error as epsilon's).

What we do otherwise than the reference code, on purpose: ties are not wins; both pictures of a pair get the same crop
and mirror; each picture keeps its own SDXL size conditioning; noise depends on the pair, not on the process.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from .settings import PairSettings, guarded

if TYPE_CHECKING:
    from ..method import Method


class DiffusionDPO(PairSettings):
    """The recipe's `method` section for Diffusion-DPO."""

    name: Literal["diffusion_dpo"] = "diffusion_dpo"
    beta: float = Field(default=5000.0, gt=0, description="the paper's value; beta / 2 multiplies the margin")
    objective: Literal["dpo", "anchored_dpo", "ipo", "hinge"] = "dpo"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="the share of votes that are wrong; dpo only")
    smoothing: Literal["conservative", "robust"] = "conservative"
    anchor: float = Field(
        default=1.0, ge=0, description="of the winner's own error, weighted by its time as all are; anchored_dpo only"
    )
    times: Literal["alike", "epsilon"] = Field(default="alike", description="how errors weigh by their time")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> DiffusionDPO:
        # Compared with the defaults, for a run's stored recipe says everything.
        given = {name for name in self.model_fields_set if getattr(self, name) != type(self).model_fields[name].default}
        if self.objective not in ("dpo", "anchored_dpo") and given & {"label_smoothing", "smoothing"}:
            raise ValueError(f"method.label_smoothing has no effect on objective {self.objective}; it belongs to dpo")
        if self.objective != "anchored_dpo" and "anchor" in given:
            raise ValueError(f"method.anchor has no effect on objective {self.objective}; set objective: anchored_dpo")
        return self

    def build(self, elements: int) -> Method:
        """The method for latents of `elements` = C * h * w elements."""
        # Here and not above: a recipe with a typing mistake is answered before torch is loaded.
        from ...diffusion.likelihood import epsilon_weight
        from ...objectives import OBJECTIVES, effective_temperature
        from ..method import Method

        settings: dict[str, object] = {"beta": self.beta}
        if self.objective in ("dpo", "anchored_dpo"):
            settings |= {"label_smoothing": self.label_smoothing, "smoothing": self.smoothing}
        if self.objective == "anchored_dpo":
            settings["anchor"] = self.anchor
        temperature = None
        if self.objective != "ipo":  # its beta sets a target margin, not a slope
            temperature = effective_temperature(self.beta, True, self.reduction, elements)
        return Method(
            name=self.name,
            reduction=self.reduction,
            weighting=epsilon_weight if self.times == "epsilon" else None,
            temperature=temperature,
            **guarded(partial(OBJECTIVES[self.objective], **settings), self.safeguard),
        )
