"""A trainable CLIP reward: starts as transformers' CLIPModel or open_clip's file, ends as PickScore's or HPSv2's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from ...errors import UserError
from ..clip_keys import Heads, to_open_clip
from ..clip_tower import ClipTower, projected
from ..hps import HEADS_NOTE, told_heads
from ..pixels import centre_crop, letterbox
from ..quiet import quiet
from ..weights import load_tensors, save_tensors
from .recipe import ClipConfig

HPSV2_FILE = "hpsv2.safetensors"
_OPEN_CLIP_FILES = (".pt", ".pth", ".bin", ".safetensors")


class ClipNetwork(nn.Module):
    """exp(logit_scale) * cos(prompt, picture). Features are normalised in float32, under autocast too.

    Args:
        end: the id of the end token, where a prompt's feature is read.
        max_scale: upper bound of exp(logit_scale).
    """

    def __init__(self, model: CLIPModel, end: int, max_scale: float | None = None) -> None:
        super().__init__()
        self.model = model
        self.end = end
        self.max_scale = max_scale

    def forward(self, words: Mapping[str, Tensor], pixels: Tensor, owners: Tensor) -> Tensor:
        """See `Learner`."""
        pictures = F.normalize(projected(self.model.get_image_features(pixel_values=pixels)).float(), dim=-1)
        ids = words["ids"]
        hidden = self.model.text_model(input_ids=ids).last_hidden_state
        ends = (ids == self.end).int().argmax(dim=-1)
        read = self.model.text_projection(hidden[torch.arange(len(ids), device=ids.device), ends])
        texts = F.normalize(read.float(), dim=-1)
        return self.log_scale.exp() * (pictures * texts[owners]).sum(dim=-1)

    @property
    def log_scale(self) -> Tensor:
        """`logit_scale` within its bound. Gradients pass the bound, so that they can bring it back below."""
        scale = self.model.logit_scale
        if self.max_scale is None:
            return scale
        return scale + (scale.clamp(max=math.log(self.max_scale)) - scale).detach()


@dataclass(frozen=True, eq=False)
class ClipLearner:
    """A CLIP in training; see `Learner`.

    Args:
        tokenizer: the folder or hub id of a transformers tokenizer; None for open_clip's own.
    """

    tower: ClipTower
    layout: str
    tokenizer: str | None
    max_scale: float | None = None
    network: ClipNetwork = field(init=False)

    def __post_init__(self) -> None:
        network = ClipNetwork(self.tower.model, self.tower.prompts.end, self.max_scale)
        object.__setattr__(self, "network", network)  # the dataclass is frozen; this is its constructor's last step

    def prepare(self, picture: Image.Image) -> Tensor:
        """See `Learner`: the middle square for PickScore, the whole picture between black bars for HPSv2."""
        return (letterbox if self.layout == "hpsv2" else centre_crop)(picture, self.tower.image_size)

    def fault(self, prompt: str) -> str | None:
        """See `Learner`: it reads all."""

    def read(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """See `Learner`."""
        return {"ids": self.tower.prompts.read(prompts)}

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """See `Learner`. PickScore's layout is a whole CLIPModel folder, HPSv2's one file with open_clip's keys."""
        model = self.tower.model
        if self.max_scale is not None:
            model.logit_scale.clamp_(max=math.log(self.max_scale))
        if self.tokenizer is not None:
            CLIPTokenizer.from_pretrained(self.tokenizer).save_pretrained(folder)
        if self.layout == "hpsv2":
            config: Any = model.config
            heads = f"{config.text_config.num_attention_heads},{config.vision_config.num_attention_heads}"
            save_tensors(to_open_clip(model.state_dict()), folder / HPSV2_FILE, {HEADS_NOTE: heads})
            return
        with quiet():
            model.save_pretrained(folder)
        side = self.tower.image_size
        size = {"shortest_edge": side}, {"height": side, "width": side}
        CLIPImageProcessor(size=size[0], crop_size=size[1]).save_pretrained(folder)  # for those who use no palate

    def how_to_score(self, folder: Path) -> str:
        """See `Learner`."""
        if self.layout == "pickscore":
            return f"--with pickscore --weights {quote(f'pickscore={folder}')}"
        own = f" --weights {quote(f'hpsv2.1.tokenizer={folder}')}" if self.tokenizer else ""
        return f"--with hpsv2.1 --weights {quote(f'hpsv2.1={folder / HPSV2_FILE}')}{own}"


def open_clip_learner(config: ClipConfig) -> ClipLearner:
    """Load the CLIP that a recipe starts from, on the CPU in float32, and freeze what it says.

    Raises:
        UserError: model or tokenizer cannot be loaded, or the recipe trains more blocks than there are.
    """
    path, tokenizer = Path(config.path).expanduser(), config.tokenizer
    if path.suffix in _OPEN_CLIP_FILES and not path.is_dir():
        if not path.is_file():
            raise UserError(f"model.path {config.path} does not exist; give a CLIP model's file, folder or hub id")
        if config.layout == "pickscore" and tokenizer is None:
            raise UserError(
                "model.tokenizer is missing: PickScore's layout holds a tokenizer, and an open_clip file does not; "
                "give one for CLIP's vocabulary, such as openai/clip-vit-large-patch14"
            )
        state = load_tensors(path)
        heads = told_heads(path) or Heads(config.heads.text, config.heads.vision)
        tower = ClipTower.from_open_clip(state, heads, "gelu", tokenizer, source=str(path))
    else:
        tokenizer = tokenizer or str(path if path.exists() else config.path)
        tower = ClipTower.open(config.path, "gelu", tokenizer)
    train_blocks(tower.model, config.train.text, config.train.vision)
    return ClipLearner(tower, config.layout, tokenizer, config.max_scale)


def train_blocks(model: CLIPModel, text: int | None, vision: int | None) -> None:
    """Make the last `text` and `vision` blocks of the two towers trainable, and what lies behind them; None: all.

    Where a number is given, the tower's embeddings stay frozen too, as HPSv2's authors have it.

    Raises:
        UserError: a tower has fewer blocks.
    """
    model.requires_grad_(True)
    below = {
        "text": [model.text_model.embeddings],
        "vision": [model.vision_model.embeddings, model.vision_model.pre_layrnorm],
    }
    towers = {"text": (model.text_model, text), "vision": (model.vision_model, vision)}
    for name, (tower, count) in towers.items():
        blocks = tower.encoder.layers
        if count is None:
            continue
        if count > len(blocks):
            raise UserError(f"model.train.{name} is {count} and the {name} tower has {len(blocks)} blocks; give fewer")
        for module in (*below[name], *blocks[: len(blocks) - count]):
            module.requires_grad_(False)
