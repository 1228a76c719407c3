"""The contract that every reward keeps: prompts and media in, one number each out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from PIL import Image

from ..datasets.ahead import default_workers, ordered_map
from ..errors import PalateError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
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

    `differentiable`: whether gradients can flow from the score to the medium. A value does not depend on what else is
    in the call, but for rounding: within 1e-5 in float32, while in bfloat16 the matrix shapes of another batch can move
    it by 1 %, which float32 or a batch of one avoids.
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


@runtime_checkable
class PixelReward(Reward, Protocol):
    """A neural judge of pictures, in the two steps that `score` is made of."""

    def prepare(self, picture: Image.Image) -> Tensor:
        """The network's input for one picture, float32 `[3, h, w]` on the CPU; safe to call from several threads.

        In a scoring run the picture is read-only and others look at it too: copy it before writing to its pixels.

        Raises:
            OSError, ValueError: the picture cannot be decoded.
        """
        ...

    def score_pixels(self, prompts: Sequence[str], pixels: Tensor) -> Tensor:
        """One float32 per pair, `[n]`, on the reward's device; differentiable in pixels where the reward is.

        Args:
            prompts: n of them; where the text is encoded by itself, one that comes twice is encoded once.
            pixels: prepared pictures, `[n, 3, h, w]`.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        ...


class ScoresPixels:
    """The `score` of rewards that have the two steps of `PixelReward`."""

    def score(
        self: PixelReward, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> np.ndarray:
        """The scores, float32 `[n]`; NaN with its reason for a picture that cannot be decoded.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        return score_prepared(self, prompts, media, failures)


@runtime_checkable
class BatchedReward(Reward, Protocol):
    """A judge that gains from many pairs in one call of `score`, and takes pictures as they are.

    Vision-language models, whose processors cut each picture to a size of its own. `batched` is True; a reward without
    it, that is no `PixelReward` either, is called pair by pair. Pictures may be read-only: copy one to write to it.
    """

    @property
    def batched(self) -> Literal[True]: ...


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
    require_pairs(prompts, media)
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


def score_prepared(
    reward: PixelReward,
    prompts: Sequence[str],
    media: Sequence[Image.Image],
    failures: list[Failure] | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Prepare pictures in threads and score them in batches, float32 `[n]`, without gradients.

    A picture that `prepare` refuses with an OSError or a ValueError is NaN with the message and leaves the others as
    they are; so is a score that is NaN. Other errors are not a picture's fault and pass through.

    Raises:
        ValueError: there are not as many prompts as media.
        PalateError: the reward does not answer with one number for each.
    """
    import torch

    require_pairs(prompts, media)
    scores = np.full(len(prompts), np.nan, dtype=np.float32)
    reasons: dict[int, str] = {}

    def score(batch: list[tuple[int, Tensor]]) -> None:
        indices = [index for index, _ in batch]
        with torch.no_grad():
            values = reward.score_pixels([prompts[index] for index in indices], torch.stack([row for _, row in batch]))
        if fault := answer_fault(values.shape, len(batch)):  # NumPy would give one number to all
            raise PalateError(f"the scorer {reward.name} failed ({fault})")
        scores[indices] = values.float().cpu().numpy()
        reasons.update({index: "the reward returned NaN" for index in indices if np.isnan(scores[index])})

    # Pictures of one prompt go together, so that its text is encoded anew only where they straddle two batches.
    rank = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    order = sorted(range(len(prompts)), key=lambda index: rank[prompts[index]])
    batch: list[tuple[int, Tensor]] = []
    for index, pixels in prepared(reward.prepare, media, order, reasons):
        batch.append((index, pixels))
        if len(batch) == batch_size:
            score(batch)
            batch = []
    if batch:
        score(batch)
    for index in sorted(reasons):
        report_failure(Failure(index, reasons[index]), failures)
    return scores


def prepared(
    prepare: Callable[[Image.Image], T], media: Sequence[Image.Image], order: Iterable[int], reasons: dict[int, str]
) -> Iterator[tuple[int, T]]:
    """Yield (index, prepare(media[index])) in `order`, done in threads.

    What it refuses with an OSError or a ValueError is left out, with the message under its index in `reasons`.
    """
    locks = {id(medium): Lock() for medium in media}  # two threads must not decode the same picture

    def one(index: int) -> T | None:
        try:
            with locks[id(media[index])]:
                return prepare(media[index])
        except (ValueError, OSError) as error:
            reasons[index] = str(error) or type(error).__name__
            return None

    for index, value in ordered_map(one, order, default_workers()):
        if value is not None:
            yield index, value


def require_pairs(prompts: Sized, media: Sized) -> None:
    """Raise ValueError unless there is one prompt for each medium."""
    if len(prompts) != len(media):
        raise ValueError(f"got {len(prompts)} prompts and {len(media)} media; expected one prompt for each")


def answer_fault(shape: Sequence[int], count: int) -> str | None:
    """What is wrong with the shape of a reward's answer about `count` pictures; None where it is one number each."""
    return None if tuple(shape) == (count,) else f"{count} pictures, and an answer of shape {list(shape)}"


def report_failure(failure: Failure, failures: list[Failure] | None) -> None:
    """Append to the caller's list, or warn where there is none."""
    if failures is not None:
        failures.append(failure)
    else:
        _log.warning("item %d has no score: %s", failure.index, failure.reason)
