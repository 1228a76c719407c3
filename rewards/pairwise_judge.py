"""A vision-language model as a judge between two pictures, asked in both orders; and win rates among many.

Judges lean towards the picture that they see first. Asked in both orders, such a lean comes out as a tie.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .judge_prompts import PAIR
from .judge_text import quoted
from .judge_verdicts import read_verdict
from .questions import fill, read_template
from .reward import Failure, report_failure, require_pairs
from .thoughts import conclusion, require_room, told_cut_off
from .vlm import Answerer, Reply, open_vlm
from .vlm_rows import ask_each

REPOSITORY = "CodeGoat24/UnifiedReward-qwen-7b"
_WORTH = {"first": 1.0, "both": 0.5, "second": 0.0}


@dataclass(frozen=True, eq=False)
class PairwiseJudge:
    """Which of two pictures answers a prompt better. Not a `Reward`: one picture by itself has no value.

    Args:
        vlm: who is asked.
        template: the question about two pictures, with `{prompt}` in it.
        max_tokens: where an answer is cut off.
        batch_size: rows that are asked together; a pair is two.
    """

    vlm: Answerer
    template: str = PAIR
    max_tokens: int = 512
    batch_size: int = 8

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers, beside the weights: JSON values."""
        return {"template": self.template, "max_tokens": self.max_tokens}

    def prefer(
        self,
        prompts: Sequence[str],
        first: Sequence[Image.Image],
        second: Sequence[Image.Image],
        failures: list[Failure] | None = None,
    ) -> np.ndarray:
        """The probability that the first of each pair is preferred, float32 `[n]`: 0, 0.25, 0.5, 0.75 or 1.

        It is the mean over the two orders of 1 for a win, 0.5 for a tie and 0 for a loss. A pair is NaN where either
        answer has no verdict, with the start of that answer as the reason, or was cut off.

        Raises:
            ValueError: there are not as many prompts as pictures on each side.
            PalateError: memory does not hold a single row.
        """
        require_pairs(prompts, first)
        require_pairs(prompts, second)
        pictures = [order for a, b in zip(first, second, strict=True) for order in ([a, b], [b, a])]
        texts = [fill(self.template, prompt) for prompt in prompts for _ in range(2)]
        ask = partial(self.vlm.answer, max_tokens=self.max_tokens)
        answers, reasons = ask_each(ask, pictures, texts, self.batch_size)
        preferred = np.full(len(prompts), np.nan, dtype=np.float32)
        for pair in range(len(prompts)):
            worth: list[float] = []
            for row in (2 * pair, 2 * pair + 1):
                answer = answers[row]
                verdict = None if answer is None or answer.cut_off else read_verdict(answer.text)
                if verdict is None:
                    reason = reasons[row] if answer is None else self._why_not(answer)
                    report_failure(Failure(pair, reason), failures)
                    break
                worth.append(_WORTH[verdict])
            else:
                preferred[pair] = (worth[0] + 1 - worth[1]) / 2
        return preferred

    def _why_not(self, answer: Reply) -> str:
        if conclusion(answer.text) is None:
            return told_cut_off(self.max_tokens, " while thinking")
        if answer.cut_off:  # the question asks for the verdict at the end
            return told_cut_off(self.max_tokens)
        return f"no verdict in the answer {quoted(answer.text)}"

    def rank(self, prompt: str, candidates: Sequence[Image.Image], failures: list[Failure] | None = None) -> np.ndarray:
        """The win rate of each of k pictures of one prompt against all others, float32 `[k]`; see `win_rates`.

        k (k - 1) questions are asked. A failure's index counts the pairs (0, 1), (0, 2), ..., (k - 2, k - 1).
        """
        pairs = list(itertools.combinations(range(len(candidates)), 2))
        first, second = ([candidates[pair[side]] for pair in pairs] for side in (0, 1))
        return win_rates(pairs, self.prefer([prompt] * len(pairs), first, second, failures), len(candidates))


def win_rates(pairs: Sequence[tuple[int, int]], preferred: Sequence[float] | np.ndarray, count: int) -> np.ndarray:
    """How often each candidate is preferred to another, from 0 to 1, float32 `[count]`.

    The mean over a candidate's pairs; those that are NaN are left out, and a candidate of which no pair is left is NaN.

    Args:
        pairs: (i, j), candidates by number.
        preferred: for each pair the probability that i is preferred to j.
        count: k, how many candidates there are.

    Raises:
        ValueError: there are not as many pairs as probabilities.
    """
    if len(pairs) != len(preferred):
        raise ValueError(f"got {len(pairs)} pairs and {len(preferred)} probabilities; expected one for each")
    won, played = np.zeros(count), np.zeros(count)
    for (i, j), probability in zip(pairs, preferred, strict=True):
        if not np.isnan(probability):
            won[i] += probability
            won[j] += 1 - probability
            played[[i, j]] += 1
    return np.divide(won, played, out=np.full(count, np.nan), where=played > 0).astype(np.float32)


def open_pairwise_judge(
    path: str | Path | None = None,
    processor: str | Path | None = None,
    template: str | Path | None = None,
    max_tokens: int = 512,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PairwiseJudge:
    """Load a vision-language model as a judge between pictures.

    Args:
        path: a folder or hub id; None for CodeGoat24/UnifiedReward-qwen-7b.
        processor: a folder or hub id; None where `path` holds it.
        template: other words for the question, a text with `{prompt}` or a text file; the answer must still end with
            one of the three sentences of `PAIR`.
        max_tokens: where an answer is cut off.
        batch_size: rows that are asked together; a pair is two.
        device: where it runs.
        dtype: of the model.

    Raises:
        UserError: model, processor or template cannot be read, or `max_tokens` is below 1.
    """
    require_room(max_tokens, PairwiseJudge.max_tokens)
    question = read_template(template, PAIR)
    return PairwiseJudge(open_vlm(path or REPOSITORY, processor, device, dtype), question, max_tokens, batch_size)
