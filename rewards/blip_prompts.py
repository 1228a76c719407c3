"""Prompts as BLIP's text tower reads them: BERT's word pieces, 35 at most."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .pretrained import load_tokenizer

MAX_TOKENS = 35  # [CLS] and [SEP] included; BLIP and all that was built on it
_ADDED = ("[DEC]", "[ENC]")  # what BLIP's tokenizer has beyond BERT's
_log = logging.getLogger(__name__)


class BlipPrompts:
    """Turns prompts into token ids; says once that prompts were cut and keeps count in `cut`.

    BLIP's tokenizer has two tokens more than BERT's, [DEC] and [ENC]; scoring places neither in the input, so BERT's
    own serves.

    Args:
        tokenizer: a transformers BERT tokenizer.
        reader: who reads the prompts; named in the warning.
    """

    def __init__(self, tokenizer: Any, reader: str) -> None:
        self.tokenizer = tokenizer
        self.reader = reader
        self.cut = 0

    def read(self, prompts: Sequence[str], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, int64 `[n, t]`, `t` the longest prompt's tokens and at most 35.

        Raises:
            ValueError: there are no prompts.
        """
        if not prompts:
            raise ValueError("got no prompts; expected at least one")
        # Without `truncation` so that the long ones can be counted; `verbose` would warn for each of them.
        rows = self.tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]
        if cut := sum(len(row) > MAX_TOKENS for row in rows):
            self._count(cut, len(rows))
            rows = [row[: MAX_TOKENS - 1] + row[-1:] if len(row) > MAX_TOKENS else row for row in rows]  # keeps [SEP]
        padded = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        return padded["input_ids"].to(device), padded["attention_mask"].to(device)

    def _count(self, cut: int, n: int) -> None:
        if not self.cut:
            _log.warning(
                "%d of %d prompts are longer than the %d tokens that %s reads; their ends are not judged (said once)",
                *(cut, n, MAX_TOKENS, self.reader),
            )
        self.cut += cut


def open_blip_prompts(source: str | Path, vocabulary: int, reader: str) -> BlipPrompts:
    """The prompts' reader with the tokenizer of a hub id or a folder that holds BERT's `vocab.txt`.

    Args:
        source: in which `~` is the user's home.
        vocabulary: the rows of the text tower's word embeddings.

    Raises:
        UserError: the tokenizer cannot be loaded, or its vocabulary is not the text tower's.
    """
    from transformers import BertTokenizer

    tokenizer = load_tokenizer(BertTokenizer, source, "give bert-base-uncased or a folder with its vocab.txt")
    # Where there are no files, transformers answers with a vocabulary of five special tokens: all words unknown.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(
            f"no vocabulary for {reader} is found at {source}, on this machine or on the hub; "
            "give a folder with BERT's vocab.txt as `tokenizer`"
        )
    if not vocabulary - len(_ADDED) <= len(tokenizer) <= vocabulary:
        raise UserError(
            f"the tokenizer {source} has {len(tokenizer)} tokens and the text tower of {reader} {vocabulary}; "
            "give bert-base-uncased or a folder with the vocab.txt that the tower was trained with"
        )
    return BlipPrompts(tokenizer, reader)
