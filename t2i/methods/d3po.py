"""D3PO (Yang et al. 2023, arXiv 2311.13231), on-policy, from prompts alone.

    data form    all pairs of n pictures of a prompt that a judge tells apart
    corruption   none: the states of the pictures' own trajectories, every step of them
    likelihood   log-density of the sampled transition, guided, a mean over elements
    objective    -log sigmoid(beta (ln r_w - ln r_l)), each ratio r to the reference clipped near 1

Official settings (SD1.5): n 7, 20 steps, eta 1, guidance 5, beta 0.1, clip 0.1, LoRA, AdamW at 3e-5, 400 epochs; a
person chooses. Here a scorer does. Nothing is published for flow; there each step is the general transition with this
eta, and the last one, whose density is a needle, is not learned from.

What we do otherwise than the reference code: each picture goes through the network once in a step, however many pairs
it is in. A step's loss is its sum over pairs divided by all pairs that its prompts could have.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveFloat

from .online import JudgeSettings, OnlineSettings

if TYPE_CHECKING:
    from ..online.method import OnlineMethod


class D3PO(OnlineSettings):
    """The recipe's `method` section for D3PO."""

    name: Literal["d3po"] = "d3po"
    judge: JudgeSettings = JudgeSettings(name="pickscore")
    pictures: int = Field(
        default=7, ge=2, le=64, description="of each prompt; all of them go through the network in a step"
    )
    beta: PositiveFloat = 0.1
    sides: Literal["both", "improved"] = Field(
        default="both", description="where a ratio is clipped: on both sides of 1, or only where it has improved"
    )

    def build(self, family: str) -> OnlineMethod:
        """The method; `family` does not matter."""
        from ...objectives import clipped_dpo
        from ..online.method import OnlineMethod
        from ..online.trajectories import paired_steps, trajectory_latents, trajectory_steps

        return OnlineMethod(
            name=self.name,
            objective=partial(clipped_dpo, beta=self.beta, clip=self.clip, sides=self.sides),
            rollout=partial(paired_steps, steps=self.steps, eta=self.eta, pictures=self.pictures),
            parts=partial(trajectory_steps, steps=self.steps),
            rolled=partial(trajectory_latents, steps=self.steps, pictures=self.pictures),
            guidance=self.guidance,
            rollout_batch=self.rollout_batch,
            learned_rows=self.pictures,
            temperature=self.beta,
            knob="pictures",
        )
