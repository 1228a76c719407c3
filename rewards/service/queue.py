"""One thread that runs the networks on what many callers ask, in batches that hold several callers' pictures."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import PalateError
from ..scorer import Scorer
from ..scoring.asking import Mark, judged

if TYPE_CHECKING:
    from PIL import Image

_STOPS = "the service stops"
_log = logging.getLogger(__name__)


class ScorerFailedError(PalateError):
    """A scorer broke off on a pair: that is no mark, and may be otherwise the next time."""


class StoppedError(PalateError):
    """The queue was closed before a pair was scored."""


@dataclass(frozen=True, eq=False)
class _Item:
    """One pair to be scored; `medium` is what `input_of` gave."""

    scorer: Scorer
    prompt: str
    medium: Tensor | Image.Image
    gone: Event
    arrived: float = field(default_factory=time.monotonic)
    mark: Future[Mark] = field(default_factory=Future)


class BatchQueue:
    """Pairs wait here for company; a mark does not depend on the company.

    A scorer's pairs are taken together as soon as there are `batch_size` of them, or once the first has waited for
    `patience` seconds. Too little memory for the batch, or one pair that a scorer chokes on, costs the others only
    time. Where `room` pairs wait already, `submit` waits too, so that memory does not fill with prepared pictures.
    """

    def __init__(self, batch_size: int = 32, patience: float = 0.005, room: int = 256) -> None:
        self.batch_size, self.patience, self.room = batch_size, patience, max(room, batch_size)
        self._changed = Condition()
        self._waiting: dict[Hashable, deque[_Item]] = {}
        self._count = 0
        self._closed = False
        self._thread = Thread(target=self._run, name="scoring", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether what is submitted will be scored."""
        return self._thread.is_alive()

    def submit(self, scorer: Scorer, prompt: str, medium: Tensor | Image.Image, gone: Event) -> Future[Mark]:
        """Ask for one mark, from any thread. Once `gone` is set, nobody waits for it and it may be left out.

        The mark's exception is ScorerFailedError or StoppedError.
        """
        item = _Item(scorer, prompt, medium, gone)
        item.mark.set_running_or_notify_cancel()  # a caller that is cancelled cannot cancel it under the thread's hands
        # Pictures of one shape fit into one tensor.
        key = (scorer.name, tuple(medium.shape) if isinstance(medium, Tensor) else None)
        with self._changed:
            while self._count >= self.room and not self._closed:
                self._changed.wait()
            if self._closed:
                item.mark.set_exception(StoppedError(_STOPS))
            else:
                self._waiting.setdefault(key, deque()).append(item)
                self._count += 1
                self._changed.notify_all()
        return item.mark

    def close(self) -> None:
        """Finish the batch at hand; what waits gets no mark but StoppedError."""
        with self._changed:
            self._closed = True
            left = [item for items in self._waiting.values() for item in items]
            self._waiting.clear()
            self._changed.notify_all()
        for item in left:
            item.mark.set_exception(StoppedError(_STOPS))
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            asked: list[_Item] = []
            for item in batch:
                if item.gone.is_set():
                    item.mark.set_result("nobody waits for it")
                else:
                    asked.append(item)
            for item, mark in zip(asked, _marks(asked), strict=True):
                if isinstance(mark, ScorerFailedError):
                    item.mark.set_exception(mark)
                else:
                    item.mark.set_result(mark)

    def _next(self) -> list[_Item]:
        """The batch whose first item has waited longest, of those that are full or due; empty once closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                heads = {key: items[0].arrived for key, items in self._waiting.items()}
                ready = [
                    key
                    for key, arrived in heads.items()
                    if len(self._waiting[key]) >= self.batch_size or arrived + self.patience <= now
                ]
                if ready:
                    return self._take(min(ready, key=heads.__getitem__))
                self._changed.wait(min(heads.values()) + self.patience - now if heads else None)
        return []

    def _take(self, key: Hashable) -> list[_Item]:
        items = self._waiting[key]
        batch = [items.popleft() for _ in range(min(self.batch_size, len(items)))]
        if not items:
            del self._waiting[key]
        self._count -= len(batch)
        self._changed.notify_all()
        return batch


def _marks(items: list[_Item]) -> list[Mark | ScorerFailedError]:
    """The marks of pairs of one scorer, halving where memory does not hold them together.

    What raises otherwise is asked again pair by pair. It is a pair's fault only where the others have none: a scorer
    that has a number for each alone and miscounts them together would give the one's to the other.
    """
    if not items:
        return []
    name, reward = items[0].scorer.name, items[0].scorer.reward
    try:
        return [*judged(reward, [item.prompt for item in items], [item.medium for item in items])]
    except Exception as error:  # whatever a network does, the thread and the other callers go on
        short = isinstance(error, (torch.OutOfMemoryError, MemoryError)) and len(items) > 1
        if not short:
            _log.warning("%s failed on a batch of %d", name, len(items), exc_info=error)
        told = str(error) if isinstance(error, PalateError) else f"the scorer {name} failed: {error}"
    # Outside the handler: within it, the error's traceback still holds the batch's memory.
    if short:
        torch.cuda.empty_cache()
        middle = len(items) // 2
        return _marks(items[:middle]) + _marks(items[middle:])
    alone = [mark for item in items for mark in _marks([item])] if len(items) > 1 else []
    if 0 < sum(isinstance(mark, ScorerFailedError) for mark in alone) < len(items):
        return alone
    return [ScorerFailedError(told.partition("\n")[0]) for _ in items]
