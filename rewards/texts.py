"""Prompts are encoded once in a run, and always in the same company.

What a network makes of a prompt moves in its last bits with what else is in the batch. So a run fixes beforehand which
prompts are encoded together, and a run that was broken off, or one of several processes, gets the bits of any other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

MOST = 10_000
"""Prompts of a plan; their features take 40 MB a tower."""

Encode = Callable[[list[str]], Tensor]
_thread = threading.local()  # `memory`, within `remembered_texts`


class TextPlan:
    """Prompts in the groups that are encoded together."""

    def __init__(self) -> None:
        self.groups: dict[int, list[str]] = {}
        self.places: dict[str, tuple[int, int]] = {}
        """Of a prompt: its group, and its row there."""

    def add(self, prompt: str, group: int) -> None:
        """Put a prompt into a group, unless it is in one already or there are `MOST`."""
        if prompt not in self.places and len(self.places) < MOST:
            members = self.groups.setdefault(group, [])
            self.places[prompt] = group, len(members)
            members.append(prompt)


class TextMemory:
    """The features of a plan's groups, made when the first of a group is asked for."""

    def __init__(self, plan: TextPlan) -> None:
        self.plan = plan
        self._features: dict[tuple[Any, int], Tensor] = {}

    def features(self, owner: Any, prompts: Sequence[str], encode: Encode) -> Tensor:
        """What `owner` makes of prompts, `[n, d]`; those that are in no group are encoded with each other."""
        places = {prompt: self.plan.places[prompt] for prompt in prompts if prompt in self.plan.places}
        found = {prompt: self._row(owner, *place, encode) for prompt, place in places.items()}
        if others := [prompt for prompt in prompts if prompt not in found]:
            found |= zip(others, encode(others), strict=True)
        return torch.stack([found[prompt] for prompt in prompts])

    def _row(self, owner: Any, group: int, row: int, encode: Encode) -> Tensor:
        if (owner, group) not in self._features:
            self._features[owner, group] = encode(self.plan.groups[group])
        return self._features[owner, group][row]


@contextmanager
def remembered_texts(memory: TextMemory) -> Iterator[None]:
    """Within the block, in this thread, `text_features` is what `memory` knows."""
    _thread.memory = memory
    try:
        yield
    finally:
        del _thread.memory


def text_features(owner: Any, prompts: Sequence[str], encode: Encode) -> Tensor:
    """What `encode` makes of prompts, `[n, d]`; one that comes twice is encoded once.

    Args:
        owner: whose features they are, by identity; it must stay as it is while they are remembered.
        encode: different prompts to features, a row each.
    """
    rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    memory: TextMemory | None = getattr(_thread, "memory", None)
    features = encode(list(rows)) if memory is None else memory.features(owner, list(rows), encode)
    return features[[rows[prompt] for prompt in prompts]]
