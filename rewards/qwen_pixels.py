"""Pictures to the input of Qwen2-VL's vision tower: sides of whole patches, the patches in a row.

Paper: Wang et al. 2024, https://arxiv.org/abs/2409.12191.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..datasets.images import ratio_fault
from .pixels import normalise_levels, to_rgb

PATCH, MERGE, FRAMES = 14, 2, 2
"""Pixels a side of a patch; patches a side of a square that becomes one token; frames of a patch, here copies."""

_FACTOR = PATCH * MERGE


def fitted(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Height and width in multiples of 28 near a number of pixels, with nearly the same ratio.

    Sides are rounded to the nearest multiple; a picture that has more pixels then is scaled down to `pixels` and its
    sides rounded down, one that has fewer is scaled up and its sides rounded up, which may be a few more than `pixels`.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if fault := ratio_fault(width, height):
        raise ValueError(fault)
    rows, columns = (max(1, round(side / _FACTOR)) for side in (height, width))
    area = rows * columns * _FACTOR**2
    # The order of the divisions decides on which side of a whole number a square picture falls.
    if area > pixels:
        scale = math.sqrt(height * width / pixels)
        rows, columns = (math.floor(side / scale / _FACTOR) for side in (height, width))
    elif area < pixels:
        scale = math.sqrt(pixels / (height * width))
        rows, columns = (math.ceil(side * scale / _FACTOR) for side in (height, width))
    return rows * _FACTOR, columns * _FACTOR


def fit(picture: Image.Image, pixels: int) -> Tensor:
    """A picture resized by Pillow's bicubic filter to its `fitted` size and normalised, float32 `[3, h, w]`.

    Raises:
        OSError, ValueError: the picture cannot be decoded, or is too long for its width.
    """
    height, width = fitted(picture.height, picture.width, pixels)
    levels = np.array(to_rgb(picture).resize((width, height), Image.Resampling.BICUBIC))
    return normalise_levels(torch.from_numpy(levels).permute(2, 0, 1))


def patches(pixels: Tensor) -> Tensor:
    """The patches of a prepared picture `[3, h, w]`, `[h / 14 * w / 14, 3 * 2 * 14 * 14]`; differentiable.

    The four patches of one token stand together, tokens row by row.
    """
    channels, height, width = pixels.shape
    squares = pixels.reshape(channels, height // _FACTOR, MERGE, PATCH, width // _FACTOR, MERGE, PATCH)
    ordered = squares.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    return ordered.expand(-1, -1, -1, -1, -1, FRAMES, -1, -1).reshape(-1, channels * FRAMES * PATCH**2)
