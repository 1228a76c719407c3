"""The Gaussian transition x_t -> x_s from a noisier to a cleaner time, for any stochasticity eta in [0, 1].

With the network's estimates x0hat and nhat (DDIM: Song et al., arXiv 2010.02502, eq. 12 and 16; here for any linear
process):

    mean = alpha_s x0hat + sqrt(sigma_s^2 - q^2) nhat
    q^2  = eta^2 (sigma_s^2 / sigma_t^2) (sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2)

eta = 0 is DDIM, and Euler's step for a rectified flow; eta = 1 is ancestral sampling from the process's own posterior
q(x_s | x_t, x0hat).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UserError
from .draws import normal_noise
from .likelihood import Reduction, reduce_rows
from .process import Generators, NoiseProcess, mix, rows


def transition(
    process: NoiseProcess, prediction: Tensor, noisy: Tensor, times: Tensor, next_times: Tensor, eta: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mean `[n, ...]` and standard deviation `[n, 1, ...]` of x_s given x_t, in float32 at least.

    `prediction` is the network's answer on `noisy [n, ...]` at `times [n]`; `next_times [n]` are at most as noisy.
    Raises UserError for an eta outside [0, 1], where no Gaussian has the process's marginals.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta must lie between 0 (deterministic) and 1 (ancestral); got {eta}")
    wide = torch.promote_types(noisy.dtype, torch.float32)
    noisy, prediction = noisy.to(wide), prediction.to(wide)
    alpha_s, sigma_s = process.levels(next_times)
    q = eta * ancestral_std(process, times, next_times)
    direction = (sigma_s.square() - q.square()).clamp(min=0).sqrt()
    clean_hat = process.to_clean(prediction, noisy, times)
    noise_hat = process.to_noise(prediction, noisy, times)
    return mix(alpha_s, clean_hat, direction, noise_hat), rows(q, noisy, wide)


def step(
    process: NoiseProcess,
    prediction: Tensor,
    noisy: Tensor,
    times: Tensor,
    next_times: Tensor,
    eta: float = 0.0,
    generator: Generators | None = None,
) -> Tensor:
    """Draw x_s `[n, ...]` in `noisy`'s dtype. Raises UserError where eta > 0 comes without a generator."""
    mean, std = transition(process, prediction, noisy, times, next_times, eta)
    if eta == 0:
        return mean.to(noisy.dtype)
    if generator is None:
        raise UserError(f"eta = {eta} draws noise at every step: give a generator")
    return (mean + std * normal_noise(noisy.shape, generator).to(mean)).to(noisy.dtype)


def log_density(sample: Tensor, mean: Tensor, std: Tensor, reduction: Reduction = "mean") -> Tensor:
    """log N(sample; mean, std^2) per row `[n]`, in float32 at least.

    D3PO and SPO take the mean over elements, which is the default; `sum` is the density proper. Raises UserError where
    std is 0: a deterministic step has no density.
    """
    if (std == 0).any():
        raise UserError(
            "a deterministic step (eta = 0, or the last step to the clean endpoint) has no density; eta > 0"
        )
    wide = torch.promote_types(mean.dtype, torch.float32)
    sample, mean, std = sample.to(wide), mean.to(wide), std.to(wide)
    log_p = -0.5 * ((sample - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
    return reduce_rows(log_p, reduction)


def ancestral_std(process: NoiseProcess, times: Tensor, next_times: Tensor) -> Tensor:
    """q `[n]` at eta = 1: the standard deviation of q(x_s | x_t, x0)."""
    alpha_t, sigma_t = process.levels(times)
    alpha_s, sigma_s = process.levels(next_times)
    # 0 / 0 where s = t is pure noise or t is clean already; any finite ratio gives the right std there: zero.
    signal_kept = torch.where(alpha_s > 0, alpha_t / alpha_s, torch.ones_like(alpha_s))
    noise_kept = torch.where(sigma_t > 0, sigma_s / sigma_t, torch.ones_like(sigma_s))
    return noise_kept * (sigma_t.square() - (signal_kept * sigma_s).square()).clamp(min=0).sqrt()
