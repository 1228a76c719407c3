"""Which caption each candidate of a group gets: DCPO's dual captions, and TPO's two captions of one picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ....datasets.group import Group
from ....datasets.skips import Skipped
from .answers import Answer

MODES = {
    "caption": "DCPO-c: each candidate has what its picture shows",
    "perturb": "DCPO-p: the winner keeps the prompt, the losers have it changed",
    "hybrid": "DCPO-h: the winner has what it shows, the losers what they show, changed",
    "tpo": "TPO: the best picture twice, with its caption or prompt preferred to the same one changed",
}

TIE = "tie"
ALONE = "one candidate"
NO_CAPTION = "no caption"
NO_CHANGE = "caption not changed"


@dataclass(frozen=True)
class Draft:
    """A group with the candidates that will be written, and by candidate whether its caption is changed."""

    group: Group
    change: tuple[bool, ...]


def draft(group: Group, mode: str) -> Draft | Skipped:
    """The group that a mode makes of another, its captions apart; or why it makes none.

    `caption` takes every group. The others need a winner: ties are left out, and for `perturb` and `hybrid` single
    candidates too. All candidates that share the highest label are winners.
    """
    if mode == "caption":
        return Draft(group, (False,) * group.size)
    if group.is_tie:
        return Skipped(group.key, TIE)
    best = max(range(group.size), key=lambda i: group.labels[i])
    if mode == "tpo":
        return Draft(_twice(group, best), (False, True))
    if group.size == 1:
        return Skipped(group.key, ALONE)
    return Draft(group, tuple(label < group.labels[best] for label in group.labels))


def finish(
    drafted: Draft, caption: Callable[[Group, int], Answer], changed: Callable[[str], Answer]
) -> Group | Skipped:
    """The group with its captions, or why it has none.

    Args:
        drafted: from `draft`.
        caption: of a group's candidate, before any change.
        changed: a caption that no longer fits.
    """
    group, captions = drafted.group, []
    for candidate, change in enumerate(drafted.change):
        answer, reason = caption(group, candidate), NO_CAPTION
        if change and answer.text is not None:
            answer, reason = changed(answer.text), NO_CHANGE
        if answer.text is None:
            return Skipped(group.key, reason, f"candidate {candidate}: {answer.reason}")
        captions.append(answer.text)
    return replace(group, captions=tuple(captions))


def _twice(group: Group, best: int) -> Group:
    """One picture as two candidates, of which the first is preferred; what raters said holds for the first alone."""

    def both(values: tuple | None) -> tuple | None:
        return None if values is None else (values[best],) * 2

    aspects = group.aspects and {name: (values[best], math.nan) for name, values in group.aspects.items()}
    return replace(
        group,
        candidates=(group.candidates[best],) * 2,
        labels=(1.0, 0.0),
        captions=both(group.captions),
        aspects=aspects,
        model=both(group.model),
        seed=both(group.seed),
        rater="tpo",
    )
