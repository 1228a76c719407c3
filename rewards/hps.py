"""Human Preference Score v2 and v2.1: CLIP-H that was trained on HPDv2's pairs.

Paper: Wu et al. 2023, https://arxiv.org/abs/2306.09341; reference: https://github.com/tgxs002/HPSv2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from .clip_keys import Heads
from .clip_tower import ClipTower
from .pixels import letterbox, letterbox_tensor
from .reward import ScoresPixels, require_pairs
from .weights import find_weights, load_notes, load_tensors

Version = Literal["v2.0", "v2.1"]
REPOSITORY = "xswu/HPSv2"
FILES: dict[Version, str] = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
HEADS = Heads(text=16, vision=16)  # of ViT-H-14
HEADS_NOTE = "heads"
"""Where a file that palate trained tells its heads in its metadata, as `TEXT,VISION`."""


@dataclass(frozen=True, eq=False)
class HPS(ScoresPixels):
    """cos(prompt, picture): about 0.23 to 0.29 for v2.0 and 0.13 to 0.34 for v2.1. Published tables are 100 times that.

    Only pictures of one prompt compare, and never v2.0 with v2.1. The picture is seen whole, between black bars, where
    CLIP's own transform would cut its ends off.

    Args:
        antialias: of the resizing; see `letterbox`.
    """

    tower: ClipTower
    name: str
    antialias: bool = True
    modality: Literal["image"] = "image"
    differentiable: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers beside the weights."""
        return {"antialias": self.antialias}

    def prepare(self, picture: Image.Image) -> Tensor:
        """The whole picture between black bars, float32 `[3, 224, 224]`.

        Raises:
            OSError, ValueError: the picture cannot be decoded.
        """
        return letterbox(picture, self.tower.image_size, self.antialias)

    def prepare_tensor(self, images: Tensor) -> Tensor:
        """The same of float images `[n, 3, H, W]` in [0, 1]; differentiable."""
        return letterbox_tensor(images, self.tower.image_size, self.antialias)

    def score_pixels(self, prompts: Sequence[str], pixels: Tensor) -> Tensor:
        """One float32 per pair, `[n]`, of prompts and prepared pictures `[n, 3, h, w]`; differentiable in pixels.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        require_pairs(prompts, pixels)
        return self.tower.cosines(prompts, pixels)


def open_hps(
    version: Version = "v2.1",
    path: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    antialias: bool = True,
    heads: Heads | None = None,
) -> HPS:
    """Load HPS v2.0 or v2.1.

    Args:
        version: `v2.0` or `v2.1`; the two files have one architecture, and nothing in them tells which is which.
        path: a `.pt` or `.safetensors` file in open_clip's layout, a folder that holds the official file, or None for
            the hub's xswu/HPSv2 (2 GB).
        tokenizer: a transformers tokenizer's folder or hub id; None for open_clip's own, as in the reference.
        device: where scoring happens.
        dtype: of the towers. The official weights are float16; the reference computes in float16 on GPUs, which rounds
            its scores to steps of 0.0002.
        antialias: of the resizing; the published averages are most probably without.
        heads: attention heads, for a model of another size; None for those that the file tells, as one that palate
            trained does, or else ViT-H-14's.

    Raises:
        UserError: the version is unknown, or the file cannot be found or read, or does not hold the model.
    """
    if version not in FILES:
        raise UserError(f"hps version {version!r} is unknown; palate knows {', '.join(FILES)}")
    file = find_weights(path, REPOSITORY, FILES[version])
    state = load_tensors(file)
    heads = heads or told_heads(file) or HEADS
    tower = ClipTower.from_open_clip(state, heads, "gelu", tokenizer, device, dtype, str(file))
    return HPS(tower, name=f"hps{version.removesuffix('.0')}", antialias=antialias)


def told_heads(file: str | Path) -> Heads | None:
    """The attention heads in the metadata of a file that can be read; None where it tells none.

    Raises:
        UserError: what it tells is no two numbers.
    """
    told = load_notes(file).get(HEADS_NOTE)
    if told is None:
        return None
    try:
        text, vision = map(int, told.split(","))
    except ValueError:
        raise UserError(
            f"{file}: its metadata tell the heads {told!r}, which are no two numbers such as 16,16"
        ) from None
    return Heads(text, vision)
