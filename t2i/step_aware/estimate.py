"""What a step-aware preference model sees: the decoded one-step estimate of the clean picture, and when it was made.

The model's times are thousandths of the process, so that one trained at 1000 timesteps is asked as it was trained.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...diffusion import NoiseProcess, rectified_flow_from_config
from ...diffusion.guidance import guided
from ..batches import pictures_at_once
from ..models.family import Conditions
from ..models.model import TextToImageModel

THOUSAND = 1000


def thousandths(process: NoiseProcess, times: Tensor) -> Tensor:
    """Times of a process `[n]` as the preference model takes them, float32; the clean endpoint is 0."""
    return (times.float() * (THOUSAND / process.num_train_timesteps)).clamp(min=0)


def time_at(process: NoiseProcess, thousandth: float) -> Tensor:
    """`thousandths` turned around, to the nearest timestep where there are only whole ones: `[1]`; 0 is clean."""
    if thousandth == 0:
        return torch.tensor([process.clean_time])
    time = thousandth / THOUSAND * process.num_train_timesteps
    if process.prediction_type == "flow_prediction":
        return torch.tensor([time])
    return torch.tensor([min(round(time), process.num_train_timesteps - 1)])


def uniform_times(model: TextToImageModel) -> NoiseProcess:
    """The model's process with times as a sampler's steps lie: uniform, and for a flow uniform before its shift.

    A flow's own training times are logit-normal, and would leave the first and last steps of a sampler unjudged.
    """
    if model.process.prediction_type != "flow_prediction":
        return model.process
    config = model.checkpoint.config("scheduler", "scheduler_config.json")
    return rectified_flow_from_config(config, "uniform")


@torch.no_grad()
def clean_estimates(
    model: TextToImageModel,
    noisy: Tensor,
    times: Tensor,
    conditions: Conditions,
    unconditional: Conditions,
    guidance: float,
) -> Tensor:
    """x0hat `[n, C, h, w]` of noisy latents at times `[n]`, by one guided prediction of the model's own network."""
    network = model.network
    dtype = next(network.parameters()).dtype

    def asked(prompts: Conditions) -> Tensor:
        return model.predict(network, noisy.to(dtype), times, prompts)

    prediction = guided(lambda: asked(conditions), lambda: asked(unconditional), guidance)()
    return model.process.to_clean(prediction, noisy, times)


@torch.no_grad()
def decode_pixels(model: TextToImageModel, latents: Tensor) -> Tensor:
    """The pictures of latents `[n, C, h, w]` in the network's units, float32 `[n, 3, H, W]`, black 0 and white 1.

    Where the autoencoder goes beyond black and white so do they: SPO's model resizes them before it clamps.
    """
    vae = model.vae
    shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor  # type: ignore[attr-defined]
    at_once = pictures_at_once(latents.shape[-1] * model.latent_shape[1])
    parts = [vae.decode((part / scale + shift).to(vae.dtype)).sample for part in latents.split(at_once)]  # type: ignore[union-attr]
    return (torch.cat(parts).float() + 1) / 2
