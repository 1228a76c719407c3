"""What a scorer is asked about one picture: with which prompt, from which input, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

from ...errors import PalateError
from ..reward import Failure, PixelReward, Reward, answer_fault
from ..scorer import Scorer

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Mark: TypeAlias = float | str
"""A score, or the reason why there is none."""

NO_PROMPT = "no prompt"
NOT_UNICODE = "the prompt is not valid Unicode"


def unusable(scorer: Scorer, prompt: str | None) -> str | None:
    """Why a scorer cannot be asked about a prompt; None where it can."""
    if not scorer.needs_prompts:
        return None
    if prompt is None:
        return NO_PROMPT
    return None if is_unicode(prompt) else NOT_UNICODE


def is_unicode(text: str) -> bool:
    """Whether tokenizers take it: half a surrogate pair they do not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def prompt_for(scorer: Scorer, prompt: str | None) -> str:
    """What a scorer is given of a prompt: nothing where it needs none, so that a picture has one score under any."""
    return prompt or "" if scorer.needs_prompts else ""


def takes_pixels(reward: Reward) -> TypeGuard[PixelReward]:
    """Whether it scores what `prepare` makes of a picture, and not the picture."""
    # `isinstance` of a protocol takes 20 microseconds before Python 3.12, and this is asked many times a picture.
    return hasattr(reward, "prepare") and hasattr(reward, "score_pixels") and not hasattr(reward, "batched")


def takes_batches(reward: Reward) -> bool:
    """Whether it gains from many pairs in a call: a `PixelReward` or a `BatchedReward`."""
    return hasattr(reward, "batched") or takes_pixels(reward)


def input_of(reward: Reward, picture: Image.Image) -> Any:
    """What `judged` takes for a picture: prepared pixels `[3, h, w]`, or a picture.

    Others must not see what a scorer draws on its picture. A function gets a copy. A scorer of batches or of pixels
    gets a read-only one, which takes no memory: Pillow copies it before it draws, and refuses to set single pixels
    through `load()`. Only `frombytes` writes to what others see.

    Raises:
        OSError, ValueError: the picture cannot be prepared.
        PalateError: the reward failed otherwise.
    """
    if takes_pixels(reward):
        with blamed(reward, OSError, ValueError):
            return reward.prepare(_read_only(picture))
    return picture if takes_batches(reward) else picture.copy()


def _read_only(picture: Image.Image) -> Image.Image:
    """The same pixels in memory, copied when they are drawn on."""
    if picture.mode in ("P", "PA", "L", "LA"):  # a palette is written without asking
        return picture.copy()
    shown = picture._new(picture.im)
    shown.readonly = 1
    return shown


class PixelBatch:
    """A batch's pixels side by side, in the same memory for every batch: getting new takes longer than filling it."""

    def __init__(self) -> None:
        self._room: Tensor | None = None

    def of(self, pixels: Sequence[Tensor]) -> Tensor:
        """`torch.stack`, good until the next call."""
        import torch

        first, room = pixels[0], self._room
        if room is None or len(room) < len(pixels) or room.shape[1:] != first.shape or room.dtype != first.dtype:
            room = self._room = torch.empty((len(pixels), *first.shape), dtype=first.dtype)
        return torch.stack(list(pixels), out=room[: len(pixels)])


def judged(
    reward: Reward, prompts: Sequence[str], inputs: Sequence[Any], batch: PixelBatch | None = None
) -> list[Mark]:
    """One call of a scorer on pairs of a prompt and what `input_of` gave; all pixels of one size.

    Args:
        batch: where pixels are put together; None for memory of this call's own.

    Raises PalateError if the reward fails, whatever it raises; torch's lost memory passes.
    """
    failures: list[Failure] = []
    with blamed(reward):
        if takes_pixels(reward):
            import torch

            with torch.inference_mode():
                given = reward.score_pixels(prompts, (batch or PixelBatch()).of(inputs)).float().cpu().numpy()
        else:
            media = [_read_only(picture) for picture in inputs] if takes_batches(reward) else inputs
            given = reward.score(prompts, media, failures)
        with np.errstate(over="ignore"):  # beyond float32 is no finite score
            scores = np.asarray(given).astype(np.float32)
        if fault := answer_fault(scores.shape, len(prompts)):
            raise ValueError(fault)
    reasons = {failure.index: failure.reason for failure in failures}
    return [
        score if math.isfinite(score) else reasons.get(index, f"the reward returned {score}")
        for index, score in enumerate(scores.tolist())
    ]


@contextmanager
def blamed(reward: Reward, *passing: type[Exception]) -> Iterator[None]:
    """Turn what a reward raises, somebody else's perhaps, into a PalateError of one line that names it.

    Args:
        passing: what its caller knows what to do with.
    """
    import torch

    try:
        yield
    except (*passing, PalateError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise PalateError(f"the scorer {reward.name} failed ({reason})") from error
