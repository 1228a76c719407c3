"""VQAScore: how sure CLIP-FlanT5 is that a picture shows what its prompt says.

Paper: Lin et al. 2024, https://arxiv.org/abs/2404.01291; reference: https://github.com/linzhiqiu/t2v_metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from transformers import CLIPVisionModel, T5Config

from ..errors import UserError
from .checkpoint_shards import find_checkpoint, load_checkpoint
from .clip_t5_model import ClipT5, build_clip_t5, has_vision_tower
from .pixels import MEAN, normalise_levels, to_rgb
from .pretrained import load_pretrained, reason_of
from .reward import Failure, require_pairs, score_prepared
from .vqa_prompts import VqaPrompts, open_vqa_prompts

Size = Literal["xl", "xxl"]

VISION = "openai/clip-vit-large-patch14-336"
MAX_SIDE = 16_384  # of a picture that is padded to a square: 800 MB
_BACKGROUND = tuple(int(255 * level) for level in MEAN)  # (122, 116, 104)


@dataclass(frozen=True, eq=False)
class VqaScore:
    """The geometric mean of P("Yes") and P(end) as the answer to "Does this figure show ...?", 0 to 1.

    Of each row by itself. Prompts are read up to about 2000 tokens.

    Args:
        network: frozen.
        prompts: reads prompts into token ids.
        size: pixels a side of the pictures that the vision tower reads; 336 in the official checkpoints.
    """

    network: ClipT5
    prompts: VqaPrompts
    size: int = 336
    name: str = "vqascore"
    modality: Literal["image"] = "image"
    differentiable: bool = True

    def prepare(self, picture: Image.Image) -> Tensor:
        """The whole picture in a square of CLIP's mean colour, resized by Pillow, normalised, float32 `[3, 336, 336]`.

        Raises:
            OSError, ValueError: the picture cannot be decoded, or is too long to be padded.
        """
        squared = pad_to_square(picture).resize((self.size, self.size), Image.Resampling.BICUBIC)
        return normalise_levels(pil_to_tensor(squared))

    def score_pixels(self, prompts: Sequence[str], pixels: Tensor) -> Tensor:
        """One float32 per row, `[n]`; gradients reach the pixels.

        Args:
            prompts: n of them.
            pixels: prepared pictures `[n, 3, h, w]`; moved to the model's device.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        require_pairs(prompts, pixels)
        device = self.network.head.device
        if not len(pixels):
            return torch.empty(0, device=device)
        before, answer = (torch.tensor(ids, device=device) for ids in (self.prompts.before, self.prompts.answer))
        after = [torch.tensor(ids, device=device) for ids in self.prompts.read(list(prompts))]
        with torch.autocast(device.type, enabled=False):  # a trainer's autocast must not change the reward
            return self.network.log_probabilities(before, after, pixels.to(device), answer).mean(dim=-1).exp()

    def score(
        self, prompts: Sequence[str], media: Sequence[Image.Image], failures: list[Failure] | None = None
    ) -> np.ndarray:
        """The scores, float32 `[n]`; NaN with its reason for a picture that cannot be decoded.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        return score_prepared(self, prompts, media, failures, batch_size=16)


def pad_to_square(picture: Image.Image) -> Image.Image:
    """The picture as RGB in the middle of a square of CLIP's mean colour; an odd pixel is right or below.

    Raises:
        OSError, ValueError: the picture cannot be decoded, or is too long to be padded.
    """
    side = max(picture.size)
    if side > MAX_SIDE:
        raise ValueError(f"{picture.width} x {picture.height} pixels: no side may be longer than {MAX_SIDE}")
    rgb = to_rgb(picture)
    if rgb.width == rgb.height:
        return rgb
    square = Image.new("RGB", (side, side), _BACKGROUND)
    square.paste(rgb, ((side - rgb.width) // 2, (side - rgb.height) // 2))
    return square


def open_vqascore(
    weights: str | Path | None = None,
    vision: str | Path | None = None,
    tokenizer: str | Path | None = None,
    size: Size = "xxl",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VqaScore:
    """Load VQAScore with CLIP-FlanT5.

    Args:
        weights: a folder or hub id in the official layout, sharded or not; None for the hub's
            zhiqiulin/clip-flant5-xxl (or -xl).
        vision: a folder or hub id with CLIP as transformers writes it, read only where `weights` lack the vision tower;
            None for openai/clip-vit-large-patch14-336.
        tokenizer: a folder or hub id; None for google/flan-t5-xxl (or -xl).
        size: `xl` (3 billion parameters) or `xxl` (11 billion).
        device: where scoring happens.
        dtype: of the networks, float32 or bfloat16; the published numbers are bfloat16's.

    Raises:
        UserError: a file cannot be found or read, does not hold the model, or the dtype is float16.
    """
    if dtype == torch.float16:
        raise UserError("vqascore cannot run in float16, whose range T5 exceeds; take bfloat16 or float32")
    if size not in ("xl", "xxl"):
        raise UserError(f"vqascore has no size {size!r}; it is xl or xxl")
    folder = find_checkpoint(weights, f"zhiqiulin/clip-flant5-{size}")
    config = _read_config(folder)
    state = load_checkpoint(folder, device, dtype)
    tower = None if has_vision_tower(state) else _open_vision(vision, device, dtype)
    rows = len(state.get("shared.weight", ()))
    prompts = open_vqa_prompts(str(tokenizer or f"google/flan-t5-{size}"), rows)
    network = build_clip_t5(state, config, prompts.vocabulary, tower, str(folder))
    pixels = network.vision.embeddings.image_size  # type: ignore[union-attr]
    return VqaScore(network, prompts, int(pixels), name="vqascore" if size == "xxl" else f"vqascore_{size}")  # type: ignore[arg-type]


def _read_config(folder: Path) -> T5Config:
    advice = "give the folder of zhiqiulin/clip-flant5-xl or -xxl with its config.json"
    try:
        values, _ = T5Config.get_config_dict(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"the configuration in {folder} cannot be read ({reason_of(error)}); {advice}") from error
    if values.pop("model_type", None) not in ("clip_t5", "t5"):
        raise UserError(f"the configuration in {folder} is not that of a clip_t5; {advice}")
    return T5Config.from_dict(values)


def _open_vision(source: str | Path | None, device: torch.device | str, dtype: torch.dtype) -> CLIPVisionModel:
    advice = f"give the folder or hub id of {VISION}"
    model = load_pretrained(CLIPVisionModel, source or VISION, "CLIP", advice, dtype=dtype)
    return model.to(device)
