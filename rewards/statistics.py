"""Numbers of a picture that need no network: for tests, and to see what a reward's gain is made of."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .function import FunctionReward, from_function
from .pixels import to_rgb


def jpeg_kilobytes(prompt: str, picture: Image.Image) -> float:
    """Size of the picture's pixels as a JPEG of quality 95, in units of 1000 bytes.

    The incompressibility reward of Black et al. 2023, https://arxiv.org/abs/2305.13301.
    """
    file = io.BytesIO()
    pixels = to_rgb(picture).copy()
    pixels.info = {}  # the comment of its own file, which Pillow would write into this one
    pixels.save(file, "JPEG", quality=95)
    return file.tell() / 1000


def laplacian_variance(prompt: str, picture: Image.Image) -> float:
    """Variance of the 4-neighbour Laplacian of the grey levels 0 to 255, borders left out; blur makes it small.

    Raises:
        ValueError: a side is shorter than 3 pixels.
    """
    grey = np.asarray(to_rgb(picture).convert("L"), dtype=np.float64)
    if min(grey.shape) < 3:
        raise ValueError(f"{picture.width} x {picture.height} pixels are too few to tell sharpness")
    centre = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre).var())


def open_jpeg_size() -> FunctionReward:
    """`jpeg_kilobytes` as a reward."""
    return from_function("jpeg_size", jpeg_kilobytes, needs_prompts=False)


def open_sharpness() -> FunctionReward:
    """`laplacian_variance` as a reward."""
    return from_function("sharpness", laplacian_variance, needs_prompts=False)
