"""CLIP-I: how near a picture is to a subject's pictures, by CLIP's image features.

Source: Ruiz et al. 2022 (DreamBooth), https://arxiv.org/abs/2208.12242; model: OpenAI's CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from .clip_tower import ClipTower
from .pixels import centre_crop, centre_crop_tensor, round_half
from .references import open_references
from .reward import ScoresPixels, require_pairs

REPOSITORY = "openai/clip-vit-base-patch32"


@dataclass(frozen=True, eq=False)
class ClipI(ScoresPixels):
    """The mean over a subject's references of cos(picture, reference). The prompt plays no part.

    About 0.6 to 0.9; RPO's authors report 0.80 to 0.85 of DreamBench. Papers name the metric and seldom the model:
    ViT-B/32, B/16 (RPO) and L/14 are all in use, and their numbers do not compare.

    Args:
        references: unit vectors of the subject's pictures, float32 `[r, d]`.
    """

    tower: ClipTower
    references: Tensor
    name: str = "clip_i"
    modality: Literal["image"] = "image"
    differentiable: bool = True
    needs_prompts: bool = False

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
        """One float32 per prepared picture, `[n]`; differentiable in pixels `[n, 3, h, w]`.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        require_pairs(prompts, pixels)
        return (self.tower.images(pixels) * self.references.mean(dim=0)).sum(dim=-1)  # the mean of the cosines


def open_clip_i(
    references: str | Path | Sequence[str | Path | Image.Image] | None = None,
    path: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ClipI:
    """Load CLIP-I for one subject.

    Args:
        references: the subject's pictures: a folder, or a list of files and pictures; there is no default.
        path: a folder or hub id with OpenAI's CLIP as transformers writes it; None for openai/clip-vit-base-patch32
            (0.6 GB).
        tokenizer: a folder or hub id; None where `path` holds it, as the official one does.
        device: where scoring happens.
        dtype: of the towers.

    Raises:
        UserError: there are no references, a reference, the model or the tokenizer cannot be loaded, or the model was
            not trained with QuickGELU, as OpenAI's were.
    """
    if references is None:
        raise UserError("clip_i needs pictures of its subject; give a folder of them: --weights clip_i.references=DIR")
    pictures = open_references(references)  # before the model, which takes longer
    return clip_i(ClipTower.open(path or REPOSITORY, "quick_gelu", tokenizer, device, dtype), pictures)


def clip_i(tower: ClipTower, pictures: Sequence[Image.Image]) -> ClipI:
    """CLIP-I for the subject of these pictures, on a model that is open already.

    Raises:
        UserError: a picture cannot be decoded.
    """
    prepared = []
    for number, picture in enumerate(pictures, 1):
        try:
            prepared.append(centre_crop(picture, tower.image_size, round_half))
        except (OSError, ValueError) as error:
            raise UserError(f"reference {number} of {len(pictures)} cannot be read ({error}); replace it") from None
    with torch.no_grad():
        return ClipI(tower, torch.cat([tower.images(pixels[None]) for pixels in prepared]))
