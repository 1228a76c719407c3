"""Pictures of the shapes world as a generator might spoil them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage


@pytest.fixture
def spoil() -> Callable[..., Image.Image]:
    """spoil(picture, blur, noise, rng) -> the picture with a Gaussian blur, then Gaussian noise on each channel."""

    def spoiled(picture: Image.Image, blur: float, noise: float, rng: np.random.Generator) -> Image.Image:
        pixels = ndimage.gaussian_filter(np.asarray(picture, dtype=np.float64), (blur, blur, 0))
        pixels += rng.normal(0, noise, pixels.shape)
        return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))

    return spoiled
