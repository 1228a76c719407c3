"""A vision-language model as a judge of single pictures: marks from 1 to 5, overall or by aspect.

The rubrics of `judge_prompts` are UnifiedReward's two, the four aspects of VisionPrefer, and a plain one for any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from ..errors import UserError
from .judge_marks import read_marks
from .judge_prompts import HIGH, LOW, PLAIN, RUBRICS, Rubric
from .judge_text import quoted
from .questions import fill, read_template
from .reward import Failure, report_failure, require_pairs
from .thoughts import conclusion, require_room, told_cut_off
from .vlm import Answerer, open_vlm
from .vlm_rows import ask_each

REPOSITORIES = {
    "plain": "Qwen/Qwen2.5-VL-7B-Instruct",
    "visionprefer": "Qwen/Qwen2.5-VL-7B-Instruct",
    "unifiedreward": "CodeGoat24/UnifiedReward-qwen-7b",
    "unifiedreward2": "CodeGoat24/UnifiedReward-2.0-qwen-7b",
}
"""Rubric -> the hub's repository that is taken where no path is given."""


@dataclass(frozen=True, eq=False)
class Judge:
    """Marks from 1 to 5, read from a greedy answer: the mean of the rubric's aspects, or one of them.

    An answer without a mark is NaN, with the start of the answer as the reason; one that ends within its thoughts too,
    whatever marks it weighs there, or that is cut off at the mark.

    Args:
        vlm: who is asked.
        rubric: what is asked, and which marks are read.
        aspect: the one that is the score; None for the mean of all, which is NaN where one is missing.
        batch_size: rows that are asked together.
    """

    vlm: Answerer
    rubric: Rubric = PLAIN
    aspect: str | None = None
    batch_size: int = 8
    name: str = "judge"
    modality: Literal["image"] = "image"
    differentiable: bool = False
    batched: bool = True

    def __post_init__(self) -> None:
        if self.aspect is not None and self.aspect not in self.rubric.labels:
            known = ", ".join(self.rubric.labels)
            raise UserError(f"the rubric {self.rubric.name} has no aspect {self.aspect!r}; it has {known}")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers, beside the weights: JSON values."""
        return {
            "rubric": self.rubric.name,
            "template": self.rubric.template,
            "labels": dict(self.rubric.labels),
            "aspect": self.aspect or "mean",
            "max_tokens": self.rubric.max_tokens,
        }

    def score(
        self, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> np.ndarray:
        """The marks, float32 `[n]`; NaN with its reason for a row without one.

        Raises:
            ValueError: there are not as many prompts as pictures.
            PalateError: memory does not hold a single row.
        """
        wanted = [self.aspect] if self.aspect else list(self.rubric.labels)
        marks = self._judge(prompts, media, wanted, failures)
        return np.mean([marks[aspect] for aspect in wanted], axis=0).astype(np.float32)

    def aspects(
        self, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> dict[str, np.ndarray]:
        """The marks of each aspect, float32 `[n]`; NaN where it has none, with one reason for all of a row's.

        Raises:
            ValueError: there are not as many prompts as pictures.
            PalateError: memory does not hold a single row.
        """
        return self._judge(prompts, media, list(self.rubric.labels), failures)

    def _judge(
        self,
        prompts: Sequence[str],
        media: Sequence[Image.Image],
        wanted: Sequence[str],
        failures: list[Failure] | None,
    ) -> dict[str, np.ndarray]:
        require_pairs(prompts, media)
        ask = partial(self.vlm.answer, max_tokens=self.rubric.max_tokens)
        texts = [fill(self.rubric.template, prompt) for prompt in prompts]
        answers, reasons = ask_each(ask, [[medium] for medium in media], texts, self.batch_size)
        marks = {aspect: np.full(len(answers), np.nan, dtype=np.float32) for aspect in wanted}
        for index, answer in enumerate(answers):
            if answer is None:
                report_failure(Failure(index, reasons[index]), failures)
                continue
            if conclusion(answer.text) is None:
                report_failure(Failure(index, told_cut_off(self.rubric.max_tokens, " while thinking")), failures)
                continue
            given = read_marks(answer.text, self.rubric, answer.cut_off)
            for aspect in wanted:
                marks[aspect][index] = given[aspect]
            if missing := [self.rubric.labels[aspect] for aspect in wanted if np.isnan(given[aspect])]:
                reason = f"no {', no '.join(missing)} from {LOW:g} to {HIGH:g} in the answer {quoted(answer.text)}"
                end = f": {told_cut_off(self.rubric.max_tokens)}" if answer.cut_off else ""
                report_failure(Failure(index, reason + end), failures)
        return marks


def open_judge(
    path: str | Path | None = None,
    processor: str | Path | None = None,
    rubric: str | Rubric = "plain",
    aspect: str | None = None,
    template: str | Path | None = None,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    name: str = "judge",
    max_tokens: int | None = None,
) -> Judge:
    """Load a vision-language model as a judge.

    Args:
        path: a folder or hub id; None for the rubric's own in `REPOSITORIES`.
        processor: a folder or hub id; None where `path` holds it.
        rubric: a name in `RUBRICS`, or one of your own.
        aspect: one of the rubric's; None for their mean.
        template: other words for the rubric's question, a text with `{prompt}` or a text file; marks are looked for
            after the same labels.
        batch_size: rows that are asked together.
        device: where it runs.
        dtype: of the model.
        name: of the reward.
        max_tokens: where an answer is cut off; None for the rubric's own, which leaves no room for long thoughts.

    Raises:
        UserError: model, processor or template cannot be read, or there is no such rubric or aspect.
    """
    if isinstance(rubric, str):
        if rubric not in RUBRICS:
            raise UserError(f"there is no rubric {rubric!r}; there are {', '.join(RUBRICS)}")
        rubric = RUBRICS[rubric]
    length = rubric.max_tokens if max_tokens is None else max_tokens
    require_room(length, rubric.max_tokens)
    rubric = replace(rubric, template=read_template(template, rubric.template), max_tokens=length)
    source = path or REPOSITORIES.get(rubric.name, REPOSITORIES["plain"])
    return Judge(open_vlm(source, processor, device, dtype), rubric, aspect, batch_size, name)
