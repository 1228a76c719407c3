"""What an online method is: how it rolls out, what it compares, and its objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...diffusion import Judge, NoiseProcess, RowPredict, stochastic_grid
from ...objectives import Objective


@dataclass(frozen=True)
class Scene:
    """What a rollout of n prompts has at hand.

    Attributes:
        predict: the policy, guided; `rows` are numbers of prompts.
        judge: scores clean latents; `rows` are numbers of prompts here too.
        shape: of a latent, `(C, h, w)`.
        seed: the run's.
        positions: n of them, from which all that is random is drawn.
        device: where latents are.
    """

    predict: RowPredict
    process: NoiseProcess
    judge: Judge
    shape: tuple[int, ...]
    seed: int
    positions: Sequence[int]
    device: torch.device


@dataclass(frozen=True)
class Part:
    """The pairs of one step of a rollout.

    Attributes:
        errors: a guided network's -log p of them, `[v, 2]`, winner first. Where no pair came about there is one all the
            same: every process must go through its network equally often.
        share: pairs that came about, of all that could have.
        scores: the judge's, `[n, k]`, if it was asked for this part.
        final: whether they are those of the pictures that the rollout ends in.
    """

    errors: Callable[[RowPredict], Tensor]
    share: float
    scores: Tensor | None = None
    final: bool = False


@dataclass(frozen=True)
class OnlineMethod:
    """One method that learns from its own rollouts.

    Attributes:
        name: as in a recipe.
        objective: `(policy_errors [v, 2], reference_errors, labels) -> (loss, metrics)`.
        rollout: yields the parts of a scene, always as many.
        parts: how many; raises UserError where the settings leave none.
        rolled: latents that go through the policy, without gradient, in one prompt's rollout; guidance doubles them.
        guidance: in sampling and in the likelihood.
        rollout_batch: latents that go through a network at once without gradient.
        learned_rows: at most so many latents of a prompt go through the policy in one part, each of them twice.
        temperature: beta, for the log.
        knob: the setting that says how many latents of a prompt go through a network together.
    """

    name: str
    objective: Objective
    rollout: Callable[[Scene], Iterator[Part]]
    parts: Callable[[NoiseProcess], int]
    rolled: Callable[[NoiseProcess], int]
    guidance: float
    rollout_batch: int
    learned_rows: int
    temperature: float
    knob: str


def learned_grid(process: NoiseProcess, steps: int) -> Tensor:
    """The times `[S + 1]` between which transitions are learned: `stochastic_grid`, for a flow without its last step.

    That step moves by tens of standard deviations per unit of velocity: any change of the policy would be clipped.
    """
    grid = stochastic_grid(process, steps)
    return grid[:-1] if process.prediction_type == "flow_prediction" else grid
