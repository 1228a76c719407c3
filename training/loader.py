"""From visits to batches on the device."""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
from collections.abc import Generator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import PalateError, UserError
from .order import MicroBatches
from .task import Task, Visit


class _Items(Dataset[Any]):
    def __init__(self, task: Task) -> None:
        self.task = task

    def __getitem__(self, visit: Visit) -> Any:
        return self.task.item(visit)


def batches(task: Task, order: MicroBatches, workers: int, device: torch.device) -> Generator[Any, None, None]:
    """The task's batches in `order`, on `device`; `workers` processes make the items, 0 makes them here. Close it."""
    forks = "fork" in multiprocessing.get_all_start_methods()
    loader = DataLoader(
        _Items(task),
        batch_sampler=order,
        collate_fn=task.collate,
        num_workers=workers,
        worker_init_fn=_ignore_signals,
        # A forked worker shares the data set; any other start method would pickle it, network and all.
        multiprocessing_context="fork" if workers and forks else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # otherwise the loader would draw from the global one
    )
    iterator = iter(loader)
    try:
        for batch in iterator:
            yield to_device(batch, device)
    except PalateError as error:
        raise _without_worker_traceback(error) from None
    finally:
        # An error's traceback may keep the iterator alive; its workers would then wait for a signal that they ignore.
        getattr(iterator, "_shutdown_workers", lambda: None)()


def _ignore_signals(_: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach the workers too; the main process still needs them to finish the step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _without_worker_traceback(error: PalateError) -> PalateError:
    # The loader turns a worker's error into one whose message is the whole traceback; its last line is the message.
    last = str(error).strip().splitlines()[-1]
    kind = UserError if isinstance(error, UserError) else PalateError
    return kind(last.removeprefix(f"{kind.__module__}.{kind.__qualname__}: "))


def to_device(batch: Any, device: torch.device) -> Any:
    """`batch` with every tensor in its dicts, lists, tuples and dataclasses on `device`."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        moved = {field.name: to_device(getattr(batch, field.name), device) for field in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **moved)
    return batch
