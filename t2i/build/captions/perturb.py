"""Captions that no longer fit their picture, written by a language model that is asked to change a share of the words.

DCPO (Saeedi et al., arXiv 2502.06023) lets a paraphraser change 40, 60 or 80 % of a caption's words (weak, medium,
strong), with top-p 0.75 and 256 tokens at most. Its paraphraser, DIPPER, is asked in its own form by the template
`lexical = {kept}, order = 0 <sent> {prompt} </sent>`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

import torch

from ....diffusion.draws import Stream, generator_for
from ....rewards.questions import fill
from ....rewards.vlm_rows import ask_each
from .answers import Answer, first_line, identity, tidy
from .strength import share_of
from .text_model import Decoding, TextModel, open_text_model, require_text_model

TEMPLATE = (
    "Below is a description of a picture. Rewrite it so that it is wrong about that picture: change about {share} % "
    "of its words, such as what is there, how many, colours, sizes, materials, places, and how things stand to each "
    "other. Keep its length and its style, and describe something that could be drawn. Answer with the new "
    "description alone.\n"
    "Description: {prompt}"
)
"""`{share}` and `{kept}` are the percent of words that are changed and that are not."""


@dataclass(frozen=True)
class ModelPerturber:
    """Which model, and how it is asked; it is opened only where something is left to be asked.

    model      a folder or a hub id; see `open_text_model`
    strength   a name in `STRENGTHS`
    seed       another gives other words
    template   the question, with `{prompt}` in it; may hold `{share}` and `{kept}`
    """

    model: str
    strength: str = "medium"
    seed: int = 0
    template: str = TEMPLATE
    decoding: Decoding = field(default_factory=Decoding)
    batch_size: int = 8
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def settings(self) -> dict[str, Any]:
        """What decides the texts: JSON values. A local model's files are read whole."""
        return {
            "model": self.model,
            "weights": identity(self.model),
            "strength": self.strength,
            "share": share_of(self.strength),
            "seed": self.seed,
            "template": self.template,
            **asdict(self.decoding),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def require(self) -> None:
        """Look at no more than the model's config. Raises UserError: see `require_text_model`."""
        require_text_model(self.model)

    def open(self) -> Callable[[Sequence[str]], list[Answer]]:
        """Load the model: what it makes of texts, in batches that memory holds.

        Raises:
            UserError: see `open_text_model`.
        """
        return partial(self._ask, open_text_model(self.model, self.device, self.dtype))

    def _ask(self, model: TextModel, texts: Sequence[str]) -> list[Answer]:
        def write(_: Any, asked: list[str]) -> list[str]:
            generators = [generator_for(self.seed, Stream.SAMPLING, _number(text)) for text in asked]
            return model.write([self.question(text) for text in asked], generators, self.decoding)

        told, reasons = ask_each(write, [[]] * len(texts), texts, self.batch_size)
        speaks_on = not (model.model.config.is_encoder_decoder or model.tokenizer.chat_template)
        answers = []
        for place, (text, new) in enumerate(zip(texts, told, strict=True)):
            if new is None:
                answers.append(Answer(None, reasons[place]))
                continue
            new = tidy(first_line(new) if speaks_on else new)
            if not new:
                answers.append(Answer(None, "the model says nothing"))
            elif new.casefold() == tidy(text).casefold():
                answers.append(Answer(None, "the model gives the text back as it is"))
            else:
                answers.append(Answer(new))
        return answers

    def question(self, text: str) -> str:
        """What the model is asked about a text."""
        percent = round(100 * share_of(self.strength))
        asked = self.template.replace("{share}", str(percent)).replace("{kept}", str(100 - percent))
        return fill(asked, text)


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")
