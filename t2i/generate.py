"""Pictures from prompts and seeds; each depends on its own prompt and seed, on its batch only by rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from .models.family import Conditions
from .models.model import TextToImageModel, quiet
from .models.sampling import Sampling


def draw_pictures(
    model: TextToImageModel,
    pipeline: Any,
    prompts: Conditions,
    empty: Conditions,
    seeds: Sequence[int],
    sampling: Sampling,
) -> Iterator[Image.Image]:
    """Draw one picture for each row of encoded prompts, in order, batch by batch.

    Args:
        pipeline: from `model.pipeline(network)`.
        prompts: conditions of `n` prompts.
        empty: conditions of the empty prompt, one row.
        seeds: `n` seeds of the starting noise.
    """
    for start in range(0, len(seeds), sampling.batch_size):
        rows = slice(start, start + sampling.batch_size)
        count = len(seeds[rows])
        given = {name: tensor[rows].to(model.device, model.dtype) for name, tensor in prompts.items()}
        unconditional = {
            name: tensor.expand(count, *tensor.shape[1:]).to(model.device, model.dtype)
            for name, tensor in empty.items()
        }
        with torch.no_grad(), quiet():
            latents = pipeline(
                **model.family.sampling_conditions(given, unconditional),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[rows]],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                height=sampling.resolution,
                width=sampling.resolution,
                output_type="latent",
            ).images
        yield from model.decode(latents)


def generate(
    model: TextToImageModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    pipeline: Any = None,
) -> Iterator[Image.Image]:
    """Draw one picture for each prompt and seed; the text encoders are freed before the network is loaded.

    Args:
        pipeline: one that is loaded already, with a LoRA perhaps; None: the checkpoint's own network.
    """
    distinct = list(dict.fromkeys(prompts))
    # Encoded one by one, so that a picture does not depend on which prompts stand beside it.
    rows = {prompt: model.encode_prompts([prompt]) for prompt in distinct}
    empty = model.encode_prompts([""])
    model.free("text")
    encoded = {name: torch.cat([rows[prompt][name] for prompt in prompts]) for name in empty}
    yield from draw_pictures(model, pipeline or model.pipeline(model.network), encoded, empty, seeds, sampling)
