"""Prompts that are longer than a text encoder reads: counted, and said once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def count_truncated(tokenizers: Iterable[Any], prompts: list[str]) -> int:
    """How many prompts at least one tokenizer would cut, special tokens included."""
    cut = set()
    for tokenizer in tokenizers:
        # Without `truncation` the tokenizer would print a warning of its own for every long prompt.
        encoded = tokenizer(prompts, truncation=False, verbose=False)["input_ids"]
        cut |= {i for i, ids in enumerate(encoded) if len(ids) > tokenizer.model_max_length}
    return len(cut)
