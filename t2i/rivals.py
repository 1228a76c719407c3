"""Pictures that a network draws while training, to be compared with those of the data.

They come about as those of the data did, by the checkpoint's own sampler, 8 bits a channel, and through the
autoencoder: another sampler's hand or a missing round trip is told apart more easily than what a picture shows, and
would be learned in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batches import pictures_at_once
from .generate import draw_pictures
from .method import Rival
from .models.family import Conditions, Framing
from .models.model import TextToImageModel
from .models.sampling import Sampling


@torch.no_grad()
def draw_rivals(
    model: TextToImageModel,
    pipeline: Any,
    rival: Rival,
    conditions: Conditions,
    empty: Conditions,
    seeds: Sequence[int],
    resolution: int,
) -> tuple[Tensor, Tensor, Conditions]:
    """One picture for each of n encoded prompts: its latents' mean and deviation, `[n, C, h, w]`, and its conditions.

    Args:
        pipeline: from `model.pipeline(network)`.
        conditions: of the prompts; what they say of a picture's size is replaced by the rival's own.
        empty: of the empty prompt, one row.
        seeds: of the starting noise.
        resolution: pixels a side.
    """
    side = (resolution, resolution)
    sizes = model.family.size_conditions([Framing(side, (0, 0), side)] * len(seeds))
    given = conditions | {name: tensor.to(model.device) for name, tensor in sizes.items()}
    at_once = pictures_at_once(resolution)
    sampling = Sampling(rival.steps, rival.guidance, resolution, at_once)
    drawn = list(draw_pictures(model, pipeline, conditions, empty, seeds, sampling))
    levels = torch.from_numpy(np.stack([np.asarray(picture.convert("RGB")) for picture in drawn]))
    parts = [model.encode_images(part.permute(0, 3, 1, 2).float() / 127.5 - 1) for part in levels.split(at_once)]
    mean, std = (torch.cat(each) for each in zip(*parts, strict=True))
    return mean, std, given
