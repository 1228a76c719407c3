"""MPS, the Multi-dimensional Preference Score, its overall preference: CLIP-H and a cross model that reads both.

Paper: Zhang et al. 2024, https://arxiv.org/abs/2405.14705; reference: https://github.com/Kwai-Kolors/MPS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from .clip_keys import Heads
from .clip_tower import ClipTower
from .mps_cross import CrossModel
from .mps_keys import split_mps
from .pixels import centre_crop, centre_crop_tensor
from .reward import ScoresPixels, require_pairs
from .weights import find_weights, load_tensors

REPOSITORY, FILE = "RE-N-Y/mpsv1", "model.safetensors"
HEADS = Heads(text=16, vision=16)  # of ViT-H-14
CONDITION = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, "
    "texture, quantity, attributes, position, number, location, word, things."
)
"""What the overall preference looks at; the other preferences' weights were never released."""
THRESHOLD = 0.3
"""Of the scripts that the published accuracies come from. The reference's model class has 0.01."""


@dataclass(frozen=True, eq=False)
class MPS(ScoresPixels):
    """exp(logit_scale) * cos(prompt, picture after it has read the prompt).

    Its authors report averages of 8.5 (Adobe Firefly) to 10.3 (Kolors) for the generators of 2024.

    The picture reads those of the prompt's tokens that are near enough to one of the condition's: see `kept_tokens`.
    The reference divides by the largest similarity in the batch, so that a score there depends on its company; here it
    is the prompt's own, as in the reference's scripts, which score one pair at a time.

    Args:
        condition: the tokens of `CONDITION`, float32 `[s, d]`.
        threshold: what a token must exceed to be read.
    """

    tower: ClipTower
    cross: CrossModel
    condition: Tensor
    threshold: float = THRESHOLD
    name: str = "mps"
    modality: Literal["image"] = "image"
    differentiable: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers beside the weights."""
        return {"threshold": self.threshold}

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
        distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        ids = self.tower.prompts.read(list(distinct))
        texts = self.tower.text_tokens(ids)
        pooled = texts[torch.arange(len(texts), device=texts.device), self.tower.ends(ids)]
        keep = kept_tokens(texts, self.condition, self.threshold)
        rows = [distinct[prompt] for prompt in prompts]
        with torch.autocast(self.tower.device.type, enabled=False):
            read = self.cross(self.tower.image_tokens(pixels), texts[rows], keep[rows])
        return self.tower.scale * F.cosine_similarity(pooled[rows].float(), read.float(), dim=-1)


def kept_tokens(texts: Tensor, condition: Tensor, threshold: float) -> Tensor:
    """Which of a prompt's tokens a picture may read: bool `[n, t]`.

    s_i = max_j texts_i . condition_j; token i is kept where s_i / max_i s_i > threshold. Dot products, not cosines, of
    all tokens, the padding's too. Both texts begin with the same start token, so that max_i s_i is above 0; the token
    that has it is always kept.

    Args:
        texts: tokens of n prompts, `[n, t, d]`.
        condition: those of the condition, float32 `[s, d]`.
        threshold: below 1.
    """
    similarity = (texts.float() @ condition.T).amax(dim=-1)
    return similarity / similarity.amax(dim=-1, keepdim=True) > threshold


def open_mps(
    path: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    threshold: float = THRESHOLD,
    heads: Heads = HEADS,
) -> MPS:
    """Load MPS.

    Args:
        path: a `.safetensors` file with the tensors of RE-N-Y/mpsv1, or of the released checkpoint's state dict, a
            folder that holds `model.safetensors`, or None for the hub's RE-N-Y/mpsv1 (4.4 GB).
        tokenizer: a transformers tokenizer's folder or hub id; None for open_clip's own, which gives the same ids.
        device: where scoring happens.
        dtype: of towers and cross model. The reference computes in float16.
        threshold: what a prompt's token must exceed to be read; 0.3 for the published accuracies, 0.01 as the
            reference's README and imscore have it.
        heads: attention heads of the towers, for a model of another size.

    Raises:
        UserError: the file cannot be found or read, or does not hold the model, or the threshold is not below 1.
    """
    if not threshold < 1:
        raise UserError(f"mps's threshold is {threshold}; it is below 1, or no token would be read")
    file = find_weights(path, REPOSITORY, FILE)
    state = split_mps(load_tensors(file), str(file))
    tower = ClipTower.from_state(state.clip, heads, "gelu", tokenizer, device, dtype, str(file))
    cross = CrossModel.from_state(state.cross, device, dtype, str(file))
    condition = tower.text_tokens(tower.prompts.read([CONDITION]))[0].float()
    return MPS(tower, cross, condition, threshold)
