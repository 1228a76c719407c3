"""SPO's rollout: each step branches, and its best and worst candidates are a pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...diffusion import (
    Branch,
    NoiseProcess,
    RowPredict,
    Stream,
    branches,
    generator_for,
    normal_noise,
    pair_errors,
)
from ...errors import UserError
from .method import Part, Scene, learned_grid


@dataclass(frozen=True)
class Branching:
    """SPO's settings; see `diffusion.branching.branches`. `scale` makes logits of the judge's scores."""

    steps: int
    eta: float
    k: int
    threshold: float
    inner_steps: int
    divert_start: int
    scale: float


def branch_steps(settings: Branching, process: NoiseProcess) -> int:
    """How many steps branch. Raises UserError if none does."""
    steps = len(learned_grid(process, settings.steps)) - 1
    if steps <= settings.divert_start:
        raise UserError(
            f"method.divert_start is {settings.divert_start}, and of {settings.steps} sampling steps {max(0, steps)} "
            "can be learned from: take more steps, or divert sooner"
        )
    return steps - settings.divert_start


def branched_latents(settings: Branching, process: NoiseProcess) -> int:
    """How many latents of a prompt the policy is asked about: one in each step, and k from the first that branches."""
    at_end = int(learned_grid(process, settings.steps)[-1] > 0)  # at time 0 a state is its own clean estimate
    return settings.divert_start + 1 + settings.k * (branch_steps(settings, process) - 1 + at_end)


def branched_steps(settings: Branching, scene: Scene) -> Iterator[Part]:
    """One part for each step that branches; a prompt is in it with one pair or none."""
    generators = [generator_for(scene.seed, Stream.SAMPLING, position) for position in scene.positions]
    start = normal_noise((len(generators), *scene.shape), generators).to(scene.device)

    def judge(clean_hat: Tensor, times: Tensor, rows: Tensor) -> Tensor:
        return settings.scale * scene.judge(clean_hat, times, rows)

    grid = learned_grid(scene.process, settings.steps)
    for branch in branches(
        scene.predict,
        scene.process,
        judge,
        start,
        grid,
        generators,
        eta=settings.eta,
        k=settings.k,
        threshold=settings.threshold,
        divert_start=settings.divert_start,
        inner_steps=settings.inner_steps,
    ):
        yield _part(branch, scene.process, settings, final=bool(branch.next_times[0] == grid[-1]))


def _part(branch: Branch, process: NoiseProcess, settings: Branching, final: bool) -> Part:
    rows = branch.valid.nonzero().flatten()
    pairs = branch.pairs(rows if len(rows) else torch.zeros_like(branch.winner[:1]))
    if not len(rows):  # it counts for nothing, which not a number does not
        pairs = replace(pairs, noisy=pairs.noisy.nan_to_num(), samples=pairs.samples.nan_to_num())

    def errors(predict: RowPredict) -> Tensor:
        return pair_errors(predict, pairs, process, settings.eta)

    return Part(errors, len(rows) / len(branch.valid), branch.scores / settings.scale, final)
