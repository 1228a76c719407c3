"""The lambda-harmonic reward: a picture is good where it shows the subject and does what the prompt says.

Paper: Miao et al. 2024 (RPO), https://arxiv.org/abs/2407.12164; reference: https://github.com/andrew-miao/RPO
(`evaluation_metrics.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from .clip_i import REPOSITORY, clip_i
from .clip_score import ClipScore
from .clip_tower import ClipTower
from .references import open_references
from .reward import PixelReward, ScoresPixels

LAM = 0.3
"""The reference's default; the paper also validates with 0.5 and 0.7, and labels pairs with 0."""


def harmonic_mean(a: Tensor, b: Tensor, lam: float) -> Tensor:
    """1 / (lam / a + (1 - lam) / b), between a and b and near the smaller; 0 where a term that counts is 0.

    Args:
        a, b: 0 or more, of one shape.
        lam: weight of a, from 0 (b alone) to 1 (a alone).

    Raises:
        ValueError: lam is not from 0 to 1.
    """
    if not 0 <= lam <= 1:
        raise ValueError(f"lam is {lam}; it is from 0 to 1")
    if lam in (0, 1):  # 0 / 0 would be NaN
        return a if lam else b
    return 1 / (lam / a + (1 - lam) / b)


class DifferentiableReward(PixelReward, Protocol):
    """A `PixelReward` that takes tensors of pictures too, as those on CLIP do."""

    def prepare_tensor(self, images: Tensor) -> Tensor:
        """`prepare` of float images `[n, 3, H, W]` in [0, 1]; differentiable."""
        ...


@dataclass(frozen=True, eq=False)
class LambdaHarmonic(ScoresPixels):
    """1 / (lam / s + (1 - lam) / t) with s, t = (cosine + 1) / 2 of subject fidelity and text alignment: 0 to 1.

    The reference takes both cosines from ALIGN; two rewards of one model are the nearest to that. Values do not compare
    between models, nor between values of lam.

    Args:
        text: a reward whose values are cosines of prompt and picture, such as `ClipScore` or `HPS`.
        subject: one whose values are cosines of picture and subject, such as `ClipI`.
        lam: weight of the subject.
    """

    text: DifferentiableReward
    subject: DifferentiableReward
    lam: float = LAM
    name: str = "lambda_harmonic"
    modality: Literal["image"] = "image"

    @property
    def differentiable(self) -> bool:
        """Where both rewards are."""
        return self.text.differentiable and self.subject.differentiable

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers beside the weights."""
        return {"lam": self.lam}

    def prepare(self, picture: Image.Image) -> Tensor:
        """What the two rewards see, the text's first, float32 `[6, h, w]`.

        Raises:
            OSError, ValueError: the picture cannot be decoded, or the rewards take pictures of two sizes.
        """
        return _stack(self.text.prepare(picture), self.subject.prepare(picture))

    def prepare_tensor(self, images: Tensor) -> Tensor:
        """The same of float images `[n, 3, H, W]` in [0, 1]; differentiable."""
        return _stack(self.text.prepare_tensor(images), self.subject.prepare_tensor(images))

    def score_pixels(self, prompts: Sequence[str], pixels: Tensor) -> Tensor:
        """One float32 per pair, `[n]`, of prompts and prepared pictures `[n, 6, h, w]`; differentiable in pixels.

        Raises:
            ValueError: there are not as many prompts as pictures.
            UserError: a reward's values are no cosines.
        """
        text = _from_zero(self.text, self.text.score_pixels(prompts, pixels[:, :3]))
        subject = _from_zero(self.subject, self.subject.score_pixels(prompts, pixels[:, 3:]))
        return harmonic_mean(subject, text, self.lam)


def open_lambda_harmonic(
    references: str | Path | Sequence[str | Path | Image.Image] | None = None,
    path: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    lam: float = LAM,
) -> LambdaHarmonic:
    """Load the lambda-harmonic mean of CLIPScore and CLIP-I, both of one CLIP.

    Args:
        references: the subject's pictures: a folder, or a list of files and pictures; there is no default.
        path: a folder or hub id with OpenAI's CLIP as transformers writes it; None for openai/clip-vit-base-patch32
            (0.6 GB).
        tokenizer: a folder or hub id; None where `path` holds it, as the official one does.
        device: where scoring happens.
        dtype: of the towers.
        lam: weight of the subject, from 0 to 1.

    Raises:
        UserError: lam is not from 0 to 1, there are no references, or a reference, the model or the tokenizer cannot be
            loaded.
    """
    if not 0 <= lam <= 1:
        raise UserError(f"lam is {lam}; it is the weight of the subject, from 0 to 1")
    if references is None:
        raise UserError(
            "lambda_harmonic needs pictures of its subject; give a folder of them: "
            "--weights lambda_harmonic.references=DIR"
        )
    pictures = open_references(references)
    tower = ClipTower.open(path or REPOSITORY, "quick_gelu", tokenizer, device, dtype)
    return LambdaHarmonic(ClipScore(tower), clip_i(tower, pictures), lam)


def _stack(text: Tensor, subject: Tensor) -> Tensor:
    if text.shape != subject.shape:
        sizes = " and ".join("x".join(map(str, one.shape[-2:])) for one in (text, subject))
        raise ValueError(f"the two rewards take pictures of {sizes} pixels; take models of one size")
    return torch.cat([text, subject], dim=-3)


def _from_zero(reward: DifferentiableReward, cosines: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    if (cosines.abs() > 1.001).any():
        raise UserError(f"{reward.name} gives values outside [-1, 1]; the harmonic mean is one of cosines")
    return ((cosines + 1) / 2).clamp(min=0)
