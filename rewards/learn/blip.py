"""A trainable BLIP reward, built, read and written as ImageReward is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BlipTextModel, BlipVisionModel

from ...errors import UserError
from ..blip_keys import MLP_LAYERS, TEXT, VISION, imagereward_keys, rename_imagereward
from ..blip_prompts import BlipPrompts, open_blip_prompts
from ..imagereward import CONFIG_FILE, FILE, REPOSITORY, TRAINED_FILE, build_towers, read_config
from ..pixels import centre_crop, round_half
from ..weights import find_weights, load_tensors, save_tensors
from .recipe import BlipConfig

_HEAD_WIDTHS = (1024, 128, 64, 16, 1)
_DROPOUT = {1: 0.2, 3: 0.2, 5: 0.1}  # by place in the head, as the authors train it
_BERT = "bert-base-uncased"


class Head(nn.Module):
    """Five linear layers with dropout and nothing else between them.

    Args:
        state: their tensors, as `layers.N.weight` and `layers.N.bias`.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        sizes = {place: state[f"layers.{place}.weight"].shape for place in MLP_LAYERS}
        linear = {place: nn.Linear(inputs, outputs) for place, (outputs, inputs) in sizes.items()}
        dropout = {place: nn.Dropout(p) for place, p in _DROPOUT.items()}
        self.layers = nn.Sequential(*(module for _, module in sorted({**linear, **dropout}.items())))
        self.load_state_dict(dict(state))

    def forward(self, features: Tensor) -> Tensor:
        """`[n, width]` to `[n]`."""
        return self.layers(features)[:, 0]


class BlipNetwork(nn.Module):
    """The head on the first output of a text encoder that looks at the picture.

    The authors' training on stored pairs reads the last output, which for most prompts is padding, and their scorer the
    first; this trains what is scored. Scores are before the scorer's constant shift and scale.
    """

    def __init__(self, vision: BlipVisionModel, text: BlipTextModel, head: Head) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        self.head = head

    def forward(self, words: Mapping[str, Tensor], pixels: Tensor, owners: Tensor) -> Tensor:
        """See `Learner`."""
        tokens = self.vision(pixel_values=pixels).last_hidden_state
        ids, mask = words["ids"][owners], words["mask"][owners]
        output = self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=tokens)
        return self.head(output.last_hidden_state[:, 0]).float()


@dataclass(frozen=True, eq=False)
class BlipLearner:
    """A BLIP in training; see `Learner`.

    Args:
        own_tokenizer: whether the tokenizer is another than BERT's, and goes with the weights.
        med_config: how the text tower is not built like BERT, which goes with the weights too.
    """

    network: BlipNetwork
    prompts: BlipPrompts
    own_tokenizer: bool
    med_config: Mapping[str, Any]

    def prepare(self, picture: Image.Image) -> Tensor:
        """See `Learner`: the normalised middle square."""
        return centre_crop(picture, int(self.network.vision.embeddings.image_size), round_half)  # type: ignore[arg-type]

    def fault(self, prompt: str) -> str | None:
        """See `Learner`: it reads all."""

    def read(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """See `Learner`."""
        ids, mask = self.prompts.read(prompts)
        return {"ids": ids, "mask": mask}

    def save(self, folder: Path) -> None:
        """See `Learner`: one file with ImageReward's keys, beside it what its scorer needs to open it."""
        network = self.network
        state = {f"{VISION}{name}": tensor for name, tensor in network.vision.state_dict().items()}
        state |= {f"{TEXT}{name}": tensor for name, tensor in network.text.state_dict().items()}
        state |= {f"mlp.{name}": tensor for name, tensor in network.head.state_dict().items()}
        layers = network.vision.config.num_hidden_layers, network.text.config.num_hidden_layers
        official = {key: state[name] for key, name in imagereward_keys(*layers).items()}
        save_tensors(official, folder / TRAINED_FILE)
        if self.own_tokenizer:
            self.prompts.tokenizer.save_pretrained(folder)
        if self.med_config:
            (folder / CONFIG_FILE).write_text(json.dumps(self.med_config), encoding="utf-8")

    def how_to_score(self, folder: Path) -> str:
        """See `Learner`."""
        return f"--with imagereward --weights {quote(f'imagereward={folder}')}"


def open_blip_learner(config: BlipConfig, seed: int) -> BlipLearner:
    """Load the BLIP that a recipe starts from, on the CPU in float32, and freeze what it says.

    Args:
        seed: draws the head, where the start has none.

    Raises:
        UserError: a file cannot be found or read, or holds neither ImageReward nor BLIP.
    """
    file = find_weights(config.path, REPOSITORY, FILE)
    state = rename_imagereward(with_head(load_tensors(file), seed), str(file))
    state = {name: tensor.float() for name, tensor in state.items()}
    med_config = read_config(config.config)
    try:
        vision, text = build_towers(state, med_config)
        head = Head({name.removeprefix("mlp."): tensor for name, tensor in state.items() if name.startswith("mlp.")})
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{file}: its tensors do not fit together ({reason}); is it ImageReward's or BLIP's?") from None
    for module in text.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    train_upper(vision, text, config.frozen)
    prompts = open_blip_prompts(config.tokenizer or _BERT, text.config.vocab_size, "imagereward")
    own = config.tokenizer is not None
    return BlipLearner(BlipNetwork(vision, text, head), prompts, own_tokenizer=own, med_config=med_config)


def with_head(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The state dict of an ImageReward: itself, or BLIP's own towers under a head drawn as the authors draw it."""
    if any(key.startswith("mlp.") for key in state):
        return dict(state)
    towers = {
        f"blip.{key}": tensor for key, tensor in state.items() if key.startswith(("visual_encoder.", "text_encoder."))
    }
    width = len(state.get("text_encoder.embeddings.LayerNorm.weight", ()))
    generator = torch.Generator().manual_seed(seed)
    head = {}
    for place, (inputs, outputs) in zip(MLP_LAYERS, pairwise((width, *_HEAD_WIDTHS)), strict=True):
        # The same spread in every layer, however wide it is: the authors'.
        head[f"mlp.layers.{place}.weight"] = torch.randn(outputs, inputs, generator=generator) / (width + 1)
        head[f"mlp.layers.{place}.bias"] = torch.zeros(outputs)
    return towers | head


def train_upper(vision: BlipVisionModel, text: BlipTextModel, frozen: float) -> None:
    """Freeze the embeddings and the first `frozen` of each tower's blocks, rounded down; with 0 everything trains."""
    for tower, blocks in ((vision, vision.encoder.layers), (text, text.encoder.layer)):
        tower.requires_grad_(True)
        if frozen:
            for module in (tower.embeddings, *blocks[: int(len(blocks) * frozen)]):
                module.requires_grad_(False)
