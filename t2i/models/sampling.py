"""How pictures are sampled."""

from __future__ import annotations

from dataclasses import dataclass

from .model import TextToImageModel


@dataclass(frozen=True)
class Sampling:
    """Steps of the checkpoint's own scheduler, guidance scale, pixels a side, and pictures at once."""

    steps: int
    guidance: float
    resolution: int
    batch_size: int = 8


def sampling_for(
    model: TextToImageModel,
    steps: int | None = None,
    guidance: float | None = None,
    resolution: int | None = None,
    batch_size: int = 8,
) -> Sampling:
    """What is asked for, and the family's defaults for the rest."""
    return Sampling(
        steps or model.family.steps,
        model.family.guidance if guidance is None else guidance,
        resolution or model.resolution,
        batch_size,
    )
