"""BLIP's own two scores of a picture for a prompt: contrast (ITC) and match (ITM).

Paper: Li et al. 2022, https://arxiv.org/abs/2201.12086; reference: https://github.com/salesforce/BLIP
(`models/blip_itm.py`); weights in transformers' layout: Salesforce/blip-itm-large-coco and its siblings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import BlipForImageTextRetrieval

from .blip_prompts import BlipPrompts, open_blip_prompts
from .pixels import normalise, normalise_levels, resize
from .pretrained import load_pretrained
from .resizing import bicubic
from .reward import ScoresPixels, require_pairs

REPOSITORY = "Salesforce/blip-itm-large-coco"

Judge = Callable[[BlipForImageTextRetrieval, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class BlipScore(ScoresPixels):
    """How well a picture answers its prompt by BLIP's image-text retrieval model, from `open_blip_itc` or `_itm`.

    Pictures are squeezed to the checkpoint's square (384 pixels a side), as BLIP's evaluation does. That differs from
    the "BLIP" column of ImageReward's tables, which has another checkpoint (BLIP-large before retrieval training) at
    224 pixels with a centre crop.

    Args:
        name: `blip_itc` or `blip_itm`.
        model: the two towers and their heads, frozen.
        judge: `contrast` or `match`.
        prompts: reads prompts into token ids, 35 at most.
        size: pixels a side of the pictures that the model reads.
    """

    name: str
    model: BlipForImageTextRetrieval
    judge: Judge
    prompts: BlipPrompts
    size: int
    modality: Literal["image"] = "image"
    differentiable: bool = True

    def prepare(self, picture: Image.Image) -> Tensor:
        """A picture squeezed to a square (bicubic) and normalised, float32 `[3, 384, 384]`.

        Raises:
            OSError, ValueError: the picture cannot be decoded.
        """
        return normalise_levels(resize(picture, self.size, self.size))

    def prepare_tensor(self, images: Tensor) -> Tensor:
        """The same of float images `[n, 3, H, W]` in [0, 1], to the rounding of 8-bit levels; differentiable."""
        return normalise(bicubic(images, self.size, self.size, antialias=True).clamp(0, 1))

    def score_pixels(self, prompts: Sequence[str], pixels: Tensor) -> Tensor:
        """One float32 per row, `[n]`; gradients reach the pixels.

        Args:
            prompts: n of them.
            pixels: prepared pictures `[n, 3, h, w]`; moved to the model's device.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        require_pairs(prompts, pixels)
        device = self.model.device
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        ids, mask = self.prompts.read(list(places), device)
        rows = torch.tensor([places[prompt] for prompt in prompts], device=device)
        with torch.autocast(device.type, enabled=False):  # a trainer's autocast must not change the score
            return self.judge(self.model, ids, mask, rows, pixels.to(device))


def contrast(model: BlipForImageTextRetrieval, ids: Tensor, mask: Tensor, rows: Tensor, pixels: Tensor) -> Tensor:
    """ITC: cosine of the projected first outputs of the two towers, neither of which sees the other; `[n]` in [-1, 1].

    No temperature and no factor 100.

    Args:
        ids, mask: the m different prompts, `[m, t]`.
        rows: which of them each picture answers, int64 `[n]`.
        pixels: `[n, 3, h, w]`.
    """
    image = model.vision_model(pixel_values=pixels).last_hidden_state[:, 0]
    text = model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    # Normalised in float32: a bfloat16 cosine has steps of 0.002.
    image, text = model.vision_proj(image).float(), model.text_proj(text).float()
    return (normalize(image, dim=-1) * normalize(text, dim=-1)[rows]).sum(dim=-1)


def match(model: BlipForImageTextRetrieval, ids: Tensor, mask: Tensor, rows: Tensor, pixels: Tensor) -> Tensor:
    """ITM: the probability that the prompt, read with the picture in sight, describes it; `[n]` in [0, 1].

    The first token stays [CLS], as in BLIP's matching demo and transformers; BLIP's training puts [ENC] there. The
    arguments are those of `contrast`.
    """
    tokens = model.vision_model(pixel_values=pixels).last_hidden_state
    text = model.text_encoder(input_ids=ids[rows], attention_mask=mask[rows], encoder_hidden_states=tokens)
    return model.itm_head(text.last_hidden_state[:, 0]).float().softmax(dim=-1)[:, 1]


def open_blip_itc(
    weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> BlipScore:
    """BLIP's contrast as a reward.

    Args:
        weights: a folder or hub id in transformers' layout of BlipForImageTextRetrieval; None for
            Salesforce/blip-itm-large-coco.
        tokenizer: a folder or hub id with BERT's `vocab.txt`; None for the one that lies with the weights.
        device: where scoring happens.
        dtype: of the two towers.

    Raises:
        UserError: the model or its tokenizer cannot be loaded.
    """
    return _open("blip_itc", contrast, weights, tokenizer, device, dtype)


def open_blip_itm(
    weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> BlipScore:
    """BLIP's match as a reward; see `open_blip_itc` for the arguments and errors."""
    return _open("blip_itm", match, weights, tokenizer, device, dtype)


def _open(
    name: str,
    judge: Judge,
    weights: str | Path | None,
    tokenizer: str | Path | None,
    device: torch.device | str,
    dtype: torch.dtype,
) -> BlipScore:
    source = str(weights or REPOSITORY)
    advice = f"give a folder or hub id such as {REPOSITORY}"
    model = load_pretrained(BlipForImageTextRetrieval, source, "a BLIP retrieval model", advice, dtype=dtype)
    prompts = open_blip_prompts(tokenizer or source, model.config.text_config.vocab_size, name)
    size = model.config.vision_config.image_size
    return BlipScore(name, model.to(device).eval().requires_grad_(False), judge, prompts, size)
