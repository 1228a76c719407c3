"""D3PO's rollout: whole trajectories, and all pairs of a prompt's pictures that the judge tells apart."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...diffusion import (
    NoiseProcess,
    RowPredict,
    Stream,
    clean_estimate,
    generator_for,
    normal_noise,
    stochastic_grid,
    trajectory,
    transition_errors,
)
from ...errors import UserError
from .method import Part, Scene, learned_grid


def trajectory_steps(process: NoiseProcess, steps: int) -> int:
    """How many steps of a trajectory are learned from. Raises UserError if none is."""
    count = len(learned_grid(process, steps)) - 1
    if count < 1:
        raise UserError(f"method.steps is {steps}, and none of them can be learned from: take more")
    return count


def trajectory_latents(process: NoiseProcess, steps: int, pictures: int) -> int:
    """How many latents of a prompt the policy is asked about: one for each step, and the last one's clean estimate."""
    grid = stochastic_grid(process, steps)
    return pictures * (len(grid) - 1 + int(grid[-1] > 0))


def paired_steps(scene: Scene, *, steps: int, eta: float, pictures: int) -> Iterator[Part]:
    """One part for each step of the trajectories, for each prompt in an order of its own, as in D3PO's code."""
    n, count = len(scene.positions), trajectory_steps(scene.process, steps)
    grid = stochastic_grid(scene.process, steps).to(scene.device)
    states, scores = _drawn(scene, grid, eta, pictures)
    # A score that is not a number is not above another: its picture is in no pair.
    prompt, winner, loser = (scores[:, :, None] > scores[:, None, :]).nonzero().unbind(1)
    winners, losers = prompt * pictures + winner, prompt * pictures + loser
    share = len(winners) / (n * pictures * (pictures - 1) // 2)
    if not len(winners):
        winners = losers = torch.zeros(1, dtype=torch.int64, device=scene.device)
        states = states.nan_to_num()
    used, places = torch.stack([winners, losers], 1).unique(return_inverse=True)  # [m], [v, 2]
    order = _orders(scene, count)[used // pictures]  # [m, steps]
    for number in range(count):
        at = order[:, number]
        noisy, sample = states[at, used], states[at + 1, used]
        times, next_times = grid[at], grid[at + 1]

        def errors(
            predict: RowPredict,
            noisy: Tensor = noisy,
            sample: Tensor = sample,
            times: Tensor = times,
            next_times: Tensor = next_times,
        ) -> Tensor:
            prediction = predict(noisy, times, used // pictures)
            return transition_errors(prediction, noisy, times, next_times, sample, scene.process, eta)[places]

        yield Part(errors, share, scores if number == 0 else None, final=True)


def _drawn(scene: Scene, grid: Tensor, eta: float, pictures: int) -> tuple[Tensor, Tensor]:
    """All states `[S + 1, n * pictures, C, h, w]` of the trajectories, and the scores `[n, pictures]` of their ends."""
    generators = [
        generator_for(scene.seed, Stream.SAMPLING, position, number)
        for position in scene.positions
        for number in range(pictures)
    ]
    start = normal_noise((len(generators), *scene.shape), generators).to(scene.device)

    def predict(noisy: Tensor, times: Tensor, rows: Tensor) -> Tensor:
        return scene.predict(noisy, times, rows // pictures)

    states = [start]
    states += [move.sample for move in trajectory(predict, scene.process, start, grid, generators, eta)]
    rows, last = torch.arange(len(start), device=scene.device), grid[-1].expand(len(start))
    clean = clean_estimate(predict, scene.process, states[-1], last, rows)
    scores = scene.judge(clean, torch.full_like(last, scene.process.clean_time), rows // pictures)
    return torch.stack(states), scores.view(len(scene.positions), pictures)


def _orders(scene: Scene, count: int) -> Tensor:
    """A random order of the steps for each prompt, `[n, count]`."""
    generators = (generator_for(scene.seed, Stream.SAMPLING, position) for position in scene.positions)
    return torch.stack([torch.randperm(count, generator=generator) for generator in generators]).to(scene.device)
