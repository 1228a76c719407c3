"""Preference groups from a model's own samples: k pictures for each prompt, labelled by a rater."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import islice

from PIL import Image

from ...datasets.group import Group
from ...datasets.shapes.raters import Rater
from ..generate import generate
from ..models.model import TextToImageModel
from ..models.sampling import Sampling


def sample_groups(
    model: TextToImageModel,
    prompts: Sequence[str],
    per_prompt: int,
    seed: int,
    sampling: Sampling,
    rate: Rater,
    source: str = "samples",
) -> Iterator[Group]:
    """Yield one group for each prompt, in order; picture i of prompt p has seed `seed + p * per_prompt + i`."""
    wanted = [prompt for prompt in prompts for _ in range(per_prompt)]
    seeds = [seed + number for number in range(len(wanted))]
    pictures = generate(model, wanted, seeds, sampling)
    for number, prompt in enumerate(prompts):
        drawn = list(islice(pictures, per_prompt))
        yield Group(
            key=f"{source}-{number:06d}",
            prompt=prompt,
            candidates=tuple(png(picture) for picture in drawn),
            labels=tuple(rate(prompt, picture) for picture in drawn),
            source=source,
            model=(model.checkpoint.path,) * per_prompt,
            seed=tuple(seeds[number * per_prompt : (number + 1) * per_prompt]),
        )


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
