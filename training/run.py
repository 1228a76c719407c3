"""A run in memory, and its way into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch.nn import Parameter

from . import checkpoint
from .config import TrainingConfig
from .ema import Ema
from .meter import Meter
from .optimizers import make_optimizer
from .order import Shares
from .processes import on_main
from .run_folder import RunFolder
from .task import Task
from .trained import load_weights, trained_parameters
from .writer import Writer


@dataclass
class Run:
    """What a run holds while it goes on; `ema` and `writer` are the main process's alone."""

    task: Task
    config: TrainingConfig
    folder: RunFolder
    accelerator: Accelerator
    shares: Shares
    parameters: dict[str, Parameter]
    optimizer: AcceleratedOptimizer
    meter: Meter
    ema: Ema | None = None
    writer: Writer | None = None
    step: int = 0
    """Optimizer steps done."""
    skipped: int = 0
    """Of these, steps that fp16's scaler skipped."""
    seconds: float = 0.0
    window_seconds: float = 0.0
    """Seconds in steps since the last log line."""

    @property
    def log(self) -> Writer:
        assert self.writer is not None, "only the main process writes"
        return self.writer


@contextmanager
def prepared(
    task: Task, config: TrainingConfig, paths: RunFolder, accelerator: Accelerator, shares: Shares
) -> Iterator[Run]:
    """A run at step 0; within the block the task's network is on the device and wrapped."""
    task.network = accelerator.prepare_model(task.network)
    try:
        parameters = trained_parameters(accelerator.unwrap_model(task.network))
        optimizer = accelerator.prepare_optimizer(make_optimizer(list(parameters.values()), config))
        assert isinstance(optimizer, AcceleratedOptimizer)
        ema = Ema(parameters, config.ema) if config.ema and accelerator.is_main_process else None
        task.network.train()
        yield Run(task, config, paths, accelerator, shares, parameters, optimizer, Meter(), ema)
    finally:
        task.network = accelerator.unwrap_model(task.network, keep_fp32_wrapper=False)


def store(run: Run) -> None:
    """Write a checkpoint of the run as it is between two steps."""
    scaler = run.accelerator.scaler
    state = {
        "step": run.step,
        "skipped": run.skipped,
        "seconds": run.seconds,
        "window": run.meter.rows,
        "window_seconds": run.window_seconds,
    }

    def work() -> None:
        run.log.metrics.sync()
        checkpoint.write(
            run.folder.checkpoints,
            run.step,
            tensors={"weights": run.parameters, **({"ema": run.ema.shadow} if run.ema else {})},
            objects={"optimizer": run.optimizer.state_dict(), **({"scaler": scaler.state_dict()} if scaler else {})},
            state=state,
            keep=run.config.keep_checkpoints,
        )

    on_main(run.accelerator, work)


def restore(run: Run, path: Path) -> None:
    """Bring the run to where the checkpoint was written."""
    load_weights(run.parameters, checkpoint.read_tensors(path, "weights"), str(path))
    if run.ema:
        load_weights(run.ema.shadow, checkpoint.read_tensors(path, "ema"), str(path))
    run.optimizer.load_state_dict(checkpoint.read_object(path, "optimizer"))
    if run.accelerator.scaler:
        run.accelerator.scaler.load_state_dict(checkpoint.read_object(path, "scaler"))
    state = checkpoint.read_state(path)
    run.step, run.skipped, run.meter = state["step"], state["skipped"], Meter(state["window"])
    run.seconds, run.window_seconds = state["seconds"], state["window_seconds"]
