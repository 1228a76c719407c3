"""What a trainable reward offers to training: a network, the reading of its inputs, and its scorer's file layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image
from torch import Tensor, nn


class Learner(Protocol):
    """A reward whose weights can be trained.

    `network(words, pixels, owners)` gives n scores `[n]`, or each and the logarithm of its deviation `[n, 2]`, float32:
    `words` are what `read` makes of b prompts, `pixels` are n prepared pictures, `[n, 3, h, w]` or, where their sizes
    differ, a list of `[3, h, w]`, and `owners` `[n]` says whose of the b prompts each picture is. A difference of two
    scores is the logit of a preference. Trained are the parameters with `requires_grad`, all float32.
    """

    @property
    def network(self) -> nn.Module: ...

    def prepare(self, picture: Image.Image) -> Tensor:
        """The network's input for one picture, as the scorer makes it, float32 `[3, h, w]`.

        Raises:
            OSError, ValueError: the picture cannot be decoded.
        """
        ...

    def fault(self, prompt: str) -> str | None:
        """Why the network cannot read a prompt; None where it can."""
        ...

    def read(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """The network's `words` for prompts, on the CPU."""
        ...

    def save(self, folder: Path) -> None:
        """Write the weights, and the tokenizer where one was given, as the scorer opens them."""
        ...

    def how_to_score(self, folder: Path) -> str:
        """The options of `palate score` that open what `save` wrote into `folder`, as a shell takes them."""
        ...
