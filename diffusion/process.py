"""The noise process: how a clean sample becomes a noisy one, and what the network is asked to say about it.

Every process and every parametrisation here is linear in the clean sample x0 and the noise n ~ N(0, I):

    x_t = alpha x0 + sigma n            the noisy sample
    y_t = p     x0 + q     n            the network's target

    prediction_type      p       q
    epsilon              0       1
    sample               1       0
    v_prediction        -sigma   alpha  (Salimans & Ho, arXiv 2202.00512)
    flow_prediction     -1       1      (velocity of the straight path: Liu et al., arXiv 2209.03003)

so that a noisy sample and a prediction give x0 and n back as the solution of a 2 x 2 system, and no caller ever asks
which kind of network it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]
Generators: TypeAlias = "torch.Generator | Sequence[torch.Generator]"
"""One generator for all rows, or one per row so that a row's draw does not depend on its company."""
Predict: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`predict(noisy [n, ...], times [n]) -> prediction [n, ...]`: a network with its conditions bound."""


@dataclass(frozen=True)
class NoiseProcess:
    """A linear noise process with the parametrisation of the network that was trained on it.

    `times` are `[n]` in the network's own units, on any device; samples are `[n, ...]`. Arithmetic on samples is done
    in float32 at least and returned in the inputs' promoted dtype.
    """

    prediction_type: PredictionType
    num_train_timesteps: int
    clean_time: int
    """The time at which alpha = 1 and sigma = 0. It ends a sampling grid; a network is never asked there."""
    levels: Callable[[Tensor], tuple[Tensor, Tensor]]
    """`times [n] -> (alpha [n], sigma [n])` in the widest dtype of the device."""
    draw: Callable[[int, torch.Generator], Tensor]
    """`(n, generator) -> times [n]` from the training distribution."""
    grid: Callable[[int], Tensor]
    """`steps -> times [steps + 1]`, descending, from noise to `clean_time`."""

    def draw_times(self, n: int, generator: Generators) -> Tensor:
        """Draw `[n]` training times, from one generator or from one per row."""
        if isinstance(generator, torch.Generator):
            return self.draw(n, generator)
        assert len(generator) == n, f"{len(generator)} generators for {n} rows"
        return torch.cat([self.draw(1, row_generator) for row_generator in generator])

    def timestep_grid(self, steps: int) -> Tensor:
        """Descending times `[steps + 1]` for sampling: where the network is asked, then `clean_time`."""
        return self.grid(steps)

    def alpha_sigma(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma as `[n, 1, ...]`, broadcastable to `like` and in its dtype and device."""
        alpha, sigma = self.levels(times)
        return rows(alpha, like, like.dtype), rows(sigma, like, like.dtype)

    def target_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) of the target p x0 + q n at the given levels."""
        zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
        return {
            "epsilon": (zero, one),
            "sample": (one, zero),
            "v_prediction": (-sigma, alpha),
            "flow_prediction": (-one, one),
        }[self.prediction_type]

    def corrupt(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma n."""
        alpha, sigma = self.levels(times)
        return mix(alpha, clean, sigma, noise)

    def target(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What a perfect network answers: y_t = p x0 + q n."""
        p, q = self.target_weights(*self.levels(times))
        return mix(p, clean, q, noise)

    def to_clean(self, prediction: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """x0 = (q x_t - sigma y) / (alpha q - sigma p)."""
        alpha, sigma = self.levels(times)
        p, q = self.target_weights(alpha, sigma)
        determinant = alpha * q - sigma * p
        return mix(q / determinant, noisy, -sigma / determinant, prediction)

    def to_noise(self, prediction: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """n = (alpha y - p x_t) / (alpha q - sigma p)."""
        alpha, sigma = self.levels(times)
        p, q = self.target_weights(alpha, sigma)
        determinant = alpha * q - sigma * p
        return mix(-p / determinant, noisy, alpha / determinant, prediction)


def rows(values: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """`values [n]` as `[n, 1, ...]` against `like [n, ...]`, in `dtype` on `like`'s device."""
    # non_blocking: a plain copy would stop the host until the accelerator has finished all that is queued.
    moved = values.to(dtype).to(like.device, non_blocking=True)
    return moved.view(-1, *[1] * (like.ndim - 1))


def mix(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """a x + b y with a, b `[n]` and x, y `[n, ...]`; in float32 at least, returned in x's and y's promoted dtype."""
    dtype = torch.promote_types(x.dtype, y.dtype)
    compute = torch.promote_types(dtype, torch.float32)
    return (rows(a, x, compute) * x + rows(b, y, compute) * y).to(dtype)


def widest_dtype(device: torch.device) -> torch.dtype:
    """float64, where the device has it (Apple's does not)."""
    return torch.float32 if device.type == "mps" else torch.float64
