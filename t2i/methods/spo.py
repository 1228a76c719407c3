"""SPO, step-by-step preference optimisation (Liang et al. 2024, arXiv 2406.04314), on-policy, from prompts alone.

    data form    k next states of each step of a rollout, the best against the worst where they differ enough
    corruption   none: the states are what the policy sampled, at every step from the fifth on
    likelihood   log-density of the sampled transition, guided, a mean over elements
    objective    -log sigmoid(beta (ln r_w - ln r_l)), each ratio r to the reference clipped near 1

Official settings: 20 steps, eta 1, guidance 5, beta 10, clip 0.1, LoRA on the attention, AdamW with weight decay 1e-4,
constant rate, 10 epochs over 4,000 prompts of Pick-a-Pic v1. SD1.5: k 4, threshold 0.3, rank 4, learning rate 6e-5, 40
pairs a step. SDXL: k 2, threshold 0.4, 3 inner steps, rank 64, learning rate 1e-5, 16 pairs a step. A rollout gives a
prompt 16 pairs at most, so `training.batch_size` 4, in prompts, comes near to both. Nothing is published for flow;
there each step is the general transition with this eta, k and threshold are SD1.5's, and the last step, whose density
is a needle, is not learned from.

What we do otherwise than the reference code: an optimizer step belongs to one rollout, where the reference shuffles the
pairs of a larger one, takes several steps from it, and drops what does not divide among the processes. A loss is its
sum over pairs divided by all its prompts, so that neither the micro-batch nor the number of processes matters; a step
without a pair, or a picture without a score, costs nothing. `sides: improved` lets a ratio that has moved the wrong
way come back, where the published clip stops its gradient. Guidance's other side is the family's own empty prompt:
zeros for SDXL, as its sampler has it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveFloat

from .online import OnlineSettings

if TYPE_CHECKING:
    from ..online.method import OnlineMethod


class SPO(OnlineSettings):
    """The recipe's `method` section for SPO. None stands for the paper's setting of the model's family."""

    name: Literal["spo"] = "spo"
    k: int | None = Field(default=None, ge=2, le=64, description="candidates at each step; SDXL 2, others 4")
    threshold: float | None = Field(
        default=None, ge=0, lt=1, description="difference of probabilities that makes a pair; SDXL 0.4, others 0.3"
    )
    inner_steps: int | None = Field(
        default=None, ge=0, description="steps that candidates go on alone before they are judged; SDXL 3, others 0"
    )
    divert_start: int = Field(default=4, ge=0, description="ordinary steps before the first candidates")
    scale: PositiveFloat = Field(
        default=1.0, description="makes logits of the judge's scores: 1 for step_aware and PickScore, 100 for HPSv2"
    )
    beta: PositiveFloat = 10.0
    sides: Literal["both", "improved"] = Field(
        default="both", description="where a ratio is clipped: on both sides of 1, or only where it has improved"
    )

    def build(self, family: str) -> OnlineMethod:
        """The method for a model of `family`."""
        from ...objectives import clipped_dpo
        from ..online.method import OnlineMethod
        from ..online.stepwise import Branching, branch_steps, branched_latents, branched_steps

        wide = family == "sdxl"
        settings = Branching(
            steps=self.steps,
            eta=self.eta,
            k=self.k or (2 if wide else 4),
            threshold=(0.4 if wide else 0.3) if self.threshold is None else self.threshold,
            inner_steps=(3 if wide else 0) if self.inner_steps is None else self.inner_steps,
            divert_start=self.divert_start,
            scale=self.scale,
        )
        return OnlineMethod(
            name=self.name,
            objective=partial(clipped_dpo, beta=self.beta, clip=self.clip, sides=self.sides),
            rollout=partial(branched_steps, settings),
            parts=partial(branch_steps, settings),
            rolled=partial(branched_latents, settings),
            guidance=self.guidance,
            rollout_batch=self.rollout_batch,
            learned_rows=2 if settings.inner_steps else 1,
            temperature=self.beta,
            knob="k",
        )
