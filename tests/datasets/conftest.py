"""Small pictures, each a different one."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """picture(seed, width, height, format) -> an encoded picture of seeded noise."""

    def draw(seed: int = 0, width: int = 16, height: int = 16, format: str = "PNG") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format)
        return buffer.getvalue()

    return draw
