"""A step-aware recipe: which frozen diffusion network, which pairs, which preference model to start from, and how.

SPO's settings (Liang et al. 2024, arXiv 2406.04314): PickScore v1 on all of Pick-a-Pic v1, ties kept; people's labels
for SD1.5, PickScore's own for SDXL; 16 pairs on each of four GPUs, AdamW with weight decay 0.3, learning rate 3e-6
(SD1.5) or 1e-6 (SDXL) after 500 steps of warm-up, then falling linearly to step 8000 or 7000, bf16. Whether gradients
were accumulated over 16 batches more cannot be told from the published code.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator

from ...rewards.learn.recipe import OutputConfig, TrainedBlocks
from ...training.config import TrainingConfig
from ..recipe import DataConfig, Fraction, UserPath

Thousandth = Annotated[float, Field(ge=0, le=1000)]
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FrozenModel(BaseModel):
    """The checkpoint whose clean estimates are judged; nothing of it is trained."""

    model_config = _STRICT
    path: UserPath = Field(description="a diffusers folder, a hub id, or tiny-sdxl / tiny-sd3")
    family: str | None = Field(default=None, description="checked against the checkpoint when given")
    revision: str | None = None
    variant: str | None = Field(default=None, description="the weights' file variant, such as fp16")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="of its weights; auto: the training precision"
    )
    attention: Literal["sdpa", "xformers"] = "sdpa"


class PairsConfig(DataConfig):
    """The preference groups, of which the best and the worst make a pair. Ties teach that two estimates are alike."""

    ties: Literal["drop", "keep"] = "keep"

    @model_validator(mode="after")
    def _only_what_has_an_effect(self) -> PairsConfig:
        if self.caption_dropout:
            raise ValueError("data.caption_dropout has no effect on a step-aware preference model; leave it out")
        if self.order != "random":
            raise ValueError("data.order has no effect on a step-aware preference model; leave it out")
        return self


class RewardLabels(BaseModel):
    """Labels from a reward's scores of the clean pictures, in place of people's."""

    model_config = _STRICT
    reward: str = Field(default="pickscore", description="a name that `palate score` knows")
    weights: UserPath | None = Field(default=None, description="a file, folder or hub id; None: the official ones")
    tokenizer: UserPath | None = None
    scale: PositiveFloat = Field(
        default=1.0, description="makes logits of scores: 1 for PickScore and ImageReward, 100 for HPSv2's cosines"
    )
    gap: Fraction = Field(
        default=0.1, description="two pictures tie where the probabilities to be preferred differ by this or less"
    )


class StepAwareMethod(BaseModel):
    """The preference model and what it is asked."""

    model_config = _STRICT
    name: Literal["step_aware"]
    start: UserPath = Field(
        default="yuvalkirstain/PickScore_v1",
        description="PickScore, a folder or hub id; or a step-aware model to go on from: a file, a folder, sd15, sdxl",
    )
    tokenizer: UserPath | None = Field(
        default=None, description="a folder or hub id; None: beside the model, or open_clip's"
    )
    guidance: NonNegativeFloat = Field(default=5.0, description="of the clean estimates; as the sampler's to be judged")
    labels: RewardLabels | None = Field(default=None, description="None: the data's own")
    train: TrainedBlocks = Field(default=TrainedBlocks(), description="what hears the time is always trained")
    evaluate_at: tuple[Thousandth, ...] = Field(
        default=(0, 251, 501, 701, 951),
        min_length=1,
        description="times of the validation, in thousandths; 0 is the clean latents",
    )


class StepAwareRecipe(BaseModel):
    """One step-aware preference model's training run."""

    model_config = _STRICT
    model: FrozenModel
    data: PairsConfig
    method: StepAwareMethod
    training: TrainingConfig = TrainingConfig()
    output: OutputConfig

    @model_validator(mode="after")
    def _only_what_has_an_effect(self) -> StepAwareRecipe:
        if self.training.compile:
            raise ValueError("training.compile has no effect on a step-aware preference model; leave it out")
        return self
