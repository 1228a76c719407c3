"""From a candidate's bytes to the square of pixels that the autoencoder sees: resize, crop, mirror."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..datasets.images import decode, image_size
from ..diffusion import Stream, generator_for
from .models.family import Framing


@dataclass(frozen=True)
class View:
    """How a group's pictures are cut: where the crop sits, as fractions of the room there is, and whether mirrored.

    One view serves all candidates of a group: cut differently, a preference would be one between crops.
    """

    top: float = 0.5
    left: float = 0.5
    mirrored: bool = False

    @property
    def key(self) -> str:
        """A short text that differs whenever the pixels do."""
        return f"{self.top:.4f},{self.left:.4f},{int(self.mirrored)}"


def draw_view(seed: int, group: int, variant: int, crop: str, flip: bool) -> View:
    """The view of a group's `variant`, the same whenever and wherever it is asked for."""
    generator = generator_for(seed, Stream.AUGMENTATION, group, variant)
    top, left, coin = torch.rand(3, generator=generator).tolist()
    if crop == "center":
        top = left = 0.5
    return View(round(top, 4), round(left, 4), flip and coin < 0.5)


def frame(data: bytes, resolution: int, view: View) -> tuple[Tensor, Framing]:
    """The pixels `[3, resolution, resolution]` in [-1, 1] of an encoded picture, and where they were cut.

    The shorter side is resized to `resolution`. Raises UnreadableImage.
    """
    width, height = image_size(data)
    picture = decode(data, at_least=resolution)
    scale = resolution / min(width, height)
    # Computed from the true size: a JPEG decoded at half size would round differently.
    size = (max(resolution, round(width * scale)), max(resolution, round(height * scale)))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    top, left = round(view.top * (size[1] - resolution)), round(view.left * (size[0] - resolution))
    pixels = np.asarray(picture.crop((left, top, left + resolution, top + resolution)))
    if view.mirrored:
        pixels = pixels[:, ::-1]
        left = size[0] - resolution - left  # the corner in the mirrored picture
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1
    return tensor, Framing((height, width), (top, left), (resolution, resolution))
