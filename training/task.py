"""The seam between the loop and a modality: what a task must offer to be trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Visit(NamedTuple):
    """One visit of one preference group."""

    position: int
    """Place in the run's infinite stream of groups: unique over the whole run, it seeds every draw of this visit."""
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    """Which group of the data set."""


class Task(Protocol):
    """A method on a model on data; the loop knows nothing else of them.

    Trained are the parameters of `network` with `requires_grad`; they must be float32 (autocast does the rest).
    The loop moves `network` to the device, wraps it and assigns the wrapped module back, so `loss` must call
    `self.network(...)` itself for mixed precision and several processes to work, and must find its own frozen parts
    (a reference copy, say) on the device of the batch that it is given.

    Optional attribute: `flops_per_group: float`, the floating-point operations of one group's forward and backward
    passes; with it the log shows the model-FLOPs utilisation. Optional attribute: `easiest`, the numbers of all groups
    from easy to hard, int64 `[groups]`; with it the run visits them in that order. Optional attribute:
    `at_step(step)`, called on every process before each optimizer step, counted from 0. Optional attribute:
    `memory_keys`, keys of the recipe whose smaller values take less memory, for the advice when there is too little.
    """

    network: torch.nn.Module
    groups: int
    """Number of groups in the training set."""

    def item(self, visit: Visit) -> Any:
        """What one visit feeds; may run in a data worker, so it draws from `visit.position` alone."""
        ...

    def collate(self, items: list[Any]) -> Any:
        """A batch from items; the loop moves its tensors to the device."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss, a mean over the batch's groups, and detached scalar metrics, means likewise."""
        ...

    def validate(self) -> dict[str, float]:
        """Held-out numbers, `{}` if there are none; called on the main process, without gradients."""
        ...

    def sample(self, folder: Path, step: int) -> None:
        """Write a grid of samples to `sample_path(folder, step)`; main process only, with the EMA weights if any."""
        ...

    def save(self, folder: Path) -> None:
        """Write the final weights in the user's format; main process only, with the EMA weights if any."""
        ...


@runtime_checkable
class TaskInParts(Protocol):
    """A task whose micro-batch has several losses in turn, such as one for each step of a rollout.

    Each is back-propagated before the next is made: no two graphs are in memory together. The loop minimises their
    mean, and counts each as a micro-batch of its own in its metrics.
    """

    parts: int
    """How many losses a micro-batch has: always as many, on every process, or processes would wait for each other."""

    def losses(self, batch: Any) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Exactly `parts` of what `Task.loss` returns."""
        ...


def sample_path(folder: Path, step: int) -> Path:
    """The picture of a step's samples that the trackers look for."""
    return folder / f"step-{step:06d}.png"
