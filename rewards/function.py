"""A plain Python function as a reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from .reward import Failure, score_each


@dataclass(frozen=True)
class FunctionReward:
    """Scores with `function(prompt, picture) -> float`, one pair at a time; made by `from_function`.

    Args:
        version: names what the function computes; a later run takes over its scores where it is equal and not "".
        needs_prompts: whether the prompt plays a part; a scoring run gives "" to a function that needs none.
    """

    name: str
    function: Callable[[str, Image.Image], float]
    version: str = ""
    needs_prompts: bool = True
    modality: Literal["image"] = "image"
    differentiable: bool = False

    def score(
        self, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> np.ndarray:
        """The function's values, float32 `[n]`; NaN with its message where it raises OSError or ValueError.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        return score_each(self.function, prompts, media, failures)


def from_function(
    name: str, function: Callable[[str, Image.Image], float], version: str = "", needs_prompts: bool = True
) -> FunctionReward:
    """A reward from a function of a prompt and a picture; higher is better.

    With a `version` its scores are taken over by later runs; change it when the function does.
    """
    return FunctionReward(name, function, version, needs_prompts)
