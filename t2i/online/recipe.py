"""An online recipe: which checkpoint, which prompts, which method and judge, and where the result goes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from ...training.config import TrainingConfig
from ..methods import OnlineMethodConfig
from ..recipe import Fraction, ModelConfig, OutputConfig, UserPath, ValidationConfig

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PromptsConfig(BaseModel):
    """The prompts to draw; `training.batch_size` counts prompts."""

    model_config = _STRICT
    path: UserPath = Field(
        description="a text file, one prompt a line; a table or Parquet with a column of prompts; or preference groups"
    )
    column: str | None = Field(default=None, description="of the prompts; None: prompt, caption or text")
    split: str | None = None
    limit: PositiveInt | None = Field(default=None, description="take the first so many; SPO takes 4,000")
    resolution: int | None = Field(default=None, ge=8, description="pixels a side; None: the checkpoint's own")
    holdout: Fraction = Field(default=0.0, description="share kept for validation, chosen by the prompt's hash")
    cache: UserPath = Field(default="cache", description="folder of encoded prompts")


class OnlineValidationConfig(ValidationConfig):
    """Also how many held-out prompts are drawn, from the same seeds each time, and scored by the judge."""

    pictures: PositiveInt = 16


class OnlineRecipe(BaseModel):
    """One run that learns from its own pictures."""

    model_config = _STRICT
    model: ModelConfig
    data: PromptsConfig
    method: Annotated[OnlineMethodConfig, Field(discriminator="name")]
    training: TrainingConfig = TrainingConfig()
    validation: OnlineValidationConfig = OnlineValidationConfig()
    output: OutputConfig
