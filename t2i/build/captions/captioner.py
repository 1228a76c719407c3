"""What a picture shows, told by a vision-language model that also sees the prompt it was generated from (DCPO-c)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image

from ....rewards.questions import fill
from ....rewards.vlm import Answerer, open_vlm
from ....rewards.vlm_rows import ask_each
from .answers import Answer, identity, tidy

TEMPLATE = (
    "This picture was generated from the prompt below. Describe what the picture really shows, in one sentence of at "
    "most 40 words that could itself be a prompt: what is there, how many, colours, materials, where things stand, and "
    "the style. Where the picture departs from the prompt, follow the picture. Answer with the description alone.\n"
    "Prompt: {prompt}"
)
"""Forty words, since CLIP's text encoder reads 77 tokens."""


@dataclass(frozen=True)
class Captioner:
    """Which model, and how it is asked; it is opened only where something is left to be asked.

    Answers are greedy, and cut off at `max_tokens`.

    model     a folder or a hub id; see `open_vlm`
    template  the question, with `{prompt}` in it
    """

    model: str
    template: str = TEMPLATE
    max_tokens: int = 128
    batch_size: int = 8
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def settings(self) -> dict[str, Any]:
        """What decides the captions: JSON values. A local model's files are read whole."""
        return {
            "model": self.model,
            "weights": identity(self.model),
            "template": self.template,
            "decoding": "greedy",
            "max_tokens": self.max_tokens,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def open(self) -> Callable[[Sequence[tuple[Image.Image, str]]], list[Answer]]:
        """Load the model: what it says of pictures with their prompts, in batches that memory holds.

        Raises:
            UserError: see `open_vlm`.
        """
        return partial(self.ask, open_vlm(self.model, device=self.device, dtype=self.dtype))

    def ask(self, vlm: Answerer, rows: Sequence[tuple[Image.Image, str]]) -> list[Answer]:
        """A caption for each picture with its prompt, or why there is none.

        Raises:
            PalateError: memory does not hold a single row.
        """
        ask = partial(vlm.answer, max_tokens=self.max_tokens)
        questions = [fill(self.template, prompt) for _, prompt in rows]
        told, reasons = ask_each(ask, [[picture] for picture, _ in rows], questions, self.batch_size)
        captions = [tidy(answer.text if answer else "") for answer in told]
        nothing = "the model says nothing"
        return [Answer(text) if text else Answer(None, reasons.get(i, nothing)) for i, text in enumerate(captions)]
