"""One process or several: starting accelerate, and deciding together."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, broadcast_object_list

from ..errors import PalateError, UserError
from .config import TrainingConfig

Value = TypeVar("Value")

# The others wait while the main process encodes, validates and samples.
_PATIENCE = timedelta(hours=6)


def process_state() -> PartialState:
    """This process among the others and its device, for what comes before `start_accelerator`."""
    return PartialState(cpu=_only_cpu(), timeout=_PATIENCE)


def start_accelerator(config: TrainingConfig) -> Accelerator:
    """Accelerate with the configured precision; under `accelerate launch` or torchrun, one of several processes."""
    # Accelerate keeps its settings for the process's life; a second run in it may want another precision.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    if config.threads:
        torch.set_num_threads(config.threads)
    handlers = [
        InitProcessGroupKwargs(timeout=_PATIENCE),
        # Buffers are constants here, and broadcasting them would hang the main process when it samples alone.
        DistributedDataParallelKwargs(broadcast_buffers=False),
    ]
    # Left to itself, accelerate takes a number from `accelerate launch` and divides the loss by it once more.
    once = GradientAccumulationPlugin(num_steps=1)
    require_precision(config.precision)
    try:
        accelerator = Accelerator(
            mixed_precision=config.precision,
            cpu=_only_cpu(),
            kwargs_handlers=handlers,
            gradient_accumulation_plugin=once,
        )
    except ValueError as error:
        raise UserError(f"training.precision {config.precision} does not work here: {error}; use bf16 or no") from error
    if accelerator.device.type == "cuda" and config.precision != "no":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if accelerator.num_processes > 1:
        atexit.register(accelerator.state.destroy_process_group)
    return accelerator


def require_precision(precision: str) -> None:
    """Raise UserError if the machine cannot train in `precision`."""
    if precision == "fp16" and _only_cpu():  # accelerate would train in float32 and not say so
        raise UserError("training.precision fp16 needs a GPU; use bf16 or no")


def on_main(accelerator: Accelerator, work: Callable[[], Value]) -> Value:
    """Do `work` on the main process only; every process gets its value, or raises its PalateError."""
    if accelerator.num_processes == 1:
        return work()
    outcome: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome = [work(), None]
        except PalateError as error:
            outcome = [None, error]
    broadcast_object_list(outcome)
    value, error = outcome
    if isinstance(error, PalateError):
        raise error
    return value  # pyright: ignore[reportReturnType]


def anywhere(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` is set in any process."""
    if accelerator.num_processes == 1:
        return flag
    count = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum")
    return bool(count.item())  # pyright: ignore[reportAttributeAccessIssue]


def _only_cpu() -> bool:
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return True
    return not (torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available())


def ignore(line: str) -> None:
    """What other processes than the first have to say is what the first says."""


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Nobody looks on."""
