"""Optimizers and the learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import Parameter

from ..errors import UserError
from .config import TrainingConfig


def make_optimizer(parameters: list[Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """The configured optimizer over `parameters`, already on their device."""
    chosen = config.optimizer
    rate, decay = config.learning_rate, chosen.weight_decay
    if chosen.name == "adafactor":
        from transformers.optimization import Adafactor

        # As in the official Diffusion-DPO script: the given learning rate is used as it is. torch.optim.Adafactor
        # scales it by each weight's size, so that the paper's rates would mean something else.
        return Adafactor(parameters, lr=rate, weight_decay=decay, scale_parameter=False, relative_step=False)
    if chosen.name == "adamw8bit":
        kind = _adamw8bit()
        return kind(parameters, lr=rate, betas=chosen.betas, eps=chosen.eps, weight_decay=decay)
    fused = parameters[0].device.type in ("cuda", "cpu")  # on a CPU it takes a sixth of the time for many small weights
    return torch.optim.AdamW(
        parameters, lr=rate, betas=chosen.betas, eps=chosen.eps, weight_decay=decay, fused=fused or None
    )


def require_optimizer(config: TrainingConfig) -> None:
    """Raise UserError if the configured optimizer is not installed."""
    if config.optimizer.name == "adamw8bit":
        _adamw8bit()


def _adamw8bit() -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "training.optimizer.name adamw8bit needs bitsandbytes, which is not installed; "
            "pip install 'palate[cuda]', or choose adamw or adafactor"
        ) from error
    return AdamW8bit


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of optimizer step `step`, counted from 0: linear warm-up, then the schedule; never 0 within the run."""
    warmup = config.warmup_steps
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, config.steps - warmup))
    if config.schedule == "linear":
        return config.learning_rate * (1 - done)
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
