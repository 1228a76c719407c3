"""Who labels pictures of the shapes world: the oracle, or a rater who errs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from .oracle import judge

Rater = Callable[[str, Image.Image], float]
"""`(prompt, picture) -> label`, higher is preferred."""


def oracle_rater(prompt: str, picture: Image.Image) -> float:
    """The oracle's graded score in [0, 1]. Raises ValueError for a prompt that is not of the world."""
    return judge(prompt, picture).score


def noisy_rater(noise: float, seed: int) -> Rater:
    """A rater whose score is the oracle's plus Gaussian noise of standard deviation `noise`.

    The noise depends on the seed, the prompt and the picture: the same rater asked again answers the same.
    """

    def rate(prompt: str, picture: Image.Image) -> float:
        seen = hashlib.blake2b(picture.tobytes() + prompt.encode(), digest_size=8).digest()
        rng = np.random.default_rng([seed, int.from_bytes(seen, "little")])
        return oracle_rater(prompt, picture) + noise * float(rng.standard_normal())

    return rate
