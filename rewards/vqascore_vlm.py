"""VQAScore on any vision-language model: how probable is "Yes" when it is asked whether a picture shows the prompt.

Paper: Lin et al. 2024, https://arxiv.org/abs/2404.01291; reference: https://github.com/linzhiqiu/t2v_metrics, of which
this is the Qwen-VL variant. It is not CLIP-FlanT5's VQAScore, whose numbers are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from .questions import fill, read_template
from .reward import Failure, report_failure, require_pairs
from .vlm import Vlm, open_vlm
from .vlm_rows import ask_each

REPOSITORY = "Qwen/Qwen2.5-VL-7B-Instruct"
QUESTION = 'Does this image show "{prompt}"?'


@dataclass(frozen=True, eq=False)
class VqaScoreVlm:
    """P(the first token of `word` | picture, question), from 0 to 1, in one forward pass and without sampling.

    Args:
        vlm: who is asked.
        template: the question, with `{prompt}` in it; scores of two templates are not to be compared.
        word: the answer whose probability is the score.
        batch_size: rows of one forward pass.
    """

    vlm: Vlm
    template: str = QUESTION
    word: str = "Yes"
    batch_size: int = 8
    name: str = "vqascore_vlm"
    modality: Literal["image"] = "image"
    differentiable: bool = False
    batched: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers, beside the weights: JSON values."""
        return {"template": self.template, "word": self.word}

    def score(
        self, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> np.ndarray:
        """The probabilities, float32 `[n]`; NaN with its reason for a row that cannot be asked about.

        Raises:
            ValueError: there are not as many prompts as pictures.
            UserError: the model's tokenizer does not know `word`.
            PalateError: memory does not hold a single row.
        """
        require_pairs(prompts, media)
        token = self.vlm.first_token(self.word)

        def probabilities(pictures: list[list[Image.Image]], texts: list[str]) -> list[float]:
            return torch.softmax(self.vlm.last_logits(pictures, texts), dim=-1)[:, token].tolist()

        texts = [fill(self.template, prompt) for prompt in prompts]
        values, reasons = ask_each(probabilities, [[medium] for medium in media], texts, self.batch_size)
        scores = np.array([np.nan if value is None else value for value in values], dtype=np.float32)
        for index in np.flatnonzero(np.isnan(scores)).tolist():
            report_failure(Failure(index, reasons.get(index, "the model returned NaN")), failures)
        return scores


def open_vqascore_vlm(
    path: str | Path | None = None,
    processor: str | Path | None = None,
    template: str | Path | None = None,
    word: str = "Yes",
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VqaScoreVlm:
    """Load a vision-language model for VQAScore.

    Args:
        path: a folder or hub id; None for Qwen/Qwen2.5-VL-7B-Instruct (17 GB).
        processor: a folder or hub id; None where `path` holds it.
        template: a text with `{prompt}` or a text file; None for the reference's question.
        word: see `VqaScoreVlm`.
        batch_size: rows of one forward pass.
        device: where it runs.
        dtype: of the model.

    Raises:
        UserError: model, processor or template cannot be read, or the tokenizer does not know `word`.
    """
    question = read_template(template, QUESTION)
    vlm = open_vlm(path or REPOSITORY, processor, device, dtype)
    vlm.first_token(word)
    return VqaScoreVlm(vlm, question, word, batch_size)
