"""The rectified flow of SD3 and its kin: straight paths from data to noise (Esser et al. 2024, arXiv 2403.03206).

x_s = (1 - s) x0 + s n, and the network predicts the velocity n - x0. It is told times = timestep_scale * s.

Training times. Esser et al. (section 3.1) draw s0 = sigmoid(mean + std z), z ~ N(0, 1), a logit-normal in which a
positive mean leans towards noise; their resolution-dependent shift then moves it: s = shift s0 / (1 + (shift - 1) s0).
diffusers' SD3 training script does the same on a lattice: it draws u = sigmoid(mean + std z) and takes entry
floor(1000 u) of the scheduler's table, which is shifted already and *descends* from noise. Hence its u is our 1 - s0:
its logit_mean is minus our `mean` (no difference at the default 0), and its s0 are the multiples of 1/1000. We draw
from the continuum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError
from .process import NoiseProcess, widest_dtype

TimeDistribution = Literal["logit_normal", "uniform"]


def rectified_flow(
    shift: float = 1.0,
    timestep_scale: int = 1000,
    time_distribution: TimeDistribution = "logit_normal",
    mean: float = 0.0,
    std: float = 1.0,
) -> NoiseProcess:
    """The flow with alpha = 1 - s, sigma = s and float32 `times` = timestep_scale * s; 0 is the clean endpoint.

    `mean` and `std` belong to the logit-normal. Raises UserError where a value makes no distribution.
    """
    if time_distribution not in ("logit_normal", "uniform"):
        raise UserError(f"time_distribution {time_distribution!r} is unknown; take logit_normal or uniform")
    for name, value in {"shift": shift, "timestep_scale": timestep_scale, "std": std}.items():
        if not value > 0:
            raise UserError(f"{name} of a rectified flow must be above 0; got {value}")

    def levels(times: Tensor) -> tuple[Tensor, Tensor]:
        s = times.to(widest_dtype(times.device)) / timestep_scale
        return 1 - s, s

    def draw(n: int, generator: torch.Generator) -> Tensor:
        if time_distribution == "uniform":
            s = 1 - torch.rand(n, generator=generator, device=generator.device)  # (0, 1]: never the clean endpoint
        else:
            s = torch.sigmoid(mean + std * torch.randn(n, generator=generator, device=generator.device))
        return timestep_scale * shift_times(s, shift)

    return NoiseProcess(
        prediction_type="flow_prediction",
        num_train_timesteps=timestep_scale,
        clean_time=0,
        levels=levels,
        draw=draw,
        grid=lambda steps: _sampling_grid(shift, timestep_scale, steps),
    )


def rectified_flow_from_config(
    config: Mapping[str, Any],
    time_distribution: TimeDistribution = "logit_normal",
    mean: float = 0.0,
    std: float = 1.0,
    image_tokens: int | None = None,
) -> NoiseProcess:
    """The flow of a FlowMatchEulerDiscreteScheduler's config: its `shift` and `num_train_timesteps`.

    A multistep solver's config with prediction_type flow_prediction does as well (`flow_shift`).

    Where the config shifts by picture size (`use_dynamic_shifting`, as Flux does) the shift follows from
    `image_tokens`, the length of the transformer's image sequence. Raises UserError where that is missing, or where the
    config belongs to another kind of process.
    """
    name = config.get("_class_name", "the scheduler config")
    prediction_type = config.get("prediction_type", "epsilon" if "beta_schedule" in config else "flow_prediction")
    if prediction_type != "flow_prediction":
        raise UserError(f"{name} (prediction_type {prediction_type!r}) is no rectified flow; use variance_preserving")
    shift = config.get("shift", config.get("flow_shift", 1.0))
    if config.get("use_dynamic_shifting"):
        shift = _dynamic_shift(config, image_tokens)
    return rectified_flow(shift, config.get("num_train_timesteps", 1000), time_distribution, mean, std)


def shift_times(s: Tensor, shift: float) -> Tensor:
    """s -> shift s / (1 + (shift - 1) s): the same signal-to-noise per picture at another resolution."""
    return shift * s / (1 + (shift - 1) * s)


def _dynamic_shift(config: Mapping[str, Any], image_tokens: int | None) -> float:
    """exp(mu), mu linear in the number of image tokens: diffusers' exponential (default) or linear time shift."""
    if image_tokens is None:
        raise UserError("this checkpoint shifts its times by picture size (use_dynamic_shifting): give image_tokens")
    short, long = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (high - low) * (image_tokens - short) / (long - short)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


def _sampling_grid(shift: float, timestep_scale: int, steps: int) -> Tensor:
    """The SD3 pipeline's times, then 0. Its lowest point is shifted twice, as in FlowMatchEulerDiscreteScheduler."""
    if steps < 1:
        raise UserError(f"{steps} sampling steps; take at least 1")
    lowest = shift_times(torch.tensor(1 / timestep_scale, dtype=torch.float64), shift)
    s = shift_times(torch.linspace(1, float(lowest), steps, dtype=torch.float64), shift)
    return torch.cat([timestep_scale * s, torch.zeros(1)]).float()
