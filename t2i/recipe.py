"""A text-to-image recipe: which checkpoint, which preferences, which method, and where the result goes."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..training.config import TrainingConfig
from .methods import MethodConfig
from .models.settings import LoraSettings, ReferenceSettings

UserPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path, in which `~` is the user's home, or a hub id."""
Fraction = Annotated[float, Field(ge=0, lt=1)]


class ModelConfig(BaseModel):
    """The checkpoint to align."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    path: UserPath = Field(description="a diffusers folder, a hub id, or a name: sdxl, sd3-medium, tiny-sdxl, ...")
    family: str | None = Field(default=None, description="checked against the checkpoint when given")
    revision: str | None = None
    variant: str | None = Field(default=None, description="the weights' file variant, such as fp16")
    tuning: Literal["lora", "full"] = "lora"
    lora: LoraSettings = LoraSettings()
    reference: ReferenceSettings = ReferenceSettings()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="of frozen weights; auto: the training precision"
    )
    attention: Literal["sdpa", "xformers"] = "sdpa"


class DataConfig(BaseModel):
    """The preference groups and how their pictures are framed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    path: UserPath = Field(description="groups in any format that `palate data convert` reads, or a hub id")
    format: str = "auto"
    split: str | None = None
    resolution: int | None = Field(default=None, ge=8, description="pixels a side; None: the checkpoint's own")
    crop: Literal["center", "random"] = "center"
    flip: bool = Field(default=False, description="mirror half of the variants; wrong where left and right matter")
    variants: int = Field(default=1, ge=1, description="crop and flip draws kept for each group")
    caption_dropout: Fraction = 0.0
    ties: Literal["drop", "keep"] = "drop"
    pairs: Literal["extremes", "all"] = Field(
        default="extremes", description="of a ranking, for methods that take pairs: the best and the worst, or each two"
    )
    order: Literal["random", "curriculum"] = Field(
        default="random", description="curriculum: from the widest difference of labels to the narrowest"
    )
    holdout: Fraction = Field(
        default=0.0, description="share of prompts kept for validation, chosen by the prompt's hash"
    )
    cache: UserPath | None = Field(
        default="cache", description="folder of encoded latents and prompts; None: encode in every step"
    )
    cache_dtype: Literal["float32", "float16"] = "float32"


class ValidationConfig(BaseModel):
    """Pictures drawn before and during training, from the same prompts and seeds each time."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    prompts: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**32)
    steps: int | None = Field(default=None, ge=1, description="sampling steps; None: the family's default")
    guidance: float | None = Field(default=None, ge=0)
    batch_size: int = Field(default=8, ge=1)


class OutputConfig(BaseModel):
    """The run folder and what is made of the result."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    folder: UserPath
    kohya: bool = Field(default=True, description="write the LoRA in kohya's and ComfyUI's key layout too")
    push_to: str | None = Field(default=None, description="hub repository owner/name")


class Recipe(BaseModel):
    """One alignment run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    model: ModelConfig
    data: DataConfig
    # `elsewhere`: methods whose recipes have another schema, named where a name is unknown.
    method: Annotated[
        MethodConfig,
        Field(discriminator="name", json_schema_extra={"elsewhere": ["d3po", "reward_model", "spo", "step_aware"]}),
    ]
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()
    output: OutputConfig
