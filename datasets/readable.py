"""Pass on the groups whose pictures can all be decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from .ahead import default_workers, ordered_map
from .group import Group
from .images import MIN_SIDE, first_fault
from .skips import UNREADABLE, SkipLog


def readable_groups(
    groups: Iterable[Group], log: SkipLog, *, min_side: int = MIN_SIDE, workers: int | None = None
) -> Iterator[Group]:
    """Yield the groups whose pictures are all sound, in order; log the key and the fault of each other one.

    A group is skipped whole, so that an unreadable picture never pairs its neighbours wrongly.
    """
    check = partial(first_fault, min_side=min_side)
    for group, fault in ordered_map(check, groups, default_workers() if workers is None else workers):
        if fault is None:
            yield group
        else:
            log.add(group.key, UNREADABLE, fault)
