"""The contract that every reward keeps: prompts and media in, one number each out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

Modality = Literal["image", "audio", "text"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why the item at `index` of a call has no score."""

    index: int
    reason: str


@runtime_checkable
class Reward(Protocol):
    """A judge of how well each medium answers its prompt; higher is better.

    `differentiable`: whether gradients can flow from the score to the medium. A value never depends on what else is in
    the call.
    """

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> Modality: ...

    @property
    def differentiable(self) -> bool: ...

    def score(
        self, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> np.ndarray:
        """One float32 per pair of prompt and medium, `[n]`.

        A pair that cannot be scored is NaN, never 0: its reason is appended to `failures`, or logged as a warning
        where no list is given.

        Raises:
            ValueError: there are not as many prompts as media.
        """
        ...


def score_each(
    score_one: Callable[[str, Image.Image], float],
    prompts: Sequence[str],
    media: Sequence[Image.Image],
    failures: list[Failure] | None = None,
) -> np.ndarray:
    """Score pair by pair, float32 `[n]`; a ValueError or OSError of `score_one` makes that pair NaN with its message.

    Other errors are not a pair's fault and pass through.

    Raises:
        ValueError: there are not as many prompts as media.
    """
    if len(prompts) != len(media):
        raise ValueError(f"got {len(prompts)} prompts and {len(media)} media; expected one prompt for each")
    scores = np.full(len(prompts), np.nan, dtype=np.float32)
    for index, (prompt, medium) in enumerate(zip(prompts, media, strict=True)):
        try:
            scores[index] = score_one(prompt, medium)
        except (ValueError, OSError) as error:
            report_failure(Failure(index, str(error) or type(error).__name__), failures)
            continue
        if np.isnan(scores[index]):
            report_failure(Failure(index, "the reward returned NaN"), failures)
    return scores


def report_failure(failure: Failure, failures: list[Failure] | None) -> None:
    """Append to the caller's list, or warn where there is none."""
    if failures is not None:
        failures.append(failure)
    else:
        _log.warning("item %d has no score: %s", failure.index, failure.reason)
