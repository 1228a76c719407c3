"""Preference pairs of transitions x_t -> x_s, and how well a network explains them.

SPO (arXiv 2406.04314) and D3PO (arXiv 2311.13231) ask for the likelihood of sampling steps that were really taken,
where DPO on stored pictures asks for denoising errors. Minus a log-density is as good an error: errors `[v, 2]` go
into an objective with the winner first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from .process import NoiseProcess
from .transition import log_density, transition

RowPredict: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`predict(noisy [m, ...], times [m], rows [m]) -> prediction [m, ...]`, `rows` int64 into the caller's conditions.

A rollout of n rows asks for some of them, or for each of them several times over. States come in float32 or wider:
the callable casts to what its network takes, and may split m.
"""


@dataclass(frozen=True)
class Pairs:
    """v pairs of transitions, each with one condition and one (t, s) for both sides.

    Attributes:
        rows: `[v]` int64, whose conditions, as `RowPredict` takes them.
        noisy: x_t, `[v, 1, ...]` where winner and loser start from the same one, else `[v, 2, ...]`, winner first.
        times, next_times: t and s, `[v]`.
        samples: x_s, `[v, 2, ...]`, winner first.
    """

    rows: Tensor
    noisy: Tensor
    times: Tensor
    next_times: Tensor
    samples: Tensor


def transition_errors(
    prediction: Tensor,
    noisy: Tensor,
    times: Tensor,
    next_times: Tensor,
    sample: Tensor,
    process: NoiseProcess,
    eta: float,
) -> Tensor:
    """-log p(x_s | x_t) `[n]`, the mean over elements as in SPO and D3PO, in float32 at least.

    `prediction` is the network's on `noisy [n, ...]` at `times [n]`; `sample [n, ...]` is the x_s at `next_times [n]`
    that was drawn with this eta. A step to the clean endpoint is deterministic and has no density:
    `trajectory.stochastic_grid` makes grids without one. Raises UserError for such a step and for eta = 0.
    """
    return -log_density(sample, *transition(process, prediction, noisy, times, next_times, eta))


def pair_errors(predict: RowPredict, pairs: Pairs, process: NoiseProcess, eta: float) -> Tensor:
    """`transition_errors` of winners and losers, `[v, 2]`; one network row per pair where both start from one x_t.

    `predict` must be guided as it was in the rollout: that is the distribution that was sampled from. Gradients are the
    caller's choice, on for the policy and off for the reference. No pairs (v = 0) are no case for a network: skip them.
    """
    v, starts = pairs.noisy.shape[:2]
    noisy = pairs.noisy.flatten(0, 1)
    prediction = predict(noisy, pairs.times.repeat_interleave(starts), pairs.rows.repeat_interleave(starts))
    each = 2 // starts
    errors = transition_errors(
        prediction.repeat_interleave(each, 0),
        noisy.repeat_interleave(each, 0),
        pairs.times.repeat_interleave(2),
        pairs.next_times.repeat_interleave(2),
        pairs.samples.flatten(0, 1),
        process,
        eta,
    )
    return errors.view(v, 2)
