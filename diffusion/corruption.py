"""How a candidate becomes what the network sees: with noise of its group, of its own, or implied by the network.

A corruption has two halves. `draw` makes all that is random in one visit of a group, from the seed and the visit's
position alone, in float32 on the CPU: data workers do it, and the step never waits for a copy. `apply` turns a batch of
clean latents and their draws into noisy latents and targets, on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from .draws import Stream, generator_for, group_noise, group_times, normal_noise
from .inversion import implied_noise, invert
from .process import NoiseProcess, Predict

Draws = dict[str, Tensor]


class Corrupted(NamedTuple):
    """Noisy latents and targets `[B * k, C, h, w]` and times `[B * k]`, group after group."""

    noisy: Tensor
    target: Tensor
    times: Tensor


class Corruption(Protocol):
    """One way to corrupt the candidates of a group."""

    @property
    def calls(self) -> int:
        """Forward passes of the policy, without gradient, that it takes beside those of the loss."""
        ...

    def draw(
        self, process: NoiseProcess, seed: int, position: int, shape: Sequence[int], sources: Sequence[int | None]
    ) -> Draws:
        """What is random in the visit at `position`; every tensor has one leading row for the group or k of them.

        Args:
            shape: of a latent.
            sources: for each candidate, the seed that its picture was generated from, where that is known.
        """
        ...

    def apply(self, process: NoiseProcess, clean: Tensor, draws: Draws, predict: Predict) -> Corrupted:
        """Corrupt `clean [B, k, C, h, w]` with the draws of B groups, stacked.

        Args:
            predict: the policy on all `[B * k]` candidates with their conditions; called without gradient.
        """
        ...


@dataclass(frozen=True)
class ForwardNoise:
    """Fresh noise at a time from the training distribution (the ELBO's own estimate).

    Attributes:
        shared_noise: whether the candidates of a group get the same noise (DPO) or each its own (RankDPO).
        shared_times: whether they get the same time or each its own (KTO).
    """

    shared_noise: bool = True
    shared_times: bool = True
    calls: int = 0

    def draw(
        self, process: NoiseProcess, seed: int, position: int, shape: Sequence[int], sources: Sequence[int | None]
    ) -> Draws:
        """`noise [k or 1, C, h, w]` and `times [k or 1]`."""
        k = len(sources)
        noise = group_noise(seed, [position], 1 if self.shared_noise else k, shape, shared=self.shared_noise)[0]
        return {"noise": noise, "times": _times(process, seed, position, 1 if self.shared_times else k)}

    def apply(self, process: NoiseProcess, clean: Tensor, draws: Draws, predict: Predict) -> Corrupted:
        """x_t = alpha x0 + sigma n; the network is not asked."""
        return _with_noise(process, clean, draws["noise"], draws["times"])


@dataclass(frozen=True)
class SourceNoise:
    """The noise that each picture was generated from (PNAPO, arXiv 2605.09433), at one time for the group.

    A picture and its source noise are the two ends of one sampling path, so x_t lies near what the generator itself
    went through. The noise is drawn anew from the picture's seed, as diffusers' pipelines do with a CPU generator.
    """

    calls: int = 0

    def draw(
        self, process: NoiseProcess, seed: int, position: int, shape: Sequence[int], sources: Sequence[int | None]
    ) -> Draws:
        """`noise [k, C, h, w]` and `times [1]`. Raises UserError where a seed is unknown."""
        noise = []
        for source in sources:
            if source is None:
                raise UserError("a picture's generation seed is unknown, and with it its noise; give groups with seeds")
            noise.append(torch.randn(tuple(shape), generator=torch.Generator().manual_seed(source)))
        return {"noise": torch.stack(noise), "times": _times(process, seed, position, 1)}

    def apply(self, process: NoiseProcess, clean: Tensor, draws: Draws, predict: Predict) -> Corrupted:
        """x_t = alpha x0 + sigma x_T."""
        return _with_noise(process, clean, draws["noise"], draws["times"])


@dataclass(frozen=True)
class InvertedNoise:
    """x_t by inverting the policy's own sampler, and the noise that it implies (InPO, arXiv 2503.18454).

    The reference implementation runs through the 10 steps of a fixed grid that lie below t, of one pair at a time, and
    stops beside t. Here every candidate of a batch takes the same number of steps on a grid of its own that ends
    exactly at its t; 5 is what the fixed grid comes to on average.

    Attributes:
        steps: of the inversion; each is one call of the network for the whole batch, and `corrections` more.
        eta: share of the sampler's own noise that is added after each step; 0 is the plain inversion.
        corrections: ReNoise corrections in each step (SmPO takes 1).
    """

    steps: int = 5
    eta: float = 0.1
    corrections: int = 0

    @property
    def calls(self) -> int:
        """Forward passes of one candidate's inversion."""
        return self.steps * (1 + self.corrections)

    def draw(
        self, process: NoiseProcess, seed: int, position: int, shape: Sequence[int], sources: Sequence[int | None]
    ) -> Draws:
        """`times [1]` and, where eta > 0, the steps' noise `[k, steps, C, h, w]`."""
        draws = {"times": _times(process, seed, position, 1)}
        if self.eta > 0:
            each = [generator_for(seed, Stream.NOISE, position, candidate) for candidate in range(len(sources))]
            draws["noise"] = normal_noise((len(sources), self.steps, *shape), each)
        return draws

    def apply(self, process: NoiseProcess, clean: Tensor, draws: Draws, predict: Predict) -> Corrupted:
        """The inverted latents, with the noise that would have made them of `clean`."""
        each, flat = _each(draws["times"], clean), clean.flatten(0, 1)
        noise = draws["noise"].to(clean).flatten(0, 1).transpose(0, 1) if self.eta > 0 else None
        noisy = invert(
            predict, process, flat, each, self.steps, self.corrections, average=True, eta=self.eta, noise=noise
        )
        implied = implied_noise(process, noisy, flat, each)
        return Corrupted(noisy, process.target(flat, implied, each), each)


def _times(process: NoiseProcess, seed: int, position: int, count: int) -> Tensor:
    """`[count]`: one time for the group, or one for each candidate."""
    if count == 1:
        return group_times(process, seed, [position])
    return process.draw_times(count, [generator_for(seed, Stream.TIMES, position, i) for i in range(count)])


def _each(times: Tensor, clean: Tensor) -> Tensor:
    """Times `[B, k or 1]` as `[B * k]`."""
    return times.expand(clean.shape[:2]).flatten()


def _with_noise(process: NoiseProcess, clean: Tensor, noise: Tensor, times: Tensor) -> Corrupted:
    each = _each(times, clean)
    flat, flat_noise = clean.flatten(0, 1), noise.to(clean).expand_as(clean).flatten(0, 1)
    return Corrupted(process.corrupt(flat, flat_noise, each), process.target(flat, flat_noise, each), each)
