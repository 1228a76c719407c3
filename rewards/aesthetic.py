"""LAION's aesthetic predictor v2, a linear head on OpenAI's CLIP-L: how people would rate a picture by itself.

Weights and reference: https://github.com/christophschuhmann/improved-aesthetic-predictor (`sac+logos+ava1`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..training.disk import hashed
from .affine import collapse_layers, require_head
from .clip_score import REPOSITORY
from .clip_tower import ClipTower
from .pixels import centre_crop, centre_crop_tensor, round_half
from .reward import ScoresPixels, require_pairs
from .weights import find_weights, load_tensors

HEAD_FILE = "sac+logos+ava1-l14-linearMSE.pth"
HEAD_URL = (
    f"https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/{HEAD_FILE.replace('+', '%2B')}"
)
HEAD_SHA256 = "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"
LAYERS = (0, 2, 4, 6, 7)  # the places between are dropout


@dataclass(frozen=True, eq=False)
class Aesthetic(ScoresPixels):
    """`weight @ feature + bias` of the picture's unit vector: 1 to 10, mostly 4 to 7. The prompt plays no part.

    Args:
        tower: OpenAI's CLIP-L; its text tower is not used, so that CLIPScore may share it.
        weight, bias: of the collapsed head, float32 `[d]` and `[]`.
    """

    tower: ClipTower
    weight: Tensor
    bias: Tensor
    name: str = "aesthetic"
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
        """One float32 per prepared picture, `[n]`; differentiable in pixels `[n, 3, h, w]`.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        require_pairs(prompts, pixels)
        return (self.tower.images(pixels) * self.weight).sum(dim=-1) + self.bias


def open_aesthetic(
    path: str | Path | None = None,
    head: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Aesthetic:
    """Load the aesthetic predictor.

    Args:
        path: a folder or hub id with OpenAI's CLIP as transformers writes it; None for openai/clip-vit-large-patch14
            (1.7 GB).
        head: a `.pth` or `.safetensors` file with `layers.{0,2,4,6,7}`, or a folder or hub id that has it under the
            official name; None for the official one (3.7 MB, from GitHub, by its checksum). The authors' `reluMSE` head
            has the same keys and activations between: not that one.
        tokenizer: a folder or hub id; None where `path` holds it, as the official one does.
        device: where scoring happens.
        dtype: of the towers.

    Raises:
        UserError: model, tokenizer or head cannot be loaded, or do not belong together.
    """
    file = _download_head() if head is None else find_weights(head, "GitHub", HEAD_FILE)
    weight, bias = collapse(load_tensors(file), str(file))
    tower = ClipTower.open(path or REPOSITORY, "quick_gelu", tokenizer, device, dtype)
    if len(weight) != tower.model.config.projection_dim:
        raise UserError(
            f"{file} reads features of {len(weight)} numbers and {path or REPOSITORY} gives "
            f"{tower.model.config.projection_dim}; the official head belongs to {REPOSITORY}"
        )
    return Aesthetic(tower, weight.to(tower.device), bias.to(tower.device))


def collapse(state: Mapping[str, Tensor], source: str = "the state dict") -> tuple[Tensor, Tensor]:
    """Five linear layers with nothing but dropout between them as one affine map: weight `[d]` and bias `[]`, float32.

    The products are computed in float64, so that the map is nearer to the exact one than the layers in turn.

    Args:
        source: where the tensors are from, for the error message.

    Raises:
        UserError: the tensors are not those of the head.
    """
    wanted = {f"layers.{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
    if wrong := sorted(wanted ^ state.keys()):
        fault = "lacks" if wrong[0] in wanted else "has the unknown key"
        raise UserError(f"{source} {fault} {wrong[0]}; it should hold layers.{{0,2,4,6,7}}, as {HEAD_FILE} does")
    layers = [f"layers.{layer}" for layer in LAYERS]
    try:
        require_head(state, layers, state["layers.0.weight"].shape[-1])
    except (ValueError, IndexError) as error:  # IndexError: a single number has no shape
        raise UserError(f"{source}: its layers do not fit on each other ({error}); is it {HEAD_FILE}?") from None
    weight, bias = collapse_layers(state, layers)
    return weight[0].float(), bias[0].float()


def _download_head() -> Path:
    """The official head in torch's hub cache, which checks no file that it holds."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / HEAD_FILE
    if file.is_file():
        if hashed(file, hashlib.sha256()).hexdigest() != HEAD_SHA256:
            raise UserError(f"{file} is damaged or another head; remove it to have the official one downloaded again")
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(HEAD_URL, str(file), hash_prefix=HEAD_SHA256, progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{HEAD_URL} cannot be downloaded ({error}); download it and give its path as `head`"
        ) from error
    return file
