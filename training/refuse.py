"""What a machine cannot do for a recipe, told before anything is prepared or written."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UserError
from . import checkpoint
from .config import TrainingConfig
from .optimizers import require_optimizer
from .order import Shares
from .processes import require_precision
from .run_folder import RunFolder, read_summary
from .trackers import require_trackers


def refuse_early(config: TrainingConfig, folder: Path, processes: int = 1) -> None:
    """Look at all that `train` would refuse, and write nothing.

    Raises UserError: the batch cannot be shared out, the machine lacks the precision, the optimizer or a tracker, the
    run folder cannot be made, or the run in it was interrupted beyond the steps that are asked for.
    """
    Shares(config.batch_size, config.micro_batch, processes)
    require_precision(config.precision)
    require_optimizer(config)
    require_trackers(config.trackers)
    run = RunFolder(folder)
    for part in (run.samples, run.checkpoints):
        require_folder(part, f"the output folder {folder}")
    done = 0 if read_summary(run) else checkpoint.newest_step(run.checkpoints)  # a finished run is left as it is
    if done > config.steps:
        raise UserError(
            f"the run in {folder} has done {done} steps, and training.steps is {config.steps}: give {done} to end it "
            "there, more to go on, or choose another output folder"
        )


def require_folder(folder: Path, name: str) -> None:
    """Raise UserError, in terms of `name`, unless `folder` can be written to, or made; makes nothing."""
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"{name} cannot be made: {there} is not a folder; choose another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{name} cannot be made: {there} may not be written to; choose another one")
