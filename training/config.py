"""The `training` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0, lt=1)]
_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OptimizerConfig(BaseModel):
    """Which optimizer, and its constants; `betas` and `eps` are AdamW's, Adafactor has none of them."""

    model_config = _STRICT

    name: Literal["adamw", "adafactor", "adamw8bit"] = "adamw"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.01
    eps: PositiveFloat = 1e-8


class EarlyStopConfig(BaseModel):
    """Stop when a held-out number has not improved for `patience` validations."""

    model_config = _STRICT

    metric: str
    patience: PositiveInt = 5
    mode: Literal["max", "min"] = "max"


class TrainingConfig(BaseModel):
    """How to train; `null` for an interval means never."""

    model_config = _STRICT

    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 16
    """Groups per optimizer step, over all processes and accumulation."""
    micro_batch: PositiveInt = 1
    """Groups per forward pass of one process; what memory allows. Accumulation follows from the two."""
    learning_rate: PositiveFloat = 1e-5
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    max_grad_norm: PositiveFloat | None = 1.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast of the forward pass; trained weights stay float32."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the moving average of the trained weights that validation, samples and the final weights then use."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    compile: bool = False
    seed: NonNegativeInt = Field(default=0, lt=2**63)
    checkpoint_every: PositiveInt = 100
    keep_checkpoints: PositiveInt = 2
    log_every: PositiveInt = 10
    validate_every: PositiveInt | None = 100
    sample_every: PositiveInt | None = 100
    early_stop: EarlyStopConfig | None = None
    workers: NonNegativeInt = 2
    """Data worker processes; 0 makes the batches in the training process."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Besides metrics.jsonl, which is always written."""
    threads: PositiveInt | None = None
    """CPU threads of torch; null leaves torch's own choice."""

    @model_validator(mode="after")
    def _early_stop_needs_validation(self) -> TrainingConfig:
        if self.early_stop and not self.validate_every:
            raise ValueError("training.early_stop watches a validation number, but training.validate_every is null")
        return self
