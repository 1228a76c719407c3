"""SPO's step-wise resampler (arXiv 2406.04314, section 4): at each step of a rollout, a few next states to choose from.

From one x_t draw k next states; a judge scores each one's clean estimate; the best and the worst make a pair where
they differ enough; one of the k, any of them, goes on. Both sides of a pair share their past, so what is preferred is
this one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import UserError
from .pairs import Pairs, RowPredict
from .process import NoiseProcess
from .trajectory import Move, starting_state, trajectory
from .transition import step

Judge: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`judge(clean_hat [n * k, ...], times [n * k], rows [n * k]) -> scores [n * k]`, higher is better, NaN is a failure.

`times` are those of the states that the estimates were made from; a row's k candidates follow each other.
"""


@dataclass(frozen=True)
class Branch:
    """One step at which n rows branched into k, with the judge's verdict.

    Attributes:
        noisy: x_t, `[n, 1, ...]` where a row's candidates start from the same one, else `[n, k, ...]`, each its own.
        times, next_times: t and s, `[n]`.
        candidates: x_s, `[n, k, ...]`.
        scores: `[n, k]`.
        winner, loser: `[n]` int64, the candidates of the highest and the lowest score.
        valid: `[n]` bool, whether those two differ enough to be a pair.
    """

    noisy: Tensor
    times: Tensor
    next_times: Tensor
    candidates: Tensor
    scores: Tensor
    winner: Tensor
    loser: Tensor
    valid: Tensor

    def pairs(self, rows: Tensor | None = None) -> Pairs:
        """Winners and losers of the valid rows, of which there may be none, or of the `rows [v]` given."""
        if rows is None:
            rows = self.valid.nonzero().flatten()
        both = torch.stack([self.winner[rows], self.loser[rows]], 1)
        each = rows[:, None]
        noisy = self.noisy[rows] if self.noisy.shape[1] == 1 else self.noisy[each, both]
        return Pairs(rows, noisy, self.times[rows], self.next_times[rows], self.candidates[each, both])


def extremes(scores: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """The best and the worst of `scores [n, k]` as indices `[n]`, and whether they make a pair, `[n]` bool.

    They do where softmax(best, worst) puts more than `threshold` between the two: tanh(gap / 2) > threshold, a gap of
    0.619 in the scores for 0.3 and 0.847 for 0.4. A tie is never a pair, nor is a row with a NaN: an unknown score
    could have been the best.
    """
    best, worst = scores.max(1), scores.min(1)
    return best.indices, worst.indices, torch.tanh((best.values - worst.values) / 2) > threshold


@torch.no_grad()
def branches(
    predict: RowPredict,
    process: NoiseProcess,
    judge: Judge,
    start: Tensor,
    grid: Tensor,
    generators: Sequence[torch.Generator],
    *,
    eta: float = 1.0,
    k: int = 4,
    threshold: float = 0.3,
    divert_start: int = 4,
    inner_steps: int = 0,
) -> Iterator[Branch]:
    """Roll n rows out along `grid [S + 1]` from `start [n, ...]`, and yield each step at which they branch.

    The first `divert_start` steps are ordinary ones. From then on k next states are drawn of each row's one, and judged
    by their x0hat; that prediction is also the next step's of the candidate that goes on, which is drawn uniformly (the
    best one going on was worse in the paper). So a step costs k network rows and not k + 1. Candidates at time 0 are
    judged as they are (see `trajectory`), and cost none.

    With `inner_steps` the k go on alone for that many more steps, or to the grid's end, before they are judged. All of
    these steps are yielded then, in order, with that one verdict.

    SPO takes 20 steps, k = 4 and threshold 0.3 for SD1.5; k = 2, threshold 0.4 and 3 inner steps for SDXL.

    Args:
        predict: the policy, guided. Step its weights between rollouts, not within one: the next candidates still
            follow what it predicted before.
        judge: scores clean estimates; see `Judge`.
        start: noise at the grid's first time.
        grid: of `stochastic_grid`.
        generators: one per row; a row's rollout depends on its own alone, not on its company.

    Nothing that is yielded has a gradient, and the caller's own gradients stay on between two yields. Only the steps of
    one verdict are held. Raises UserError where a setting makes no pairs at all.
    """
    _check(len(grid) - 1, eta, k, threshold, divert_start, inner_steps)
    n, noisy = len(start), starting_state(start)
    for move in trajectory(predict, process, noisy, grid[: divert_start + 1], generators, eta):
        noisy = move.sample
    grid, rows = grid.to(start.device), torch.arange(n, device=start.device)
    prediction = predict(noisy, grid[divert_start].expand(n), rows)
    for first in range(divert_start, len(grid) - 1, 1 + inner_steps):
        span = grid[first : first + inner_steps + 2, None].expand(-1, n * k)
        states, each = noisy.repeat_interleave(k, 0), rows.repeat_interleave(k)
        candidate_generators = [generator for generator in generators for _ in range(k)]
        moves, prediction = [], prediction.repeat_interleave(k, 0)
        for times, next_times in pairwise(span):
            moved = step(process, prediction, states, times, next_times, eta, candidate_generators)
            moves.append(Move(states, times, next_times, moved))
            states = moved
            if next_times.any():
                prediction = predict(states, next_times, each)
        clean_hat = process.to_clean(prediction, states, span[-1]) if span[-1].any() else states
        scores = judge(clean_hat, span[-1], each).detach().reshape(n, k).to(states)
        yield from _verdict(moves, scores, threshold)
        chosen = torch.cat([torch.randint(k, (1,), generator=generator) for generator in generators])
        chosen = chosen.to(start.device) + k * rows
        noisy, prediction = states[chosen], prediction[chosen]


def _verdict(moves: Sequence[Move], scores: Tensor, threshold: float) -> Iterator[Branch]:
    """The moves `[n * k, ...]` of all candidates since they parted, with their scores `[n, k]`."""
    n, k = scores.shape
    winner, loser, valid = extremes(scores, threshold)
    for index, move in enumerate(moves):
        noisy = move.noisy.unflatten(0, (n, k))
        yield Branch(
            noisy=noisy if index else noisy[:, :1],
            times=move.times[::k],
            next_times=move.next_times[::k],
            candidates=move.sample.unflatten(0, (n, k)),
            scores=scores,
            winner=winner,
            loser=loser,
            valid=valid,
        )


def _check(steps: int, eta: float, k: int, threshold: float, divert_start: int, inner_steps: int) -> None:
    if eta == 0:
        raise UserError("eta is 0: without noise all of a step's candidates are the same; take 0 < eta <= 1")
    if k < 2:
        raise UserError(f"k is {k}; a step needs at least 2 candidates to prefer one")
    if not 0 <= threshold < 1:
        raise UserError(f"threshold is {threshold}; it is a difference of two probabilities: at least 0, below 1")
    if not 0 <= divert_start < steps:
        raise UserError(f"divert_start is {divert_start}; of {steps} stochastic steps take 0 to {steps - 1}")
    if inner_steps < 0:
        raise UserError(f"inner_steps is {inner_steps}; take 0 or more")
