"""Sampling: from noise to a clean sample, one Gaussian transition after another."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from .process import Generators, NoiseProcess, Predict
from .transition import step


def sample(
    predict: Predict,
    process: NoiseProcess,
    start: Tensor,
    steps: int,
    eta: float = 0.0,
    generator: Generators | None = None,
) -> Tensor:
    """Clean samples `[n, ...]` from noise `start [n, ...]`: DDIM (VP) or Euler (flow) at eta = 0, ancestral at 1."""
    grid = process.timestep_grid(steps).to(start.device)
    return descend(predict, process, start, grid.expand(len(start), -1), eta, generator)


def descend(
    predict: Predict,
    process: NoiseProcess,
    noisy: Tensor,
    grid: Tensor,
    eta: float = 0.0,
    generator: Generators | None = None,
) -> Tensor:
    """Follow each row's own descending times, `grid [n, steps + 1]`, from `noisy [n, ...]` at its first to its last."""
    for times, next_times in pairwise(grid.unbind(1)):
        # A row that has arrived waits at the clean endpoint, which is no timestep of the network's.
        prediction = predict(noisy, times.clamp(min=0))
        noisy = step(process, prediction, noisy, times, next_times, eta, generator)
    return noisy
