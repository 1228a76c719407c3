"""Votes for PAL from preference groups: who preferred which picture, as features of a frozen tower."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import permutations
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from ...datasets.group import Group
from ...datasets.skips import NO_PARTNER, UNREADABLE, SkipLog
from ...errors import UserError
from ..clip_tower import ClipTower
from ..scoring.picture_file import read_picture
from .tastes import Votes

NO_RATER = "no rater"
TIE = "tie"


class Embeds(Protocol):
    """A reward on a CLIP tower, such as PickScore: how it prepares a picture, and the tower that reads it."""

    @property
    def tower(self) -> ClipTower: ...

    def prepare(self, picture: Image.Image) -> Tensor: ...


def group_votes(groups: Iterable[Group], reward: Embeds, log: SkipLog | None = None, batch_size: int = 32) -> Votes:
    """Every pair of a group's candidates of which its rater prefers one, in the groups' order.

    A ranking of k gives up to k (k - 1) / 2 votes; ties inside it give none. A picture or prompt that comes again is
    encoded once. Memory holds the features, not the pictures. A group without rater, with a single candidate, all tied,
    or with an unreadable picture is put in `log` and left out.

    Args:
        reward: whose features the votes hold.
        batch_size: pictures of one forward pass.

    Raises:
        UserError: no votes are left.
    """
    log = SkipLog() if log is None else log
    pictures, prompts = _Pictures(reward, batch_size), {}
    rows: list[tuple[str, int, int, int]] = []  # the rater, and the preferred, other and prompt by number
    for group in groups:
        rater = group.rater
        if rater is None or group.size < 2 or group.is_tie:
            log.add(group.key, NO_RATER if rater is None else TIE if group.size > 1 else NO_PARTNER)
            continue
        try:
            numbers = [pictures.number(data) for data in group.candidates]
        except (ValueError, OSError) as error:
            log.add(group.key, UNREADABLE, str(error))
            continue
        prompt = prompts.setdefault(group.prompt, len(prompts))
        for (one, label), (other, below) in permutations(zip(numbers, group.labels, strict=True), 2):
            if label > below:
                rows.append((rater, one, other, prompt))
    if not rows:
        raise UserError(f"there are no votes to learn from: {log.summary() or 'no groups'}")
    users, preferred, other, asked = zip(*rows, strict=True)
    features, texts = pictures.features(), _texts(reward.tower, list(prompts), batch_size)
    return Votes(users, features[list(preferred)], features[list(other)], texts[list(asked)])


class _Pictures:
    """Numbers pictures by their bytes and encodes them in batches."""

    def __init__(self, reward: Embeds, batch_size: int) -> None:
        self.reward, self.batch_size = reward, batch_size
        self.numbers: dict[bytes, int] = {}
        self.waiting: list[Tensor] = []
        self.done: list[Tensor] = []

    def number(self, data: bytes) -> int:
        """The picture's number. Raises ValueError or OSError for one that cannot be read."""
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest not in self.numbers:
            self.waiting.append(self.reward.prepare(read_picture(data)))
            self.numbers[digest] = len(self.numbers)
            if len(self.waiting) == self.batch_size:
                self.encode()
        return self.numbers[digest]

    def encode(self) -> None:
        """Those that wait."""
        with torch.no_grad():
            self.done.append(self.reward.tower.images(torch.stack(self.waiting)).cpu())
        self.waiting.clear()

    def features(self) -> Tensor:
        """Of all, `[m, d]` by number."""
        if self.waiting:
            self.encode()
        return torch.cat(self.done)


def _texts(tower: ClipTower, prompts: list[str], batch_size: int) -> Tensor:
    with torch.no_grad():
        parts = [tower.texts(prompts[start : start + batch_size]).cpu() for start in range(0, len(prompts), batch_size)]
    return torch.cat(parts)
