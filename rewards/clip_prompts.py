"""Prompts as CLIP's text tower reads them: byte pairs between a start and an end token, 77 at most."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from .pretrained import load_tokenizer

_log = logging.getLogger(__name__)


class ClipPrompts:
    """Turns prompts into token ids; says once that prompts were cut and keeps count in `cut`.

    Args:
        encode: prompts to lists of ids, start and end token included, of any length.
        end: the id of the end token, where the text tower's feature is read.
        length: tokens that the text tower reads.
    """

    def __init__(self, encode: Callable[[list[str]], list[list[int]]], end: int, length: int) -> None:
        self.encode = encode
        self.end = end
        self.length = length
        self.cut = 0

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 `[n, length]`.

        Always the full length, so that a prompt's feature does not depend on its company. What stands behind the first
        end token does not matter, since the tower is causal; it is filled with end tokens.
        """
        rows = self.encode(list(prompts))
        if cut := sum(len(row) > self.length for row in rows):
            self._count(cut, len(rows))
        ids = torch.full((len(rows), self.length), self.end)
        for index, row in enumerate(rows):
            row = row[: self.length - 1]  # the last place is left to the end token
            ids[index, : len(row)] = torch.tensor(row)
        return ids

    def _count(self, cut: int, n: int) -> None:
        if not self.cut:
            _log.warning(
                "%d of %d prompts are longer than the %d tokens that CLIP reads; their ends are not judged (said once)",
                *(cut, n, self.length),
            )
        self.cut += cut


def open_clip_prompts(length: int) -> ClipPrompts:
    """open_clip's own tokenizer, which its package carries; it repairs broken Unicode and HTML first."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
    return ClipPrompts(lambda prompts: [[start, *tokenizer.encode(prompt), end] for prompt in prompts], end, length)


def transformers_prompts(source: str | Path, vocabulary: int, length: int) -> ClipPrompts:
    """The transformers tokenizer of a hub id or a folder that holds `tokenizer.json`, or `vocab.json` and `merges.txt`.

    Args:
        vocabulary: the rows of the text tower's token embedding.
        length: tokens that the text tower reads.

    Raises:
        UserError: the tokenizer cannot be loaded, or its vocabulary is not the text tower's.
    """
    from transformers import CLIPTokenizer

    advice = "give the model's own tokenizer, a folder with tokenizer.json or a hub id"
    tokenizer = load_tokenizer(CLIPTokenizer, source, advice)
    # Where there are no files, transformers answers with a vocabulary of two special tokens: every word is unknown.
    if len(tokenizer) != vocabulary:
        raise UserError(f"the tokenizer {source} has {len(tokenizer)} tokens and the model {vocabulary}; {advice}")

    def encode(prompts: list[str]) -> list[list[int]]:
        return tokenizer(prompts, truncation=False, verbose=False)["input_ids"]

    return ClipPrompts(encode, int(tokenizer.eos_token_id), length)
