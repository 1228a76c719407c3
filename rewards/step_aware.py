"""SPO's step-aware preference model: PickScore for what a sampler sees on its way, the clean estimate at some time.

Paper: Liang et al. 2024, https://arxiv.org/abs/2406.04314; reference: https://github.com/RockeyCoss/SPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from ..errors import UserError
from .clip_keys import Heads
from .clip_tower import ClipTower
from .hps import HEADS, HEADS_NOTE, told_heads
from .pixels import normalise, round_half
from .resizing import bicubic
from .reward import require_pairs
from .step_aware_keys import StepAwareState, join_step_aware, split_step_aware
from .step_aware_tower import StepAwareClip, TimeModulation
from .weights import find_weights, load_tensors, save_tensors

REPOSITORY = "SPO-Diffusion-Models/Step-Aware_Preference_Models"
PUBLISHED = {"sd15": "sd-v1-5_step-aware_preference_model.bin", "sdxl": "sdxl_step-aware_preference_model.bin"}
FILE = "step_aware.safetensors"
"""In a folder that palate wrote."""
_FILES = (".bin", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True, eq=False)
class StepAware:
    """exp(logit_scale) * cos(prompt, picture at a time), on PickScore's scale.

    Times are thousandths of the noise process from clean to noise, 0 to 1000: the timesteps of a process that has
    1000. A picture is the decoded clean estimate of a noisy latent, never the noisy latent itself.

    Args:
        tower: its `model` is the network's.
        tokenizer: the folder or hub id of a transformers tokenizer; None for open_clip's own.
    """

    tower: ClipTower
    network: StepAwareClip
    tokenizer: str | None = None

    def prepare_tensor(self, images: Tensor) -> Tensor:
        """The middle squares of float images `[n, 3, H, W]`, black 0 and white 1, normalised; differentiable.

        By the reference's filter: bicubic without antialiasing, which PickScore's has, and clamped after it.
        """
        side, shortest = self.tower.image_size, min(images.shape[-2:])
        height, width = (int(length * side / shortest + 0.5) for length in images.shape[-2:])
        resized = bicubic(images, height, width, antialias=False).clamp(0, 1)
        top, left = round_half(height - side), round_half(width - side)
        return normalise(resized[..., top : top + side, left : left + side])

    def score_at(self, prompts: Sequence[str], pixels: Tensor, times: Tensor) -> Tensor:
        """One float32 per pair, `[n]`; a prompt that comes twice is encoded once.

        Args:
            prompts: n of them.
            pixels: prepared pictures, `[n, 3, h, w]`; gradients reach them.
            times: `[n]`, integers or floats.

        Raises:
            ValueError: there are not as many prompts or times as pictures.
        """
        require_pairs(prompts, pixels)
        return self.score_texts(self.tower.texts(prompts), pixels, times)

    def score_texts(self, texts: Tensor, pixels: Tensor, times: Tensor) -> Tensor:
        """`score_at` of prompts that `tower.texts` has encoded, `[n, d]`, for a caller that scores them many times.

        Raises:
            ValueError: there are not as many texts or times as pictures.
        """
        if not len(texts) == len(pixels) == len(times):
            raise ValueError(
                f"got {len(texts)} prompts, {len(pixels)} pictures and {len(times)} times; expected as many"
            )
        device, dtype = self.tower.device, self.tower.model.visual_projection.weight.dtype
        with torch.autocast(device.type, enabled=False):  # a trainer's autocast must not change a reward
            images = F.normalize(self.network.images(pixels.to(device, dtype), times).float(), dim=-1)
            return self.tower.scale * (texts.to(device) * images).sum(dim=-1)


def open_step_aware(
    path: str | Path,
    tokenizer: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    heads: Heads | None = None,
    seed: int = 0,
) -> StepAware:
    """Load a trained step-aware preference model, or start one that scores as PickScore does at any time.

    Args:
        path: a folder that `save_step_aware` wrote; a file with the published layout, `.bin` or `.safetensors`; "sd15"
            or "sdxl" for the published ones (5.2 GB); or PickScore, a folder or hub id, to start from.
        tokenizer: a transformers tokenizer's folder or hub id; None where `path` holds one, and else for open_clip's
            own, which gives the same ids.
        device: where scoring happens.
        dtype: of the towers.
        heads: attention heads of the towers, for a file of a model of another size that does not tell them.
        seed: draws what is fresh.

    Raises:
        UserError: the files cannot be found or read, or do not hold the model.
    """
    file = _trained_file(path)
    if file is None:
        tower = ClipTower.open(path, "gelu", tokenizer, device, dtype)
        time = TimeModulation.fresh(*_shape(tower), seed)
        tokenizer = tokenizer or path
    else:
        state = split_step_aware(load_tensors(file), str(file))
        if tokenizer is None and any((file.parent / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            tokenizer = file.parent
        heads = heads or told_heads(file) or HEADS
        tower = ClipTower.from_state(state.clip, heads, "gelu", tokenizer, device, dtype, str(file))
        time = TimeModulation.from_state(state.time, *_shape(tower), str(file))
    network = StepAwareClip(tower.model, time.to(device, dtype), tower.prompts.end).eval()
    return StepAware(tower, network, None if tokenizer is None else str(tokenizer))


def save_step_aware(judge: StepAware, folder: Path) -> None:
    """Write the weights under their published names, and the tokenizer, as `open_step_aware` opens the folder."""
    if judge.tokenizer is not None:
        CLIPTokenizer.from_pretrained(str(Path(judge.tokenizer).expanduser())).save_pretrained(folder)
    config: Any = judge.tower.model.config
    heads = f"{config.text_config.num_attention_heads},{config.vision_config.num_attention_heads}"
    state = StepAwareState(judge.tower.model.state_dict(), judge.network.time.state_dict())
    save_tensors(join_step_aware(state), folder / FILE, {HEADS_NOTE: heads})


def _trained_file(path: str | Path) -> Path | None:
    """The file with trained weights that `path` means; None where it means a CLIP to start from."""
    if str(path) in PUBLISHED:
        return find_weights(None, REPOSITORY, PUBLISHED[str(path)])
    found = Path(path).expanduser()
    if found.is_dir():
        return found / FILE if (found / FILE).is_file() else None
    if found.suffix not in _FILES:
        return None
    if not found.is_file():
        raise UserError(f"{found} does not exist; give a step-aware preference model's file or folder, or PickScore")
    return found


def _shape(tower: ClipTower) -> tuple[int, int]:
    """Width and blocks of the vision tower."""
    vision = tower.model.vision_model
    return vision.post_layernorm.normalized_shape[0], len(vision.encoder.layers)
