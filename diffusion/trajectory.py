"""Stochastic sampling that keeps what it did, so that each of its steps has a density to train on (DDPO, D3PO).

The last step. A transition to the clean endpoint has standard deviation 0, hence no density, at any eta. Rollouts
therefore end one level before it, at the process's cleanest noisy state:

    variance-preserving   timestep 0, as in SPO's and D3PO's code (Stable Diffusion: the last step is 1 -> 0 with
                          standard deviation 0.0206). What noise is left there (sigma 0.029) passes for none: the state
                          is taken for the clean sample.
    rectified flow        the last time at which the sampler asks the network. One more call gives x0hat, which is what
                          the deterministic step to 0 returns; that step makes no pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import UserError
from .pairs import Pairs, RowPredict
from .process import NoiseProcess
from .transition import step


@dataclass(frozen=True)
class Move:
    """One step of n rows: x_s = `sample [n, ...]` at s = `next_times [n]`, drawn from x_t = `noisy` at t = `times`."""

    noisy: Tensor
    times: Tensor
    next_times: Tensor
    sample: Tensor

    def pairs(self, winners: Tensor, losers: Tensor) -> Pairs:
        """The moves of rows `winners [v]` against those of `losers [v]`; each pair shares a prompt, the winner's."""
        return Pairs(
            rows=winners,
            noisy=torch.stack([self.noisy[winners], self.noisy[losers]], 1),
            times=self.times[winners],
            next_times=self.next_times[winners],
            samples=torch.stack([self.sample[winners], self.sample[losers]], 1),
        )


def stochastic_grid(process: NoiseProcess, steps: int) -> Tensor:
    """The process's sampling times, descending, up to its cleanest noisy state; every step between them has a density.

    Stable Diffusion at 20 steps: 951, 901, ..., 1, 0. A flow at 20 steps: its 20 times, 19 steps between them. Raises
    UserError where fewer than two times are left.

    At eta = 1 a flow's step moves by about t / s standard deviations per unit of velocity: 50 in the last of those 19
    (without shift), 2 in the one before. A method that trains on every step, whatever a judge sees there, may take
    `grid[:-1]`.
    """
    # Clamped, the clean endpoint -1 becomes timestep 0, which a grid may hold already; a flow's 0 is clean.
    grid = process.timestep_grid(steps).clamp(min=0).unique_consecutive()
    grid = grid[process.levels(grid)[1] > 0]
    if len(grid) < 2:
        raise UserError(f"{steps} sampling steps leave no stochastic step: the last one is deterministic; take more")
    return grid


@torch.no_grad()
def trajectory(
    predict: RowPredict,
    process: NoiseProcess,
    start: Tensor,
    grid: Tensor,
    generators: Sequence[torch.Generator],
    eta: float = 1.0,
) -> Iterator[Move]:
    """The steps of n rows along `grid [S + 1]` from `start [n, ...]`, one by one, without gradients; S network calls.

    `generators` holds one per row, so that a row's path does not depend on its company. States are float32 at least.
    The last move's `sample` is not yet the picture's latent: see `clean_estimate`.
    """
    assert len(generators) == len(start), f"{len(generators)} generators for {len(start)} rows"
    n, noisy = len(start), starting_state(start)
    rows = torch.arange(n, device=start.device)
    for times, next_times in pairwise(grid.to(start.device)[:, None].expand(-1, n)):
        prediction = predict(noisy, times, rows)
        moved = step(process, prediction, noisy, times, next_times, eta, generators)
        yield Move(noisy, times, next_times, moved)
        noisy = moved


@torch.no_grad()
def clean_estimate(predict: RowPredict, process: NoiseProcess, noisy: Tensor, times: Tensor, rows: Tensor) -> Tensor:
    """The clean samples `[n, ...]` that a rollout's last states stand for: at time 0 themselves, else their x0hat."""
    if not times.any():
        return noisy
    return process.to_clean(predict(noisy, times, rows), noisy, times)


def starting_state(start: Tensor) -> Tensor:
    """`start` in float32 at least: bfloat16 would misplace a state by a tenth of Stable Diffusion's last step."""
    return start.detach().to(torch.promote_types(start.dtype, torch.float32))
