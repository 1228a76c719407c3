"""SDXL: two CLIP text encoders, a pooled vector, size and crop conditioning (Podell et al. 2023, arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .family import Conditions, Family, Framing


def encode_prompts(pipeline: Any, prompts: list[str]) -> Conditions:
    """`hidden` `[n, tokens, w1 + w2]`: both encoders' penultimate states; `pooled` `[n, w2]`: the second's projection.

    An empty prompt becomes zeros where the checkpoint says so (`force_zeros_for_empty_prompt`), for that is what its
    sampler takes as the unconditional side of guidance.
    """
    hidden, _, pooled, _ = pipeline.encode_prompt(prompts, device=pipeline.device, do_classifier_free_guidance=False)
    if pipeline.config.force_zeros_for_empty_prompt:
        said = torch.tensor([prompt != "" for prompt in prompts], device=hidden.device)
        hidden, pooled = hidden * said[:, None, None], pooled * said[:, None]
    return {"hidden": hidden, "pooled": pooled}


def size_conditions(framings: Sequence[Framing]) -> Conditions:
    """`time_ids` `[n, 6]`: each picture's own original size, crop corner and target size (section 2.2 of the paper)."""
    return {"time_ids": torch.tensor([[*f.original, *f.corner, *f.target] for f in framings], dtype=torch.float32)}


def predict(network: nn.Module, noisy: Tensor, times: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """The UNet's prediction `[n, 4, h, w]` at integer timesteps."""
    added = {"text_embeds": conditions["pooled"].to(noisy), "time_ids": conditions["time_ids"]}
    return network(noisy, times, conditions["hidden"].to(noisy), added_cond_kwargs=added, return_dict=False)[0]


def sampling_conditions(prompts: Conditions, empty: Conditions) -> dict[str, Any]:
    """The pipeline call's arguments for encoded prompts and as many encoded empty prompts."""
    return {
        "prompt_embeds": prompts["hidden"],
        "pooled_prompt_embeds": prompts["pooled"],
        "negative_prompt_embeds": empty["hidden"],
        "negative_pooled_prompt_embeds": empty["pooled"],
    }


SDXL = Family(
    name="sdxl",
    pipeline="StableDiffusionXLPipeline",
    network="unet",
    text_encoders=("text_encoder", "text_encoder_2"),
    encode_prompts=encode_prompts,
    predict=predict,
    sampling_conditions=sampling_conditions,
    size_conditions=size_conditions,
    guidance=5.0,
)
