"""What distinguishes one text-to-image family from another, as a value: each family is one file that builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

Conditions = dict[str, Tensor]
"""What the network is conditioned on besides noise and time; every tensor has one leading row per sample."""


class Framing(NamedTuple):
    """Where a training picture was cut from: pixel sizes `(height, width)` and the crop's `(top, left)` corner."""

    original: tuple[int, int]
    corner: tuple[int, int]
    target: tuple[int, int]


def no_size_conditions(framings: Sequence[Framing]) -> Conditions:
    """For families that are not told a picture's size and crop."""
    return {}


@dataclass(frozen=True)
class Family:
    """A family's own ways; all else is shared by every family in `model.py`.

    Attributes:
        name: what a recipe calls it.
        pipeline: diffusers' pipeline class, by name (so that naming a family imports nothing heavy).
        network: the pipeline's component that is aligned, `unet` or `transformer`.
        text_encoders: the pipeline's text components, freed once prompts are encoded.
        encode_prompts: `(pipeline, prompts) -> Conditions`, the pipeline's own encoding without guidance.
        size_conditions: `framings -> Conditions`, SDXL's micro-conditioning.
        predict: `(network, noisy [n, C, h, w], times [n], conditions) -> prediction [n, C, h, w]`; embeddings are
            cast to the dtype of `noisy`, sizes never (bfloat16 cannot hold 1365 pixels).
        sampling_conditions: maps `Conditions` of prompts to the pipeline call's keyword arguments.
        lora_targets: names of the linear layers that LoRA adapts unless the recipe says otherwise.
        guidance, steps: the sampler's defaults, as the family's model card has them.
    """

    name: str
    pipeline: str
    network: str
    text_encoders: tuple[str, ...]
    encode_prompts: Callable[[Any, list[str]], Conditions]
    predict: Callable[[nn.Module, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
    sampling_conditions: Callable[[Conditions, Conditions], dict[str, Any]]
    size_conditions: Callable[[Sequence[Framing]], Conditions] = no_size_conditions
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    guidance: float = 7.5
    steps: int = 50

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """The tokenizers beside the text encoders: `text_encoder_2` reads `tokenizer_2`'s tokens."""
        return tuple(name.replace("text_encoder", "tokenizer") for name in self.text_encoders)
