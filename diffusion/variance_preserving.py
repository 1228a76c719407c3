"""The variance-preserving process of DDPM (Ho et al., arXiv 2006.11239), read from a checkpoint's scheduler config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UserError
from .process import NoiseProcess, widest_dtype

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

CLEAN_TIME = -1
"""One below the first timestep, whose sigma is small but not zero (0.029 in Stable Diffusion)."""


def variance_preserving(config: Mapping[str, Any], timesteps: Sequence[int] | None = None) -> NoiseProcess:
    """The process of any diffusers scheduler config with betas: alpha^2 = prod(1 - beta), sigma^2 = 1 - alpha^2.

    `times` are int64 timesteps in [0, T), T from the config; -1 is the clean endpoint. Training times are uniform over
    all T, or over `timesteps` (a few-step checkpoint is trained on its own few, e.g. 249, 499, 749, 999). The sampling
    grid is the config's own (`timestep_spacing`, `steps_offset`).

    Raises UserError where the config holds no betas, a name in it is unknown, or the network is asked for the noise of
    pure noise.
    """
    scheduler = _scheduler(config)
    alphas, sigmas = _tables(scheduler.betas)
    num_train_timesteps = len(scheduler.betas)
    if scheduler.config["prediction_type"] == "epsilon" and alphas[-1] == 0:
        raise UserError(
            "the scheduler config asks for epsilon at zero terminal SNR (rescale_betas_zero_snr): at the last timestep "
            "the noise alone tells nothing of the sample; set prediction_type to v_prediction, or do not rescale"
        )

    @cache
    def tables_on(device: torch.device) -> tuple[Tensor, Tensor]:
        dtype = widest_dtype(device)
        return alphas.to(device=device, dtype=dtype), sigmas.to(device=device, dtype=dtype)

    def levels(times: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = tables_on(times.device)
        index = times.long() - CLEAN_TIME
        return alpha[index], sigma[index]

    return NoiseProcess(
        prediction_type=scheduler.config["prediction_type"],
        num_train_timesteps=num_train_timesteps,
        clean_time=CLEAN_TIME,
        levels=levels,
        draw=_uniform_draw(num_train_timesteps, timesteps),
        grid=lambda steps: _sampling_grid(scheduler, steps),
    )


def _scheduler(config: Mapping[str, Any]) -> DDPMScheduler:
    """diffusers' reading of the part of any scheduler's config that fixes betas, parametrisation and sampling grid."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    name = config.get("_class_name", "the scheduler config")
    # Without this check a flow or EDM config would quietly become DDPM's default betas.
    if config.get("beta_schedule") is None and config.get("trained_betas") is None:
        raise UserError(f"{name} holds no betas (beta_schedule or trained_betas): it is no variance-preserving process")
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in ("epsilon", "sample", "v_prediction"):
        raise UserError(
            f"{name} has prediction_type {prediction_type!r}; a variance-preserving process takes epsilon, sample or "
            "v_prediction"
        )
    known = {key: config[key] for key in inspect.signature(DDPMScheduler.__init__).parameters if key in config}
    if config.get("trained_betas") is not None:
        known["num_train_timesteps"] = len(config["trained_betas"])
    try:
        return DDPMScheduler(**known)
    except NotImplementedError as error:
        raise UserError(f"{name} has beta_schedule {config['beta_schedule']!r}, unknown to diffusers") from error


def _tables(betas: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma as float64 `[T + 1]`; entry 0 is the clean endpoint, entry t + 1 is timestep t."""
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas.double(), dim=0)])
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def _uniform_draw(num_train_timesteps: int, timesteps: Sequence[int] | None) -> Callable[..., Tensor]:
    choices = torch.arange(num_train_timesteps) if timesteps is None else torch.tensor(timesteps, dtype=torch.int64)
    if len(choices) == 0 or choices.min() < 0 or choices.max() >= num_train_timesteps:
        raise UserError(f"timesteps must lie in [0, {num_train_timesteps}); got {timesteps}")

    def draw(n: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(choices), (n,), generator=generator, device=generator.device)
        return choices.to(index.device)[index]

    return draw


def _sampling_grid(scheduler: DDPMScheduler, steps: int) -> Tensor:
    num_train_timesteps = len(scheduler.betas)
    if not 1 <= steps <= num_train_timesteps:
        raise UserError(f"{steps} sampling steps; this checkpoint takes 1 to {num_train_timesteps}")
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise UserError(f"timestep_spacing {scheduler.config['timestep_spacing']!r} is unknown to diffusers") from error
    # steps_offset pushes the first timestep past the table when every timestep is visited.
    times = torch.as_tensor(scheduler.timesteps).clamp(max=num_train_timesteps - 1)
    return torch.cat([times, torch.tensor([CLEAN_TIME])])
