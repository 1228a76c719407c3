"""What a scorer is asked about one picture: with which prompt, from which input, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from ..reward import BatchedReward, Failure, PixelReward, Reward
from ..scorer import Scorer

if TYPE_CHECKING:
    from PIL import Image

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
    try:
        prompt.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which no tokenizer takes
        return NOT_UNICODE
    return None


def prompt_for(scorer: Scorer, prompt: str | None) -> str:
    """What a scorer is given of a prompt: nothing where it needs none, so that a picture has one score under any."""
    return prompt or "" if scorer.needs_prompts else ""


def takes_pixels(reward: Reward) -> TypeGuard[PixelReward]:
    """Whether it scores what `prepare` makes of a picture, and not the picture."""
    return isinstance(reward, PixelReward) and not isinstance(reward, BatchedReward)


def input_of(reward: Reward, picture: Image.Image) -> Any:
    """What `judged` takes for a picture: prepared pixels `[3, h, w]`, or the picture itself.

    Raises:
        OSError, ValueError: the picture cannot be prepared.
    """
    return reward.prepare(picture) if takes_pixels(reward) else picture


def judged(reward: Reward, prompts: Sequence[str], inputs: Sequence[Any]) -> list[Mark]:
    """One call of a scorer on pairs of a prompt and what `input_of` gave; all pixels of one size."""
    failures: list[Failure] = []
    if takes_pixels(reward):
        import torch

        with torch.inference_mode():
            scores = reward.score_pixels(prompts, torch.stack(list(inputs))).float().cpu().tolist()
    else:
        scores = reward.score(prompts, inputs, failures).tolist()
    reasons = {failure.index: failure.reason for failure in failures}
    return [
        score if math.isfinite(score) else reasons.get(index, f"the reward returned {score}")
        for index, score in enumerate(scores)
    ]
