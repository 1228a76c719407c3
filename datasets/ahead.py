"""Map a function over a stream in threads, in order, never more than a few items ahead."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """Threads for decoding: Pillow releases the interpreter lock while it decodes."""
    return min(8, os.cpu_count() or 1)


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int = 2
) -> Iterator[tuple[Item, Result]]:
    """Yield `(item, function(item))` in the order of `items`.

    At most `ahead` x workers items are held, so a stream larger than memory passes through. `items` is advanced in the
    caller's thread only: a reader need not be thread-safe. A caller that is away for longer than the workers need for
    what is held leaves them idle; one more `ahead` gives it the time of one more item.
    """
    if workers <= 1:
        for item in items:
            yield item, function(item)
        return
    pending: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) >= ahead * workers:
                done, future = pending.popleft()
                yield done, future.result()
        while pending:
            done, future = pending.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
