"""A mean that is the same on every process: statistics that steer a loss must agree."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def mean_over_processes(values: Tensor, where: Tensor | None = None) -> Tensor:
    """The mean of `values` over all processes, each value counting once however many a process holds; detached.

    `where`, a bool tensor, says which values take part; NaN if none does. With torch.distributed initialised every
    process must call this the same number of times with gradient. Without gradient it is this process's own mean:
    validation runs on one process, and the others would not answer.
    """
    values = values.detach()
    if where is None:
        total = torch.stack([values.sum(), values.new_full((), values.numel())])
    else:
        total = torch.stack([torch.where(where, values, 0.0).sum(), where.sum().to(values.dtype)])
    if torch.is_grad_enabled() and dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
    return total[0] / total[1]
