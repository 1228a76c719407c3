"""CLIPScore: how near CLIP's features of prompt and picture are.

Paper: Hessel et al. 2021, https://arxiv.org/abs/2104.08718; model: OpenAI's ViT-L/14.
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
from .pixels import centre_crop, centre_crop_tensor, round_half
from .reward import ScoresPixels, require_pairs

REPOSITORY = "openai/clip-vit-large-patch14"


@dataclass(frozen=True, eq=False)
class ClipScore(ScoresPixels):
    """cos(prompt, picture), as ImageReward's authors compare with: about 0.15 to 0.35.

    torchmetrics reports 100 * max(cos, 0) and the paper 2.5 * max(cos, 0), with ViT-B/32 and "A photo depicts" before
    the prompt: name the convention beside the number.
    """

    tower: ClipTower
    name: str = "clipscore"
    modality: Literal["image"] = "image"
    differentiable: bool = True

    def prepare(self, picture: Image.Image) -> Tensor:
        """The normalised middle square as OpenAI's transform cuts it, float32 `[3, 224, 224]`.

        Raises:
            OSError, ValueError: the picture cannot be decoded.
        """
        return centre_crop(picture, self.tower.image_size, round_half)

    def prepare_tensor(self, images: Tensor) -> Tensor:
        """The same of float images `[n, 3, H, W]` in [0, 1]; differentiable."""
        return centre_crop_tensor(images, self.tower.image_size, round_half)

    def score_pixels(self, prompts: Sequence[str], pixels: Tensor) -> Tensor:
        """One float32 per pair, `[n]`, of prompts and prepared pictures `[n, 3, h, w]`; differentiable in pixels.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        require_pairs(prompts, pixels)
        return self.tower.cosines(prompts, pixels)


def open_clip_score(
    path: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ClipScore:
    """Load CLIPScore.

    Args:
        path: a folder or hub id with OpenAI's CLIP as transformers writes it; None for openai/clip-vit-large-patch14
            (1.7 GB).
        tokenizer: a folder or hub id; None where `path` holds it, as the official one does.
        device: where scoring happens.
        dtype: of the towers.

    Raises:
        UserError: model or tokenizer cannot be loaded, or the model was not trained with QuickGELU, as OpenAI's were.
    """
    return ClipScore(ClipTower.open(path or REPOSITORY, "quick_gelu", tokenizer, device, dtype))
