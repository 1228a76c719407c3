"""Stable Diffusion 1.x: one CLIP-L text encoder, a UNet, epsilon prediction (Rombach et al. 2022, arXiv 2112.10752)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .family import Conditions, Family


def encode_prompts(pipeline: Any, prompts: list[str]) -> Conditions:
    """`hidden`: the text encoder's last hidden states `[n, tokens, width]`."""
    hidden, _ = pipeline.encode_prompt(prompts, pipeline.device, 1, do_classifier_free_guidance=False)
    return {"hidden": hidden}


def predict(network: nn.Module, noisy: Tensor, times: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """The UNet's prediction `[n, 4, h, w]` at integer timesteps."""
    return network(noisy, times, conditions["hidden"].to(noisy), return_dict=False)[0]


def sampling_conditions(prompts: Conditions, empty: Conditions) -> dict[str, Any]:
    """The pipeline call's arguments for encoded prompts and as many encoded empty prompts."""
    return {"prompt_embeds": prompts["hidden"], "negative_prompt_embeds": empty["hidden"]}


SD1 = Family(
    name="sd1",
    pipeline="StableDiffusionPipeline",
    network="unet",
    text_encoders=("text_encoder",),
    encode_prompts=encode_prompts,
    predict=predict,
    sampling_conditions=sampling_conditions,
)
