"""Prompts as CLIP-FlanT5 reads them: a question with the picture between two texts, and the answer.

The wording is that of t2v_metrics (Apache-2.0, https://github.com/linzhiqiu/t2v_metrics).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..errors import UserError
from .pretrained import load_tokenizer

MAX_TOKENS = 2048  # of both texts, the picture counted as one
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
ANSWER = "Yes"
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_log = logging.getLogger(__name__)


class VqaPrompts:
    """Turns prompts into token ids; says once that prompts were cut and keeps count in `cut`.

    Each text is read by itself and ends with T5's end token, also the one before the picture.

    Args:
        tokenizer: FLAN-T5's.

    Attributes:
        before: token ids of the text before the picture.
        answer: token ids of the answer, with the end token.
        vocabulary: tokens that an answer can be of. The reference cuts the model's table to them, and with it the sum
            of the softmax.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.before: list[int] = tokenizer(f"{_SYSTEM} USER: ")["input_ids"]
        self.answer: list[int] = tokenizer(ANSWER)["input_ids"]
        self.vocabulary = len(tokenizer)
        self.cut = 0

    def read(self, prompts: list[str]) -> list[list[int]]:
        """Token ids of the text behind the picture, one list a prompt; what is beyond 2048 tokens is cut off."""
        if not prompts:
            return []
        texts = [f"\n{QUESTION.format(prompt)} ASSISTANT: " for prompt in prompts]
        rows: list[list[int]] = self.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        room = MAX_TOKENS - len(self.before) - 1
        if cut := sum(len(row) > room for row in rows):
            self._count(cut, len(rows))
        return [row[:room] for row in rows]  # the question's end is lost too, as in the reference

    def _count(self, cut: int, n: int) -> None:
        if not self.cut:
            _log.warning(
                "%d of %d prompts are longer than the %d tokens that vqascore reads; their ends are not judged "
                "(said once)",
                *(cut, n, MAX_TOKENS),
            )
        self.cut += cut


def open_vqa_prompts(source: str | Path, vocabulary: int) -> VqaPrompts:
    """The prompts' reader with the tokenizer of a hub id or a folder.

    Args:
        vocabulary: the rows of T5's token embedding.

    Raises:
        UserError: the tokenizer cannot be loaded, or is not T5's.
    """
    from transformers import T5Tokenizer

    advice = "give the folder or hub id of google/flan-t5-xxl, or another tokenizer of FLAN-T5, as tokenizer"
    tokenizer = load_tokenizer(T5Tokenizer, source, advice)
    # T5's table is padded from 32,100 rows to 32,128. Where there are no files, transformers answers with 104 tokens.
    if not vocabulary - 128 < len(tokenizer) <= vocabulary:
        raise UserError(f"the tokenizer {source} has {len(tokenizer)} tokens and the model {vocabulary}; {advice}")
    return VqaPrompts(tokenizer)
