"""The shapes world's oracle as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ..datasets.shapes.oracle import judge
from ..datasets.shapes.prompts import parse
from .reward import Failure, score_each


@dataclass(frozen=True)
class ShapesOracle:
    """Reads a picture back and counts which of the prompt's demands it fulfils; knows only the shapes world's prompts.

    A prompt of another world, or a picture that cannot be decoded, has no score: NaN with the reason.
    """

    name: str = "shapes_oracle"
    modality: Literal["image"] = "image"
    differentiable: bool = False

    def score(
        self, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> np.ndarray:
        """The fraction of each prompt's demands that its picture fulfils, float32 `[n]` in [0, 1].

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        return score_each(lambda prompt, picture: judge(prompt, picture).score, prompts, media, failures)

    def correct(
        self, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> np.ndarray:
        """1 where the picture fulfils the whole prompt and holds nothing else, 0 where not, float32 `[n]`.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        return score_each(lambda prompt, picture: float(judge(prompt, picture).correct), prompts, media, failures)

    def categories(self, prompts: Sequence[str]) -> list[str]:
        """GenEval's category of each prompt.

        Raises:
            ValueError: a text is not a prompt of the shapes world.
        """
        return [parse(prompt).category for prompt in prompts]
