"""What the online methods' sections of a recipe have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from .settings import MethodSettings


class JudgeSettings(BaseModel):
    """Who scores the pictures: `step_aware`, which is asked with the time, or any scorer that `palate score` knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: str = "step_aware"
    weights: str | None = Field(default=None, description="a file, folder or hub id; None: the official ones")
    tokenizer: str | None = None
    assets: dict[str, str] = Field(default={}, description="other paths that the scorer takes, by name")


class OnlineSettings(MethodSettings):
    """Of a method that learns from its own rollouts. Policy and reference are guided in the likelihood as well."""

    judge: JudgeSettings = JudgeSettings()
    steps: PositiveInt = Field(default=20, description="of the sampler")
    eta: float = Field(default=1.0, gt=0, le=1, description="how much noise a step draws; 1 is ancestral sampling")
    guidance: float = Field(default=5.0, ge=1)
    clip: float = Field(default=0.1, gt=0, lt=1, description="of the density ratio, above and below 1")
    rollout_batch: PositiveInt = Field(
        default=8, description="latents that go through the network at once where nothing is learned from them"
    )
