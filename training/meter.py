"""Numbers of the steps since the last log line, kept on the device until they are asked for."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import Tensor

_MUST_BE_FINITE = ("loss", "grad_norm")
"""A NaN in one part makes the whole NaN; in any other number it says that this part has nothing to tell."""


class Meter:
    """Collects each step's means without waiting for the GPU; `collect` is the only synchronisation."""

    def __init__(self, rows: list[dict[str, float]] | None = None) -> None:
        self.rows = rows or []
        """One row a step since the last log line, means over micro-batches and processes."""
        self._micro: list[dict[str, Tensor]] = []
        self._pending: list[dict[str, Tensor]] = []

    def micro_batch(self, loss: Tensor, metrics: dict[str, Tensor]) -> None:
        """Take in one micro-batch."""
        self._micro.append({"loss": loss.detach(), **metrics})

    def step(self, grad_norm: Tensor) -> None:
        """Close a step; its micro-batches are equally large, so the mean of their means is the step's."""
        first = self._micro[0]
        means = {key: _mean(key, torch.stack([micro[key].detach().float() for micro in self._micro])) for key in first}
        self._pending.append({**means, "grad_norm": grad_norm.detach().float()})
        self._micro = []

    def collect(self, accelerator: Accelerator) -> list[dict[str, float]]:
        """Move the pending steps into `rows`, averaged over processes; returns them."""
        if not self._pending:
            return []
        flat = torch.stack([value.reshape(()) for row in self._pending for value in row.values()])
        strict = torch.tensor([key in _MUST_BE_FINITE for row in self._pending for key in row], device=flat.device)
        told = strict | ~flat.isnan()
        both = torch.stack([torch.where(told, flat, 0.0), told.float()])
        total, count = accelerator.reduce(both, reduction="sum")  # type: ignore[misc]
        numbers = iter((total / count).tolist())
        fresh = [{key: next(numbers) for key in row} for row in self._pending]
        self.rows += fresh
        self._pending = []
        return fresh

    def take_means(self) -> dict[str, float]:
        """Means over `rows`, of the finite values of each key; empties `rows`."""
        keys = {key: None for row in self.rows for key in row}
        means = {key: _finite_mean([row[key] for row in self.rows if key in row]) for key in keys}
        self.rows = []
        return means


def _mean(key: str, values: Tensor) -> Tensor:
    return values.mean() if key in _MUST_BE_FINITE else values.nanmean()


def _finite_mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan
