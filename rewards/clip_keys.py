"""The key layout of open_clip's checkpoints, as HPSv2's and OpenAI's have it, put into the words of transformers.

Source: https://github.com/mlfoundations/open_clip (`model.py`, `transformer.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import CLIPConfig

from ..errors import UserError

Activation = Literal["gelu", "quick_gelu"]
"""`quick_gelu` for OpenAI's weights and what was trained from them, `gelu` for LAION's. No key tells which."""

PLACES = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""Constants that transformers 4.27 saved with a CLIPModel, and later versions compute."""


class Heads(NamedTuple):
    """Attention heads of the two towers, which no tensor's shape tells."""

    text: int
    vision: int


_ENDS = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # misspelt in transformers
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_TRANSPOSED = ("text_projection", "visual.proj")  # plain matrices there, linear layers here
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_BLOCK_PARTS = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_FUSED = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_TRANSFORMERS_BLOCK = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_MASK = "attn_mask"  # a constant that older versions of open_clip saved


def rename_open_clip(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """open_clip's tensors under the names of transformers' CLIPModel; the fused query, key and value become three.

    Args:
        source: where the tensors are from, for the error message.

    Raises:
        UserError: a key is not that of an open_clip CLIP with a ViT.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        key = key.removeprefix("module.")  # saved from a data-parallel wrapper
        if key in _ENDS:
            renamed[_ENDS[key]] = tensor.T.contiguous() if key in _TRANSPOSED else tensor
        elif fused := _FUSED.fullmatch(key):
            layer = _layer(*fused.group(1, 2))
            for name, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{layer}.self_attn.{name}_proj.{fused[3]}"] = third.contiguous()
        elif (block := _BLOCK.fullmatch(key)) and block[3] in _BLOCK_PARTS:
            renamed[f"{_layer(*block.group(1, 2))}.{_BLOCK_PARTS[block[3]]}.{block[4]}"] = tensor
        elif key != _MASK:
            raise UserError(f"{source}: {key} is no key of an open_clip model; is it the right file?")
    return renamed


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of transformers' CLIPModel under open_clip's names: `rename_open_clip` turned around."""
    back = {name: key for key, name in _ENDS.items()}
    parts = {name: part for part, name in _BLOCK_PARTS.items()}
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        block = _TRANSFORMERS_BLOCK.fullmatch(name)
        if name in back:
            key = back[name]
            renamed[key] = tensor.T.contiguous() if key in _TRANSPOSED else tensor
        elif block and block[3] in parts:
            renamed[f"{_open_clip_layer(*block.group(1, 2))}.{parts[block[3]]}.{block[4]}"] = tensor
        elif block and block[3] == "self_attn.q_proj":
            thirds = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            renamed[f"{_open_clip_layer(*block.group(1, 2))}.attn.in_proj_{block[4]}"] = torch.cat(thirds)
    return renamed


def clip_config(state: Mapping[str, Tensor], heads: Heads, activation: Activation, source: str) -> CLIPConfig:
    """The dimensions of a renamed state dict as transformers' configuration.

    Args:
        source: where the tensors are from, for the error message.

    Raises:
        UserError: a tensor that tells a dimension is not there, or the position embeddings are no square's.
    """
    try:
        vocabulary, text_width = state["text_model.embeddings.token_embedding.weight"].shape
        length = len(state["text_model.embeddings.position_embedding.weight"])
        text_mlp = len(state["text_model.encoder.layers.0.mlp.fc1.weight"])
        vision_width, _, _, patch = state["vision_model.embeddings.patch_embedding.weight"].shape
        patches = len(state["vision_model.embeddings.position_embedding.weight"]) - 1
        vision_mlp = len(state["vision_model.encoder.layers.0.mlp.fc1.weight"])
        features = len(state["visual_projection.weight"])
    except KeyError as error:
        raise UserError(f"{source} lacks the tensor for {error.args[0]}; is it a whole CLIP model?") from None
    side = math.isqrt(patches)
    if side**2 != patches:
        raise UserError(f"{source}: the vision tower has {patches} patches, which make no square; is it a CLIP model?")
    return CLIPConfig(
        projection_dim=features,
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "intermediate_size": text_mlp,
            "num_hidden_layers": _layers(state, "text_model"),
            "num_attention_heads": heads.text,
            "max_position_embeddings": length,
            "projection_dim": features,
            "hidden_act": activation,
            "bos_token_id": vocabulary - 2,  # as in CLIP's vocabulary; `ClipTower` goes by its tokenizer's
            "eos_token_id": vocabulary - 1,
        },
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": vision_mlp,
            "num_hidden_layers": _layers(state, "vision_model"),
            "num_attention_heads": heads.vision,
            "image_size": side * patch,
            "patch_size": patch,
            "projection_dim": features,
            "hidden_act": activation,
        },
    )


def _layer(visual: str | None, number: str) -> str:
    return f"{'vision_model' if visual else 'text_model'}.encoder.layers.{number}"


def _open_clip_layer(tower: str, number: str) -> str:
    return f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{number}"


def _layers(state: Mapping[str, Tensor], tower: str) -> int:
    prefix = f"{tower}.encoder.layers."
    return 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in state if key.startswith(prefix))
