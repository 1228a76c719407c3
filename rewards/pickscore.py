"""PickScore v1: CLIP-H that was trained on the choices of Pick-a-Pic's users.

Paper: Kirstain et al. 2023, https://arxiv.org/abs/2305.01569; reference: https://github.com/yuvalkirstain/PickScore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from .clip_tower import ClipTower
from .pixels import centre_crop, centre_crop_tensor
from .reward import ScoresPixels, require_pairs

REPOSITORY = "yuvalkirstain/PickScore_v1"


@dataclass(frozen=True, eq=False)
class PickScore(ScoresPixels):
    """exp(logit_scale) * cos(prompt, picture): about 16 to 26, and 19 to 23 for today's generators.

    A softmax over the scores of one prompt's pictures gives the probabilities that people choose them. Others divide
    by 26, or leave out the factor: their numbers are not these.
    """

    tower: ClipTower
    name: str = "pickscore"
    modality: Literal["image"] = "image"
    differentiable: bool = True

    def prepare(self, picture: Image.Image) -> Tensor:
        """The normalised middle square, float32 `[3, 224, 224]`.

        Raises:
            OSError, ValueError: the picture cannot be decoded.
        """
        return centre_crop(picture, self.tower.image_size)

    def prepare_tensor(self, images: Tensor) -> Tensor:
        """The same of float images `[n, 3, H, W]` in [0, 1]; differentiable."""
        return centre_crop_tensor(images, self.tower.image_size)

    def score_pixels(self, prompts: Sequence[str], pixels: Tensor) -> Tensor:
        """One float32 per pair, `[n]`, of prompts and prepared pictures `[n, 3, h, w]`; differentiable in pixels.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        require_pairs(prompts, pixels)
        return self.tower.scale * self.tower.cosines(prompts, pixels)


def open_pickscore(
    path: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PickScore:
    """Load PickScore.

    Args:
        path: a folder or hub id with the model as transformers writes it; None for yuvalkirstain/PickScore_v1 (3.9 GB).
        tokenizer: a folder or hub id; None where `path` holds it, as the official one does.
        device: where scoring happens.
        dtype: of the towers; the published numbers are float32's.

    Raises:
        UserError: model or tokenizer cannot be loaded.
    """
    return PickScore(ClipTower.open(path or REPOSITORY, "gelu", tokenizer, device, dtype))
