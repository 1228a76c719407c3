"""What every objective takes and gives, and the checks that they share.

An objective is a pure function

    objective(policy_errors, reference_errors, labels, *, settings...) -> (loss, metrics)

    policy_errors     [B, k]  how badly the policy explains each candidate (lower error = more likely)
    reference_errors  [B, k]  the same of the frozen reference; None for a reference-free objective
    labels            [B, k]  higher is preferred, equal is a tie
    loss              []      the scalar to minimise, float32 or wider
    metrics           dict of detached float32 scalars, the same keys in every call

One row is one group; its candidates are sorted from most to least preferred. The order is the data side's promise and
raises nothing here: looking at label values would make the host wait for the device in every step. A pairwise
objective treats a row whose first label is not above its last as a tie, so a wrong order teaches nothing backwards.

A metric that no row of the batch defines (the accuracy of a batch of ties) is NaN, never 0: average metrics over
batches with `nanmean`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

LossAndMetrics: TypeAlias = tuple[Tensor, dict[str, Tensor]]
Objective: TypeAlias = Callable[..., LossAndMetrics]


def checked_errors(name: str, errors: Tensor | None, labels: Tensor, *, candidates: int) -> Tensor:
    """Return `errors` [B, k] in at least float32 (float64 stays float64), after checking them against `labels`.

    The difference of two nearly equal errors is the whole signal: half precision would round it away.
    Raises ValueError if `errors` is None, is not [B, k] with B >= 1 and k >= `candidates`, or differs in shape from
    `labels`.
    """
    if errors is None:
        raise ValueError(f"{name} is None, but this objective compares with a reference: pass a tensor [B, k]")
    shape = tuple(errors.shape)
    if errors.ndim != 2 or shape[0] < 1 or shape[1] < candidates:
        raise ValueError(f"{name} has shape {shape}; expected [B, k], B >= 1 groups of k >= {candidates} candidates")
    if shape != tuple(labels.shape):
        raise ValueError(f"{name} has shape {shape} and labels {tuple(labels.shape)}; give one label per candidate")
    return errors.to(torch.promote_types(errors.dtype, torch.float32))


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number above zero."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; expected a finite number above 0")


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number, zero or above."""
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; expected a finite number, 0 or above")


def scalar(values: Tensor, where: Tensor | None = None) -> Tensor:
    """A metric: the mean of `values`, of those `where` a bool tensor says if given, as a detached float32 scalar.

    NaN if there are none. A sum over a mask, not an indexing by it, which would make the host wait for the device.
    """
    values = values.detach()
    if where is None:
        return values.mean().float()
    return (torch.where(where, values, 0.0).sum() / where.sum()).float()
