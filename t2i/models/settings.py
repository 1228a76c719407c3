"""What a recipe may say of the trained part and of the reference; no torch here, so that a recipe is read at once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LoraSettings(BaseModel):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): W + (alpha / rank) B A."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0, description="None: equal to the rank, a scale of 1")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] | None = Field(default=None, description="None: the family's attention projections")


class ReferenceSettings(BaseModel):
    """Where the frozen copy of a full fine-tuning lives; LoRA needs none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    dtype: Literal["same", "bfloat16", "float16"] = Field(
        default="same", description="another rounds otherwise than the policy: margins of 1e-3 before the first step"
    )
    device: Literal["same", "cpu"] = Field(
        default="same", description="cpu: moved over for each reference pass and back"
    )
